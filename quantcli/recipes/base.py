"""A recipe: rules that decide which scheme each weight gets, and why.

Schemes are names here (`affine4-g64`, `q4_0`, `bf16`, `keep`, and `dense`: kept dense in the output's dtype); the
target interprets them. A weight's scheme is decided by the first *layer* that applies to it:

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

#: Far above any real pattern; limits the cost of compiling one.
MAX_PATTERN = 1000


class Origin(IntEnum):
    """What decided a scheme; the smaller value takes precedence."""

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

    name: the full Hugging Face name, or the stored one if there is none. gguf: its name in GGUF.
    role: in GGUF's vocabulary (`attn_q`, `ffn_down`). shape: row-major. others: its names in other folders.
    """

    name: str
    gguf: str | None = None
    role: str | None = None
    shape: tuple[int, ...] = ()
    others: tuple[str, ...] = ()

    @property
    def module(self) -> str:
        """The path of the weight's module: the name without `.weight`."""
        return self.name.removesuffix(".weight")

    @cached_property
    def spellings(self) -> tuple[str, ...]:
        """The names that patterns are matched against: each dialect's full name, and its module path."""
        names = (self.name, *([] if self.gguf is None else [self.gguf]), *self.others)
        return tuple(spelling for name in names for spelling in (name, name.removesuffix(".weight")))


@dataclass(frozen=True)
class Decision:
    """A scheme and why. wanted: the requested scheme if a fallback replaced it."""

    scheme: str
    reason: str
    origin: Origin
    wanted: str | None = None


#: One level of precedence: a function that returns its decision on a weight, None if it does not apply.
Layer = Callable[[Subject], Decision | None]


def resolve(subject: Subject, layers: Iterable[Layer]) -> Decision | None:
    """Return the decision of the first layer that has one; None if none has."""
    return next((decision for layer in layers if (decision := layer(subject)) is not None), None)


def only_global(choices: Iterable[Decision | None]) -> Decision | None:
    """Return the model's default scheme: from `--scheme`, `--bits` or a recipe. Raises `WrongUsage` if two differ."""
    given = [choice for choice in choices if choice is not None]
    for other in given[1:]:
        if other.scheme != given[0].scheme:
            raise WrongUsage(
                f"{given[0].scheme} ({given[0].reason}) and {other.scheme} ({other.reason}) cannot be used together: "
                "both are for the whole model. Use one of them."
            )
    return given[0] if given else None


def python_regex(pattern: str) -> re.Pattern[str]:
    """Compile a regular expression of quant's rules.

    Raises `re.error`, also where Python only warns: `[[:digit:]]`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            return re.compile(pattern)
        except Warning as warning:
            raise re.error(f"{warning}; use \\[ for a bracket, \\d for a digit") from None


class Way(Enum):
    """How a pattern is matched.

    EXACT: the name. GLOB: an fnmatch glob, in which `*` matches dots too. REGEX: searched for in the name. END: the end
    of a path, from a dot on; if the pattern ends with a dot, any part of a path.
    """

    EXACT = "exact"
    GLOB = "glob"
    REGEX = "regex"
    END = "end"


@dataclass(frozen=True)
class Rule:
    """A pattern and the scheme of the weights that it matches. Construction raises `re.error` for an invalid regex.

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
        """Text that every match contains: a cheap test that excludes most names."""
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
    """Return `Subject.spellings`, the keys of most recipes."""
    return subject.spellings


@dataclass(frozen=True)
class Recipe:
    """The rules of one file or option, and the scheme of all other weights.

    entries: name -> rule, looked up under each of `keys(subject)`; they take precedence over `rules`.
    rules: patterns in file order, matched against the same keys. last_wins: whether the last match decides, not the
    first. default: for weights without an entry or rule; it ranks like `--scheme` (`Origin.GLOBAL`).
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
        """Return the entry or rule that decides a weight; None without one."""
        keys = self.keys(subject)
        exact = (self.entries[key] for key in keys if key in self.entries)
        return next(chain(exact, _matching(self._ordered, keys)), None)

    def entry(self, subject: Subject) -> Decision | None:
        """Return the decision of an entry or rule: the layer above presets."""
        rule = self.rule(subject)
        return Decision(rule.scheme, rule.reason, self.origin) if rule else None

    def fallthrough(self, subject: Subject) -> Decision | None:
        """Return the default, for any weight: the layer below presets."""
        return self.default

    def decide(self, subject: Subject) -> Decision | None:
        """Return the decision of an entry, else a rule, else the default."""
        return resolve(subject, (self.entry, self.fallthrough))

    def unmatched(self, subjects: Iterable[Subject]) -> list[str]:
        """Return the patterns that match no weight, in file order."""
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
