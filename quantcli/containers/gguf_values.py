"""The values in a GGUF header: their types, arrays that are decoded on demand, the cursor that walks over the bytes.

Layout and source: see `gguf`. The elements of an array are decoded only on request: a header with a vocabulary of
150,000 tokens is walked over, not decoded.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from quantcli.containers.hostile import Read, check_name, shown
from quantcli.errors import BadInput

# Value types in the order of their numbers, and the `struct` format of those with a fixed width.
_TYPES = (
    ("uint8", "B"), ("int8", "b"), ("uint16", "H"), ("int16", "h"), ("uint32", "I"), ("int32", "i"), ("float32", "f"),
    ("bool", "?"), ("string", ""), ("array", ""), ("uint64", "Q"), ("int64", "q"), ("float64", "d"),
)  # fmt: skip
VALUE_TYPES = tuple(name for name, _ in _TYPES)
CODES = dict(_TYPES)
# The fewest bytes that a value of a type takes: a string has its length, an array its element type and length.
SMALLEST = {name: struct.calcsize("<" + code) for name, code in _TYPES} | {"string": 8, "array": 12}
ORDERS = {"little": "<", "big": ">"}

# Limits on a header, far above those of real files.
MAX_HEADER = 128 << 20
MAX_NAME = (1 << 16) - 1
MAX_ARRAYS = 1 << 17
MAX_DEPTH = 4
#: Bytes of the first read; each further read doubles what has been read.
FIRST_READ = 1 << 20


@dataclass(frozen=True)
class ArrayValue:
    """An array as stored, decoded on demand: `payload` is its elements' bytes in `byte_order`."""

    element: str
    length: int
    payload: bytes = field(repr=False)
    byte_order: str = "little"

    def decode(self) -> list[Any]:
        """Return the elements: numbers, bools, strings as bytes (tokens need not be UTF-8), lists for nested arrays.

        >>> ArrayValue("uint16", 2, bytes.fromhex("0100 0201")).decode()
        [1, 258]
        >>> ArrayValue("string", 2, bytes.fromhex("0200000000000000 6869 0000000000000000")).decode()
        [b'hi', b'']
        """
        return _decode(self.payload, 0, self.element, self.length, ORDERS[self.byte_order])[0]

    def arrays(self) -> list[ArrayValue]:
        """Return the arrays in an array of arrays, each with the type of its elements.

        >>> ArrayValue("array", 1, bytes.fromhex("02000000 0100000000000000 0700")).arrays()
        [ArrayValue(element='uint16', length=1, byte_order='little')]
        """
        arrays: list[ArrayValue] = []
        order, at = ORDERS[self.byte_order], 0
        for _ in range(self.length):
            number, length = struct.unpack_from(order + "IQ", self.payload, at)
            start, element = at + SMALLEST["array"], VALUE_TYPES[number]
            _, at = _decode(self.payload, start, element, length, order)
            arrays.append(ArrayValue(element, length, self.payload[start:at], self.byte_order))
        return arrays


class Value(NamedTuple):
    """A key's value: its type's name (`uint32`, `array[string]`) and an int, float, bool, str or `ArrayValue`.

    A string that is not UTF-8, which llama.cpp loads too, is `bytes`. A pair, so that `gguf_write.header` accepts it
    unchanged.
    """

    type: str
    value: Any


@dataclass
class Cursor:
    """The parser's position in the file. data: the start of the file, read as far as it was needed so far."""

    read: Read
    size: int
    label: str
    order: str = "<"
    at: int = 0
    arrays: int = 0
    where: str = "the header"
    data: bytearray = field(default_factory=bytearray)

    def error(self, problem: str) -> BadInput:
        return BadInput(f"{self.label}: {self.where} {problem}.")

    def fill(self, end: int) -> None:
        """Read the file as far as byte `end`. Raises `BadInput` if it is shorter."""
        if end <= len(self.data):
            return
        if end > self.size:
            raise self.error(
                f"is truncated: it extends to byte {end}, but the file has {self.size} bytes. Download it again"
            )
        if end > MAX_HEADER:
            raise self.error(f"extends to byte {end}; the limit for a header is {MAX_HEADER}. Download it again")
        target = min(self.size, MAX_HEADER, max(end, 2 * len(self.data), FIRST_READ))
        self.data += self.read(len(self.data), target - len(self.data))
        if end > len(self.data):
            raise self.error(
                f"extends to byte {end}, but reading ended at byte {len(self.data)}: the file became shorter while it "
                "was read"
            )

    def skip(self, count: int) -> None:
        self.fill(self.at + count)
        self.at += count

    def number(self, code: str) -> Any:
        start = self.at
        self.skip(struct.calcsize("<" + code))
        return struct.unpack_from(self.order + code, self.data, start)[0]

    def raw_text(self, most: int = MAX_HEADER) -> bytes:
        length = self.number("Q")
        if length > most:
            raise self.error(f"claims a string of {length} bytes; the limit is {most}. Download it again")
        start = self.at
        self.skip(length)
        return bytes(memoryview(self.data)[start : self.at])

    def name(self, kind: str) -> str:
        """Read and check the name of a `kind` (key, tensor); errors from here on begin with it."""
        raw = self.raw_text(MAX_NAME)
        try:
            name = raw.decode()
        except UnicodeDecodeError as error:
            start = self.at - len(raw) + error.start
            raise self.error(f"has a name that is not UTF-8 (byte {start}). Fix the tool that wrote the file") from None
        check_name(name, f"{self.label}: {self.where}")
        self.where = f"{kind} {shown(name)}"
        return name

    def kind(self) -> str:
        number: int = self.number("I")
        if number >= len(VALUE_TYPES):
            raise self.error(f"has value type {number}; expected 0 to {len(VALUE_TYPES) - 1}. Download it again")
        return VALUE_TYPES[number]

    def claim(self, count: int, smallest: int, most: int, items: str) -> None:
        """Raise `BadInput` for a count above `most`, or one that the rest of the file cannot hold."""
        if count * smallest > self.size - self.at:
            raise self.error(
                f"is damaged: its number of {items}, {count}, is more than the file's {self.size} bytes can hold. "
                "Download it again"
            )
        if count > most:
            raise self.error(f"has {count} {items}; the limit is {most}. Download it again")

    def skip_texts(self, count: int) -> None:
        length_at = struct.Struct(self.order + "Q").unpack_from
        at = self.at
        for _ in range(count):
            if at + 8 > len(self.data):
                self.fill(at + 8)
            at += 8 + length_at(self.data, at)[0]
        self.fill(at)
        self.at = at

    def check_bools(self, start: int) -> None:
        if odd := self.data[start : self.at].translate(None, b"\0\1"):
            raise self.error(f"has a bool of {odd[0]}; expected 0 or 1. Download it again")


def read_value(cursor: Cursor, byte_order: str) -> Value:
    """Read the value at the cursor, with its type; an array is walked over and kept as stored."""
    kind = cursor.kind()
    if kind == "string":
        return Value(kind, _text(cursor.raw_text()))
    if kind == "array":
        element, length, start = _skip_array(cursor, 1)
        payload = bytes(memoryview(cursor.data)[start : cursor.at])
        return Value(f"array[{element}]", ArrayValue(element, length, payload, byte_order))
    start = cursor.at
    value = cursor.number(CODES[kind])
    if kind == "bool":
        cursor.check_bools(start)
    return Value(kind, value)


def _text(raw: bytes) -> str | bytes:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw


def _skip_array(cursor: Cursor, depth: int) -> tuple[str, int, int]:
    """Walk over an array; return its element type, its length and the offset of its elements."""
    if depth > MAX_DEPTH:
        raise cursor.error(f"has nested arrays; the limit is {MAX_DEPTH} levels. Download it again")
    cursor.arrays += 1
    if cursor.arrays > MAX_ARRAYS:
        raise cursor.error(f"exceeds the limit of {MAX_ARRAYS} arrays in a header. Download it again")
    element, length = cursor.kind(), cursor.number("Q")
    cursor.claim(length, SMALLEST[element], MAX_HEADER, f"elements of type {element}")
    start = cursor.at
    if element == "string":
        cursor.skip_texts(length)
    elif element == "array":
        for _ in range(length):
            _skip_array(cursor, depth + 1)
    else:
        cursor.skip(length * SMALLEST[element])
    if element == "bool":
        cursor.check_bools(start)
    return element, length, start


def _decode(payload: bytes, at: int, element: str, length: int, order: str) -> tuple[list[Any], int]:
    """Decode `length` elements from offset `at`; return them and the offset of their end.

    Checks nothing: the payload has been walked over before.
    """
    if code := CODES[element]:
        return list(struct.unpack_from(f"{order}{length}{code}", payload, at)), at + length * SMALLEST[element]
    elements: list[Any] = []
    for _ in range(length):
        if element == "string":
            (size,) = struct.unpack_from(order + "Q", payload, at)
            elements.append(payload[at + 8 : at + 8 + size])
            at += 8 + size
        else:
            number, size = struct.unpack_from(order + "IQ", payload, at)
            nested, at = _decode(payload, at + 12, VALUE_TYPES[number], size, order)
            elements.append(nested)
    return elements, at
