"""The values in a GGUF header: their types, arrays decoded on demand, the cursor that walks over the bytes.

Layout and source: see `gguf`. Nothing is built for the elements of an array until they are asked for: a header with a
vocabulary of 150,000 tokens is walked, not decoded.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from quantcli.containers.hostile import Read, check_name, shown
from quantcli.errors import BadInput

# Value types by their number, and how `struct` spells those of fixed width.
_TYPES = (
    ("uint8", "B"), ("int8", "b"), ("uint16", "H"), ("int16", "h"), ("uint32", "I"), ("int32", "i"), ("float32", "f"),
    ("bool", "?"), ("string", ""), ("array", ""), ("uint64", "Q"), ("int64", "q"), ("float64", "d"),
)  # fmt: skip
VALUE_TYPES = tuple(name for name, _ in _TYPES)
CODES = dict(_TYPES)
# Fewest bytes that a value of a type takes: a text its length, an array its element type and length.
SMALLEST = {name: struct.calcsize("<" + code) for name, code in _TYPES} | {"string": 8, "array": 12}
ORDERS = {"little": "<", "big": ">"}

# Bounds on what a header may ask for, far above any real one.
MAX_HEADER = 128 << 20
MAX_NAME = (1 << 16) - 1
MAX_ARRAYS = 1 << 17
MAX_DEPTH = 4
#: The first read takes this much, each further one as much as all before.
FIRST_READ = 1 << 20


@dataclass(frozen=True)
class ArrayValue:
    """An array as stored, decoded on demand: `payload` is its elements' bytes in `byte_order`."""

    element: str
    length: int
    payload: bytes = field(repr=False)
    byte_order: str = "little"

    def decode(self) -> list[Any]:
        """The elements: numbers, bools, texts as bytes (tokens need not be UTF-8), lists for arrays of arrays.

        >>> ArrayValue("uint16", 2, bytes.fromhex("0100 0201")).decode()
        [1, 258]
        >>> ArrayValue("string", 2, bytes.fromhex("0200000000000000 6869 0000000000000000")).decode()
        [b'hi', b'']
        """
        return _decode(self.payload, 0, self.element, self.length, ORDERS[self.byte_order])[0]

    def arrays(self) -> list[ArrayValue]:
        """Of an array of arrays those in it, which know the types of their elements.

        >>> ArrayValue("array", 1, bytes.fromhex("02000000 0100000000000000 0700")).arrays()
        [ArrayValue(element='uint16', length=1, byte_order='little')]
        """
        found: list[ArrayValue] = []
        order, at = ORDERS[self.byte_order], 0
        for _ in range(self.length):
            number, length = struct.unpack_from(order + "IQ", self.payload, at)
            start, element = at + SMALLEST["array"], VALUE_TYPES[number]
            _, at = _decode(self.payload, start, element, length, order)
            found.append(ArrayValue(element, length, self.payload[start:at], self.byte_order))
        return found


class Value(NamedTuple):
    """A key's value: its type as text (`uint32`, `array[string]`) and an int, float, bool, str or `ArrayValue`.

    A text that is not UTF-8, which llama.cpp loads too, is its bytes. A pair, so that what was read can be
    given to `gguf_write.header` as it is.
    """

    type: str
    value: Any


@dataclass
class Cursor:
    """Where the parser stands in the file; `data` is the file's start, read as far as was needed so far."""

    read: Read
    size: int
    label: str
    order: str = "<"
    at: int = 0
    arrays: int = 0
    where: str = "the header"
    data: bytearray = field(default_factory=bytearray)

    def error(self, what: str) -> BadInput:
        return BadInput(f"{self.label}: {self.where} {what}.")

    def fill(self, end: int) -> None:
        """Have the bytes before `end` in `data`."""
        if end <= len(self.data):
            return
        if end > self.size:
            raise self.error(
                f"goes on to byte {end}, the file ends at {self.size}: it is cut off or malformed; get it again"
            )
        if end > MAX_HEADER:
            raise self.error(
                f"goes on to byte {end}, expected a header of at most {MAX_HEADER}: this is no sound GGUF file"
            )
        wanted = min(self.size, MAX_HEADER, max(end, 2 * len(self.data), FIRST_READ))
        self.data += self.read(len(self.data), wanted - len(self.data))
        if end > len(self.data):
            raise self.error(
                f"goes on to byte {end}, the file was read to {len(self.data)}: it became shorter meanwhile"
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
            raise self.error(f"claims a text of {length} bytes, expected at most {most}: the file is malformed")
        start = self.at
        self.skip(length)
        return bytes(memoryview(self.data)[start : self.at])

    def name(self, kind: str) -> str:
        """The name of a `kind` (key, tensor), checked; from here on it says where the cursor is."""
        raw = self.raw_text(MAX_NAME)
        try:
            name = raw.decode()
        except UnicodeDecodeError as error:
            start = self.at - len(raw) + error.start
            raise self.error(f"has a text that is not UTF-8 at byte {start}: mend its writer") from None
        check_name(name, f"{self.label}: {self.where}")
        self.where = f"{kind} {shown(name)}"
        return name

    def kind(self) -> str:
        number: int = self.number("I")
        if number >= len(VALUE_TYPES):
            raise self.error(f"has value type {number}, expected 0 to {len(VALUE_TYPES) - 1}: the file is malformed")
        return VALUE_TYPES[number]

    def claim(self, count: int, smallest: int, most: int, what: str) -> None:
        """Refuse a count that the rest of the file cannot hold, or above `most`."""
        if count * smallest > self.size - self.at:
            raise self.error(f"claims {count} {what}, more than the file's {self.size} bytes can hold: get it again")
        if count > most:
            raise self.error(f"claims {count} {what}, expected at most {most}: this is no sound GGUF file")

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
            raise self.error(f"has the byte {odd[0]} as a bool, expected 0 or 1: the file is malformed")


def read_value(cursor: Cursor, byte_order: str) -> Value:
    """The value that the cursor stands at, its type included; an array is walked and kept as stored."""
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
    """Walk over an array; its element type, length and where its elements start."""
    if depth > MAX_DEPTH:
        raise cursor.error(f"nests arrays more than {MAX_DEPTH} deep: the file is malformed")
    cursor.arrays += 1
    if cursor.arrays > MAX_ARRAYS:
        raise cursor.error(f"brings the arrays to more than {MAX_ARRAYS}: this is no sound GGUF file")
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
    """`length` elements from `at` on, and where they end; the payload has been walked before."""
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
            inner, at = _decode(payload, at + 12, VALUE_TYPES[number], size, order)
            elements.append(inner)
    return elements, at
