"""Values of settings held against each other, and as JSON can hold them.

Floats are compared as float32, which is how GGUF holds them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from quantcli.containers.gguf_values import ArrayValue

#: Entries of a list that are shown where it differs.
FIRST = 3


@dataclass(frozen=True)
class FieldDifference:
    """A setting that differs; None: not said."""

    key: str
    a: Any
    b: Any


def differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[FieldDifference, ...]:
    keys = [key for key in {**a, **b} if not same(a.get(key), b.get(key))]
    return tuple(FieldDifference(key, plain(a.get(key)), plain(b.get(key))) for key in keys)


def same(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float | int):
        with np.errstate(over="ignore"):
            return bool(np.float32(a) == np.float32(b)) or (a != a and b != b)
    if isinstance(a, ArrayValue) and isinstance(b, ArrayValue):
        return a == b or (a.length == b.length and a.decode() == b.decode())  # the same bytes may hold NaN
    return bool(a == b)


def plain(value: Any) -> Any:
    """A value as JSON can hold it; of an array its start, of bytes their text."""
    if isinstance(value, ArrayValue):
        value = value.decode()
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, float) and not np.isfinite(value):
        return str(value)
    if isinstance(value, list | tuple):
        return [plain(item) for item in value[:FIRST]] + ([f"... ({len(value)} in all)"] if len(value) > FIRST else [])
    return value
