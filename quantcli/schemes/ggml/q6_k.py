"""GGML's `q6_k`: super-blocks of 256 values, 16 groups of 16 with 8-bit scales under one f16.

Source: `block_q6_K` in ggml-common.h, `quantize_row_q6_K_ref` and `dequantize_row_q6_K` in ggml-quants.c (llama.cpp).
How a super-block is encoded is described in kernels/ggml/k_quants/q6_k.py.

    210 bytes:   l x 128   lower four bits of the codes        value = d * s[i / 16] * (code - 32)
                 h x 64    upper two bits
                 s x 16    signed 8-bit scales
                 d d       f16

Each half of 128 values has 64 bytes of l and 32 of h; with j = 0 .. 31 and codes counted from the half's first:

    l, byte j        7 6 5 4 | 3 2 1 0       h, byte j     7 6    |   5 4    |   3 2    |   1 0
                   code j+64 | code j                   code j+96 | code j+64 | code j+32 | code j
    l, byte j+32   code j+96 | code j+32
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from quantcli.arrays import Array
from quantcli.kernels.ggml.better.levels import Levels
from quantcli.kernels.ggml.formats import Q6_GROUP, Q6_GROUPS, SUPER
from quantcli.schemes.base import Codes, DoesNotFit, Grade, Grid, Importance, Parts
from quantcli.schemes.ggml import search
from quantcli.schemes.ggml.best import OnGrid
from quantcli.schemes.ggml.blocks import Blocks, Ggml, Subs, Sums, f16_bytes, read_f16

if TYPE_CHECKING:
    import mlx.core as mx

GRID = Grid(6, Q6_GROUP, "f32", zero=32, scale_bits=18)
#: What `--search best` tries.
LEVELS = Levels(Q6_GROUP, -32, 31, subs=(-128, 127), starts=(0.85, 1.03, 2))


@dataclass(frozen=True)
class Q6K(Ggml):
    """`q6_k`.

    A block of ones: every group's best scale is -1/32 (code 0 is -32), so d = 1/4096 (f16 0c00), s = -128 (80).

    >>> parts, error = Q6K().encode(np.ones((1, 256), np.float32))
    >>> block = parts["blocks"][0]
    >>> block[0], block[128], block[192], block[208:].tobytes().hex(), error.largest
    (np.uint8(0), np.uint8(0), np.uint8(128), '000c', 0.0)
    """

    type: str = "q6_k"

    @property
    def rounding(self) -> float:
        """Relative RMSE of encoding 4M values of a Gaussian."""
        return 0.0177

    def grid(self) -> Grid:
        return GRID

    def codes(self, parts: Parts) -> Codes:
        blocks = parts["blocks"]
        rows, supers = blocks.shape[0], blocks.shape[1] // self.ggml_type.block_bytes
        flat = blocks.reshape(rows * supers, self.ggml_type.block_bytes)
        codes = unpack(flat, np).reshape(rows, supers * SUPER)
        scales = group_scales(flat, np).reshape(rows, supers * Q6_GROUPS)
        return Codes(GRID, codes, scales, scales * np.float32(-32))

    def fits(self, grid: Grid, shape: tuple[int, ...]) -> Grade | str:
        """Refuse every grid: a grid's scale is here the product of an f16 and an 8-bit number."""
        return "its scales may not be 8-bit multiples of one f16 super-block scale per 256 values, which q6_k requires"

    def pack(self, codes: Codes) -> Parts:
        """Raise `DoesNotFit`, always: blocks are copied to the same type."""
        raise DoesNotFit(str(self.fits(codes.grid, codes.codes.shape)))

    @property
    def better(self) -> OnGrid:
        return OnGrid(self, LEVELS)

    def assembled(self, codes: Blocks, subs: Subs, block_scales: NDArray[np.float32] | None) -> Blocks:
        assert block_scales is not None
        stored = subs[:, :, 0].astype(np.int8).view(np.uint8)
        return np.concatenate([pack(codes, np), stored, f16_bytes(block_scales[:, :1], np)], axis=1)

    def _decode_cpu(self, blocks: Blocks) -> NDArray[np.float32]:
        from quantcli.kernels.ggml.k_quants import decode

        return decode.decode(self.type, blocks)

    def _encode_cpu(self, values: Array, importance: Importance | None) -> tuple[Blocks, Sums]:
        from quantcli.kernels.ggml.k_quants import q6_k

        return q6_k.encode(values, importance)

    def _decode_mlx(self, blocks: mx.array) -> mx.array:
        import mlx.core as mx

        codes = unpack(blocks, mx).astype(mx.float32).reshape(-1, Q6_GROUPS, Q6_GROUP)
        scales: mx.array = group_scales(blocks, mx)
        values: mx.array = (scales[:, :, None] * (codes - 32)).reshape(-1, SUPER)
        return values

    def _encode_mlx(self, x: mx.array, importance: mx.array | None, row_blocks: int) -> tuple[mx.array, mx.array]:
        import mlx.core as mx

        from quantcli.kernels.ggml.k_quants.search import scale_steps

        count = x.shape[0]
        lanes = mx.contiguous(x.reshape(-1, Q6_GROUP).T)  # value i of every group in row i
        weights = lanes * lanes if importance is None else mx.contiguous(importance.reshape(-1, Q6_GROUP).T)
        found, inverse, _, _ = search.search_scale(lanes, weights, scale_steps(32))
        scales, peak = found.reshape(count, Q6_GROUPS), search.first_peak(lanes)
        largest = mx.take_along_axis(scales, mx.argmax(mx.abs(scales), axis=1, keepdims=True), axis=1)
        to_sub = -128.0 / largest
        whole = 1.0 / to_sub
        d = whole.astype(mx.float16)
        subs = _clip(_rint(to_sub * scales), -128.0, 127.0)
        step = (d.astype(mx.float32) * subs).reshape(1, -1)
        codes = mx.where(step != 0, _round(lanes / step), _round(lanes * inverse)) + 32
        codes = mx.where((step == 0) & (inverse == 0), 0.0, codes).astype(mx.uint8)
        packed = pack(codes.T.reshape(count, SUPER), mx)
        blocks = mx.concatenate([packed, subs.astype(mx.int8).view(mx.uint8), d.view(mx.uint8)], axis=1)
        zero = mx.abs(largest) < search.EPSILON
        # Where the search's own sums overflow, the scale is what the largest value asks for.
        asked = mx.where(mx.isfinite(scales), 0.0, mx.abs(peak).reshape(count, Q6_GROUPS) / (32 * 128))
        asked = mx.maximum(mx.max(asked, axis=1, keepdims=True), mx.where(mx.isfinite(whole), mx.abs(whole), 0.0))
        return mx.where(zero, mx.array(0, mx.uint8), blocks), mx.where(zero, 0.0, asked)


SCHEMES = {"q6_k": Q6K()}


def unpack(blocks: Any, xp: Any) -> Any:
    """Return codes uint8 (blocks, 256) of blocks uint8 (blocks, 210); `xp` is numpy or mlx.core."""
    low, high = blocks[:, :128].reshape(-1, 2, 64), blocks[:, 128:192].reshape(-1, 2, 32)
    nibbles = xp.concatenate([low & 15, low >> 4], axis=2)
    pairs = xp.concatenate([(high >> shift) & 3 for shift in (0, 2, 4, 6)], axis=2)
    return (nibbles | pairs << 4).reshape(-1, SUPER)


def pack(codes: Any, xp: Any) -> Any:
    """Return bytes 0 .. 191 of each block for codes uint8 (blocks, 256); `xp` is numpy or mlx.core."""
    halves = codes.reshape(-1, 2, 128)
    nibbles, pairs = halves & 15, (halves >> 4).reshape(-1, 2, 4, 32)
    low = nibbles[:, :, :64] | nibbles[:, :, 64:] << 4
    high = pairs[:, :, 0] | pairs[:, :, 1] << 2 | pairs[:, :, 2] << 4 | pairs[:, :, 3] << 6
    return xp.concatenate([low.reshape(-1, 128), high.reshape(-1, 64)], axis=1)


def group_scales(blocks: Any, xp: Any) -> Any:
    """Return float32 (blocks, 16): d * s, exact; `xp` is numpy or mlx.core."""
    subs = blocks[:, 192:208].astype(xp.int8).astype(xp.float32)
    return read_f16(blocks, 208, 1, xp) * subs


def _rint(q: mx.array) -> mx.array:
    return (q + search.RINT) - search.RINT


def _clip(q: mx.array, lowest: float, highest: float) -> mx.array:
    """A NaN becomes the lowest."""
    import mlx.core as mx

    return mx.minimum(mx.where(q > lowest, q, lowest), highest)


def _round(q: mx.array) -> mx.array:
    return _clip(_rint(q), -32.0, 31.0)
