"""Lists of modules in quantizers' settings, prepared for many lookups: a model may have 90 000 experts' modules, and a
list a thousand entries.

    model.layers.0.mlp.gate     a module and those in it; in some tools also names that end with it or contain it
    model.layers.*.mlp          a glob, in which * matches dots too
    re:.*visual.*               a regular expression
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
    """Globs. names: those without wildcards. regex: all others as one expression."""

    names: frozenset[str]
    regex: re.Pattern[str] | None

    def match(self, module: str) -> bool:
        return module in self.names or (self.regex is not None and self.regex.match(module) is not None)


@dataclass(frozen=True)
class Listed:
    """A list of modules as loaders read it. globs: its patterns, which match modules and those in them."""

    entries: frozenset[str]
    globs: Globs

    def names(self, module: str) -> bool:
        """Return whether every loader would take this list to name a module: by its name, its parent's or its end."""
        return any(part in self.entries for part in _ends(module))

    def mentions(self, module: str) -> bool:
        """Return whether some loader would take this list to name a module: by any part of its name, or a pattern."""
        return self.names(module) or any(part in self.entries for part in _middles(module)) or self.globs.match(module)


@lru_cache(maxsize=64)
def globs(patterns: tuple[str, ...]) -> Globs:
    """Compile globs into one expression."""
    wild = [pattern for pattern in dict.fromkeys(patterns) if WILDCARDS.search(pattern)]
    regex = re.compile("|".join(map(fnmatch.translate, wild))) if wild else None
    return Globs(frozenset(patterns).difference(wild), regex)


@lru_cache(maxsize=64)
def listed(entries: tuple[str, ...]) -> Listed:
    """Prepare a list of modules. Expressions are read as globs, which most of them are equivalent to."""
    bare = {
        entry: entry.removeprefix("re:").removeprefix("^").removesuffix("$").replace(".*", "*") for entry in entries
    }
    wild = [glob for entry, glob in bare.items() if glob != entry or WILDCARDS.search(glob)]
    return Listed(frozenset(entries), globs((*bare.values(), *(f"{glob}.*" for glob in wild))))


def _ends(module: str) -> Iterator[str]:
    """Yield a module's name, those of the modules that contain it, and the ends of its name."""
    yield module
    for at in _dots(module):
        yield module[:at]
        yield module[at + 1 :]


def _middles(module: str) -> Iterator[str]:
    """Yield the parts of a name between any two dots."""
    dots = list(_dots(module))
    for number, start in enumerate(dots):
        for stop in dots[number + 1 :]:
            yield module[start + 1 : stop]


def _dots(module: str) -> Iterable[int]:
    return (at for at, character in enumerate(module) if character == ".")
