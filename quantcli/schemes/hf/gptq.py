"""GPTQ's layout: 2 to 8 bits, transposed; codes packed along the columns, zero points along the rows.

    qweight  i32 (columns * bits / 32, rows)      a stream of bits for each row, see packed.py: dense, or in planes
    qzeros   i32 (groups, rows * bits / 32)       zero points, packed in the same way along the rows
    scales   (groups, rows)                       groups = columns / group, the last may be cut off
    g_idx    i32 (columns,)                       the group of each column; k // group unless the tool reordered them

    format     codes of 2, 4, 8 bits   3 bits    5, 6, 7 bits   qzeros hold
    gptq       dense                   dense     -              zero - 1
    gptq_v2    dense                   dense     -              zero
    gptq_p     dense                   planes    planes         zero

`zero - 1` was made by subtracting a word of ones (0x11111111 for 4 bits), so a zero of 0 borrows from its neighbour:
the constant is added to the word before it is unpacked. value = (code - zero) * scale, in half precision.

Sources: GPTQModel 7 (nn_modules/qlinear, utils/model.py: convert_gptq_v1_to_v2_format), AutoGPTQ.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quantcli.arrays import Array
from quantcli.schemes.base import Parts, PartSpec, Scheme
from quantcli.schemes.hf import packed
from quantcli.schemes.hf.scaled import GROUP, Floats, Scaled, Scales

#: The values of `checkpoint_format` that are read.
FORMATS = ("gptq", "gptq_v2", "gptq_p")
#: Bits that are a dense stream in every format; the others are planes of gptq_p.
DENSE_BITS = (2, 3, 4, 8)


@dataclass(frozen=True, kw_only=True)
class Gptq(Scaled):
    """`int4-g64` where every zero point is the middle of the codes, `uint4-g64` otherwise."""

    bits: int
    symmetric: bool
    layout_format: str
    family: str = "gptq"
    adds_biases = True
    narrow_scales: bool = True
    #: dtypes of qweight and qzeros
    words: str = "i32"

    @property
    def name(self) -> str:
        return f"{'int' if self.symmetric else 'uint'}{self.bits}{self.scales.suffix}"

    @property
    def codes_part(self) -> str:
        return "qweight"

    @property
    def code_bits(self) -> int:
        return self.bits

    @property
    def zero(self) -> int | None:
        return 1 << self.bits - 1 if self.symmetric else None

    def packing(self, shape: tuple[int, ...]) -> dict[str, PartSpec]:
        rows, columns = shape
        shared = math.gcd(self.bits, packed.WORD)
        in_planes = self._in_planes
        together, words = (packed.WORD, self.bits) if in_planes else (packed.WORD // shared, self.bits // shared)
        zeros = (-(-columns // self.group), packed.words_of(rows, self.bits))
        return {
            "qweight": PartSpec(self.words, (columns * self.bits // packed.WORD, rows), axis=1),
            "qzeros": PartSpec(self.words, zeros, axis=1, rows=together, indices=words),
        }

    def unfit(self, shape: tuple[int, ...]) -> str | None:
        if reason := super().unfit(shape):
            return reason
        unit = packed.WORD if self._in_planes else packed.WORD // math.gcd(self.bits, packed.WORD)
        for what, count in (("columns", shape[1]), ("rows", shape[0])):
            if count % unit:
                return f"{count} {what} are not a multiple of {unit}, as {self.bits}-bit codes require"
        return None

    @property
    def _in_planes(self) -> bool:
        return self.layout_format == "gptq_p" and len(packed.PLANES[self.bits]) > 1

    def unpack(self, parts: Parts) -> NDArray[np.uint8]:
        return self._stream(np.ascontiguousarray(parts["qweight"].T), self.columns)

    def _stream(self, words: Array, count: int) -> NDArray[np.uint8]:
        return (packed.planes if self._in_planes else packed.dense)(words, self.bits, count)

    def zeros(self, parts: Parts, rows: int) -> Floats:
        return self.stored_zeros(parts["qzeros"], rows).T.astype(np.float32)

    def stored_zeros(self, words: Array, rows: int) -> NDArray[np.uint8]:
        """The zero points (groups, rows) of a slab's qzeros."""
        words = np.ascontiguousarray(words).view(np.uint32)
        if self.layout_format != "gptq":
            return self._stream(words, rows)
        if self.bits == 3:  # fields straddle words, and the tool corrects each by itself
            return self._stream(words, rows) + np.uint8(1) & np.uint8(7)
        ones = np.uint32(0xFFFFFFFF // ((1 << self.bits) - 1))
        return self._stream(words + ones, rows)


def listed(columns: int) -> Iterator[Scheme]:
    """Return one scheme of each width, for rows of so many values."""
    scales = Scales("f16", 1, GROUP, transposed=True)
    for bits in range(2, 9):
        kind = "gptq" if bits in DENSE_BITS else "gptq_p"
        for symmetric in (True, False):
            yield Gptq(columns=columns, scales=scales, bits=bits, symmetric=symmetric, layout_format=kind)
