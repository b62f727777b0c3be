"""A recipe: rules that decide which scheme each weight gets, and why.

Schemes are names here (`affine4-g64`, `q4_0`, `bf16`, `keep`, and `dense`: stay dense in the output's dtype); the
target gives them their meaning. A weight's scheme is what the first *layer* that has an opinion says:

    --override  >  llama-quantize's options  >  a recipe's entries  >  the source's own  >  preset  >  global  > default
"""

from __future__ import annotations

import fnmatch
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from functools import cached_property
from itertools import chain

from quantcli.errors import WrongUsage

#: Characters that make a pattern a glob.
WILDCARDS = frozenset("*?[")

#: Far above any real pattern; bounds what compiling one may cost.
MAX_PATTERN = 1000


class Origin(IntEnum):
    """What decided a scheme; the smaller one wins."""

    OVERRIDE = 0
    OPTION = 1
    RECIPE = 2
    SOURCE = 3
    PRESET = 4
    GLOBAL = 5
    DEFAULT = 6


@dataclass(frozen=True)
class Subject:
    """A weight as rules see it.

    name: the full Hugging Face name, or the stored one of a checkpoint that has none. gguf: its name in GGUF.
    role: in GGUF's vocabulary (`attn_q`, `ffn_down`). shape: rows first. others: its names in other folders.
    """

    name: str
    gguf: str | None = None
    role: str | None = None
    shape: tuple[int, ...] = ()
    others: tuple[str, ...] = ()

    @property
    def module(self) -> str:
        """The path of the module that owns the weight: the name without `.weight`."""
        return self.name.removesuffix(".weight")

    @cached_property
    def spellings(self) -> tuple[str, ...]:
        """What a pattern is tried on: each dialect's full name, and its module path."""
        names = (self.name, *([] if self.gguf is None else [self.gguf]), *self.others)
        return tuple(spelling for name in names for spelling in (name, name.removesuffix(".weight")))


@dataclass(frozen=True)
class Decision:
    """A scheme and why. `wanted`: the scheme that was asked for where a fallback took its place."""

    scheme: str
    reason: str
    origin: Origin
    wanted: str | None = None


#: One level of precedence: its decision on a weight, None where it has no opinion.
Layer = Callable[[Subject], Decision | None]


def resolve(subject: Subject, layers: Iterable[Layer]) -> Decision | None:
    """The decision of the first layer that has one."""
    return next((decision for layer in layers if (decision := layer(subject)) is not None), None)


def only_global(choices: Iterable[Decision | None]) -> Decision | None:
    """The one scheme for the whole model: of `--scheme`, `--bits`, a recipe's default. `WrongUsage` if two differ."""
    given = [choice for choice in choices if choice is not None]
    for other in given[1:]:
        if other.scheme != given[0].scheme:
            raise WrongUsage(
                f"two schemes for the whole model, {given[0].scheme} ({given[0].reason}) and {other.scheme} "
                f"({other.reason}): give one of them."
            )
    return given[0] if given else None


def python_regex(pattern: str) -> re.Pattern[str]:
    """A regular expression of our rules. Raises `re.error`, for what Python only warns of as well: `[[:digit:]]`."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            return re.compile(pattern)
        except Warning as warning:
            raise re.error(f"{warning}; write \\[ for a bracket, \\d for a digit") from None


class Way(Enum):
    """How a pattern is read: as the whole name, an fnmatch glob (`*` crosses dots), a regex searched in the name, the
    end of a path at a dot (with a dot at its own end: any piece of one).
    """

    EXACT = "exact"
    GLOB = "glob"
    REGEX = "regex"
    END = "end"


@dataclass(frozen=True)
class Rule:
    """One pattern and the scheme of the weights it matches. Raises `re.error` for a bad regex, at once.

    >>> rule = Rule("*.mlp.*_proj", "affine4-g64", "")
    >>> rule.matches("model.layers.0.mlp.down_proj"), rule.matches("model.layers.0.mlp.gate")
    (True, False)
    >>> end = Rule("mlp.gate", "affine8-g64", "", Way.END)
    >>> end.matches("model.layers.0.mlp.gate"), end.matches("model.layers.0.shared_mlp.gate")
    (True, False)
    """

    pattern: str
    scheme: str
    reason: str
    way: Way = Way.GLOB

    def __post_init__(self) -> None:
        _ = self._matcher

    @cached_property
    def _matcher(self) -> Callable[[str], object]:
        if self.way is Way.EXACT:
            return self.pattern.__eq__
        if self.way is Way.GLOB:
            return re.compile(fnmatch.translate(self.pattern)).match
        if self.way is Way.END:
            piece = f".{self.pattern.removeprefix('.')}"
            return lambda name: piece in f".{name}" if piece.endswith(".") else f".{name}".endswith(piece)
        return python_regex(self.pattern).search

    @cached_property
    def needle(self) -> str:
        """Text that every match contains: a cheap test that settles most names."""
        if self.way is Way.EXACT:
            return self.pattern
        if self.way is Way.GLOB:
            return max(re.split(r"[*?]", self.pattern.partition("[")[0]), key=len)
        if self.way is Way.END:
            return self.pattern.removeprefix(".")
        return ""

    def matches(self, name: str) -> bool:
        return bool(self._matcher(name))


def spellings(subject: Subject) -> tuple[str, ...]:
    """`Subject.spellings`, as the keys of most recipes."""
    return subject.spellings


@dataclass(frozen=True)
class Recipe:
    """Rules of one file or option, and the scheme of everything else.

    entries: name -> rule, looked up under each of `keys(subject)` in turn; they come before `rules`.
    rules: patterns, in file order, tried on the same keys; `last_wins` says which of two matches decides.
    default: of all that no entry or rule decides; it ranks as `--scheme` does (`Origin.GLOBAL`).
    """

    label: str
    rules: tuple[Rule, ...] = ()
    default: Decision | None = None
    entries: Mapping[str, Rule] = field(default_factory=dict)
    keys: Callable[[Subject], Sequence[str]] = spellings
    last_wins: bool = False
    origin: Origin = Origin.RECIPE
    warnings: tuple[str, ...] = ()

    @cached_property
    def _ordered(self) -> tuple[Rule, ...]:
        return self.rules[::-1] if self.last_wins else self.rules

    def rule(self, subject: Subject) -> Rule | None:
        """The entry or rule that decides this weight."""
        keys = self.keys(subject)
        exact = (self.entries[key] for key in keys if key in self.entries)
        return next(chain(exact, _matching(self._ordered, keys)), None)

    def entry(self, subject: Subject) -> Decision | None:
        """What an entry or rule decides: the layer above presets."""
        rule = self.rule(subject)
        return Decision(rule.scheme, rule.reason, self.origin) if rule else None

    def fallthrough(self, subject: Subject) -> Decision | None:
        """The default, whatever the weight: the layer below presets."""
        return self.default

    def decide(self, subject: Subject) -> Decision | None:
        """Entries, rules, then the default."""
        return resolve(subject, (self.entry, self.fallthrough))

    def unmatched(self, subjects: Iterable[Subject]) -> list[str]:
        """The patterns that match no weight at all, in file order."""
        patterns = dict.fromkeys([*self.entries, *(rule.pattern for rule in self.rules)])
        rules = {rule: None for rule in self.rules}
        for subject in subjects:
            keys = self.keys(subject)
            for key in keys:
                if key in self.entries:
                    patterns.pop(key, None)
            for rule in list(_matching(rules, keys)):
                del rules[rule]
                patterns.pop(rule.pattern, None)
        return list(patterns)


def _matching(rules: Iterable[Rule], keys: Sequence[str]) -> Iterator[Rule]:
    text = "\n".join(keys)
    for rule in rules:
        if rule.needle in text and any(map(rule.matches, keys)):
            yield rule
