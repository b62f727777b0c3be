"""GGML's `q2_k q3_k q4_k q5_k` on the CPU: ggml's codes and scales, with and without an importance matrix.

Source: `quantize_row_q*_K_ref` and `quantize_row_q*_K_impl` in ggml-quants.c (llama.cpp), restated; search.py
describes the searches, pack.py packs super-blocks. All arithmetic is float32, each operation rounded once,
sums in index order. Groups have n values (q2_k q3_k 16, q4_k q5_k 32), super-blocks 256:

    weights, none   q2_k abs(x)    q3_k x * x    q4_k q5_k abs(x) + sqrt(mean of the group's x * x)
    with a matrix   importance * sqrt(s + x * x), s the mean of the super-block's x * x, twice that but for q2_k
    scales, none    q2_k q4_k q5_k: d = largest / top, sub-scale = rint(scale / d), minima in the same way
                    q3_k: d = largest magnitude / -32, sub-scale = rint(scale / d)
    with a matrix   `settle_scales` of scales and of minima, q3_k `search_scale`, a group's weight the sum of its own
    codes           rint((x + f16(dmin) * sub-minimum) / (f16(d) * sub-scale)); where that scale is 0, the search's own

Super-blocks are worked on 16 at a time, their groups 16 at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantcli.arrays import Array
from quantcli.kernels.chunks import CHUNK, narrow, units, widen
from quantcli.kernels.compile import inner, kernel
from quantcli.kernels.float32 import ONE, ZERO
from quantcli.kernels.ggml.formats import SUPER
from quantcli.kernels.ggml.k_quants.refine import floats_of_work, refine_scale
from quantcli.kernels.ggml.k_quants.search import (
    INVERSE,
    LOW,
    SCALE,
    SIXTEENS,
    START,
    STATE,
    minimum_steps,
    nearest,
    scale_steps,
    search_minimum,
    search_scale,
    settle_scales,
    transpose,
)
from quantcli.kernels.ggml.scales import F16, note_overflow, write_f16
from quantcli.kernels.llvm.measure import measure

#: Super-blocks worked on together, their values.
TOGETHER = 16
BATCH = SUPER * TOGETHER
#: Scratch of q3_k's search without a matrix, the longest.
_REFINING = floats_of_work(BATCH)


@dataclass(frozen=True)
class WithMinima:
    """What distinguishes q2_k, q4_k and q5_k.

    steps: of `minimum_steps` without a matrix; those with one are shared.
    """

    bits: int
    group: int
    sub_top: int
    steps: tuple[float, float, int]
    absolute: bool = False

    @property
    def top(self) -> int:
        return (1 << self.bits) - 1


#: First step, by, how many, with a matrix.
WEIGHTED_STEPS = (-0.9, 0.05, 37)
MINIMA = {
    "q2_k": WithMinima(2, 16, 15, (-0.5, 0.1, 16), absolute=True),
    "q4_k": WithMinima(4, 32, 63, (-1.0, 0.1, 21)),
    "q5_k": WithMinima(5, 32, 63, (-0.5, 0.1, 16)),
}
#: Codes of q3_k are -4 .. 3, its sub-scales -32 .. 31.
Q3_LIMIT, Q3_SUB_LIMIT = 4, 32


@dataclass(frozen=True)
class Encoded:
    """Super-blocks before they are packed.

    codes: uint8 (blocks, 256).  subs: uint8 (blocks, groups, 1 or 2), the sub-scales (and sub-minima), q3_k's + 32.
    block_scales: uint8 (blocks, 2 or 4), d (and dmin) as f16.  sums: as `Ggml._encode_cpu`'s.
    """

    codes: NDArray[np.uint8]
    subs: NDArray[np.uint8]
    block_scales: NDArray[np.uint8]
    sums: NDArray[np.float64]


def encode(name: str, values: Array, importance: NDArray[np.float32] | None) -> Encoded:
    """`values` (rows, columns) of any dtype of FLOATS, columns a multiple of 256; importance (1 or rows, columns)."""
    source, dropped = units(values)
    weights = (
        np.empty(0, np.float32) if importance is None else np.ascontiguousarray(importance, np.float32).reshape(-1)
    )
    blocks, kind = values.size // SUPER, MINIMA.get(name)
    group, numbers = (kind.group, 2) if kind is not None else (16, 1)
    codes, block_scales = np.empty((blocks, SUPER), np.uint8), np.empty((blocks, 2 * numbers), np.uint8)
    subs, sums = np.empty((blocks, SUPER // group, numbers), np.uint8), np.zeros(4, np.float64)
    if kind is None:
        steps, sub_steps = scale_steps(Q3_LIMIT), scale_steps(Q3_SUB_LIMIT)
        _encode_q3(source, dropped, weights, codes, subs, block_scales, sums, steps, sub_steps, SIXTEENS[16])
    else:
        steps = minimum_steps(kind.top, *(kind.steps if importance is None else WEIGHTED_STEPS))
        absolute = kind.absolute and importance is None
        sub_top, sixteens = np.float32(kind.sub_top), SIXTEENS[group]
        _encode_minima(source, dropped, weights, codes, subs, block_scales, sums, steps, sub_top, absolute, sixteens)
    return Encoded(codes, subs, block_scales, sums)


@inner
def squares(x: Any, out: Any, blocks: int, width: int) -> None:
    """out[b] = the sum of squares of block b, in index order; blocks side by side, as each sum waits for itself."""
    out[:blocks] = ZERO
    for j in range(width):
        for b in range(blocks):
            out[b] += x[width * b + j] * x[width * b + j]


@inner
def weigh(x: Any, importance: Any, sigma: Any, w: Any, blocks: int, width: int) -> None:
    """w = importance * sqrt(sigma of its block + x * x)."""
    for b in range(blocks):
        begin, end = b * width, (b + 1) * width
        value, given, weight, mean = x[begin:end], importance[begin:end], w[begin:end], sigma[b]
        for j in range(width):
            weight[j] = given[j] * np.sqrt(mean + value[j] * value[j])


@kernel
def fetch(importance: Any, first: int, out: Any, count: int) -> None:
    """out[:count] = the importance of values `first` on; a single row of it is meant for every row."""
    at = first % importance.shape[0]
    done = 0
    while done < count:
        piece = min(count - done, importance.shape[0] - at)
        out[done : done + piece] = importance[at : at + piece]
        done += piece
        at = 0


@inner
def _weights(x: Any, importance: Any, first: int, twice: bool, groups: int, absolute: Any, work: Any, w: Any) -> None:
    """Of a batch of which `groups` groups are used, with a matrix or (q2_k, q4_k, q5_k) without."""
    width = BATCH // groups
    sums, given = work[:groups], work[BATCH:]
    if importance.shape[0]:
        fetch(importance, first, given, min(BATCH, work.shape[0] - BATCH))
        squares(x, sums, TOGETHER, SUPER)
        for b in range(TOGETHER):
            sums[b] = (np.float32(2) * sums[b] if twice else sums[b]) / np.float32(SUPER)
        weigh(x, given, sums, w, TOGETHER, SUPER)
    elif absolute:
        for j in range(BATCH):
            w[j] = abs(x[j])
    else:
        squares(x, sums, groups, width)
        for b in range(groups):
            mean, value, weight = np.sqrt(sums[b] / np.float32(width)), x[b * width :], w[b * width :]
            for j in range(width):
                weight[j] = mean + abs(value[j])


@inner
def _add_up(lanes: Any, size: int, out: Any) -> None:
    """out[g] = the sum of lane g."""
    for g in range(16):
        out[g] = ZERO
    for i in range(size):
        for g in range(16):
            out[g] += lanes[16 * i + g]


@inner
def _settle(
    numbers: Any, weights: Any, per: int, top: Any, subs: Any, which: int, block_scales: Any, work: Any
) -> None:
    """d and its multiples for the numbers of 16 super-blocks, `per` of each, by their weights."""
    x, w, state = work[:256], work[256:512], work[512 : 512 + STATE]
    codes = work[768:1024].view(np.int32)
    x[:] = ZERO
    w[:] = ZERO
    for b in range(TOGETHER):
        for j in range(per):
            x[16 * j + b], w[16 * j + b] = numbers[per * b + j], weights[per * b + j]
    settle_scales(x, w, codes, top, state)
    for b in range(TOGETHER):
        block_scales[b] = state[SCALE + b]
        for j in range(per):
            subs[per * b + j, which] = np.uint8(codes[16 * j + b])


@inner
def _divide(numbers: Any, per: int, top: Any, subs: Any, which: int, block_scales: Any) -> None:
    """d = the largest number / top of each super-block, sub-scales its rounded multiples."""
    for b in range(TOGETHER):
        largest = ZERO
        for j in range(per):
            number = numbers[per * b + j]
            largest = number if number > largest else largest
        inverse = top / largest if largest > ZERO else ZERO
        block_scales[b] = largest / top
        for j in range(per):
            # A negative number is a byte modulo 256, as in C.
            sub = nearest(inverse * numbers[per * b + j]) & np.int32(255)
            subs[per * b + j, which] = np.uint8(min(sub, np.int32(63)) if top == np.float32(63) else sub)


@inner
def _join_nibbles(subs: Any) -> None:
    """q2_k's sub-scale and sub-minimum share a byte, even where the former has more than four bits."""
    for g in range(subs.shape[0]):
        byte = subs[g, 0] | (subs[g, 1] << np.uint8(4))
        subs[g, 0], subs[g, 1] = byte & np.uint8(15), byte >> np.uint8(4)


@inner
def _spread(numbers: Any, size: int, out: Any) -> None:
    """out = each number `size` times, 16 or 32."""
    for g in range(numbers.shape[0]):
        number, begin = numbers[g], g * size
        for i in range(16):
            out[begin + i] = number
        if size == 32:
            for i in range(16, 32):
                out[begin + i] = number


@inner
def _round_codes(x: Any, d: Any, m: Any, least: Any, top: Any, codes: Any, off: Any) -> None:
    """Codes counted from `least`, and how far the values that they stand for are from x; d and m of each value."""
    for i in range(x.shape[0]):
        q = np.int32(min(max(nearest((x[i] + m[i]) / d[i]), least), top))
        codes[i] = np.uint8(q - least)
        off[i] = (d[i] * np.float32(q) - m[i]) - x[i]


@inner
def _keep_codes(x: Any, m: Any, inverse: Any, start: Any, least: Any, top: Any, codes: Any, off: Any) -> None:
    """A group whose scale is 0 keeps the search's codes, a group of zeros has the lowest byte."""
    for i in range(x.shape[0]):
        q = min(max(nearest(inverse * (x[i] - start)), least), top)
        codes[i] = np.uint8(q - least) if inverse != ZERO else np.uint8(0)
        off[i] = -m - x[i]


@kernel
def _encode_minima(
    source: Any,
    dropped: int,
    importance: Any,
    codes: Any,
    subs: Any,
    block_scales: Any,
    sums: Any,
    steps: Any,
    sub_top: Any,
    absolute: Any,
    sixteens: Any,
) -> None:
    size, weighted = 16 * len(sixteens), importance.shape[0] > 0
    groups, per, per_unit = BATCH // size, SUPER // size, 1 if dropped else 2
    x, w, x_lanes, w_lanes = (
        np.zeros(BATCH, np.float32),
        np.empty(BATCH, np.float32),
        np.empty(BATCH, np.float32),
        np.empty(BATCH, np.float32),
    )
    off, work, state = np.empty(BATCH, np.float32), np.zeros(2 * BATCH, np.float32), np.empty(STATE, np.float32)
    found = np.empty((5, groups), np.float32)
    scale, low, inverse, start, weight = found[0], found[1], found[2], found[3], found[4]
    exact, rounded = np.empty((2, TOGETHER), np.float32), np.empty((2, TOGETHER), np.float32)
    batch_subs = np.empty((groups, 2), np.uint8)
    top, least, flat = np.int32(steps[0]), np.int32(0), codes.reshape(-1)
    for begin in range(0, codes.shape[0], TOGETHER):
        count = min(TOGETHER, codes.shape[0] - begin)
        first, last = begin * SUPER, (begin + count) * SUPER
        x[count * SUPER :] = ZERO
        widen(source[first * per_unit : last * per_unit], x, count * SUPER, dropped)
        _weights(x, importance, first, size == 32, groups, absolute, work, w)
        transpose(x, x_lanes, groups, size)
        transpose(w, w_lanes, groups, size)
        for k in range(groups // 16):
            here, these = slice(16 * size * k, 16 * size * (k + 1)), slice(16 * k, 16 * (k + 1))
            search_minimum(x_lanes[here], w_lanes[here], steps, absolute, sixteens, state)
            _add_up(w_lanes[here], size, weight[these])
            scale[these] = state[SCALE : SCALE + 16]
            low[these] = state[LOW : LOW + 16]
            inverse[these] = state[INVERSE : INVERSE + 16]
            start[these] = state[START : START + 16]
        for g in range(groups):
            low[g] = -low[g]
        if weighted:
            _settle(scale, weight, per, sub_top, batch_subs, 0, exact[0], work)
            _settle(low, weight, per, sub_top, batch_subs, 1, exact[1], work)
        else:
            _divide(scale, per, sub_top, batch_subs, 0, exact[0])
            _divide(low, per, sub_top, batch_subs, 1, exact[1])
        if size == 16:
            _join_nibbles(batch_subs)
        for which in range(2):
            narrow(exact[which], rounded[which], TOGETHER, F16)
            note_overflow(exact[which], rounded[which], count, sums)
            write_f16(rounded[which], block_scales[begin : begin + count], count, 2 * which)
        for g in range(count * per):
            scale[g] = rounded[0, g // per] * np.float32(batch_subs[g, 0])
            low[g] = rounded[1, g // per] * np.float32(batch_subs[g, 1])
            block, at = begin + g // per, g % per
            subs[block, at, 0], subs[block, at, 1] = batch_subs[g, 0], batch_subs[g, 1]
            if not np.isfinite(weight[g]):  # ggml then takes all for zero
                sums[3] = np.inf
        _spread(scale, size, work[:BATCH])
        _spread(low, size, work[BATCH:])
        used, code = count * SUPER, flat[first:last]
        _round_codes(x[:used], work[:used], work[BATCH : BATCH + used], least, top, code, off[:used])
        for g in range(count * per):
            if scale[g] == ZERO:
                here = slice(g * size, (g + 1) * size)
                _keep_codes(x[here], low[g], inverse[g], start[g], least, top, code[here], off[here])
        for piece in range(0, count * SUPER, CHUNK):
            measure(x[piece : piece + CHUNK], off[piece : piece + CHUNK], min(CHUNK, count * SUPER - piece), sums)


@kernel
def _encode_q3(
    source: Any,
    dropped: int,
    importance: Any,
    codes: Any,
    subs: Any,
    block_scales: Any,
    sums: Any,
    steps: Any,
    sub_steps: Any,
    sixteens: Any,
) -> None:
    size, weighted = 16, importance.shape[0] > 0
    per_unit = 1 if dropped else 2
    x, w, x_lanes, w_lanes = (
        np.zeros(BATCH, np.float32),
        np.empty(BATCH, np.float32),
        np.empty(BATCH, np.float32),
        np.empty(BATCH, np.float32),
    )
    off, work, state = np.empty(BATCH, np.float32), np.zeros(_REFINING, np.float32), np.empty(STATE, np.float32)
    own, kept = np.empty(BATCH, np.float32), np.empty(16, np.float32)
    scale, weight = np.empty(256, np.float32), np.empty(256, np.float32)
    inverse = np.ones(256, np.float32)
    exact, rounded = np.empty(TOGETHER, np.float32), np.empty(TOGETHER, np.float32)
    batch_subs = np.empty(256, np.int32)
    least, top, flat = np.int32(-steps[0]), np.int32(np.int32(steps[0]) - np.int32(1)), codes.reshape(-1)
    for begin in range(0, codes.shape[0], TOGETHER):
        count = min(TOGETHER, codes.shape[0] - begin)
        first, last = begin * SUPER, (begin + count) * SUPER
        x[count * SUPER :] = ZERO
        widen(source[first * per_unit : last * per_unit], x, count * SUPER, dropped)
        if weighted:
            transpose(x, x_lanes, 256, size)
            _weights(x, importance, first, True, 256, False, work, w)
            transpose(w, w_lanes, 256, size)
            for k in range(16):
                here, these = slice(256 * k, 256 * (k + 1)), slice(16 * k, 16 * (k + 1))
                search_scale(x_lanes[here], w_lanes[here], steps, sixteens, state)
                _add_up(w_lanes[here], size, weight[these])
                inverse[these] = state[INVERSE : INVERSE + 16]
                scale[these] = state[SCALE : SCALE + 16]
            _settle_q3(scale, weight, sub_steps, sixteens, batch_subs, exact, work)
        else:
            refine_scale(x, steps[0], scale, own, work)
            _divide_q3(scale, sub_steps[0], batch_subs, exact)
        narrow(exact, rounded, TOGETHER, F16)
        note_overflow(exact, rounded, count, sums)
        write_f16(rounded, block_scales[begin : begin + count], count, 0)
        for g in range(16 * count):
            if not np.isfinite(scale[g]):
                sums[3] = np.inf
            sub = batch_subs[g]
            subs[begin + g // 16, g % 16, 0] = np.uint8(sub)
            scale[g] = rounded[g // 16] * np.float32(sub - np.int32(32))
        _spread(scale, size, work[:BATCH])
        work[BATCH : 2 * BATCH] = ZERO
        used, code = count * SUPER, flat[first:last]
        _round_codes(x[:used], work[:used], work[BATCH : BATCH + used], least, top, code, off[:used])
        for g in range(16 * count):
            if scale[g] == ZERO:
                here = slice(g * size, (g + 1) * size)
                for i in range(size):
                    kept[i] = x[size * g + i] if weighted else own[256 * i + g]
                _keep_codes(kept, ZERO, inverse[g], ZERO, least, top, code[here], off[here])
                for i in range(g * size, (g + 1) * size):
                    off[i] = -x[i]
        for piece in range(0, count * SUPER, CHUNK):
            measure(x[piece : piece + CHUNK], off[piece : piece + CHUNK], min(CHUNK, count * SUPER - piece), sums)


@inner
def _settle_q3(numbers: Any, weights: Any, steps: Any, sixteens: Any, subs: Any, block_scales: Any, work: Any) -> None:
    """d and its multiples 0 .. 63 (32: nothing) for the 16 scales of 16 super-blocks, by their weights."""
    x, w, state = work[:256], work[256:512], work[512 : 512 + STATE]
    transpose(numbers, x, 16, 16)
    transpose(weights, w, 16, 16)
    search_scale(x, w, steps, sixteens, state)
    limit = np.int32(steps[0])
    for b in range(TOGETHER):
        block_scales[b] = state[SCALE + b]
        inverse = state[INVERSE + b]
        for j in range(16):
            q = min(max(nearest(inverse * numbers[16 * b + j]), -limit), limit - np.int32(1))
            subs[16 * b + j] = q + limit if inverse != ZERO else np.int32(0)


@inner
def _divide_q3(numbers: Any, top: Any, subs: Any, block_scales: Any) -> None:
    """d = -(the scale of largest magnitude) / 32, sub-scales its rounded multiples + 32."""
    limit = np.int32(top)
    for b in range(TOGETHER):
        largest = ZERO
        for j in range(16):
            number = numbers[16 * b + j]
            largest = number if abs(number) > abs(largest) else largest
        inverse = -top / largest if largest != ZERO else ZERO
        block_scales[b] = ONE / inverse if largest != ZERO else ZERO
        for j in range(16):
            q = nearest(inverse * numbers[16 * b + j])
            q = min(max(np.int32(np.int8(q)), -limit), limit - np.int32(1)) + limit
            subs[16 * b + j] = q if largest != ZERO else np.int32(0)
