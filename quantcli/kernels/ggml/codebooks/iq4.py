"""GGML's `iq4_nl` and `iq4_xs` on the CPU: ggml's bytes, with and without an importance matrix, ggml's float32 values.

Source of the search: `quantize_row_iq4_nl_impl` in ggml-quants.c (llama.cpp), restated; layouts and the table of values
are in schemes/ggml/iq4.py. All arithmetic is float32, each operation rounded once, sums in index order:

    weights     w = x * x; with a matrix: importance * sqrt(s + x * x), s twice the mean square of the block
    candidates  for each group of 32, with the first value of largest magnitude, peak:
                1 / (peak / 127), then (-127 + k) / peak for k = -7 ... 7
                q = nearest table value to x * candidate (of two equally near the upper)
                scale = sum(w q x) / sum(w q q), kept where it explains more of the group than the best so far
    iq4_nl      d = f16(scale), codes nearest to x * (1 / scale)
    iq4_xs      d = -(first scale of largest magnitude) / 32, sub-scale = rint(scale / d) in -32 .. 31,
                codes nearest to x * (1 / (d * sub-scale)), with d before it is rounded to f16

The k only move x * candidate by some 11 %, neighbouring middles of the table lie more than 20 % apart: over all of them
a value takes one of at most two neighbours in the table. So the nearest value is looked for at k = -7 and k = 7, and
the fifteen candidates only ask on which side of one middle a value lies.

The 32 groups of a chunk are the lanes of vectors: lane g sums group g in ggml's order.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantcli.arrays import Array
from quantcli.kernels.chunks import CHUNK, narrow, units, widen
from quantcli.kernels.compile import inner, kernel
from quantcli.kernels.float32 import RINT
from quantcli.kernels.ggml.formats import BLOCK, EPSILON, IQ4_GROUPS, IQ4_VALUES
from quantcli.kernels.ggml.scales import F16, note_overflow, write_f16
from quantcli.kernels.llvm.measure import measure
from quantcli.kernels.llvm.vectors import half, looked16

#: Groups of a chunk; a group is a block of iq4_nl.
GROUPS = CHUNK // BLOCK
#: How far k goes on both sides of 0.
STEPS = 7
#: The middles between neighbouring values, and what passing each adds to a key: 16 * (value + 127) + code. Constants,
#: not arguments: LLVM then keeps them in vector registers.
_MIDDLES = tuple(np.float32((low + high) / 2) for low, high in pairwise(IQ4_VALUES))
_RUNGS = tuple(np.int32(16 * (high - low) + 1) for low, high in pairwise(IQ4_VALUES))

Floats = NDArray[np.float32]


def encode(values: Array, importance: Floats | None, supers: bool) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Blocks (rows, bytes per row) of `values` (rows, columns), any dtype of FLOATS; supers: iq4_xs, else iq4_nl.

    importance: (1, columns) or as `values`. Also float64 sums: squared error, squared values, largest error, and the
    largest magnitude of a scale that overflows f16 (0 where none does, infinite where the search's sums overflow).
    """
    rows, columns = values.shape
    source, dropped = units(values)
    size = block_bytes(supers)
    blocks = np.empty((rows, columns // (BLOCK * IQ4_GROUPS if supers else BLOCK) * size), np.uint8)
    sums = np.zeros(4, np.float64)
    weights = (
        np.empty(0, np.float32) if importance is None else np.ascontiguousarray(importance, np.float32).reshape(-1)
    )
    _encode(source, dropped, weights, blocks.reshape(-1, size), sums, supers, GROUPS)
    return blocks, sums


def decode(blocks: NDArray[np.uint8], supers: bool) -> Floats:
    """float32 (rows, columns) of blocks (rows, bytes per row)."""
    size = block_bytes(supers)
    data, table = np.ascontiguousarray(blocks).reshape(-1), np.array(IQ4_VALUES, np.int8).view(np.uint8)
    per_block = BLOCK * IQ4_GROUPS if supers else BLOCK
    out = np.empty((blocks.shape[0], blocks.shape[1] // size * per_block), np.float32)
    (_decode_supers if supers else _decode)(data, table, out.reshape(-1))
    return out


def block_bytes(supers: bool) -> int:
    """f16 scale, 6 bits for each group's sub-scale where there are any, 4 bits a value."""
    return 2 + IQ4_GROUPS * 6 // 8 + IQ4_GROUPS * BLOCK // 2 if supers else 2 + BLOCK // 2


@inner
def _nearest(a: Any) -> Any:
    """The key of the table value nearest to a."""
    key = np.int32(0)
    for m in range(15):
        key += _RUNGS[m] if a >= _MIDDLES[m] else np.int32(0)
    return key


@inner
def _value(key: Any) -> Any:
    return np.float32(np.int32(key >> np.int32(4)) - np.int32(127))


@inner
def _transpose(x: Any, lanes: Any, peak: Any, groups: int) -> None:
    """lanes[32 i + g] = value i of group g; peak[g] = the first of largest magnitude in group g."""
    for g in range(groups):
        group = x[BLOCK * g : BLOCK * (g + 1)]
        for i in range(BLOCK):
            lanes[GROUPS * i + g] = group[i]
    for g in range(groups):
        peak[g] = np.float32(0)
    for i in range(BLOCK):
        row = lanes[GROUPS * i : GROUPS * (i + 1)]
        for g in range(groups):
            peak[g] = row[g] if abs(row[g]) > abs(peak[g]) else peak[g]


@kernel
def _mean_squares(x: Any, width: int, sigma: Any, groups: int) -> None:
    """sigma[g] = twice the mean square of the block of `width` values that group g is in, summed in index order."""
    count, share = CHUNK // width, width // BLOCK
    found = np.zeros(GROUPS, np.float32)
    for j in range(width):
        for b in range(count):
            found[b] += x[width * b + j] * x[width * b + j]
    for g in range(groups):
        sigma[g] = found[g // share] * np.float32(np.float32(2) / np.float32(width))


@inner
def _weigh(lanes: Any, importance: Any, first: int, sigma: Any, weights: Any, groups: int) -> None:
    """weights[32 i + g] of value i of group g; `first` is the chunk's first value, counted over the slab."""
    if importance.shape[0] == 0:
        for j in range(CHUNK):
            weights[j] = lanes[j] * lanes[j]
        return
    for g in range(groups):
        at = (first + BLOCK * g) % importance.shape[0]
        group = importance[at : at + BLOCK]
        for i in range(BLOCK):
            weights[GROUPS * i + g] = group[i]
    for i in range(BLOCK):
        row, weight = lanes[GROUPS * i : GROUPS * (i + 1)], weights[GROUPS * i : GROUPS * (i + 1)]
        for g in range(groups):
            weight[g] *= np.sqrt(np.float32(sigma[g] + row[g] * row[g]))


@inner
def _terms(lanes: Any, weights: Any, start: Any, end: Any, middle: Any, terms: Any, groups: int) -> None:
    """What each value can add to the sums: terms[0], [1] = w q x and w q q below `middle`, terms[2], [3] above it.

    start, end: the candidates at the two ends; in between no value gets any other q than there.
    """
    for i in range(BLOCK):
        begin, stop = GROUPS * i, GROUPS * (i + 1)
        row, weight, between = lanes[begin:stop], weights[begin:stop], middle[begin:stop]
        low_along, low_square = terms[0, begin:stop], terms[1, begin:stop]
        top_along, top_square = terms[2, begin:stop], terms[3, begin:stop]
        for g in range(groups):
            x, w = row[g], weight[g]
            one = _value(_nearest(x * start[g]))
            two = _value(_nearest(x * end[g]))
            low, top = min(one, two), max(one, two)
            between[g] = (low + top) * np.float32(0.5)
            low_along[g], low_square[g] = w * low * x, w * low * low
            top_along[g], top_square[g] = w * top * x, w * top * top


@inner
def _sums(lanes: Any, tried: Any, middle: Any, terms: Any, along: Any, square: Any, groups: int) -> None:
    """sum(w q x) and sum(w q q) of each group for one candidate."""
    for g in range(groups):
        along[g] = square[g] = np.float32(0)
    for i in range(BLOCK):
        begin, stop = GROUPS * i, GROUPS * (i + 1)
        row, between = lanes[begin:stop], middle[begin:stop]
        low_along, low_square = terms[0, begin:stop], terms[1, begin:stop]
        top_along, top_square = terms[2, begin:stop], terms[3, begin:stop]
        for g in range(groups):
            above = row[g] * tried[g] >= between[g]
            along[g] += top_along[g] if above else low_along[g]
            square[g] += top_square[g] if above else low_square[g]


@inner
def _search(lanes: Any, weights: Any, peak: Any, scale: Any, work: Any, groups: int) -> None:
    """The scale of each group, 0 for a group of zeros."""
    zero, one, last = np.float32(0), np.float32(1), np.float32(127)
    middle, terms = work[0], work[1:5]
    along, square, tried, best, end = work[5, 0:32], work[5, 32:64], work[5, 64:96], work[5, 96:128], work[5, 128:160]
    for g in range(groups):
        tried[g] = one / np.float32(peak[g] / last)
    _terms(lanes, weights, tried, tried, middle, terms, groups)
    _sums(lanes, tried, middle, terms, along, square, groups)
    for g in range(groups):
        scale[g] = along[g] / square[g] if square[g] > zero else zero
        best[g] = scale[g] * along[g]
    for g in range(groups):
        tried[g], end[g] = np.float32(-STEPS - 127) / peak[g], np.float32(STEPS - 127) / peak[g]
    _terms(lanes, weights, tried, end, middle, terms, groups)
    for k in range(-STEPS, STEPS + 1):
        for g in range(groups):
            tried[g] = np.float32(k - 127) / peak[g]
        _sums(lanes, tried, middle, terms, along, square, groups)
        for g in range(groups):
            better = (square[g] > zero) & (along[g] * along[g] > best[g] * square[g])
            found = along[g] / square[g]
            scale[g] = found if better else scale[g]
            best[g] = found * along[g] if better else best[g]
    for g in range(groups):
        scale[g] = zero if abs(peak[g]) < EPSILON else scale[g]


@inner
def _split_scales(scale: Any, whole: Any, rounded: Any, step: Any, inverse: Any, blocks: Any, count: int) -> None:
    """Super-blocks' f16 scales and 6-bit sub-scales; step and inverse of each group's codes."""
    zero, lowest, highest = np.float32(0), np.float32(-32), np.float32(31)
    for b in range(count):
        largest = zero
        for g in range(IQ4_GROUPS * b, IQ4_GROUPS * (b + 1)):
            largest = scale[g] if abs(scale[g]) > abs(largest) else largest
        for g in range(IQ4_GROUPS * b, IQ4_GROUPS * (b + 1)):
            largest = largest if np.isfinite(scale[g]) else np.float32(np.inf)  # the search's sums overflowed
        whole[b] = -largest / np.float32(32)
    narrow(whole, rounded, count, F16)
    for b in range(count):
        block, high = blocks[b], np.int32(0)
        to_sub = np.float32(1) / whole[b] if whole[b] != zero else zero
        block[4:8] = np.uint8(0)
        for k in range(IQ4_GROUPS):
            g = IQ4_GROUPS * b + k
            sub = (to_sub * scale[g] + RINT) - RINT
            sub = sub if sub > lowest else lowest
            sub = sub if sub < highest else highest
            exact = whole[b] * sub
            inverse[g] = np.float32(1) / exact if exact != zero else zero
            step[g] = rounded[b] * sub
            stored = np.int32(sub) + np.int32(32)
            block[4 + k // 2] |= np.uint8((stored & np.int32(15)) << np.int32(4 * (k % 2)))
            high |= (stored >> np.int32(4)) << np.int32(2 * k)
        block[2], block[3] = np.uint8(high), np.uint8(high >> np.int32(8))


@inner
def _round_codes(lanes: Any, inverse: Any, step: Any, codes: Any, off: Any, groups: int) -> None:
    """codes (lanes, as x) of all values, and how far what they stand for is from x."""
    for i in range(BLOCK):
        begin, stop = GROUPS * i, GROUPS * (i + 1)
        row, code, distance = lanes[begin:stop], codes[begin:stop], off[begin:stop]
        for g in range(groups):
            key = _nearest(row[g] * inverse[g])
            code[g] = np.uint8(key & np.int32(15))
            distance[g] = step[g] * _value(key) - row[g]


@inner
def _write_codes(codes: Any, nibbles: Any, blocks: Any, count: int, at: int, share: int) -> None:
    """The codes of `share` groups into each block, from byte `at` on."""
    half = CHUNK // 2
    for j in range(half):
        nibbles[j] = np.uint8(codes[j] | np.uint8(codes[j + half] << np.uint8(4)))
    for b in range(count):
        for k in range(share):
            out, g = blocks[b, at + 16 * k : at + 16 * (k + 1)], b * share + k
            for j in range(16):
                out[j] = nibbles[GROUPS * j + g]


@kernel
def _encode(
    source: Any,
    dropped: int,
    importance: Any,
    blocks: Any,
    sums: Any,
    supers: bool,
    groups: int,
) -> None:
    per_unit, share, at = 1 if dropped else 2, IQ4_GROUPS if supers else 1, 8 if supers else 2
    width, per_chunk = BLOCK * share, GROUPS // share
    x, lanes = np.empty(CHUNK, np.float32), np.empty(CHUNK, np.float32)
    weights, off = np.empty(CHUNK, np.float32), np.empty(CHUNK, np.float32)
    work, codes, nibbles = np.empty((6, CHUNK), np.float32), np.empty(CHUNK, np.uint8), np.empty(CHUNK // 2, np.uint8)
    small = np.zeros((7, GROUPS), np.float32)
    peak, sigma, scale, whole = small[0], small[1], small[2], small[3]
    rounded, step, inverse = small[4], small[5], small[6]
    for start in range(0, blocks.shape[0], per_chunk):
        count = min(per_chunk, blocks.shape[0] - start)
        out, first, last = blocks[start : start + count], start * width, (start + count) * width
        widen(source[first * per_unit : last * per_unit], x, count * width, dropped)
        x[count * width :] = 0
        _transpose(x, lanes, peak, groups)
        if importance.shape[0]:
            _mean_squares(x, width, sigma, groups)
        _weigh(lanes, importance, first, sigma, weights, groups)
        _search(lanes, weights, peak, scale, work, groups)
        if supers:
            _split_scales(scale, whole, rounded, step, inverse, out, count)
            step[count * share :] = 0
        else:
            for g in range(groups):
                inverse[g] = np.float32(1) / scale[g] if scale[g] != np.float32(0) else np.float32(0)
            whole[:] = scale
            narrow(scale, rounded, groups, F16)
            step[:] = rounded
        _round_codes(lanes, inverse, step, codes, off, groups)
        write_f16(rounded, out, count, 0)
        _write_codes(codes, nibbles, out, count, at, share)
        note_overflow(whole, rounded, count, sums)
        measure(lanes, off, CHUNK, sums)


@inner
def _decode(data: Any, table: Any, out: Any) -> None:
    for b in range(out.shape[0] // BLOCK):
        d = half(data, 18 * b)
        looked16(data, 18 * b + 2, 0, table, d, out, BLOCK * b)
        looked16(data, 18 * b + 2, 4, table, d, out, BLOCK * b + 16)


@inner
def _decode_supers(data: Any, table: Any, out: Any) -> None:
    for b in range(out.shape[0] // (BLOCK * IQ4_GROUPS)):
        at, d = 136 * b, half(data, 136 * b)
        for k in range(IQ4_GROUPS):
            low = np.int32(data[at + 4 + k // 2] >> np.uint8(4 * (k % 2))) & np.int32(15)
            high = np.int32(data[at + 2 + k // 4] >> np.uint8(2 * (k % 4))) & np.int32(3)
            scale = d * np.float32((low | high << np.int32(4)) - np.int32(32))
            nibbles, to = at + 8 + 16 * k, BLOCK * (IQ4_GROUPS * b + k)
            looked16(data, nibbles, 0, table, scale, out, to)
            looked16(data, nibbles, 4, table, scale, out, to + 16)
