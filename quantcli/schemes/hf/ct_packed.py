"""compressed-tensors' pack-quantized: integers of 2 to 8 bits, rows of outputs, packed along the row.

    weight   i32 (rows, words)                  codes, which are the integers plus half of their range; see packed.py
    scales   (rows, groups) or (rows, 1)
    shape    i64 (2,)                           rows and columns
    zeros    i32 (words of rows, groups)        zero points plus half of the range, packed along the rows
             stacked matrices (experts, ...)    each as one by itself, and shape has three numbers
    g_idx    i32 (columns,)                     the group of each column, where they were ordered by their weight

    words     dense    ceil(columns * bits / 32), codes straddle words           compressed-tensors from 0.18 on
              padded   ceil(columns / (32 // bits)), upper bits unused           before it
    for 2, 4 and 8 bits the same

value = (code - zero) * scale, rounded to the dtype of the scale.

transformers 5.23 expects zero points that are not packed, and refuses these; transformers 5.17 with compressed-tensors
0.19 loads them, and so does vLLM.
Source: compressed-tensors (compressors/quantized_compressors/pack_quantized.py, versions 0.12 to 0.20).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantcli.arrays import Array
from quantcli.schemes.base import Parts, PartSpec
from quantcli.schemes.hf import minmax, packed
from quantcli.schemes.hf.compressed_tensors import PACKED, arguments, entry
from quantcli.schemes.hf.scaled import Extra, Floats, Scales, divides
from quantcli.schemes.hf.written import Written, stored_scales


def width(count: int, bits: int, *, padded: bool) -> int:
    """Return how many words hold so many codes.

    >>> width(128, 3, padded=False), width(128, 3, padded=True)
    (12, 13)
    """
    return -(-count // (packed.WORD // bits)) if padded else packed.words_of(count, bits)


@dataclass(frozen=True, kw_only=True)
class CtPacked(Written):
    """`int4-g64`, or `uint4-g64` where there are zero points; those of 8 bits are called `int8-asym-g64`."""

    bits: int
    symmetric: bool
    padded: bool = False
    family: str = "ct"
    weight_suffix = PACKED

    @property
    def name(self) -> str:
        kind = f"int{self.bits}" if self.symmetric else "int8-asym" if self.bits == 8 else f"uint{self.bits}"
        return kind + self.scales.suffix

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
        *leading, rows, columns = shape
        parts = {"weight": PartSpec("i32", (*leading, rows, width(columns, self.bits, padded=self.padded)))}
        if not self.symmetric:
            groups = -(-columns // self.group)
            shared = math.gcd(self.bits, packed.WORD)
            together = packed.WORD // self.bits if self.padded else packed.WORD // shared
            parts["zeros"] = PartSpec(
                "i32", (*leading, width(rows, self.bits, padded=self.padded), groups), rows=together,
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

    @property
    def config_entry(self) -> dict[str, Any]:
        return entry("pack-quantized", arguments(self.bits, "int", self.scales, symmetric=self.symmetric))

    @property
    def is_written(self) -> bool:
        return not (self.padded or self.ordered)

    def unfit(self, shape: tuple[int, ...]) -> str | None:
        return self.unread(shape) or (divides(self.scales, shape) if self.is_written else None)

    def unread(self, shape: tuple[int, ...]) -> str | None:
        words = width(shape[-2], self.bits, padded=self.padded) if len(shape) > 2 and not self.symmetric else 0
        if words and shape[-2] * self.bits != words * packed.WORD:
            return f"its matrices have {shape[-2]} rows, whose {self.bits}-bit zero points do not fill 32-bit words"
        return super().unfit(shape)

    def fixed(self, shape: tuple[int, ...]) -> dict[str, Array]:
        return {SHAPE.part: np.array([shape], np.int64)}

    def rounds(self, values: Floats, dtype: str) -> tuple[NDArray[np.uint8], Floats, Floats | None]:
        found = minmax.extremes(values, self.scales.rows, self.scales.columns)
        scales, zeros = minmax.integer_grid(found, self.bits, self.symmetric, dtype)
        steps = None if zeros is None else self.spread(zeros, values)
        return minmax.integers(self.divided(values, scales, dtype), steps, self.bits, dtype), scales, zeros

    def to_parts(self, codes: NDArray[np.uint8], scales: Floats, zeros: Floats | None) -> dict[str, Array]:
        parts: dict[str, Array] = {"weight": packed.words(codes, self.bits).view(np.int32)}
        if zeros is not None:
            transposed = np.ascontiguousarray(zeros.T).astype(np.uint8)
            parts["zeros"] = np.ascontiguousarray(packed.words(transposed, self.bits).view(np.int32).T)
        return parts | {"scales": stored_scales(scales, self.scales.dtype)}


#: The part that holds a weight's shape.
SHAPE = Extra("shape", "i64", (2,))


def written(bits: int, symmetric: bool, group: int | None, dtype: str, columns: int) -> CtPacked:
    """Return the scheme as it is written; group: None for one scale per row."""
    return CtPacked(
        columns=columns, scales=Scales(dtype, 1, group), bits=bits, symmetric=symmetric, compute=dtype, extras=(SHAPE,)
    )
