"""A made-up GGML type, `q3_0`: 32 values of 3 bits under one f16 scale.

    14 bytes:   d d   float16                     value = (code - 4) * d, codes 0 .. 7
                p x 8                             the lower two bits of the codes
                h x 4                             their third bits

    p, byte j:     7 6    |   5 4    |   3 2    |   1 0        h, bit j % 8 of byte j / 8: bit 2 of code j
                code j+24 | code j+16| code j+8 | code j

A block is encoded as ggml encodes q4_0: the first value of largest magnitude, peak, has d = peak / -4, and other codes
are those nearest to it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quantcli.arrays import Array, to_float32
from quantcli.schemes.base import Codes, DoesNotFit, Error, Grade, Grid, Importance, Parts
from quantcli.schemes.ggml.blocks import F16_OVERFLOW, Blocks, Ggml, Sums, f16_bytes, read_f16, round_to_f16
from quantcli.schemes.zero_points import symmetric

BLOCK, ZERO, LARGEST = 32, 4, 7
GRID = Grid(3, BLOCK, "f16", zero=ZERO)
#: Where the lower two bits of the codes of a byte stand.
SHIFTS = np.arange(0, 8, 2, dtype=np.uint8)


@dataclass(frozen=True)
class Q30(Ggml):
    """`q3_0`.

    A peak of -4 has d = 1 (3c00) and code 0; 3, 1 and 0 have codes 7, 5 and 4, whose third bits are 1.

    >>> parts, error = Q30().encode(np.array([[-4, 3, 1, *[0] * 29]], np.float32))
    >>> parts["blocks"].tobytes().hex(" "), error.largest
    ('00 3c 00 03 01 00 00 00 00 00 fe ff ff ff', 0.0)
    """

    type: str = "q3_0"
    in_arrays = False  # numpy alone: neither kernels nor MLX
    in_kernels = False

    @property
    def rounding(self) -> float:
        """Relative RMSE of encoding 4M values of a Gaussian."""
        return 0.1744

    def grid(self) -> Grid:
        return GRID

    def codes(self, parts: Parts) -> Codes:
        blocks = parts["blocks"]
        rows, groups = blocks.shape[0], blocks.shape[1] // self.ggml_type.block_bytes
        flat = np.ascontiguousarray(blocks).reshape(-1, self.ggml_type.block_bytes)
        scales = read_f16(flat, 0, 1, np).reshape(rows, groups)
        return Codes(GRID, unpack(flat).reshape(rows, groups * BLOCK), scales, scales * np.float32(-ZERO))

    def fits(self, grid: Grid, shape: tuple[int, ...]) -> Grade | str:
        if grid.zero is None and grid.table is None:
            return f"its zero point is not {ZERO} in every group, but that of {self.name} is"
        return self.may_fit(grid, shape)

    def may_fit(self, grid: Grid, shape: tuple[int, ...]) -> Grade | str:
        """`exact` where f16 holds the grid's scales, `codes-exact` where they are rounded to it.

        Biases of groups may happen to be those of one zero; `pack` refuses others.
        """
        if grid.table is not None:
            return f"its codes are indices into a table of values, but those of {self.name} are evenly spaced"
        if not 0 <= ZERO - (ZERO if grid.zero is None else grid.zero) <= LARGEST + 1 - 2**grid.bits:
            return f"its {grid.bits}-bit codes exceed the range of {self.name}, 3 bits with zero point {ZERO}"
        if grid.group % BLOCK:
            return f"its group size {grid.group} is not a multiple of {BLOCK}"
        return self.unfit(shape) or (Grade.EXACT if grid.scale_dtype == "f16" else Grade.CODES_EXACT)

    def adapted(self, codes: Codes) -> Codes:
        return symmetric(codes, ZERO, GRID.bits)

    def as_stored(self, codes: Codes) -> Codes:
        own = self.adapted(codes)
        scales = round_to_f16(own.regrouped(BLOCK)[0], "scale").astype(np.float32)
        return Codes(GRID, own.codes, scales, scales * np.float32(-ZERO))

    def pack(self, codes: Codes) -> Parts:
        if isinstance(reason := self.may_fit(codes.grid, codes.codes.shape), str):
            raise DoesNotFit(reason)
        own = self.as_stored(codes)
        return {"blocks": pack(own.codes.reshape(-1, BLOCK), own.scales.reshape(-1, 1)).reshape(len(own.codes), -1)}

    def _decode_cpu(self, blocks: Blocks) -> NDArray[np.float32]:
        return self.codes({"blocks": blocks}).values()

    def _encode_cpu(self, values: Array, importance: Importance | None) -> tuple[Blocks, Sums]:
        wide = to_float32(values)
        x = wide.reshape(-1, BLOCK)
        peak = np.take_along_axis(x, np.abs(x).argmax(axis=1, keepdims=True), axis=1)
        scales = peak / np.float32(-ZERO)
        with np.errstate(over="ignore", invalid="ignore"):  # NaN and Inf show in the error, overflows in its last sum
            inverse = np.divide(np.float32(1), scales, out=np.zeros_like(scales), where=scales != 0)
            codes = np.clip(np.rint(x * inverse) + ZERO, 0, LARGEST).astype(np.uint8)
            blocks = pack(codes, scales).reshape(len(values), -1)
            error = Error.between(wide, self._decode_cpu(blocks))
        overflow = np.abs(scales).max(where=np.abs(scales) >= F16_OVERFLOW, initial=0)
        return blocks, np.array([error.squared, error.reference, error.largest, overflow])


def unpack(blocks: Blocks) -> NDArray[np.uint8]:
    """Codes uint8 (n, 32) of blocks (n, 14)."""
    low = (blocks[:, None, 2:10] >> SHIFTS[:, None] & np.uint8(3)).reshape(-1, BLOCK)
    high = np.unpackbits(np.ascontiguousarray(blocks[:, 10:]), axis=1, bitorder="little")
    return low | high << np.uint8(2)


def pack(codes: NDArray[np.uint8], scales: NDArray[np.float32]) -> Blocks:
    """Blocks uint8 (n, 14) of codes uint8 (n, 32) and scales float32 (n, 1)."""
    quarters = (codes & np.uint8(3)).reshape(-1, 4, 8) << SHIFTS[:, None]
    high = np.packbits(codes >> np.uint8(2), axis=1, bitorder="little")
    return np.concatenate([f16_bytes(scales, np), np.bitwise_or.reduce(quarters, axis=1), high], axis=1)


SCHEMES = {"q3_0": Q30()}
