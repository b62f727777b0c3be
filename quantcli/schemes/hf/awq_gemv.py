"""AutoAWQ's other two layouts, GEMV and GEMV-fast: 4-bit codes with zero points, rows of outputs, in half precision.

    GEMV        qweight  i32 (rows, columns / 8)       a stream of bits, the first column lowest
                qzeros   i32 (rows, width)             zero points of eight groups in a word, packed in the same way
                scales   f16 (rows, 8 * width)
    GEMV-fast   qweight  i16 (rows / 4, columns)       four rows and 64 columns at a time, see `unpack`
                qzeros   f16 (8 * width, rows)         -zero * scale, rounded
                scales   f16 (8 * width, rows)

The width makes room for a multiple of 8, 16 or 32 groups; what is beyond columns / group is padding.
Sources: AutoAWQ (awq/modules/linear/gemv.py, gemv_fast.py, awq/utils/packing_utils.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quantcli.schemes.base import Parts, PartSpec, Scheme
from quantcli.schemes.hf import packed
from quantcli.schemes.hf.awq import BITS
from quantcli.schemes.hf.scaled import GROUP, Floats, Scaled, Scales, divides

#: Codes in a word of 32 bits.
WORD = 8
#: Group -> the zero points' words come in so many; groups above 128 as 128.
MULTIPLES = {32: 4, 64: 2, 128: 1}
#: GEMV-fast puts so many rows and columns together.
FAST_ROWS, FAST_COLUMNS = 4, 64


def zeros_width(columns: int, group: int) -> int:
    """Return how many words of zero points a row has, padding included.

    >>> zeros_width(320, 64), zeros_width(4096, 128)
    (2, 4)
    """
    words = math.ceil(columns // group / WORD)
    multiple = MULTIPLES[min(group, 128)]
    return math.ceil(words / multiple) * multiple


@dataclass(frozen=True, kw_only=True)
class AwqGemv(Scaled):
    """`uint4-g{group}` in GEMV's layout."""

    family: str = "awq-gemv"
    compute: str | None = "f16"
    narrow_scales: bool = True

    @property
    def name(self) -> str:
        return f"uint{BITS}-g{self.group}"

    @property
    def codes_part(self) -> str:
        return "qweight"

    @property
    def code_bits(self) -> int:
        return BITS

    def unfit(self, shape: tuple[int, ...]) -> str | None:
        return super().unfit(shape) or divides(self.scales, shape)

    def packing(self, shape: tuple[int, ...]) -> dict[str, PartSpec]:
        rows, columns = shape
        width = zeros_width(columns, self.group)
        return {"qweight": PartSpec("i32", (rows, columns // WORD)), "qzeros": PartSpec("i32", (rows, width))}

    def scales_spec(self, shape: tuple[int, ...]) -> PartSpec:
        return PartSpec(self.scales.dtype, (shape[0], WORD * zeros_width(shape[1], self.group)))

    @property
    def groups(self) -> int:
        return self.columns // self.group

    def float_scales(self, parts: Parts, rows: int) -> Floats:
        return np.ascontiguousarray(parts["scales"][:, : self.groups]).astype(np.float32)

    def zeros(self, parts: Parts, rows: int) -> Floats:
        return packed.dense(parts["qzeros"], BITS, self.groups).astype(np.float32)

    def unpack(self, parts: Parts) -> NDArray[np.uint8]:
        return packed.dense(parts["qweight"], BITS, self.columns)


@dataclass(frozen=True, kw_only=True)
class AwqGemvFast(AwqGemv):
    """`uint4-g{group}` in GEMV-fast's layout."""

    family: str = "awq-gemv-fast"

    def unfit(self, shape: tuple[int, ...]) -> str | None:
        if reason := super().unfit(shape):
            return reason
        if shape[1] % FAST_COLUMNS:
            return f"last axis {shape[1]} is not a multiple of {FAST_COLUMNS}"
        return f"{shape[0]} rows are not a multiple of {FAST_ROWS}" if shape[0] % FAST_ROWS else None

    def packing(self, shape: tuple[int, ...]) -> dict[str, PartSpec]:
        rows, columns = shape
        return {
            "qweight": PartSpec("i16", (rows // FAST_ROWS, columns), rows=FAST_ROWS),
            "qzeros": PartSpec("f16", (WORD * zeros_width(columns, self.group), rows), axis=1),
        }

    def scales_spec(self, shape: tuple[int, ...]) -> PartSpec:
        return PartSpec(self.scales.dtype, (WORD * zeros_width(shape[1], self.group), shape[0]), axis=1)

    def float_scales(self, parts: Parts, rows: int) -> Floats:
        return np.ascontiguousarray(parts["scales"][: self.groups].T).astype(np.float32)

    def zeros(self, parts: Parts, rows: int) -> Floats:
        offsets = np.ascontiguousarray(parts["qzeros"][: self.groups].T).astype(np.float32)
        scales = self.float_scales(parts, rows)
        return np.rint(-offsets / np.where(scales == 0, np.float32(1), scales))

    def unpack(self, parts: Parts) -> NDArray[np.uint8]:
        """Of four rows and 64 columns first all columns of a row, then the next row, four codes a word.

        Within 32 columns pairs are taken by column of a 4 x 4 square of pairs; of eight codes so found the even ones
        come first.
        """
        words = np.ascontiguousarray(parts["qweight"]).view(np.uint16)
        fours = words[:, :, None] >> np.arange(0, 16, 4, dtype=np.uint16) & np.uint16(15)
        blocks = fours.astype(np.uint8).reshape(len(words), -1, FAST_ROWS, FAST_COLUMNS)
        rows = blocks.transpose(0, 2, 1, 3).reshape(len(words) * FAST_ROWS, -1, 4, 2, 4)
        pairs = rows.transpose(0, 1, 2, 4, 3).reshape(len(rows), -1, 4, 4, 2)
        return np.ascontiguousarray(pairs.transpose(0, 1, 3, 2, 4)).reshape(len(rows), self.columns)


def listed(columns: int) -> Iterator[Scheme]:
    """Return one scheme of each layout, for rows of so many values."""
    scales = Scales("f16", 1, GROUP)
    yield AwqGemv(columns=columns, scales=scales)
    yield AwqGemvFast(columns=columns, scales=scales)
