"""Typed reads from objects of other people's making: `config.json`, GGUF metadata.

Every value is checked where it is read, and an error names the file and the key. null counts as absent, as it does in
transformers' configuration classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from quantcli.containers.hostile import shown
from quantcli.errors import BadInput

#: GGUF holds sizes as uint32.
LARGEST = 2**32 - 1
#: Longest list that a setting may be: one element a layer or a frequency.
LONGEST = 1 << 16


@dataclass(frozen=True)
class Reader:
    """Typed reads from a JSON object or metadata; errors name `where` and the key. null counts as absent.

    read: the keys whose value was asked for; `has` and `first` do not count.
    """

    values: Mapping[str, Any]
    where: str = "config.json"
    read: set[str] = field(default_factory=set, compare=False, repr=False)

    def has(self, key: str) -> bool:
        return self.values.get(key) is not None

    def first(self, *keys: str) -> str:
        """The first of these keys that is there; where none is, the first of all, for the error to name."""
        return next((key for key in keys if self.has(key)), keys[0])

    def integer(self, key: str, default: int | None = None, least: int = 1, most: int = LARGEST) -> int:
        """A whole number from `least` to `most`; `default` where the key is absent, an error without one."""
        value = self._get(key, default)
        value = default if value is None else value
        kind = "positive whole number" if least else "whole number"
        if value is None:
            raise BadInput(f"{self.where}: {key} is missing; it has to be a {kind}.")
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            bound = "2**32" if most == LARGEST else most + 1
            raise BadInput(f"{self.where}: {key} is {shown(value)}; it has to be a {kind} below {bound}.")
        return value

    def optional_integer(self, key: str, least: int = 1) -> int | None:
        return self.integer(key, least=least) if self.has(key) else None

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number; `default` where the key is absent, an error without one."""
        value = self._get(key, default)
        value = default if value is None else value
        if value is None:
            raise BadInput(f"{self.where}: {key} is missing; it has to be a number.")
        if not _is_number(value):
            raise BadInput(f"{self.where}: {key} is {shown(value)}; it has to be a finite number.")
        return float(value)

    def optional_number(self, key: str) -> float | None:
        return self.number(key) if self.has(key) else None

    def numbers(self, key: str) -> tuple[float, ...]:
        """A list of finite numbers; empty where the key is absent."""
        values = self._list(key, "numbers")
        if not all(_is_number(value) for value in values):
            raise BadInput(f"{self.where}: {key} is {shown(values)}; it has to be a list of finite numbers.")
        return tuple(float(value) for value in values)

    def integers(self, key: str) -> tuple[int, ...]:
        """A list of whole numbers from 0; empty where the key is absent."""
        values = self.numbers(key)
        if not all(value.is_integer() and 0 <= value <= LARGEST for value in values):
            raise BadInput(f"{self.where}: {key} is {shown(values)}; it has to be a list of whole numbers from 0.")
        return tuple(int(value) for value in values)

    def flag(self, key: str, default: bool) -> bool:
        value = self._get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise BadInput(f"{self.where}: {key} is {shown(value)}; it has to be true or false.")
        return value

    def flags(self, key: str) -> tuple[bool, ...]:
        """A list of true and false; empty where the key is absent."""
        values = self._list(key, "true and false")
        if not all(isinstance(value, bool) for value in values):
            raise BadInput(f"{self.where}: {key} is {shown(values)}; it has to be a list of true and false.")
        return tuple(values)

    def text(self, key: str, default: str) -> str:
        value = self._get(key)
        if value is None:
            return default
        if not isinstance(value, str):
            raise BadInput(f"{self.where}: {key} is {shown(value)}; it has to be a string.")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of strings; empty where the key is absent."""
        values = self._list(key, "strings")
        if not all(isinstance(value, str) for value in values):
            raise BadInput(f"{self.where}: {key} is {shown(values)}; it has to be a list of strings.")
        return tuple(values)

    def part(self, key: str) -> Reader:
        """The object under `key`; empty where there is none."""
        value = self._get(key)
        if value is None:
            return Reader({}, f"{self.where}: {key}")
        if not isinstance(value, Mapping):
            raise BadInput(f"{self.where}: {key} is {shown(value)}; it has to be an object.")
        return Reader(value, f"{self.where}: {key}")

    def _get(self, key: str, default: Any = None) -> Any:
        self.read.add(key)
        return self.values.get(key, default)

    def _list(self, key: str, of: str) -> Sequence[Any]:
        value = self._get(key)
        if value is None:
            return ()
        if not isinstance(value, list | tuple) or len(value) > LONGEST:
            raise BadInput(f"{self.where}: {key} is {shown(value)}; it has to be a list of {of}.")
        return value


def _is_number(value: object) -> bool:
    return (
        not isinstance(value, bool) and isinstance(value, int | float) and abs(value) < 1e38 and not math.isnan(value)
    )
