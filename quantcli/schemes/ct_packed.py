"""compressed-tensors' pack-quantized: integers of 2 to 8 bits, rows of outputs, packed along the row.

    weight   i32 (rows, words)                  codes, which are the integers plus half of their range; see packed.py
    scales   (rows, groups) or (rows, 1)
    zeros    i32 (words of rows, groups)        zero points plus half of the range, packed along the rows
    g_idx    i32 (columns,)                     the group of each column, where they were ordered by their weight

    words     dense    ceil(columns * bits / 32), codes straddle words           compressed-tensors from 0.18 on
              padded   ceil(columns / (32 // bits)), upper bits unused           before it
    for 2, 4 and 8 bits the same

value = (code - zero) * scale, rounded to the dtype of the scale.
Source: compressed-tensors (compressors/quantized_compressors/pack_quantized.py, versions 0.12 to 0.20).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quantcli.schemes import packed
from quantcli.schemes.base import Parts, PartSpec
from quantcli.schemes.scaled import Floats, Scaled


def width(count: int, bits: int, *, padded: bool) -> int:
    """Words that hold so many codes.

    >>> width(128, 3, padded=False), width(128, 3, padded=True)
    (12, 13)
    """
    return -(-count // (packed.WORD // bits)) if padded else packed.words_of(count, bits)


@dataclass(frozen=True, kw_only=True)
class CtPacked(Scaled):
    """`int4-g64`, or `uint4-g64` where there are zero points."""

    bits: int
    symmetric: bool
    padded: bool = False
    family: str = "ct"

    @property
    def name(self) -> str:
        return f"{'int' if self.symmetric else 'uint'}{self.bits}{self.scales.suffix}"

    @property
    def codes_part(self) -> str:
        return "weight"

    @property
    def code_bits(self) -> int:
        return self.bits

    @property
    def zero(self) -> int | None:
        return 1 << self.bits - 1 if self.symmetric else None

    def packing(self, shape: tuple[int, ...]) -> dict[str, PartSpec]:
        rows, columns = shape
        parts = {"weight": PartSpec("i32", (rows, width(columns, self.bits, padded=self.padded)))}
        if not self.symmetric:
            groups = -(-columns // self.group)
            shared = math.gcd(self.bits, packed.WORD)
            together = packed.WORD // self.bits if self.padded else packed.WORD // shared
            parts["zeros"] = PartSpec(
                "i32", (width(rows, self.bits, padded=self.padded), groups), rows=together,
                indices=1 if self.padded else self.bits // shared,
            )  # fmt: skip
        return parts

    def unpack(self, parts: Parts) -> NDArray[np.uint8]:
        return (packed.padded if self.padded else packed.dense)(parts["weight"], self.bits, self.columns)

    def zeros(self, parts: Parts, rows: int) -> Floats:
        if self.symmetric:
            return super().zeros(parts, rows)
        take = packed.padded if self.padded else packed.dense
        return take(np.ascontiguousarray(parts["zeros"].T), self.bits, rows).T.astype(np.float32)
