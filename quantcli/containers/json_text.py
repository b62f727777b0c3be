"""JSON objects from other people's files: `config.json`, indexes, tokenizers, recipes; `Reader` reads their settings.

Source: RFC 8259. Stricter than `json.loads`: an object at the top, UTF-8, no duplicate keys, no half characters, a
bound on size and depth.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from quantcli.containers.hostile import foreign, shown
from quantcli.errors import BadInput

#: Far above any real config or index; a tokenizer.json has at most some tens of MB.
MAX_BYTES = 256 << 20
#: Far below what the interpreter can walk, so that what was read can also be written.
MAX_DEPTH = 64
#: The largest size that a setting may be: GGUF stores sizes as uint32.
LARGEST_SIZE = 2**32 - 1
#: The longest list of numbers that a setting may be: one element a layer or a frequency.
LONGEST = 1 << 16
#: An escape that is half of a character; two that belong together are one.
SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def load_object(data: bytes, label: str) -> dict[str, Any]:
    """The object that `data` spells; `label` (a file name) stands in each error. Raises `BadInput`."""
    value = load(data, label)
    if not isinstance(value, dict):
        raise BadInput(f"{label}: holds {type(value).__name__} at its top, an object is needed.")
    return value


def load(data: bytes, label: str) -> Any:
    """The value that `data` spells, of any kind; otherwise as `load_object`."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
            raise BadInput(f"{label}: the key {shown(twice)} stands twice in one object: remove one.")
        return found

    if what := foreign(data[:64]):
        raise BadInput(f"{label}: is {what}.")
    if len(data) > MAX_BYTES:
        raise BadInput(f"{label}: {len(data)} bytes are too many for such a file (at most {MAX_BYTES}).")
    try:
        text = data.decode("utf-8-sig")
        value = json.loads(text, object_pairs_hook=unique)
    except UnicodeDecodeError as error:
        raise BadInput(f"{label}: is not UTF-8 text (byte {error.start}).") from None
    except json.JSONDecodeError as error:
        raise BadInput(f"{label}: is not JSON (line {error.lineno}, column {error.colno}: {error.msg}).") from None
    except (RecursionError, ValueError):
        raise BadInput(f"{label}: is JSON nested too deep or with numbers too long to be meant.") from None
    _check_depth(value, label)
    if SURROGATE.search(text):
        _check_text(value, label)
    return value


def _check_text(value: Any, label: str) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise BadInput(f"{label}: has a text with half a surrogate pair, which cannot be written.") from None


def _check_depth(value: Any, label: str) -> None:
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(MAX_DEPTH):
        members = (item.values() if isinstance(item, dict) else item for item in level)
        level = [child for inner in members for child in inner if isinstance(child, dict | list)]
        if not level:
            return
    raise BadInput(f"{label}: is JSON nested more than {MAX_DEPTH} deep, which no such file is.")


@dataclass(frozen=True)
class Reader:
    """Typed reads from an object of settings: JSON, or GGUF metadata as plain values.

    Each value is checked where it is read; every method that takes a key raises `BadInput` for a value of another type,
    and for a key that is missing where there is no default. null counts as absent, as it does in the classes of the
    tools that write such files.

    file: the name that errors begin with. path: the keys, joined by dots, under which the object stands in the file.
    read: the keys whose values were asked for; `has` and `first` do not count.

    >>> Reader({"a": {"bits": "4"}}).part("a").whole("bits")
    Traceback (most recent call last):
    quantcli.errors.BadInput: config.json: a: key bits is '4', expected a whole number.
    """

    values: Mapping[str, Any]
    file: str = "config.json"
    path: str = ""
    read: set[str] = field(default_factory=set, compare=False, repr=False)

    @property
    def label(self) -> str:
        """Where the object stands, as messages begin."""
        return f"{self.file}: {self.path}" if self.path else self.file

    def refuse(self, key: str, expected: str) -> BadInput:
        """The error of a value that makes no sense. expected: what it should be, as a clause."""
        value = self.values.get(key)
        said = "missing" if key not in self.values else "null" if value is None else shown(value)
        return BadInput(f"{self.label}: key {key} is {said}, {expected}.")

    def has(self, key: str) -> bool:
        return self.values.get(key) is not None

    def first(self, *keys: str) -> str:
        """The first of these keys that is there; where none is, the first of all, for the error to name."""
        return next((key for key in keys if self.has(key)), keys[0])

    def settled(self) -> None:
        """Count every key as read, because one of them leaves the others without a meaning."""
        self.read.update(key for key, _ in self.values.items())

    def integer(self, key: str, default: int | None = None, least: int = 1, most: int = LARGEST_SIZE) -> int:
        """A whole number from `least` to `most`, which 4.0 is too."""
        value = self._value(key, default)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not _is_whole(value) or not least <= value <= most:
            kind = "positive whole number" if least else "whole number"
            bound = "2**32" if most == LARGEST_SIZE else most + 1
            raise self.refuse(key, f"expected a {kind} below {bound}")
        return int(value)

    def optional_integer(self, key: str, least: int = 1) -> int | None:
        return self.integer(key, least=least) if self.has(key) else None

    def whole(self, key: str, default: int | None = None) -> int:
        """A whole number of either sign, written as one: 4.0 is not."""
        value = self._value(key, default)
        if not _is_whole(value):
            raise self.refuse(key, "expected a whole number")
        return int(value)

    def sizes(self, key: str, count: int) -> tuple[int, ...]:
        """A list of `count` whole numbers above 0."""
        value = self._value(key)
        if not isinstance(value, list) or len(value) != count or not all(_is_whole(n) and n > 0 for n in value):
            raise self.refuse(key, f"expected a list of {count} whole numbers above 0")
        return tuple(value)

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number."""
        value = self._value(key, default)
        if not _is_finite(value):
            raise self.refuse(key, "expected a finite number")
        return float(value)

    def optional_number(self, key: str) -> float | None:
        return self.number(key) if self.has(key) else None

    def numbers(self, key: str) -> tuple[float, ...]:
        """A list of finite numbers; empty where the key is absent."""
        return tuple(float(value) for value in self._list(key, "a list of finite numbers", _is_finite, LONGEST))

    def integers(self, key: str) -> tuple[int, ...]:
        """A list of whole numbers from 0; empty where the key is absent."""
        values = self._list(key, "a list of whole numbers from 0", _is_natural, LONGEST)
        return tuple(int(value) for value in values)

    def flag(self, key: str, default: bool | None = None) -> bool:
        value = self._value(key, default)
        if not isinstance(value, bool):
            raise self.refuse(key, "expected true or false")
        return value

    def flags(self, key: str) -> tuple[bool, ...]:
        """A list of true and false; empty where the key is absent."""
        return tuple(self._list(key, "a list of true and false", lambda value: isinstance(value, bool), LONGEST))

    def text(self, key: str, default: str | None = None) -> str:
        value = self._value(key, default)
        if not isinstance(value, str):
            raise self.refuse(key, "expected a string")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of strings; empty where the key is absent."""
        return tuple(self._list(key, "a list of strings", lambda value: isinstance(value, str)))

    def elements(self, key: str) -> Sequence[Any]:
        """A list of values of any kind; empty where the key is absent."""
        return self._list(key, "a list")

    def mapping(self, key: str) -> Mapping[str, Any] | None:
        """The object under `key` as it stands; None where there is none."""
        return self.part(key).values if self.has(key) else None

    def part(self, key: str, *, needed: bool = False) -> Reader:
        """The object under `key`; empty where there is none, an error if it is `needed`."""
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
        """The list under `key`, of at most `most` elements that each are `is_one`; `expected`: the same in words."""
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
