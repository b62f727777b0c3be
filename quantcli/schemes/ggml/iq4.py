"""GGML's `iq4_nl` and `iq4_xs`: four-bit codes for a table of sixteen uneven values, denser around 0.

Source: `block_iq4_nl`, `block_iq4_xs`, `kvalues_iq4nl` in ggml-common.h and their functions in ggml-quants.c
(llama.cpp); kernels/ggml/codebooks/iq4.py describes the search for scales, with and without an importance matrix. On
MLX's CPU device bytes are ggml's too; for GPUs see search.py.

    iq4_nl   18 bytes,  32 values   d d                      n x 16     value = d * IQ4_VALUES[code]
    iq4_xs  136 bytes, 256 values   d d  h h  l l l l        n x 128    value = d * (s[i / 32] - 32) * IQ4_VALUES[code]

    n, byte j of each group's 16:    7 6 5 4 | 3 2 1 0       l, byte k:   7 6 5 4 | 3 2 1 0    lower four bits of s
                                   code j+16 | code j                      s 2k+1 | s 2k
    h, little-endian uint16: bits 2 g, 2 g + 1 are the upper two bits of s g
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from quantcli.arrays import Array
from quantcli.kernels.ggml.better.levels import Levels
from quantcli.kernels.ggml.formats import BLOCK, IQ4_GROUPS, IQ4_VALUES
from quantcli.schemes.base import Codes, DoesNotFit, Grade, Grid, Importance, Parts
from quantcli.schemes.ggml import search
from quantcli.schemes.ggml.best import OnGrid
from quantcli.schemes.ggml.blocks import Blocks, Ggml, Subs, Sums, f16_bytes, read_f16, round_to_f16

if TYPE_CHECKING:
    import mlx.core as mx

#: The value of each code.
TABLE = tuple(float(value) for value in IQ4_VALUES)

#: Each type's grid, and the relative RMSE of encoding 4M values of a Gaussian.
GRIDS = {"iq4_nl": Grid(4, BLOCK, "f16", table=TABLE), "iq4_xs": Grid(4, BLOCK, "f32", table=TABLE)}
#: What `--search best` tries.
LEVELS = {
    "iq4_nl": Levels(BLOCK, table=TABLE, starts=(0.6, 1.05, 2)),
    "iq4_xs": Levels(BLOCK, table=TABLE, subs=(-32, 31), starts=(0.6, 1.05, 2)),
}
ROUNDING = {"iq4_nl": 0.0762, "iq4_xs": 0.0767}


@dataclass(frozen=True)
class Iq4(Ggml):
    """One of `GRIDS`.

    A block of the table's own values has d = 1 (3c00), codes 0 to 15 and 8 (the value 1).

    >>> values = np.array([[*IQ4_VALUES, *[1] * 16]], np.float32)
    >>> parts, error = Iq4("iq4_nl").encode(values)
    >>> parts["blocks"].tobytes().hex(" "), error.largest
    ('00 3c 80 81 82 83 84 85 86 87 88 89 8a 8b 8c 8d 8e 8f', 0.0)

    The same in the first group of an iq4_xs, others zeros: d = -1/32 (a800), s = 0 so that d * (0 - 32) = 1; groups of
    zeros have s = 32 (upper bits 10, lower 0) and code 8.

    >>> parts, error = Iq4("iq4_xs").encode(np.concatenate([values, np.zeros((1, 224), np.float32)], axis=1))
    >>> parts["blocks"][0, :12].tobytes().hex(" "), parts["blocks"][0, 24:26].tobytes().hex(" "), error.largest
    ('00 a8 a8 aa 00 00 00 00 80 81 82 83', '88 88', 0.0)
    """

    @property
    def rounding(self) -> float:
        return ROUNDING[self.type]

    @property
    def _supers(self) -> bool:
        """Whether groups have sub-block scales below that of a super-block."""
        return self.type == "iq4_xs"

    def grid(self) -> Grid:
        return GRIDS[self.type]

    def codes(self, parts: Parts) -> Codes:
        blocks, size = parts["blocks"], self.ggml_type.block_bytes
        rows, columns = blocks.shape[0], blocks.shape[1] // size * self.ggml_type.block_size
        flat = np.ascontiguousarray(blocks).reshape(-1, size)
        codes = unpack(flat, self._supers, np).reshape(rows, columns)
        scales = group_scales(flat, self._supers, np).reshape(rows, columns // BLOCK)
        return Codes(self.grid(), codes, scales, None)

    def fits(self, grid: Grid, shape: tuple[int, ...]) -> Grade | str:
        if self._supers:
            return (
                "its scales may not be 6-bit multiples of one f16 super-block scale per 256 values, which iq4_xs "
                "requires"
            )
        if grid.table != TABLE:
            return "its codes stand for other values than those of iq4_nl"
        if grid.group % BLOCK:
            return f"its group size {grid.group} is not a multiple of {BLOCK}"
        return self.unfit(shape) or (Grade.EXACT if grid.scale_dtype == "f16" else Grade.CODES_EXACT)

    def pack(self, codes: Codes) -> Parts:
        """Return blocks of codes on its table. Raises `DoesNotFit` for other codes, and always for iq4_xs."""
        grade = self.fits(codes.grid, codes.codes.shape)
        if isinstance(grade, str):
            raise DoesNotFit(grade)
        rows, columns = codes.codes.shape
        scales = round_to_f16(np.repeat(codes.scales, codes.grid.group // BLOCK, axis=1), "scale")
        header = np.ascontiguousarray(scales.reshape(-1, 1)).view(np.uint8)
        blocks = np.concatenate([header, pack(codes.codes.reshape(-1, BLOCK))], axis=1)
        return {"blocks": blocks.reshape(rows, columns // BLOCK * self.ggml_type.block_bytes)}

    @property
    def better(self) -> OnGrid:
        return OnGrid(self, LEVELS[self.type])

    def assembled(self, codes: Blocks, subs: Subs, block_scales: NDArray[np.float32] | None) -> Blocks:
        assert block_scales is not None
        packed = pack(codes.reshape(-1, BLOCK)).reshape(len(codes), -1)
        stored = [pack_subs((subs[:, :, 0] + 32).astype(np.uint8), np)] if self._supers else []
        return np.concatenate([f16_bytes(block_scales[:, :1], np), *stored, packed], axis=1)

    def _decode_cpu(self, blocks: Blocks) -> NDArray[np.float32]:
        from quantcli.kernels.ggml.codebooks import iq4

        return iq4.decode(blocks, self._supers)

    def _encode_cpu(self, values: Array, importance: Importance | None) -> tuple[Blocks, Sums]:
        from quantcli.kernels.ggml.codebooks import iq4

        return iq4.encode(values, importance, self._supers)

    def _decode_mlx(self, blocks: mx.array) -> mx.array:
        import mlx.core as mx

        values = mx.array(TABLE)[unpack(blocks, self._supers, mx)].reshape(blocks.shape[0], -1, BLOCK)
        decoded: mx.array = group_scales(blocks, self._supers, mx)[:, :, None] * values
        return decoded.reshape(blocks.shape[0], -1)

    def _encode_mlx(self, x: mx.array, importance: mx.array | None, row_blocks: int) -> tuple[mx.array, mx.array]:
        import mlx.core as mx

        count = x.shape[0]
        lanes = _lanes(x)
        if importance is None:
            weights = lanes * lanes
        else:
            squares = (x * x).T
            sigma = search.total(squares) * (2.0 / x.shape[1])
            spread = mx.repeat(sigma, x.shape[1] // BLOCK, axis=1)
            weights = _lanes(importance) * mx.sqrt(spread + lanes * lanes)
        scale = _search(lanes, weights)
        header, step, d = _split_scales(scale.reshape(count, IQ4_GROUPS)) if self._supers else _whole_scales(scale)
        inverse = mx.where(step != 0, 1.0 / step, 0.0)
        packed = pack(_nearest(lanes * inverse).T).reshape(count, -1)
        sound = mx.all(mx.isfinite(scale).reshape(count, -1), axis=1, keepdims=True)  # no sum overflowed
        return mx.concatenate([header, packed], axis=1), mx.where(sound, d, np.inf)


SCHEMES = {name: Iq4(name) for name in GRIDS}


def unpack(blocks: Any, supers: bool, xp: Any) -> Any:
    """Return codes uint8 (blocks, block size) of blocks uint8 (blocks, bytes); `xp` is numpy or mlx.core."""
    nibbles = blocks[:, 8 if supers else 2 :].reshape(-1, IQ4_GROUPS if supers else 1, BLOCK // 2)
    return xp.concatenate([nibbles & 15, nibbles >> 4], axis=2).reshape(blocks.shape[0], -1)


def pack(codes: Any) -> Any:
    """Return uint8 (groups, 16) for codes uint8 (groups, 32), of numpy or mlx.core."""
    return codes[:, : BLOCK // 2] | codes[:, BLOCK // 2 :] << 4


def pack_subs(stored: Any, xp: Any) -> Any:
    """Return bytes 2 .. 7 of iq4_xs blocks from s, uint8 (blocks, 8); `xp` is numpy or mlx.core."""
    low, high = stored & 15, stored >> 4
    pairs = low[:, 0::2] | low[:, 1::2] << 4
    fields = high[:, 0::4] | high[:, 1::4] << 2 | high[:, 2::4] << 4 | high[:, 3::4] << 6
    return xp.concatenate([fields, pairs], axis=1)


def group_scales(blocks: Any, supers: bool, xp: Any) -> Any:
    """Return float32 (blocks, groups of a block): d, or d * (s - 32); `xp` is numpy or mlx.core."""
    d = read_f16(blocks, 0, 1, xp)
    if not supers:
        return d
    low = (blocks[:, 4:8, None] >> xp.array([0, 4], dtype=xp.uint8)).reshape(-1, IQ4_GROUPS) & 15
    high = (blocks[:, 2:4, None] >> xp.arange(0, 8, 2, dtype=xp.uint8)).reshape(-1, IQ4_GROUPS) & 3
    return d * ((low | high << 4).astype(xp.float32) - 32)


def _lanes(x: mx.array) -> mx.array:
    """(32, groups): value i of every group in row i."""
    import mlx.core as mx

    return mx.contiguous(x.reshape(-1, BLOCK).T)


def _nearest(a: mx.array) -> mx.array:
    """uint8 codes of the table values nearest to a, of two equally near the upper; a NaN is code 0."""
    import mlx.core as mx

    # The middles between values are whole halves, so that the floor of 2 a tells on which side of each a lies.
    doubled = mx.minimum(mx.where(a > -128, mx.floor(2 * a), -256.0), 255.0)
    middles = np.add(IQ4_VALUES[1:], IQ4_VALUES[:-1])
    codes = (np.arange(-256, 256)[:, None] >= middles).sum(axis=1).astype(np.uint8)
    return mx.array(codes)[doubled.astype(mx.int32) + 256]


def _search(lanes: mx.array, weights: mx.array) -> mx.array:
    """Scales (1, groups), 0 for a group of zeros; lanes and weights float32 (32, groups). See codebooks/iq4.py."""
    import mlx.core as mx

    table = mx.array(TABLE)
    peak = mx.take_along_axis(lanes, mx.argmax(mx.abs(lanes), axis=0, keepdims=True), axis=0)

    def sums(inverse: mx.array) -> tuple[mx.array, mx.array]:
        q = table[_nearest(lanes * inverse)]
        weighted = weights * q
        return search.total(weighted * lanes), search.total(weighted * q)

    sumqx, sumq2 = sums(1.0 / (peak / 127.0))
    scale = mx.where(sumq2 > 0, sumqx / sumq2, 0.0)
    best = scale * sumqx
    for k in range(-7, 8):
        sumqx, sumq2 = sums((k - 127.0) / peak)
        found = sumqx / sumq2
        better = (sumq2 > 0) & (sumqx * sumqx > best * sumq2)
        scale, best = mx.where(better, found, scale), mx.where(better, found * sumqx, best)
        mx.eval(scale, best)  # keeps one candidate's temporaries alive, not sixteen's
    return mx.where(mx.abs(peak) < search.EPSILON, 0.0, scale)


def _whole_scales(scale: mx.array) -> tuple[mx.array, mx.array, mx.array]:
    """iq4_nl: each block's first two bytes, what its codes are rounded with, and its scale."""
    import mlx.core as mx

    d = mx.contiguous(scale.T)
    return d.astype(mx.float16).view(mx.uint8), scale, d


def _split_scales(scale: mx.array) -> tuple[mx.array, mx.array, mx.array]:
    """iq4_xs: each block's first eight bytes, what its codes are rounded with, and its scale; of (blocks, 8)."""
    import mlx.core as mx

    largest = mx.take_along_axis(scale, mx.argmax(mx.abs(scale), axis=1, keepdims=True), axis=1)
    d = -largest / 32.0
    to_sub = mx.where(d != 0, 1.0 / d, 0.0)
    sub = (to_sub * scale + search.RINT) - search.RINT
    sub = mx.minimum(mx.where(sub > -32, sub, -32.0), 31.0)
    stored = pack_subs((sub + 32).astype(mx.uint8), mx)
    return mx.concatenate([d.astype(mx.float16).view(mx.uint8), stored], axis=1), (d * sub).reshape(1, -1), d
