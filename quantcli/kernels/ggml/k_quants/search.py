"""GGML's searches for scales, each lane of a vector one group: ggml's float32 sums in ggml's order, many at a time.

Source: ggml-quants.c of llama.cpp, restated. All arithmetic is float32, each operation rounded once, sums in index
order. `q` are codes, `w` weights, `top` the largest code; a candidate replaces the best so far only where it is better.

    search_scale     make_qx_quants     codes of both signs; candidates -step / peak for 19 steps around the largest
                                        code, peak the first value of largest magnitude:
                                        scale = sum(w x q) / sum(w q q), best where sum(w x q)**2 / sum(w q q) is
    search_minimum   make_qkx2_quants,  codes from 0 on, values = scale * q + minimum (<= 0); candidates
                     make_qkx3_quants   step / (high - minimum), for each the least squares line, best where the sum of
                                        w * difference**2 (or w * abs(difference)) is smallest
    settle_scales    make_qp_quants     of scales themselves, codes from 0 on: nine candidates, then up to five rounds
                                        in which each in turn takes the code that the others' scale gives it

A group's values are a column: value i of lane g is `x[16 * i + g]`, groups have 16 or 32 of them. What a search knows
about its lanes is `state`, rows of 16: one array, so that LLVM can tell its parts from another and vectorises.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantcli.kernels.compile import bits_of, inlined, inner
from quantcli.kernels.float32 import INFINITE, ONE, RINT, ZERO
from quantcli.kernels.ggml.formats import EPSILON
from quantcli.kernels.lanes import LANES

#: Rows of `state`: where each begins. START + INVERSE give the codes: q = rint(INVERSE * (x - START)).
SCALE, LOW, INVERSE, START, BEST, HIGH, SUM_W, SUM_X = range(0, 8 * LANES, LANES)
STATE = 8 * LANES

_TENTH = np.float32(0.1)

#: How many values a group has, as a tuple of the starts of its sixteens: its length is known when a kernel is compiled.
Sixteens = tuple[int, ...]
SIXTEENS: dict[int, Sixteens] = {16: (0,), 32: (0, 16)}


def scale_steps(top: int) -> NDArray[np.float32]:
    """The steps of `search_scale` in its order, for codes -top .. top - 1."""
    tenths = [_TENTH * np.float32(i) for i in (0, *range(-9, 0), *range(1, 10))]
    return np.array([np.float32(top) + tenth for tenth in tenths], np.float32)


def minimum_steps(top: int, first: float, by: float, count: int) -> NDArray[np.float32]:
    """The steps of `search_minimum`: top, then count of top + first + i * by."""
    steps = [(np.float32(first) + np.float32(by) * np.float32(i)) + np.float32(top) for i in range(count)]
    return np.array([top, *steps], np.float32)


@inlined
def nearest(v: Any) -> Any:
    """ggml's rounding half to even, int32, what it makes of numbers of 2**22 and more included."""
    return np.int32(np.int32(bits_of(np.float32(v + RINT)) & np.int32(0x7FFFFF)) - np.int32(0x400000))


@inlined
def rounded(v: Any, least: Any, top: Any) -> Any:
    """v below 2**22 rounded half to even and clipped, as a float; a NaN is `least`."""
    q = (v + RINT) - RINT
    q = q if q > least else least
    return q if q < top else top


@inner
def transpose(x: Any, lanes: Any, groups: int, size: int) -> None:
    """Each 16 groups of `size` values become `size` rows of 16."""
    for k in range(groups // LANES):
        source, target = x[k * LANES * size : (k + 1) * LANES * size], lanes[k * LANES * size : (k + 1) * LANES * size]
        for i in range(size):
            for g in range(LANES):
                target[LANES * i + g] = source[size * g + i]


@inlined
def _explained(x: Any, w: Any, g: Any, first: Any, inverse: Any, least: Any, top: Any, along: Any, square: Any) -> Any:
    """sum(w x q) and sum(w q q), sixteen values further."""
    for i in range(first, first + 16):
        value = x[LANES * i + g]
        q = rounded(inverse * value, least, top)
        weight = w[LANES * i + g]
        along += weight * value * q
        square += weight * q * q
    return along, square


@inner
def _try_scale(x: Any, w: Any, step: Any, limit: Any, first: Any, sixteens: Any, state: Any) -> None:
    least, top = -limit, limit - ONE
    for g in range(LANES):
        inverse = -step / state[HIGH + g]
        along, square = _explained(x, w, g, 0, inverse, least, top, ZERO, ZERO)
        if len(sixteens) > 1:
            along, square = _explained(x, w, g, 16, inverse, least, top, along, square)
        found = along / square
        best = state[BEST + g]
        better = first | ((square > ZERO) & (along * along > best * square))
        found = found if square != ZERO else ZERO
        state[SCALE + g] = found if better else state[SCALE + g]
        state[INVERSE + g] = inverse if better else state[INVERSE + g]
        state[BEST + g] = found * along if better else best


@inner
def _find_peaks(x: Any, size: int, state: Any) -> None:
    """HIGH: the first value of largest magnitude of each lane."""
    for g in range(LANES):
        state[HIGH + g] = ZERO
    for i in range(size):
        for g in range(LANES):
            value, peak = x[LANES * i + g], state[HIGH + g]
            state[HIGH + g] = value if abs(value) > abs(peak) else peak


@inner
def search_scale(x: Any, w: Any, steps: Any, sixteens: Any, state: Any) -> None:
    """Into `state`: SCALE and INVERSE of each lane, both 0 for a group of zeros; HIGH its peak, START 0."""
    for g in range(LANES):
        state[START + g] = ZERO
    _find_peaks(x, 16 * len(sixteens), state)
    for k in range(steps.shape[0]):
        _try_scale(x, w, steps[k], steps[0], k == 0, sixteens, state)
    for g in range(LANES):
        if abs(state[HIGH + g]) < EPSILON:
            state[SCALE + g] = state[INVERSE + g] = ZERO


@inlined
def _moments_of_8(x: Any, w: Any, g: Any, first: Any, inverse: Any, start: Any, top: Any, sums: Any) -> Any:
    one, two, along = sums
    for i in range(first, first + 8):
        value = x[LANES * i + g]
        q = rounded(inverse * (value - start), ZERO, top)
        wq = w[LANES * i + g] * q
        one += wq
        two += wq * q
        along += wq * value
    return one, two, along


@inlined
def _moments(x: Any, w: Any, g: Any, inverse: Any, start: Any, top: Any, sixteens: Any) -> Any:
    """sum(w q), sum(w q q), sum(w q x) of lane g. In pieces of 8: longer loops LLVM does not unroll and vectorise."""
    sums = _moments_of_8(x, w, g, 0, inverse, start, top, (ZERO, ZERO, ZERO))
    sums = _moments_of_8(x, w, g, 8, inverse, start, top, sums)
    if len(sixteens) > 1:
        sums = _moments_of_8(x, w, g, 16, inverse, start, top, sums)
        sums = _moments_of_8(x, w, g, 24, inverse, start, top, sums)
    return sums


@inlined
def _error_of_8(x: Any, w: Any, g: Any, first: Any, codes: Any, line: Any, absolute: Any, error: Any) -> Any:
    inverse, start, top = codes
    scale, low = line
    for i in range(first, first + 8):
        value = x[LANES * i + g]
        q = rounded(inverse * (value - start), ZERO, top)
        off = scale * q + low - value
        off = abs(off) if absolute else off * off
        error += w[LANES * i + g] * off
    return error


@inlined
def _error(x: Any, w: Any, g: Any, codes: Any, line: Any, absolute: Any, sixteens: Any) -> Any:
    """The weighted error of the values scale * q + low of lane g."""
    error = _error_of_8(x, w, g, 0, codes, line, absolute, ZERO)
    error = _error_of_8(x, w, g, 8, codes, line, absolute, error)
    if len(sixteens) > 1:
        error = _error_of_8(x, w, g, 16, codes, line, absolute, error)
        error = _error_of_8(x, w, g, 24, codes, line, absolute, error)
    return error


@inner
def _begin_minimum(x: Any, w: Any, step: Any, absolute: Any, sixteens: Any, state: Any) -> None:
    """The line through the smallest (or 0, if all are above it) and the largest value; a flat one is never improved."""
    for g in range(LANES):
        low = high = x[g]
        sum_w = w[g]
        sum_x = sum_w * low
        for i in range(1, 16):
            value, weight = x[LANES * i + g], w[LANES * i + g]
            low, high = value if value < low else low, value if value > high else high
            sum_w += weight
            sum_x += weight * value
        if len(sixteens) > 1:
            for i in range(16, 32):
                value, weight = x[LANES * i + g], w[LANES * i + g]
                low, high = value if value < low else low, value if value > high else high
                sum_w += weight
                sum_x += weight * value
        low = ZERO if low > ZERO else low
        state[START + g] = low
        state[HIGH + g] = high
        state[SUM_W + g] = sum_w
        state[SUM_X + g] = sum_x
    for g in range(LANES):
        low = state[START + g]
        inverse = step / (state[HIGH + g] - low)
        scale = ONE / inverse
        inverse = inverse if inverse < INFINITE else ZERO
        error = _error(x, w, g, (inverse, low, step), (scale, low), absolute, sixteens)
        flat = state[HIGH + g] <= low
        state[SCALE + g] = ZERO if flat else scale
        state[LOW + g] = low
        state[INVERSE + g] = ZERO if flat else inverse
        state[BEST + g] = -ONE if flat else error  # nothing is better


@inner
def _try_minimum(x: Any, w: Any, step: Any, top: Any, absolute: Any, sixteens: Any, state: Any) -> None:
    for g in range(LANES):
        start, sum_w, sum_x = state[LOW + g], state[SUM_W + g], state[SUM_X + g]
        inverse = step / (state[HIGH + g] - start)
        inverse = inverse if inverse < INFINITE else ZERO  # what ggml's rounding makes of infinities
        one, two, along = _moments(x, w, g, inverse, start, top, sixteens)
        determinant = sum_w * two - one * one
        scale = (sum_w * along - sum_x * one) / determinant
        low = (two * sum_x - one * along) / determinant
        scale = along / two if low > ZERO else scale
        low = ZERO if low > ZERO else low
        error = _error(x, w, g, (inverse, start, top), (scale, low), absolute, sixteens)
        better = (determinant > ZERO) & (error < state[BEST + g])
        state[SCALE + g] = scale if better else state[SCALE + g]
        state[LOW + g] = low if better else start
        state[START + g] = start if better else state[START + g]
        state[INVERSE + g] = inverse if better else state[INVERSE + g]
        state[BEST + g] = error if better else state[BEST + g]


@inner
def search_minimum(x: Any, w: Any, steps: Any, absolute: Any, sixteens: Any, state: Any) -> None:
    """Into `state`: SCALE, LOW (the minimum, never above 0), INVERSE and START of each lane; SUM_W, the weights' sum.

    Where all values are equal SCALE and INVERSE are 0. steps[0] is the largest code.
    """
    _begin_minimum(x, w, steps[0], absolute, sixteens, state)
    for k in range(1, steps.shape[0]):
        _try_minimum(x, w, steps[k], steps[0], absolute, sixteens, state)


@inner
def settle_scales(x: Any, w: Any, codes: Any, top: Any, state: Any) -> None:
    """SCALE of columns of 16 numbers (fewer: x and w are 0 there), and their codes 0 .. top, int32 rows of 16."""
    for g in range(LANES):
        state[HIGH + g] = ZERO
    for i in range(16):
        for g in range(LANES):
            value = x[LANES * i + g]
            state[HIGH + g] = value if value > state[HIGH + g] else state[HIGH + g]
    for step in range(9):
        tenths = (step - 4 if step > 4 else step - 5) if step else 0  # 0, -4 .. -1, 1 .. 4
        _try_settled(x, w, np.float32(np.float32(_TENTH * np.float32(tenths)) + top), top, step == 0, state)
    _settled_codes(x, w, codes, top, state)
    for _ in range(5):
        for i in range(16):
            begin, end = LANES * i, LANES * (i + 1)
            _settle_row(x[begin:end], w[begin:end], codes[begin:end], np.int32(top), state)
    for g in range(LANES):
        square = state[SUM_W + g]
        state[SCALE + g] = state[SUM_X + g] / square if square > ZERO else ZERO
    for g in range(LANES):
        if state[HIGH + g] < EPSILON:
            state[SCALE + g] = ZERO
            for i in range(16):
                codes[LANES * i + g] = np.int32(0)


@inner
def _try_settled(x: Any, w: Any, step: Any, top: Any, first: Any, state: Any) -> None:
    most = np.int32(255) if first else np.int32(top)
    for g in range(LANES):
        inverse = step / state[HIGH + g]
        scale = ONE / inverse
        error = ZERO
        for i in range(16):
            value = x[LANES * i + g]
            q = min(most, nearest(inverse * value))
            off = value - scale * np.float32(q)
            error += w[LANES * i + g] * off * off
        better = first | (error < state[BEST + g])
        state[BEST + g] = error if better else state[BEST + g]
        state[INVERSE + g] = inverse if better else state[INVERSE + g]


@inner
def _settled_codes(x: Any, w: Any, codes: Any, top: Any, state: Any) -> None:
    most = np.int32(top)
    for g in range(LANES):
        along, square, inverse = ZERO, ZERO, state[INVERSE + g]
        for i in range(16):
            value, weight = x[LANES * i + g], w[LANES * i + g]
            q = min(most, nearest(inverse * value))
            codes[LANES * i + g] = np.int32(q & np.int32(255))
            along += weight * value * np.float32(q)
            square += weight * np.float32(q) * np.float32(q)
        state[SUM_X + g] = along
        state[SUM_W + g] = square


@inlined
def _settle_row(x: Any, w: Any, codes: Any, top: Any, state: Any) -> None:
    for g in range(LANES):
        value, weight, along, square = x[g], w[g], state[SUM_X + g], state[SUM_W + g]
        q = np.float32(codes[g])
        others, others_square = along - weight * value * q, square - weight * q * q
        whole = min(top, nearest(value * others_square / others))
        new = np.float32(whole)
        found, found_square = others + weight * value * new, others_square + weight * new * new
        better = (others > ZERO) & (others_square > ZERO) & (whole != codes[g])
        better = better & (found * found * square > along * along * found_square)
        codes[g] = np.int32(whole & np.int32(255)) if better else codes[g]
        state[SUM_X + g] = found if better else along
        state[SUM_W + g] = found_square if better else square
