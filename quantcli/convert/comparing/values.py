"""Comparison of single settings, and values as JSON can hold them.

Floats of a GGUF file are compared as float32, which is how it stores them; numbers of JSON files as they are written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final

import numpy as np

from quantcli.containers.gguf_values import ArrayValue, Value

#: Entries of a list that are shown where it differs.
FIRST = 3

#: Differences of one file or map that are listed.
MOST = 64


class Absent:
    """The type of the value of a missing key; null is a value."""


ABSENT: Final = Absent()


@dataclass(frozen=True)
class FieldDifference:
    """A setting that differs; None: missing."""

    key: str
    a: Any
    b: Any


@dataclass(frozen=True)
class NotCompared:
    """Parts (`names`; empty: all) of a file or a kind of metadata of one side that were not compared, and why."""

    side: str
    what: str
    names: tuple[str, ...]
    reason: str


@dataclass
class Found:
    """Differences of settings, those that do not count, and what was not compared."""

    fields: list[FieldDifference] = field(default_factory=list)
    uncounted: list[FieldDifference] = field(default_factory=list)
    not_compared: list[NotCompared] = field(default_factory=list)


def differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[FieldDifference, ...]:
    """Compare two maps of GGUF values."""
    keys = [key for key in {**a, **b} if not same(a.get(key), b.get(key))]
    return tuple(FieldDifference(key, plain(a.get(key)), plain(b.get(key))) for key in keys)


def differing_keys(a: Mapping[str, Value], b: Mapping[str, Value]) -> list[FieldDifference]:
    """Compare the keys of two GGUF files by value, and equal values by type, about which readers are strict."""
    values = differing(*({key: value.value for key, value in side.items()} for side in (a, b)))
    found = {f.key for f in values}
    types = [
        FieldDifference(f"{key} (type)", a[key].type, b[key].type)
        for key in a
        if key in b and key not in found and a[key].type != b[key].type
    ]
    return [*values, *types]


def same(a: Any, b: Any) -> bool:
    """Return whether two GGUF values are equal; true is not 1, and a missing value is not false."""
    if isinstance(a, bool) is not isinstance(b, bool):
        return False
    if isinstance(a, float) and isinstance(b, float | int):
        with np.errstate(over="ignore"):
            return bool(np.float32(a) == np.float32(b)) or (a != a and b != b)
    if isinstance(a, int) and isinstance(b, float):
        return same(b, a)
    if isinstance(a, ArrayValue) and isinstance(b, ArrayValue):
        return a == b or (a.length == b.length and a.decode() == b.decode())  # the same bytes may hold NaN
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def plain(value: Any) -> Any:
    """Return a value in a form that JSON can hold: of an array its start, of bytes their text."""
    if isinstance(value, ArrayValue):
        value = value.decode()
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, float) and not np.isfinite(value):
        return str(value)
    if isinstance(value, list | tuple):
        return [plain(item) for item in value[:FIRST]] + (
            [f"... ({len(value)} in total)"] if len(value) > FIRST else []
        )
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    return value


def json_differences(a: Any, b: Any, path: str = "") -> Iterator[FieldDifference]:
    """Yield the smallest parts in which two JSON values differ, by path: `rope_scaling.factor`, `eos[1]`."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in {**a, **b}:
            yield from json_differences(a.get(key, ABSENT), b.get(key, ABSENT), f"{path}.{key}" if path else key)
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for at, (x, y) in enumerate(zip(a, b, strict=True)):
            yield from json_differences(x, y, f"{path}[{at}]")
    elif not _same_json(a, b):
        yield FieldDifference(path, _shown(a), _shown(b))


def json_equal(a: Any, b: Any) -> bool:
    """Return whether two JSON values are equal."""
    return next(json_differences(a, b), None) is None


def _same_json(a: Any, b: Any) -> bool:
    """Return whether two values that are not both objects or equally long lists are equal; true is not 1."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, int | float) and isinstance(b, int | float):
        return a == b or (a != a and b != b)
    return type(a) is type(b) and bool(a == b)


def _shown(value: Any) -> Any:
    """Return a JSON value as a difference shows it."""
    return None if value is ABSENT else "null" if value is None else plain(value)


def contents(a: bytes, b: bytes) -> list[FieldDifference]:
    """Return the difference of two files that are not JSON."""
    if a == b:
        return []
    descriptions = (f"{len(data)} bytes, SHA-256 {hashlib.sha256(data).hexdigest()[:12]}" for data in (a, b))
    return [FieldDifference("contents", *descriptions)]


def at_most(differences: Iterable[FieldDifference], where: str, most: int = MOST) -> list[FieldDifference]:
    """Return the first differences and, if there are more, their number."""
    found = iter(differences)
    listed = list(islice(found, most))
    more = sum(1 for _ in found)
    return [*listed, *([FieldDifference(f"{where}: {more} more", None, None)] if more else [])]
