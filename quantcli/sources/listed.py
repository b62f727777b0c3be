"""Lists of modules in quantizers' settings, made ready to be asked of many: experts alone are 90 000 modules, and lists
name a thousand.

    model.layers.0.mlp.gate     a module, those in it, and in some tools what ends so or has it in its middle
    model.layers.*.mlp          a glob, in which * crosses dots
    re:.*visual.*               an expression
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

WILDCARDS = re.compile(r"[*?[]")


@dataclass(frozen=True)
class Globs:
    """Globs, of which those without wildcards are names."""

    names: frozenset[str]
    regex: re.Pattern[str] | None

    def match(self, module: str) -> bool:
        return module in self.names or (self.regex is not None and self.regex.match(module) is not None)


@dataclass(frozen=True)
class Listed:
    """A list of modules as loaders read it; globs: of its patterns, for modules and for what is in them."""

    entries: frozenset[str]
    globs: Globs

    def names(self, module: str) -> bool:
        """Whether it names this module, one that it is in, or the end of its name, as every loader reads it."""
        return any(part in self.entries for part in _ends(module))

    def mentions(self, module: str) -> bool:
        """Whether some loader takes it to name this module: in the middle of its name too, or as a pattern."""
        return self.names(module) or any(part in self.entries for part in _middles(module)) or self.globs.match(module)


@lru_cache(maxsize=64)
def globs(patterns: tuple[str, ...]) -> Globs:
    """Globs as one expression."""
    wild = [pattern for pattern in dict.fromkeys(patterns) if WILDCARDS.search(pattern)]
    regex = re.compile("|".join(map(fnmatch.translate, wild))) if wild else None
    return Globs(frozenset(patterns).difference(wild), regex)


@lru_cache(maxsize=64)
def listed(entries: tuple[str, ...]) -> Listed:
    """A list of modules; expressions are taken for globs, which they mostly are."""
    bare = {
        entry: entry.removeprefix("re:").removeprefix("^").removesuffix("$").replace(".*", "*") for entry in entries
    }
    wild = [glob for entry, glob in bare.items() if glob != entry or WILDCARDS.search(glob)]
    return Listed(frozenset(entries), globs((*bare.values(), *(f"{glob}.*" for glob in wild))))


def _ends(module: str) -> Iterator[str]:
    """The module, those that it is in, and what its name ends with."""
    yield module
    for at in _dots(module):
        yield module[:at]
        yield module[at + 1 :]


def _middles(module: str) -> Iterator[str]:
    """What stands between two dots of the name."""
    dots = list(_dots(module))
    for number, start in enumerate(dots):
        for stop in dots[number + 1 :]:
            yield module[start + 1 : stop]


def _dots(module: str) -> Iterable[int]:
    return (at for at, character in enumerate(module) if character == ".")
