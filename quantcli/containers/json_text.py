"""JSON objects from untrusted files: `config.json`, indexes, tokenizers, recipes; `Reader` reads their settings.

Source: RFC 8259. Stricter than `json.loads`: an object at the top level, UTF-8, no duplicate keys, no lone surrogates,
limits on size and depth.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from quantcli.containers.hostile import foreign, shown
from quantcli.errors import BadInput, NotPossible

#: Far above any real config or index; a tokenizer.json has at most a few tens of MB.
MAX_BYTES = 256 << 20
#: Far below the interpreter's recursion limit, so that whatever was read can also be written.
MAX_DEPTH = 64
#: The largest size in a setting: GGUF stores sizes as uint32.
LARGEST_SIZE = 2**32 - 1
#: The longest list of numbers in a setting, which has one element for each layer or frequency.
LONGEST = 1 << 16
#: An escaped surrogate: half of a character, unless the other half follows.
SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def load_object(data: bytes, label: str) -> dict[str, Any]:
    """Decode a JSON object. label: the file name that errors begin with. Raises `BadInput`."""
    value = load(data, label)
    if not isinstance(value, dict):
        raise BadInput(f"{label}: expected a JSON object, found {_kind(value)}.")
    return value


def _kind(value: Any) -> str:
    """Return what JSON calls a value's type, with its article."""
    kinds = {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return kinds.get(type(value), "a number")


def load(data: bytes, label: str) -> Any:
    """Decode a JSON value of any type; otherwise like `load_object`."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        if len(members) < len(pairs):
            repeated = Counter(key for key, _ in pairs).most_common(1)[0][0]
            raise BadInput(f"{label}: key {shown(repeated)} appears twice in one object. Remove one of them.")
        return members

    if kind := foreign(data[:64]):
        raise BadInput(f"{label}: is {kind}.")
    if len(data) > MAX_BYTES:
        raise BadInput(f"{label}: is {len(data)} bytes; the limit is {MAX_BYTES}.")
    try:
        text = data.decode("utf-8-sig")
        value = json.loads(text, object_pairs_hook=unique)
    except UnicodeDecodeError as error:
        raise BadInput(f"{label}: is not UTF-8 text (byte {error.start}).") from None
    except json.JSONDecodeError as error:
        raise BadInput(f"{label}: is not JSON (line {error.lineno}, column {error.colno}: {error.msg}).") from None
    except (RecursionError, ValueError):
        raise BadInput(
            f"{label}: cannot be parsed: it is nested too deeply, or a number has too many digits."
        ) from None
    _check_depth(value, label)
    if SURROGATE.search(text):
        _check_text(value, label)
    return value


def _check_text(value: Any, label: str) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise BadInput(f"{label}: a string has a lone surrogate (half of a character), which is not text.") from None


def _check_depth(value: Any, label: str) -> None:
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(MAX_DEPTH):
        members = (item.values() if isinstance(item, dict) else item for item in level)
        level = [child for children in members for child in children if isinstance(child, dict | list)]
        if not level:
            return
    raise BadInput(f"{label}: is nested too deeply; the limit is {MAX_DEPTH} levels.")


@dataclass(frozen=True)
class Reader:
    """Typed reads from an object of settings: JSON, or GGUF metadata as plain values.

    Each value is checked when it is read. Every method that takes a key raises `BadInput` for a value of another type,
    and for a missing key without a default. null counts as missing, as in the tools that write such files.

    file: the name that errors begin with. path: the keys, joined by dots, that lead to the object in the file.
    read: the keys whose values have been read; `has` and `first` do not count.

    >>> Reader({"a": {"bits": "4"}}).part("a").whole("bits")
    Traceback (most recent call last):
    quantcli.errors.BadInput: config.json: a: key bits: expected a whole number, found '4'.
    """

    values: Mapping[str, Any]
    file: str = "config.json"
    path: str = ""
    read: set[str] = field(default_factory=set, compare=False, repr=False)

    @property
    def label(self) -> str:
        """The place of the object, as messages begin."""
        return f"{self.file}: {self.path}" if self.path else self.file

    def refuse(self, key: str, expected: str) -> BadInput:
        """Return the error for an invalid value. expected: a clause, `expected` and what is valid."""
        value = self.values.get(key)
        if key not in self.values:
            return BadInput(f"{self.label}: key {key} is missing; {expected}.")
        return BadInput(f"{self.label}: key {key}: {expected}, found {'null' if value is None else shown(value)}.")

    def unsupported(self, key: str, supported: Iterable[object]) -> NotPossible:
        """Return the error for a value that is valid but that quant does not support."""
        listed = ", ".join(map(str, supported))
        return NotPossible(f"{self.label}: {key} {shown(self.values.get(key))} is not supported. Supported: {listed}.")

    def has(self, key: str) -> bool:
        return self.values.get(key) is not None

    def first(self, *keys: str) -> str:
        """Return the first of these keys that has a value; if none has, the first of all, for the error to name."""
        return next((key for key in keys if self.has(key)), keys[0])

    def settled(self) -> None:
        """Count every key as read: one of them makes the others meaningless."""
        self.read.update(key for key, _ in self.values.items())

    def integer(self, key: str, default: int | None = None, least: int = 1, most: int = LARGEST_SIZE) -> int:
        """Return a whole number from `least` to `most`; 4.0 counts as 4."""
        value = self._value(key, default)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not _is_whole(value) or not least <= value <= most:
            bound = "2**32 - 1" if most == LARGEST_SIZE else most
            raise self.refuse(key, f"expected a whole number from {least} to {bound}")
        return int(value)

    def optional_integer(self, key: str, least: int = 1) -> int | None:
        return self.integer(key, least=least) if self.has(key) else None

    def whole(self, key: str, default: int | None = None) -> int:
        """Return a whole number of either sign, written without a fraction: 4.0 is refused."""
        value = self._value(key, default)
        if not _is_whole(value):
            raise self.refuse(key, "expected a whole number")
        return int(value)

    def sizes(self, key: str, count: int) -> tuple[int, ...]:
        """Return a list of `count` whole numbers above 0."""
        value = self._value(key)
        if not isinstance(value, list) or len(value) != count or not all(_is_whole(n) and n > 0 for n in value):
            raise self.refuse(key, f"expected a list of {count} whole numbers above 0")
        return tuple(value)

    def number(self, key: str, default: float | None = None) -> float:
        """Return a finite number."""
        value = self._value(key, default)
        if not _is_finite(value):
            raise self.refuse(key, "expected a finite number")
        return float(value)

    def optional_number(self, key: str) -> float | None:
        return self.number(key) if self.has(key) else None

    def numbers(self, key: str) -> tuple[float, ...]:
        """Return a list of finite numbers; empty if the key is missing."""
        return tuple(float(value) for value in self._list(key, "a list of finite numbers", _is_finite, LONGEST))

    def integers(self, key: str) -> tuple[int, ...]:
        """Return a list of whole numbers of 0 or more; empty if the key is missing."""
        values = self._list(key, "a list of whole numbers of 0 or more", _is_natural, LONGEST)
        return tuple(int(value) for value in values)

    def flag(self, key: str, default: bool | None = None) -> bool:
        value = self._value(key, default)
        if not isinstance(value, bool):
            raise self.refuse(key, "expected true or false")
        return value

    def flags(self, key: str) -> tuple[bool, ...]:
        """Return a list of booleans; empty if the key is missing."""
        return tuple(self._list(key, "a list of booleans", lambda value: isinstance(value, bool), LONGEST))

    def text(self, key: str, default: str | None = None) -> str:
        value = self._value(key, default)
        if not isinstance(value, str):
            raise self.refuse(key, "expected a string")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """Return a list of strings; empty if the key is missing."""
        return tuple(self._list(key, "a list of strings", lambda value: isinstance(value, str)))

    def elements(self, key: str) -> Sequence[Any]:
        """Return a list of values of any type; empty if the key is missing."""
        return self._list(key, "a list")

    def mapping(self, key: str) -> Mapping[str, Any] | None:
        """Return the object under `key` unchanged; None if the key is missing."""
        return self.part(key).values if self.has(key) else None

    def part(self, key: str, *, needed: bool = False) -> Reader:
        """Return a reader of the object under `key`. A missing key is an empty object, or an error if `needed`."""
        value = self._value(key, None if needed else {})
        if not isinstance(value, Mapping):
            raise self.refuse(key, "expected an object")
        return Reader(value, self.file, f"{self.path}.{key}" if self.path else key)

    def _value(self, key: str, default: Any = None) -> Any:
        self.read.add(key)
        value = self.values.get(key)
        return default if value is None else value

    def _list(
        self, key: str, expected: str, is_one: Callable[[Any], bool] | None = None, most: int | None = None
    ) -> Sequence[Any]:
        """Return the list under `key`: at most `most` elements, each accepted by `is_one`.

        expected: the same in words, for the error.
        """
        values: Sequence[Any] = self._value(key, ())
        is_list = isinstance(values, list | tuple) and (most is None or len(values) <= most)
        if not is_list or (is_one is not None and not all(map(is_one, values))):
            raise self.refuse(key, f"expected {expected}")
        return values


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_finite(value: Any) -> bool:
    return (
        not isinstance(value, bool) and isinstance(value, int | float) and abs(value) < 1e38 and not math.isnan(value)
    )


def _is_natural(value: Any) -> bool:
    return _is_finite(value) and float(value).is_integer() and 0 <= value <= LARGEST_SIZE
