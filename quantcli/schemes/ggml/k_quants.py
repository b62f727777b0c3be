"""GGML's `q2_k q3_k q4_k q5_k`: super-blocks of 256 values, groups of 16 or 32 with scales in few bits under f16s.

Source: `block_q2_K` ... `block_q5_K` in ggml-common.h and their functions in ggml-quants.c (llama.cpp). How a
super-block is encoded is described in kernels/ggml/k_quants. With group g = i / 16 (q2_k q3_k) or i / 32 (q4_k q5_k):

    q2_k   84 bytes   s x 16   p x 64   d d   m m          value = (d * sub[g]) * code - m * min[g]
    q3_k  110 bytes   h x 32   p x 64   s x 12   d d       value = d * (sub[g] - 32) * (code - 4)
    q4_k  144 bytes   d d   m m   s x 12   n x 128         value = (d * sub[g]) * code - m * min[g]
    q5_k  176 bytes   d d   m m   s x 12   h x 32   n x 128

    p (j = 0 .. 31), byte j + 32 * half       7 6    |   5 4    |   3 2    |  1 0       two lower bits of each half's
                                            code j+96 | code j+64 | code j+32 | code j    128 codes
    n (j = 0 .. 31), byte j + 32 * quarter    7 6 5 4 | 3 2 1 0                         four lower bits of 64 codes
                                            code j+32 | code j
    h, byte j, bit k    the highest bit of code j + 32 * k
    s of q2_k, byte g   min[g] in the upper, sub[g] in the lower four bits
    s of q3_k           lower four bits of sub[g] in byte g, for g >= 8 in the upper half of byte g - 8;
                        bits 4 and 5 in byte 8 + g % 4 at bits 2 * (g / 4)
    s of q4_k q5_k      g < 4: sub[g] in byte g, min[g] in byte g + 4, lower six bits each; g >= 4: byte g + 4 has the
                        lower four bits of sub[g] (below) and min[g] (above), bytes g - 4 and g their upper two at bit 6
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from quantcli.arrays import Array
from quantcli.containers.ggml_types import row_bytes
from quantcli.kernels.ggml.better.levels import Levels
from quantcli.kernels.ggml.formats import SUPER
from quantcli.schemes.base import Codes, DoesNotFit, Grade, Grid, Importance, Parts
from quantcli.schemes.ggml import search
from quantcli.schemes.ggml.best import OnGrid
from quantcli.schemes.ggml.blocks import Blocks, Ggml, Subs, Sums, f16_bytes, read_f16

if TYPE_CHECKING:
    import mlx.core as mx


#: Each type's grid; its scales are products of an f16 and a small number, exact in float32.
GRIDS = {
    "q2_k": Grid(2, 16, "f32", scale_bits=15),
    "q3_k": Grid(3, 16, "f32", zero=4, scale_bits=17),
    "q4_k": Grid(4, 32, "f32", scale_bits=17),
    "q5_k": Grid(5, 32, "f32", scale_bits=17),
}
#: What `--search best` tries.
LEVELS = {
    "q2_k": Levels(16, 0, 3, minima=15, subs=(0, 15), starts=(0.45, 1.05, 2), factors=(0.87, 1.0, 1.15), emphasis=1.0),
    "q3_k": Levels(16, -4, 3, subs=(-32, 31), starts=(0.5, 1.1, 2)),
    "q4_k": Levels(32, 0, 15, minima=63, subs=(0, 63), starts=(0.75, 1.05, 2)),
    "q5_k": Levels(32, 0, 31, minima=63, subs=(0, 63), starts=(0.85, 1.03, 2)),
}
#: Relative RMSE of encoding 4M values of a Gaussian.
ROUNDING = {"q2_k": 0.296, "q3_k": 0.151, "q4_k": 0.0713, "q5_k": 0.0361}


@dataclass(frozen=True)
class Place:
    """Where the parts of a super-block begin, in bytes: sub-scales, packed codes, highest bits (None: none), d."""

    subs: slice
    codes: slice
    high: slice | None
    d: slice


PLACES = {
    "q2_k": Place(slice(0, 16), slice(16, 80), None, slice(80, 84)),
    "q3_k": Place(slice(96, 108), slice(32, 96), slice(0, 32), slice(108, 110)),
    "q4_k": Place(slice(4, 16), slice(16, 144), None, slice(0, 4)),
    "q5_k": Place(slice(4, 16), slice(48, 176), slice(16, 48), slice(0, 4)),
}


@dataclass(frozen=True)
class KQuant(Ggml):
    """One of `GRIDS`.

    A super-block of 0 .. 15 over and over: in q4_k each group has scale 1 and minimum 0, so sub-scales are 63 (3f, in
    the second half of the groups f below and three times 40 above), d = 1/63 (f16 2410), code = value.

    >>> parts, error = KQuant("q4_k").encode(np.arange(256, dtype=np.float32)[None] % 16)
    >>> parts["blocks"][0, :24].tobytes().hex(" ")
    '10 24 00 00 ff ff ff ff 00 00 00 00 0f 0f 0f 0f 00 11 22 33 44 55 66 77'

    In q2_k 0, 1, 2, 3, ...: sub-scales 15, d = 1/15 (f16 2c44), four codes 0 in byte 16, four 3 in byte 19.

    >>> parts, error = KQuant("q2_k").encode(np.arange(256, dtype=np.float32)[None] % 4)
    >>> parts["blocks"][0, 14:20].tobytes().hex(" "), parts["blocks"][0, 80:].tobytes().hex(" ")
    ('0f 0f 00 55 aa ff', '44 2c 00 00')

    In q3_k a group of -4 .. 3 has scale 1, d = -1/32 (f16 a800), sub-scales 0 (that is -32); codes 0 .. 7, the upper
    four with a bit in all of h.

    >>> parts, error = KQuant("q3_k").encode(np.arange(256, dtype=np.float32)[None] % 8 - 4)
    >>> block = parts["blocks"][0].tobytes()
    >>> block[:8].hex(" "), block[32:40].hex(" "), block[96:].hex(" "), error.largest
    ('00 00 00 00 ff ff ff ff', '00 55 aa ff 00 55 aa ff', '00 00 00 00 00 00 00 00 00 00 00 00 00 a8', 0.0)
    """

    @property
    def rounding(self) -> float:
        return ROUNDING[self.type]

    def grid(self) -> Grid:
        return GRIDS[self.type]

    def codes(self, parts: Parts) -> Codes:
        blocks, grid = parts["blocks"], self.grid()
        rows, supers = blocks.shape[0], blocks.shape[1] // self.ggml_type.block_bytes
        flat = blocks.reshape(rows * supers, self.ggml_type.block_bytes)
        shape = rows, supers * (SUPER // grid.group)
        if grid.group == 32:
            codes, scales, biases = _fast_codes(flat, self.type)
        else:
            scales, minima = group_numbers(flat, self.type, np)
            codes, biases = unpack(flat, self.type, np), -minima
        return Codes(grid, codes.reshape(rows, supers * SUPER), scales.reshape(shape), biases.reshape(shape))

    def fits(self, grid: Grid, shape: tuple[int, ...]) -> Grade | str:
        """Refuse every grid: a grid's scale is here the product of an f16 and a number of few bits."""
        bits = 4 if self.type == "q2_k" else 6
        return (
            f"its scales may not be {bits}-bit multiples of one f16 super-block scale per 256 values, which "
            f"{self.type} requires"
        )

    def pack(self, codes: Codes) -> Parts:
        """Raise `DoesNotFit`, always: blocks are copied to the same type."""
        raise DoesNotFit(str(self.fits(codes.grid, codes.codes.shape)))

    @property
    def better(self) -> OnGrid:
        return OnGrid(self, LEVELS[self.type])

    def assembled(self, codes: Blocks, subs: Subs, block_scales: NDArray[np.float32] | None) -> Blocks:
        assert block_scales is not None
        least, count = (-32, 1) if self.type == "q3_k" else (0, 2)
        stored = (subs[:, :, :count] - least).astype(np.uint8)
        return np.asarray(pack(codes, stored, f16_bytes(block_scales[:, :count], np), self.type, np))

    def _decode_cpu(self, blocks: Blocks) -> NDArray[np.float32]:
        from quantcli.kernels.ggml.k_quants import decode

        return decode.decode(self.type, blocks)

    def _encode_cpu(self, values: Array, importance: Importance | None) -> tuple[Blocks, Sums]:
        from quantcli.kernels.ggml.k_quants import encode, pack

        found = encode.encode(self.type, values, importance)
        packed = pack.pack(self.type, found)
        return packed.reshape(values.shape[0], row_bytes(self.ggml_type, values.shape[1])), found.sums

    def _decode_mlx(self, blocks: mx.array) -> mx.array:
        import mlx.core as mx

        group = self.grid().group
        codes = unpack(blocks, self.type, mx).astype(mx.float32).reshape(-1, SUPER // group, group)
        scales, minima = (part[:, :, None] for part in group_numbers(blocks, self.type, mx))
        values: mx.array = scales * (codes - 4) if self.type == "q3_k" else scales * codes - minima
        return values.reshape(-1, SUPER)

    def _encode_mlx(self, x: mx.array, importance: mx.array | None, row_blocks: int) -> tuple[mx.array, mx.array]:
        import mlx.core as mx

        encode = _encode_q3 if self.type == "q3_k" else _encode_minima
        codes, subs, exact, trouble = encode(x, importance, self.type)
        packed = pack(codes, subs, exact.astype(mx.float16).view(mx.uint8), self.type, mx)
        lost = ~mx.isfinite(exact) | trouble
        return packed, mx.where(lost, float("inf"), exact)


SCHEMES = {name: KQuant(name) for name in GRIDS}


def _fast_codes(blocks: Blocks, name: str) -> tuple[Blocks, NDArray[np.float32], NDArray[np.float32]]:
    """Codes (blocks, 256), scales and biases (blocks, 8) of q4_k and q5_k, what most files have."""
    from quantcli.kernels.ggml import repack

    place = PLACES[name]
    codes = repack.split_nibbles(blocks[:, place.codes], 32)
    if place.high is not None:
        repack.add_fifth_planes(codes, blocks[:, place.high])
    return codes, *repack.k_numbers(blocks[:, place.subs], read_f16(blocks, place.d.start, 2, np))


def unpack(blocks: Any, name: str, xp: Any) -> Any:
    """Return codes uint8 (blocks, 256) of blocks uint8 (blocks, bytes); `xp` is numpy or mlx.core."""
    place = PLACES[name]
    body = blocks[:, place.codes].reshape(-1, 2 if name in ("q2_k", "q3_k") else 4, 32)
    width = 2 if name in ("q2_k", "q3_k") else 4
    codes = xp.stack([(body >> shift) & (2**width - 1) for shift in range(0, 8, width)], axis=2).reshape(-1, SUPER)
    if place.high is None:
        return codes
    high = xp.stack([(blocks[:, place.high] >> k) & 1 for k in range(8)], axis=1)
    return codes | high.reshape(-1, SUPER) << width


def pack(codes: Any, subs: Any, block_scales: Any, name: str, xp: Any) -> Any:
    """Return blocks uint8 (blocks, bytes); `xp` is numpy or mlx.core.

    codes: uint8 (blocks, 256). subs: uint8 (blocks, groups, 1 or 2). block_scales: the bytes of d (and dmin).
    """
    width = 2 if name in ("q2_k", "q3_k") else 4
    pieces = (codes & (2**width - 1)).reshape(-1, width, 8 // width, 32)
    body = pieces[:, :, 0]
    for k in range(1, 8 // width):
        body = body | pieces[:, :, k] << k * width
    parts = {"codes": body.reshape(-1, SUPER * width // 8), "subs": _pack_subs(subs, name, xp), "d": block_scales}
    place = PLACES[name]
    if place.high is not None:
        bits = (codes >> width).reshape(-1, 8, 32)
        high = bits[:, 0]
        for k in range(1, 8):
            high = high | bits[:, k] << k
        parts["high"] = high
    order = sorted(parts, key=lambda part: int(getattr(place, part).start))
    return xp.concatenate([parts[part] for part in order], axis=1)


def _pack_subs(subs: Any, name: str, xp: Any) -> Any:
    scale, minimum = subs[:, :, 0], subs[:, :, -1]
    if name == "q2_k":
        return scale | minimum << 4
    if name == "q3_k":
        high = scale >> 4
        upper = high[:, :4] | high[:, 4:8] << 2 | high[:, 8:12] << 4 | high[:, 12:] << 6
        return xp.concatenate([(scale[:, :8] & 15) | (scale[:, 8:] & 15) << 4, upper], axis=1)
    first = [(part[:, :4] & 63) | (part[:, 4:] >> 4) << 6 for part in (scale, minimum)]
    return xp.concatenate([*first, (scale[:, 4:] & 15) | (minimum[:, 4:] & 15) << 4], axis=1)


def group_numbers(blocks: Any, name: str, xp: Any) -> tuple[Any, Any]:
    """Return scales and what is to be subtracted, float32 (blocks, groups) each, exact; `xp` is numpy or mlx.core."""
    place = PLACES[name]
    subs, block_scales = blocks[:, place.subs], read_f16(blocks, place.d.start, 1 if name == "q3_k" else 2, xp)
    if name == "q3_k":
        low = xp.concatenate([subs[:, :8] & 15, subs[:, :8] >> 4], axis=1)
        high = xp.concatenate([(subs[:, 8:] >> shift) & 3 for shift in (0, 2, 4, 6)], axis=1)
        scales = block_scales * ((low | high << 4).astype(xp.float32) - 32)
        return scales, scales * 4
    if name == "q2_k":
        scale, minimum = subs & 15, subs >> 4
    else:
        last = subs[:, 8:]
        scale = xp.concatenate([subs[:, :4] & 63, (last & 15) | (subs[:, :4] >> 6) << 4], axis=1)
        minimum = xp.concatenate([subs[:, 4:8] & 63, last >> 4 | (subs[:, 4:8] >> 6) << 4], axis=1)
    return block_scales[:, :1] * scale.astype(xp.float32), block_scales[:, 1:] * minimum.astype(xp.float32)


def _weights(x: mx.array, importance: mx.array | None, name: str, group: int) -> mx.array:
    """What each value's error counts, as x."""
    import mlx.core as mx

    if importance is not None:
        squares = search.total((x * x).T).T
        mean = (squares if name == "q2_k" else 2.0 * squares) / SUPER
        return search.weigh(x, importance, mean)
    if name == "q2_k":
        return mx.abs(x)
    groups = x.reshape(-1, group)
    mean = mx.sqrt(search.total((groups * groups).T).T / group)
    return (mean + mx.abs(groups)).reshape(x.shape)


def _lanes(x: mx.array, group: int) -> mx.array:
    """Value i of every group in row i."""
    import mlx.core as mx

    return mx.contiguous(x.reshape(-1, group).T)


def _encode_minima(x: mx.array, importance: mx.array | None, name: str) -> tuple[mx.array, ...]:
    """Codes (blocks, 256), subs (blocks, groups, 2) uint8; d, dmin unrounded (blocks, 2); where sums overflowed."""
    import mlx.core as mx

    from quantcli.kernels.ggml.k_quants.encode import MINIMA, WEIGHTED_STEPS
    from quantcli.kernels.ggml.k_quants.search import minimum_steps

    kind, count = MINIMA[name], x.shape[0]
    lanes, weights = _lanes(x, kind.group), _lanes(_weights(x, importance, name, kind.group), kind.group)
    steps = minimum_steps(kind.top, *(kind.steps if importance is None else WEIGHTED_STEPS))
    found = search.search_minimum(lanes, weights, steps, kind.absolute and importance is None)
    columns = [part.reshape(count, -1).T for part in (found.scale, -found.low)]
    per_group = search.total(weights).reshape(count, -1).T
    if importance is not None:
        settled = [search.settle_scales(part, per_group, kind.sub_top) for part in columns]
    else:
        settled = [_divide(part, kind.sub_top) for part in columns]
    exact = mx.concatenate([scale for scale, _ in settled], axis=0).T
    subs = mx.stack([whole.T.astype(mx.uint8) for _, whole in settled], axis=2)
    if name == "q2_k":  # they share a byte, even where the sub-scale has more than four bits
        byte = subs[:, :, 0] | subs[:, :, 1] << 4
        subs = mx.stack([byte & 15, byte >> 4], axis=2)
    numbers = exact.astype(mx.float16).astype(mx.float32)[:, None, :] * subs.astype(mx.float32)
    d, m = (numbers[:, :, k].reshape(1, -1) for k in range(2))
    own = search.nearest(found.inverse * (lanes - found.start))
    codes = mx.clip(mx.where(d != 0, search.nearest((lanes + m) / d), own), 0, kind.top)
    overflowed = ~mx.isfinite(per_group).all(axis=0, keepdims=True).T
    return codes.astype(mx.uint8).T.reshape(count, SUPER), subs, exact, overflowed


def _divide(numbers: mx.array, top: int) -> tuple[mx.array, mx.array]:
    """Scales (1, blocks) and sub-scales (groups, blocks) of numbers (groups, blocks) that are not negative."""
    import mlx.core as mx

    largest = mx.maximum(mx.max(numbers, axis=0, keepdims=True), 0.0)
    inverse = mx.where(largest > 0, float(top) / largest, 0.0)
    whole = search.nearest(inverse * numbers) & 255
    return largest / float(top), mx.minimum(whole, 63) if top == 63 else whole


def _encode_q3(x: mx.array, importance: mx.array | None, name: str) -> tuple[mx.array, ...]:
    """As `_encode_minima`, with one sub-scale + 32 a group and one scale a block."""
    import mlx.core as mx

    from quantcli.kernels.ggml.k_quants.encode import Q3_LIMIT, Q3_SUB_LIMIT
    from quantcli.kernels.ggml.k_quants.search import scale_steps

    count, lanes = x.shape[0], _lanes(x, 16)
    if importance is not None:
        weights = _lanes(_weights(x, importance, name, 16), 16)
        found = search.search_scale(lanes, weights, scale_steps(Q3_LIMIT))
        own = mx.where(found.inverse != 0, search.nearest(found.inverse * lanes), -Q3_LIMIT)
        per_group, scales = search.total(weights).reshape(count, 16).T, found.scale.reshape(count, 16).T
        settled = search.search_scale(scales, per_group, scale_steps(Q3_SUB_LIMIT))
        exact, inverse = settled.scale, settled.inverse
        subs = search.nearest(inverse * scales)
    else:
        flat, refined = search.refine_scale(lanes, Q3_LIMIT)
        own, scales = refined.astype(mx.int32), flat.reshape(count, 16).T
        largest = search.first_peak(scales)
        inverse = mx.where(largest != 0, -float(Q3_SUB_LIMIT) / largest, 0.0)
        exact = mx.where(largest != 0, 1.0 / inverse, 0.0)
        subs = search.nearest(inverse * scales).astype(mx.int8).astype(mx.int32)
    subs = mx.where(inverse != 0, mx.clip(subs, -Q3_SUB_LIMIT, Q3_SUB_LIMIT - 1) + Q3_SUB_LIMIT, 0).T
    d = (exact.astype(mx.float16).astype(mx.float32).T * (subs - Q3_SUB_LIMIT).astype(mx.float32)).reshape(1, -1)
    codes = mx.where(d != 0, search.nearest(lanes / d), own)
    codes = (mx.clip(codes, -Q3_LIMIT, Q3_LIMIT - 1) + Q3_LIMIT).astype(mx.uint8).T.reshape(count, SUPER)
    trouble = ~mx.isfinite(scales).all(axis=0, keepdims=True).T
    return codes, subs.astype(mx.uint8)[:, :, None], exact.T, trouble
