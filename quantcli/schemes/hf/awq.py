"""AutoAWQ's GEMM layout: 4-bit codes, transposed, eight output rows in one word.

    qweight  i32 (columns, rows / 8)        one word: rows 8r .. 8r+7 of one column
    qzeros   i32 (groups, rows / 8)         zero points, packed in the same way
    scales   (groups, rows)                 groups = columns / group

    bits of a word   31-28 27-24 23-20 19-16 15-12 11-8  7-4  3-0
    holds row 8r +       7     5     3     1     6    4    2    0

value = (code - zero) * scale, rounded once to float16: the tool computes in half precision. `codes` keeps scale and
zero unrounded. Source: AutoAWQ (awq/utils/packing_utils.py, awq/modules/linear/gemm.py).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from quantcli.arrays import Array
from quantcli.schemes.base import Grid, Parts, PartSpec
from quantcli.schemes.hf.scaled import Floats, Scaled, divides

BITS = 4
ROWS_PER_WORD = 8

#: Shift of each of a word's eight rows.
SHIFTS = (0, 16, 4, 20, 8, 24, 12, 28)

#: The zero point of files without zero points.
SYMMETRIC_ZERO = 8


def unpack(words: Array) -> NDArray[np.uint8]:
    """u32 or i32 (n, rows / 8) -> uint8 codes (rows, n), contiguous.

    >>> unpack(np.array([[0x75316420]], np.uint32)).T.tolist()
    [[0, 1, 2, 3, 4, 5, 6, 7]]
    """
    transposed = np.ascontiguousarray(words.view("<u4").T)
    halves = transposed.view(np.uint8).reshape(*transposed.shape, 4)
    codes = np.empty((transposed.shape[0], ROWS_PER_WORD, transposed.shape[1]), np.uint8)
    for row, shift in enumerate(SHIFTS):
        half = halves[:, :, shift // 8]
        codes[:, row] = half >> 4 if shift % 8 else half & 15
    return codes.reshape(-1, transposed.shape[1])


@dataclass(frozen=True, kw_only=True)
class Awq(Scaled):
    """`uint4-g{group}` with zero points, `int4-g{group}` without, in AutoAWQ's layout.

    `words`, `zeros_dtype`: the dtypes of `qweight` and `qzeros`, i32 or u32; `zeros_dtype` is None where there are
    none; those of a symmetric weight count, and it is on its grid where all are 8.
    `common_dtype`: one float dtype that holds the scales of all weights of the checkpoint, where they differ.
    """

    symmetric: bool
    words: str = "i32"
    zeros_dtype: str | None = None
    common_dtype: str | None = None
    family: str = "awq"
    compute: str | None = "f16"
    narrow_scales: bool = True

    @property
    def name(self) -> str:
        return f"{'int' if self.symmetric else 'uint'}{BITS}-g{self.group}"

    @property
    def codes_part(self) -> str:
        return "qweight"

    @property
    def code_bits(self) -> int:
        return BITS

    @property
    def zero(self) -> int | None:
        return SYMMETRIC_ZERO if self.symmetric else None

    @property
    def possible_scales(self) -> tuple[str, ...]:
        return ("f16", "bf16", "f32")

    def unfit(self, shape: tuple[int, ...]) -> str | None:
        if reason := super().unfit(shape) or divides(self.scales, shape):
            return reason
        return f"{shape[0]} rows are not a multiple of {ROWS_PER_WORD}" if shape[0] % ROWS_PER_WORD else None

    def packing(self, shape: tuple[int, ...]) -> dict[str, PartSpec]:
        rows, columns = shape
        words = rows // ROWS_PER_WORD
        parts = {"qweight": PartSpec(self.words, (columns, words), axis=1, rows=ROWS_PER_WORD)}
        if self.zeros_dtype is not None:
            groups = columns // self.group
            parts["qzeros"] = PartSpec(self.zeros_dtype, (groups, words), axis=1, rows=ROWS_PER_WORD)
        return parts

    def unpack(self, parts: Parts) -> NDArray[np.uint8]:
        return unpack(parts["qweight"])

    def zeros(self, parts: Parts, rows: int) -> Floats:
        if self.zeros_dtype is None:
            return np.full((1, 1), SYMMETRIC_ZERO, np.float32)
        return unpack(parts["qzeros"]).astype(np.float32)

    def computed_scales(self, parts: Parts, rows: int) -> Floats:
        with np.errstate(over="ignore", invalid="ignore"):  # float64 is rounded once
            return self.float_scales({**parts, "scales": parts["scales"].astype(np.float16)}, rows)

    def grid(self) -> Grid | None:
        grid = super().grid()
        return grid and replace(grid, scale_dtype=self.common_dtype or grid.scale_dtype)
