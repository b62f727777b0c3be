"""GGML's blocks of one or two bits a value under a single f16: `q1_0 q2_0 tq1_0 tq2_0`.

Source: `block_q1_0`, `block_q2_0`, `block_tq1_0`, `block_tq2_0` in ggml-common.h and their functions in ggml-quants.c
(llama.cpp); how blocks are encoded is described in kernels/ggml/blocks/ternary.py.

    q1_0   18 bytes, 128 values   d d  b x 16           value = code ? d : -d
    q2_0   18 bytes,  64 values   d d  p x 16           value = (code - 1) * d, codes 0 .. 3
    tq2_0  66 bytes, 256 values   p x 64  d d           the same
    tq1_0  54 bytes, 256 values   t x 48  u x 4  d d    the same, codes 0 .. 2

    b, bit j % 8 of byte j / 8: code j         p of q2_0, byte j:         7 6    |   5 4    |   3 2    |   1 0
                                                                       code 4j+3 | code 4j+2 | code 4j+1 | code 4j
    p of tq2_0, byte j of each half's 32       7 6     |   5 4     |   3 2     |   1 0
    (128 values)                             code j+96 | code j+64 | code j+32 | code j

    t, u: ceil(256 * n / 243), n = 81 a + 27 b + 9 c + 3 d + e; a is the byte times 3 over 256, b the same of what is
    left of it, and so on. a, b, ... of byte j are the codes
        bytes  0-31  j      j+32   j+64   j+96   j+128
        bytes 32-47  j+128  j+144  j+160  j+176  j+192
        u 0-3        j+240  j+244  j+248  j+252  (e is 0)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from quantcli.arrays import Array
from quantcli.kernels.ggml.better.levels import Levels
from quantcli.schemes.base import Codes, DoesNotFit, Grade, Grid, Importance, Parts
from quantcli.schemes.ggml.best import OnGrid
from quantcli.schemes.ggml.blocks import Blocks, Ggml, Subs, Sums, f16_bytes, read_f16, round_to_f16
from quantcli.schemes.zero_points import halved, symmetric

if TYPE_CHECKING:
    import mlx.core as mx


@dataclass(frozen=True)
class TernaryFormat:
    """`at`: the byte where the scale starts. `largest`: code. `rounding`: relative RMSE of 4M values of a Gaussian.

    `levels`: what `--search best` tries.
    """

    grid: Grid
    at: int
    largest: int
    rounding: float
    levels: Levels


_TERNARY = Levels(256, -1, 1, starts=(0.2, 1.0, 1))
FORMATS = {
    "q1_0": TernaryFormat(Grid(1, 128, "f16"), 0, 1, 0.6009, Levels(128, table=(-1.0, 1.0), starts=(0.2, 1.0, 1))),
    "q2_0": TernaryFormat(Grid(2, 64, "f16", zero=1), 0, 3, 0.717, Levels(64, -1, 2, starts=(0.3, 1.0, 2))),
    "tq1_0": TernaryFormat(Grid(2, 256, "f16", zero=1), 52, 2, 0.807, _TERNARY),
    "tq2_0": TernaryFormat(Grid(2, 256, "f16", zero=1), 64, 3, 0.807, _TERNARY),
}


@dataclass(frozen=True)
class GgmlTernary(Ggml):
    """One of `FORMATS`.

    q2_0 of 1, 0, -1, 0.5 and zeros: d = 1 (3c00), codes 2 1 0 2 are 10 00 01 10 from the top, zeros are 01 01 01 01.

    >>> values = np.zeros((1, 256), np.float32)
    >>> values[0, :4] = 1, 0, -1, 0.5
    >>> GgmlTernary("q2_0").encode(values[:, :64])[0]["blocks"][0, :4].tobytes().hex(" ")
    '00 3c 86 55'

    q1_0: the mean magnitude is 2.5 / 128 = 1.25 * 2**-6 (2500), all but the third are not negative.

    >>> GgmlTernary("q1_0").encode(values[:, :128])[0]["blocks"][0, :4].tobytes().hex(" ")
    '00 25 fb ff'

    tq2_0 has value 0 (code 2) with three zeros (code 1) in a byte: 01 01 01 10. tq1_0 has it with four:
    ceil(256 * (81 * 2 + 27 + 9 + 3 + 1) / 243) = 213.

    >>> GgmlTernary("tq2_0").encode(values)[0]["blocks"][0, :4].tobytes().hex(" ")
    '56 55 54 56'
    >>> GgmlTernary("tq1_0").encode(values)[0]["blocks"][0, :4].tolist()
    [213, 128, 43, 213]
    """

    @property
    def rounding(self) -> float:
        return FORMATS[self.type].rounding

    def grid(self) -> Grid:
        """Return the grid. q1_0's scale is 2 d, its bias -d: f16 holds no scale of a d above half of its largest."""
        return FORMATS[self.type].grid

    def codes(self, parts: Parts) -> Codes:
        grid, blocks = self.grid(), parts["blocks"]
        rows, groups = blocks.shape[0], blocks.shape[1] // self.ggml_type.block_bytes
        flat = blocks.reshape(rows * groups, self.ggml_type.block_bytes)
        codes = unpack(flat, self.type, np).reshape(rows, groups * grid.group)
        d = read_f16(flat, FORMATS[self.type].at, 1, np).reshape(rows, groups)
        return Codes(grid, codes, d if grid.zero else d * np.float32(2), -d)

    @property
    def is_symmetric(self) -> bool:
        return True

    def fits(self, grid: Grid, shape: tuple[int, ...]) -> Grade | str:
        """Return the grade. tq1_0 has no code 3: `pack` refuses codes that have one."""
        if grid.table is None and self.grid().zero is None:
            return f"its biases may differ from -scale / 2, but those of {self.name} do not"
        if grid.table is None and grid.zero != 1:
            return f"its zero point is not 1 in every group, but that of {self.name} is"
        if grid.group % self.grid().group:
            return f"its group size {grid.group} is not a multiple of {self.grid().group}"
        return self.may_fit(grid, shape)

    def may_fit(self, grid: Grid, shape: tuple[int, ...]) -> Grade | str:
        """Return the grade for biases that follow from scales, and for groups that share their parameters."""
        own, largest = self.grid(), FORMATS[self.type].largest
        if grid.table is not None:
            return f"its codes are indices into a table of values, but those of {self.name} are evenly spaced"
        if grid.bits > own.bits:
            return f"its codes have {grid.bits} bits, but {self.name} holds {own.bits}"
        if grid.zero not in (None, own.zero):
            return f"its zero point is not {own.zero} in every group, but that of {self.name} is"
        if grid.zero is None and 2**grid.bits - 1 > largest:
            return f"its codes may exceed {largest}, the largest of {self.name}"
        if grid.group % own.group and own.group % grid.group:
            return f"its group size {grid.group} is not a multiple of {own.group}"
        return self.unfit(shape) or (Grade.EXACT if grid.scale_dtype == "f16" else Grade.CODES_EXACT)

    def adapted(self, codes: Codes) -> Codes:
        own = self.grid()
        return halved(codes) if own.zero is None else symmetric(codes, own.zero, own.bits)

    def pack(self, codes: Codes) -> Parts:
        grade = self.may_fit(codes.grid, codes.codes.shape)
        if isinstance(grade, str):
            raise DoesNotFit(grade)
        own, largest, stored = self.grid(), FORMATS[self.type].largest, self.as_stored(codes)
        if stored.codes.size and int(stored.codes.max()) > largest:
            raise DoesNotFit(f"a code of {stored.codes.max()} exceeds {largest}, the largest of {self.name}")
        assert stored.biases is not None
        rows, columns = stored.codes.shape
        header = (-stored.biases).reshape(-1, 1).astype(np.float16).view(np.uint8)
        blocks = self._join(header, pack(stored.codes.reshape(-1, own.group), self.type, np), np)
        return {"blocks": blocks.reshape(rows, columns // own.group * self.ggml_type.block_bytes)}

    def as_stored(self, codes: Codes) -> Codes:
        own, codes = self.grid(), self.adapted(codes)
        scales, _ = codes.regrouped(own.group)
        d = round_to_f16(scales if own.zero else scales / np.float32(2), "scale").astype(np.float32)
        return Codes(own, codes.codes, d if own.zero else d * np.float32(2), -d)

    @property
    def better(self) -> OnGrid:
        return OnGrid(self, FORMATS[self.type].levels)

    def assembled(self, codes: Blocks, subs: Subs, block_scales: NDArray[np.float32] | None) -> Blocks:
        assert block_scales is not None
        blocks: Blocks = self._join(f16_bytes(block_scales[:, :1], np), pack(codes, self.type, np), np)
        return blocks

    def _join(self, header: Any, packed: Any, xp: Any) -> Any:
        return xp.concatenate([packed, header] if FORMATS[self.type].at else [header, packed], axis=1)

    def _decode_cpu(self, blocks: Blocks) -> NDArray[np.float32]:
        from quantcli.kernels.ggml.blocks import ternary

        return ternary.decode(blocks, self.type)

    def _encode_cpu(self, values: Array, importance: Importance | None) -> tuple[Blocks, Sums]:
        from quantcli.kernels.ggml.blocks import ternary

        return ternary.encode(values, self.type)

    def _decode_mlx(self, blocks: mx.array) -> mx.array:
        import mlx.core as mx

        d = read_f16(blocks, FORMATS[self.type].at, 1, mx)
        codes = unpack(blocks, self.type, mx)
        values: mx.array = mx.where(codes == 1, d, -d) if self.type == "q1_0" else (codes.astype(mx.float32) - 1) * d
        return values

    def _encode_mlx(self, x: mx.array, importance: mx.array | None, row_blocks: int) -> tuple[mx.array, mx.array]:
        import mlx.core as mx

        magnitudes = mx.abs(x)
        if self.type == "q1_0":
            lanes = mx.contiguous(magnitudes.T)  # ggml sums in index order: one row of lanes after the other
            d = sum(lanes[j] for j in range(lanes.shape[0]))[:, None] / 128.0  # type: ignore[index]
            codes = x >= 0
        else:
            d = mx.max(magnitudes, axis=1, keepdims=True)
            inverse = 1.0 / d
            q = x * mx.where(mx.isfinite(inverse), inverse, 0.0)
            codes = (q >= 0.5).astype(mx.int32) - (q <= -0.5).astype(mx.int32) + 1
        packed = pack(codes.astype(mx.uint8), self.type, mx)
        return self._join(d.astype(mx.float16).view(mx.uint8), packed, mx), d


SCHEMES = {name: GgmlTernary(name) for name in FORMATS}


def unpack(blocks: Any, kind: str, xp: Any) -> Any:
    """Return codes uint8 (blocks, block size) of blocks uint8 (blocks, bytes); `xp` is numpy or mlx.core."""
    if kind == "tq1_0":
        parts = [_trits(blocks[:, :32], 5, xp), _trits(blocks[:, 32:48], 5, xp), _trits(blocks[:, 48:52], 4, xp)]
        return xp.concatenate(parts, axis=1)
    if kind == "tq2_0":
        planes = blocks[:, :64].reshape(-1, 2, 1, 32) >> xp.arange(0, 8, 2, dtype=xp.uint8)[:, None]
        return (planes & 3).reshape(-1, 256)
    bits = 1 if kind == "q1_0" else 2
    fields = blocks[:, 2:, None] >> xp.arange(0, 8, bits, dtype=xp.uint8)
    return (fields & (2**bits - 1)).reshape(-1, 128 // bits)


def pack(codes: Any, kind: str, xp: Any) -> Any:
    """Return a block's bytes except its scale, for codes uint8 (blocks, block size); `xp` is numpy or mlx.core."""
    if kind == "tq1_0":
        spans = (
            codes[:, :160].reshape(-1, 5, 32),
            codes[:, 160:240].reshape(-1, 5, 16),
            codes[:, 240:].reshape(-1, 4, 4),
        )
        return xp.concatenate([_bytes(span, xp) for span in spans], axis=1)
    if kind == "tq2_0":
        shifted = codes.reshape(-1, 2, 4, 32) << xp.arange(0, 8, 2, dtype=xp.uint8)[:, None]
        return shifted.sum(axis=2).astype(xp.uint8).reshape(-1, 64)
    bits = 1 if kind == "q1_0" else 2
    shifted = codes.reshape(-1, 16, 8 // bits) << xp.arange(0, 8, bits, dtype=xp.uint8)
    return shifted.sum(axis=2).astype(xp.uint8)


def _trits(stored: Any, planes: int, xp: Any) -> Any:
    """Codes uint8 (blocks, planes * run) of bytes (blocks, run)."""
    powers = xp.array([3**n for n in range(planes)], dtype=xp.uint16)[:, None]
    rest = stored[:, None, :].astype(xp.uint16) * powers & 255
    return (rest * 3 >> 8).astype(xp.uint8).reshape(stored.shape[0], -1)


def _bytes(span: Any, xp: Any) -> Any:
    """Bytes (blocks, run) of codes (blocks, planes, run), the first plane's weighing 81."""
    powers = xp.array([81, 27, 9, 3, 1][: span.shape[1]], dtype=xp.uint32)[:, None]
    numbers = (span.astype(xp.uint32) * powers).sum(axis=1).astype(xp.uint32)
    return ((numbers * 256 + 242) // 243).astype(xp.uint8)
