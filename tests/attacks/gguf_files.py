"""Small GGUF files of every kind of value and tensor, with where each number of the header stands; and a plain reader.

The reader takes the header apart as docs/gguf.md has it, one value after the other, and builds everything at once:
what the package's own reader accepts has to be what this one finds.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any

from quantcli.containers.ggml_types import BY_NAME

#: How `struct` spells the value types; texts and arrays have their own form.
CODES = ("B", "b", "H", "h", "I", "i", "f", "?", "", "", "Q", "q", "d")
STRING, ARRAY = 8, 9


@dataclass
class Sketch:
    """A file as it grows. places: offset and `struct` code of every number, for edits."""

    order: str
    raw: bytearray = field(default_factory=bytearray)
    places: list[tuple[int, str]] = field(default_factory=list)

    def number(self, code: str, value: Any) -> None:
        self.places.append((len(self.raw), code))
        self.raw += struct.pack(self.order + code, value)

    def text(self, value: bytes) -> None:
        self.number("Q", len(value))
        self.raw += value

    def value(self, kind: int, value: Any) -> None:
        """Of an array: (element type, elements)."""
        if kind == STRING:
            self.text(value)
        elif kind == ARRAY:
            element, elements = value
            self.number("I", element)
            self.number("Q", len(elements))
            for one in elements:
                self.value(element, one)
        else:
            self.number(CODES[kind], value)


#: Sets of keys: name -> value type and value.
KEYS: dict[str, dict[str, tuple[int, Any]]] = {
    "none": {},
    "scalars": {
        "general.architecture": (STRING, b"llama"), "a": (0, 200), "b": (1, -3), "c": (2, 60_000), "d": (3, -30_000),
        "e": (4, 2**32 - 1), "f": (5, -(2**31)), "g": (6, 0.5), "h": (7, True), "i": (10, 2**64 - 1),
        "j": (11, -(2**63)), "k": (12, -0.1), "l": (STRING, "größe".encode()),
    },
    "arrays": {
        "general.architecture": (STRING, b"x"), "a": (ARRAY, (0, [1, 2])), "b": (ARRAY, (STRING, [b"a", b"", b"\xff"])),
        "c": (ARRAY, (7, [True, False])), "d": (ARRAY, (12, [1.5])), "e": (ARRAY, (4, [])),
        "n": (ARRAY, (ARRAY, [(ARRAY, [(3, [1, 2]), (3, [])]), (STRING, [b"q"])])),
    },
    "aligned": {"general.alignment": (4, 8), "general.type": (STRING, b"model"), "split.count": (2, 1)},
    "matrix": {
        "general.type": (STRING, b"imatrix"), "imatrix.datasets": (ARRAY, (STRING, [b"d"])),
        "imatrix.chunk_count": (4, 4), "imatrix.chunk_size": (4, 8),
    },
}  # fmt: skip
#: Sets of tensors: name, sizes (fastest first), type.
TENSORS: dict[str, list[tuple[str, tuple[int, ...], str]]] = {
    "none": [],
    "one": [("w", (8,), "f32")],
    "several": [("token_embd.weight", (32, 2), "q8_0"), ("v", (), "f64"), ("blk.0.w", (2, 3, 1, 2), "i8")],
    "blocks": [("blk.0.w", (256,), "q2_k"), ("blk.1.w", (64, 2), "q4_0"), ("output.weight", (64,), "nvfp4")],
    "matrix": [("w.in_sum2", (4, 1), "f32"), ("w.counts", (1, 1), "f32")],
}


@dataclass(frozen=True)
class Sample:
    """A sound file, and the places of its numbers."""

    raw: bytes
    places: tuple[tuple[int, str], ...]
    order: str


def sample(order: str, version: int, keys: str, tensors: str) -> Sample:
    """order: `<` or `>`."""
    sketch = Sketch(order)
    sketch.raw += b"GGUF"
    sketch.number("I", version)
    sketch.number("Q", len(TENSORS[tensors]))
    sketch.number("Q", len(KEYS[keys]))
    for name, (kind, value) in KEYS[keys].items():
        sketch.text(name.encode())
        sketch.number("I", kind)
        sketch.value(kind, value)
    alignment = KEYS[keys].get("general.alignment", (4, 32))[1]
    at = 0
    for name, sizes, kind_name in TENSORS[tensors]:
        kind = BY_NAME[kind_name]
        sketch.text(name.encode())
        sketch.number("I", len(sizes))
        for size in sizes:
            sketch.number("Q", size)
        sketch.number("I", kind.id)
        sketch.number("Q", at)
        elements = 1
        for size in sizes:
            elements *= size
        at += elements // kind.block_size * kind.block_bytes
        at += -at % alignment
    sketch.raw += bytes(-len(sketch.raw) % alignment) + bytes(index % 251 for index in range(at))
    return Sample(bytes(sketch.raw), tuple(sketch.places), order)


SAMPLES = [
    sample(order, version, keys, tensors)
    for order in "<>"
    for version in (2, 3)
    for keys, tensors in (
        ("none", "none"), ("scalars", "one"), ("arrays", "several"), ("aligned", "blocks"), ("matrix", "matrix"),
    )
]  # fmt: skip


class Plain:
    """The plain reader; any exception of its own means that the file is not one."""

    def __init__(self, raw: bytes) -> None:
        self.raw, self.at = raw, 4
        assert raw[:4] == b"GGUF"
        self.order = "<" if int.from_bytes(raw[4:8], "little") in (2, 3) else ">"
        self.version = self.number("I")
        tensors, keys = self.number("Q"), self.number("Q")
        self.metadata = {self.text().decode(): self.typed(self.number("I")) for _ in range(keys)}
        self.listed = {self.text().decode(): self.tensor() for _ in range(tensors)}
        alignment = self.metadata.get("general.alignment", (4, 32))[1]
        self.data_start = self.at + -self.at % alignment

    def number(self, code: str) -> Any:
        (value,) = struct.unpack_from(self.order + code, self.raw, self.at)
        self.at += struct.calcsize("<" + code)
        return value

    def text(self) -> bytes:
        length = self.number("Q")
        self.at += length
        assert self.at <= len(self.raw)
        return self.raw[self.at - length : self.at]

    def typed(self, kind: int) -> tuple[int, Any]:
        return kind, self.value(kind)

    def value(self, kind: int) -> Any:
        if kind == STRING:
            return self.text()
        if kind == ARRAY:
            element, length = self.number("I"), self.number("Q")
            return [self.value(element) for _ in range(length)]
        return self.number(CODES[kind])

    def tensor(self) -> tuple[tuple[int, ...], int, int]:
        """Sizes, type, offset."""
        sizes = tuple(self.number("Q") for _ in range(self.number("I")))
        return sizes, self.number("I"), self.number("Q")
