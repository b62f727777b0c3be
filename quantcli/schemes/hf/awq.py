"""AutoAWQ's GEMM layout: 4-bit codes, transposed, eight output rows in one word.

    qweight  i32 (columns, rows / 8)        one word: rows 8r .. 8r+7 of one column
    qzeros   i32 (groups, rows / 8)         zero points, packed likewise
    scales   (groups, rows)                 groups = columns / group

    bits of a word   31-28 27-24 23-20 19-16 15-12 11-8  7-4  3-0
    holds row 8r +       7     5     3     1     6    4    2    0

value = (code - zero) * scale, rounded once to float16: the tool computes in half precision. `codes` keeps scale and
zero unrounded. Source: AutoAWQ (awq/utils/packing_utils.py, awq/modules/linear/gemm.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quantcli.arrays import Array, Device
from quantcli.schemes.base import Codes, DoesNotFit, Grid, Parts, PartSpec, Scheme

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
    turned = np.ascontiguousarray(words.view("<u4").T)
    halves = turned.view(np.uint8).reshape(*turned.shape, 4)
    codes = np.empty((turned.shape[0], ROWS_PER_WORD, turned.shape[1]), np.uint8)
    for row, shift in enumerate(SHIFTS):
        half = halves[:, :, shift // 8]
        codes[:, row] = half >> 4 if shift % 8 else half & 15
    return codes.reshape(-1, turned.shape[1])


@dataclass(frozen=True)
class Awq(Scheme):
    """`uint4-g{group}` with zero points, `int4-g{group}` without, in AutoAWQ's layout.

    `scale_dtype`: what the scales are stored in. `words`, `zeros`: the dtypes of `qweight` and `qzeros`, i32 or u32;
    `zeros` is None where there are none; those of a symmetric weight count, and it is on its grid where all are 8.
    `common_dtype`: one float dtype that holds the scales of all weights of the checkpoint, where they differ.
    """

    group: int
    symmetric: bool
    scale_dtype: str
    words: str = "i32"
    zeros: str | None = None
    common_dtype: str | None = None
    family = "awq"
    kept_in = ("hf",)

    @property
    def name(self) -> str:
        return f"{'int' if self.symmetric else 'uint'}{BITS}-g{self.group}"

    @property
    def codes_part(self) -> str:
        return "qweight"

    @property
    def values_dtype(self) -> str:
        return "f16"

    @property
    def rounding(self) -> float:
        return {32: 0.085, 64: 0.093, 128: 0.101}.get(self.group, 0.1)

    @property
    def scales_dtype(self) -> str:
        return self.scale_dtype

    @property
    def possible_scales(self) -> tuple[str, ...]:
        return ("f16", "bf16", "f32")

    def unfit(self, shape: tuple[int, ...]) -> str | None:
        if len(shape) != 2:
            return f"has {len(shape)} dimensions, AWQ holds matrices"
        if shape[1] % self.group:
            return f"last axis {shape[1]} is no multiple of {self.group}"
        return f"{shape[0]} rows are no multiple of {ROWS_PER_WORD}" if shape[0] % ROWS_PER_WORD else None

    def layout(self, shape: tuple[int, ...]) -> dict[str, PartSpec]:
        rows, columns = shape
        groups, words = columns // self.group, rows // ROWS_PER_WORD
        parts = {
            "qweight": PartSpec(self.words, (columns, words), axis=1, rows=ROWS_PER_WORD),
            "scales": PartSpec(self.scale_dtype, (groups, rows), axis=1),
        }
        if self.zeros is not None:
            parts["qzeros"] = PartSpec(self.zeros, (groups, words), axis=1, rows=ROWS_PER_WORD)
        return parts

    def decode(self, parts: Parts, device: Device = Device.CPU) -> NDArray[np.float32]:
        with np.errstate(over="ignore", invalid="ignore"):
            scales = np.ascontiguousarray(parts["scales"].astype(np.float16).T.astype(np.float32))
            values = unpack(parts["qweight"]).astype(np.float32).reshape(*scales.shape, self.group)
            values -= self._zeros(parts)[:, :, None]
            values *= scales[:, :, None]
            return values.reshape(len(scales), -1).astype(np.float16).astype(np.float32)

    def grid(self) -> Grid:
        zero = SYMMETRIC_ZERO if self.symmetric else None
        return Grid(BITS, self.group, self.common_dtype or self.scale_dtype, zero=zero, zero_points=not self.symmetric)

    def codes(self, parts: Parts) -> Codes:
        scales = np.ascontiguousarray(parts["scales"].T.astype(np.float32))
        zeros = self._zeros(parts)
        odd = (zeros != SYMMETRIC_ZERO) & (scales != 0)  # a group of scale 0 is zeros, whatever its zero point
        if self.symmetric and odd.any():
            other = int(zeros[odd][0])
            raise DoesNotFit(f"zero_point is false, and a zero point of {other} is stored, not {SYMMETRIC_ZERO}")
        return Codes(self.grid(), unpack(parts["qweight"]), scales, -zeros * scales)

    def _zeros(self, parts: Parts) -> NDArray[np.float32]:
        """float32 (rows, groups)."""
        if self.zeros is None:
            return np.full(parts["scales"].T.shape, SYMMETRIC_ZERO, np.float32)
        return unpack(parts["qzeros"]).astype(np.float32)


#: One of each kind, with the scales that sizes are counted with; those with zero points first.
LISTED = (
    *(Awq(group, symmetric=False, scale_dtype="f16", zeros="i32") for group in (32, 64, 128)),
    *(Awq(group, symmetric=True, scale_dtype="f16") for group in (32, 64, 128)),
)
