"""Better scales for GGML's blocks whose values are `scale * level + low`, on the CPU: for `--search best`.

The search looks for a few numbers of each block: f16 scales, and for each group of values whole multiples of them.

    scale = d * sub, low = -dmin * sub-minimum     K-quants, iq4_xs (no minima: q3_k q6_k iq4_xs)
    scale = d,       low = m                       one group a block (no minimum: q4_0 q5_0 q8_0 iq4_nl ...)

Levels are whole numbers least .. top, or a table. A value always has the level nearest to it under the scale and low
that a reader will compute, so the search's errors are those of the bytes. What is minimised is
sum(w * (decoded - x) ** 2), w the importance, else 1:

    1. a group by itself: many pairs (scale, low), ggml's among them, each refined a few times: levels by nearest, then
       the line of least squares through them; of all pairs met the best
    2. a super-block: from several d, dmin, ggml's among them: for every group the best of 16 whole pairs (sub,
       sub-minimum) around what the group asks for, then d, dmin by least squares, again and again; of all met the best

`sweep` tries 16 candidates for one group side by side: they are the lanes of the vectors. Sums are float32 in index
order, and nothing depends on other blocks, so neither do the bytes on how a weight is cut into slabs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantcli.kernels.chunks import narrow
from quantcli.kernels.compile import inlined, inner, kernel
from quantcli.kernels.float32 import INFINITE, ONE, RINT, ZERO
from quantcli.kernels.ggml.better.levels import Levels
from quantcli.kernels.ggml.scales import F16
from quantcli.kernels.lanes import LANES

#: A table's levels are looked up in steps of a quarter: middles between its levels are such.
PLACES, PER_UNIT = 1024, 4
#: Where each row of what a sweep knows of its candidates begins; ERROR to CROSS are sums over the group's values.
SCALE, LOW, INVERSE, LEVEL, ERROR, ALONG, SQUARE, CROSS, BEST, BEST_SCALE, BEST_LOW = range(0, 11 * LANES, LANES)
STATE = 11 * LANES
#: What lows may be: none, of either sign, not above 0.
NONE, FREE, BELOW = range(3)
#: How often a candidate of step 1 is tried, refined in between.
TRIES = 4


@dataclass(frozen=True)
class Found:
    """The numbers of blocks.

    codes: uint8 (blocks, size). subs: int16 (blocks, groups, 2), sub-block scales and minima. block_scales: float32
    (blocks, 2), each an f16.
    """

    codes: NDArray[np.uint8]
    subs: NDArray[np.int16]
    block_scales: NDArray[np.float32]


def search(kind: Levels, x: NDArray[np.float32], weights: NDArray[np.float32], known: NDArray[np.float32]) -> Found:
    """Find scales and codes of blocks that decode nearer to `x` than ggml's.

    x: (blocks, size). weights: (some, size), those of block b in row b % some. known: (blocks, 1 + groups, 2), ggml's
    block scales, then the scale and low of each group; of blocks with one group (blocks, 1, 2), its scale and low.
    """
    blocks, size = x.shape
    codes, block_scales = np.zeros((blocks, size), np.uint8), np.zeros((blocks, 2), np.float32)
    subs = np.zeros((blocks, size // kind.group, 2), np.int16)
    ends = np.array((kind.table[0], kind.table[-1]) if kind.table else (kind.least, kind.top), np.float32)
    lows = NONE if kind.minima is None else BELOW if kind.minima else FREE
    facts = ends, nearest_levels(kind.table), _starts(kind), lows
    if kind.subs is None:
        _search_single(x, weights, known, *facts, codes, block_scales)
    else:
        bounds, factors = np.array([*kind.subs, kind.minima or 0], np.int64), np.array(kind.factors, np.float32)
        _search_supers(x, weights, known, *facts, bounds, factors, kind.rounds, codes, subs, block_scales)
    return Found(codes, subs, block_scales)


def nearest_levels(table: tuple[float, ...]) -> NDArray[np.float32]:
    """The level nearest to each place, then its code; empty without a table."""
    if not table:
        return np.empty(0, np.float32)
    levels = np.array(table, np.float32)
    centres = (np.arange(PLACES) - PLACES // 2 + 0.5) / PER_UNIT
    codes = np.searchsorted((levels[1:] + levels[:-1]) / 2, centres)
    return np.concatenate([levels[codes], codes.astype(np.float32)])


def _starts(kind: Levels) -> NDArray[np.float32]:
    """(2, candidates): how far the upper and the lower end of a candidate's span are from the middle of the group's,
    over what the group's are; without minima its magnitude over the group's, of both signs.
    """
    first, last, sixteens = kind.starts
    if kind.minima is None:
        ends = np.linspace(last, first, sixteens * LANES // 2)
        return np.array([[*ends, *-ends], [0] * (sixteens * LANES)], np.float32)
    even = np.linspace(last, first, sixteens * LANES - 6)
    uneven = [(1.0, part) for part in (0.9, 0.8, 0.65)]
    pairs = [(end, end) for end in even] + uneven + [(b, a) for a, b in uneven]
    return np.ascontiguousarray(np.array(pairs, np.float32).T)


@inner
def sweep(x: Any, w: Any, ends: Any, nearest: Any, state: Any) -> None:
    """ERROR, ALONG = sum(w q), SQUARE = sum(w q q), CROSS = sum(w q x) of every candidate (SCALE, LOW)."""
    for c in range(LANES):
        scale = state[SCALE + c]
        state[INVERSE + c] = ONE / scale if scale != ZERO else ZERO
        state[ERROR + c] = state[ALONG + c] = state[SQUARE + c] = state[CROSS + c] = ZERO
    if nearest.shape[0]:
        _sweep_table(x, w, nearest, state)
    else:
        _sweep_whole(x, w, ends[0], ends[1], state)


@inlined
def _add(value: Any, weight: Any, q: Any, c: int, state: Any) -> None:
    off, along = (state[SCALE + c] * q + state[LOW + c]) - value, weight * q
    state[ERROR + c] += weight * off * off
    state[ALONG + c] += along
    state[SQUARE + c] += along * q
    state[CROSS + c] += along * value


@inlined
def _place(q: Any) -> Any:
    """Where in the table of nearest levels; the first where q is NaN."""
    place = q * np.float32(PER_UNIT) + np.float32(PLACES // 2)
    place = place if place > ZERO else ZERO
    return place if place < np.float32(PLACES - 1) else np.float32(PLACES - 1)


@inner
def _sweep_whole(x: Any, w: Any, least: Any, top: Any, state: Any) -> None:
    for i in range(x.shape[0]):
        value, weight = x[i], w[i]
        for c in range(LANES):
            q = (value - state[LOW + c]) * state[INVERSE + c]
            q = q if q > least else least
            q = q if q < top else top
            _add(value, weight, (q + RINT) - RINT, c, state)


@inner
def _sweep_table(x: Any, w: Any, nearest: Any, state: Any) -> None:
    for i in range(x.shape[0]):
        value, weight = x[i], w[i]
        for c in range(LANES):
            state[LEVEL + c] = _place((value - state[LOW + c]) * state[INVERSE + c])
        for c in range(LANES):
            state[LEVEL + c] = nearest[np.int32(state[LEVEL + c])]
        for c in range(LANES):
            _add(value, weight, state[LEVEL + c], c, state)


@inner
def _mend(total: Any, cross: Any, lows: int, state: Any) -> None:
    """SCALE and LOW of least squares for the levels of the last sweep; total = sum(w), cross = sum(w x)."""
    for c in range(LANES):
        along, square, product = state[ALONG + c], state[SQUARE + c], state[CROSS + c]
        alone = product / square if square > ZERO else ZERO
        spread = total * square - along * along
        scale = (total * product - along * cross) / spread
        low = (cross - scale * along) / total
        line = (lows != NONE) & (spread > ZERO) & ((lows == FREE) | (low < ZERO))
        state[SCALE + c] = scale if line else alone
        state[LOW + c] = low if line else ZERO


@inner
def _keep_best(state: Any) -> None:
    for c in range(LANES):
        better = state[ERROR + c] < state[BEST + c]
        state[BEST + c] = state[ERROR + c] if better else state[BEST + c]
        state[BEST_SCALE + c] = state[SCALE + c] if better else state[BEST_SCALE + c]
        state[BEST_LOW + c] = state[LOW + c] if better else state[BEST_LOW + c]


@inner
def lowest(errors: Any) -> int:
    best = 0
    for c in range(LANES):
        best = c if errors[c] < errors[best] else best
    return best


@inner
def _sums(x: Any, w: Any) -> Any:
    """sum(w), sum(w x)."""
    total, cross = ZERO, ZERO
    for i in range(x.shape[0]):
        total += w[i]
        cross += w[i] * x[i]
    return total, cross


@inner
def _range(x: Any, lows: int) -> Any:
    """The largest and the least value; 0 is among them where lows are not above it."""
    high, low = (ZERO, ZERO) if lows == BELOW else (x[0], x[0])
    for i in range(x.shape[0]):
        high = x[i] if x[i] > high else high
        low = x[i] if x[i] < low else low
    return high, low


@kernel
def _group(x: Any, w: Any, ends: Any, nearest: Any, starts: Any, lows: int, whole: bool, state: Any, out: Any) -> None:
    """Replace `out`, a scale and a low, by the group's best ones; it is tried first. whole: rounded to f16."""
    (high, low), (total, cross) = _range(x, lows), _sums(x, w)
    peak, middle, span = max(high, -low), (high + low) / np.float32(2), ends[1] - ends[0]
    for c in range(LANES):
        state[BEST + c] = INFINITE
        state[BEST_SCALE + c] = state[BEST_LOW + c] = ZERO
    for first in range(0, starts.shape[1], LANES):
        for c in range(LANES):
            upper, lower = starts[0, first + c], starts[1, first + c]
            if lows == NONE:
                state[SCALE + c], state[LOW + c] = upper * peak / -ends[0], ZERO
            else:
                begin = middle + (low - middle) * lower
                state[SCALE + c], state[LOW + c] = (middle + (high - middle) * upper - begin) / span, begin
        if first == 0:
            state[SCALE], state[LOW] = out[0], out[1]
        for mended in range(TRIES):
            if mended:
                _mend(total, cross, lows, state)
            if whole:
                narrow(state, state, 2 * LANES, F16)
            sweep(x, w, ends, nearest, state)
            _keep_best(state)
    best = lowest(state[BEST : BEST + LANES])
    out[0], out[1] = state[BEST_SCALE + best], state[BEST_LOW + best]


@inner
def write_codes(x: Any, scale: Any, low: Any, ends: Any, nearest: Any, codes: Any) -> None:
    """The level nearest to each value, counted from 0."""
    inverse = ONE / scale if scale != ZERO else ZERO
    least, top = ends[0], ends[1]
    for i in range(x.shape[0]):
        q = (x[i] - low) * inverse
        if nearest.shape[0]:
            codes[i] = np.uint8(nearest[PLACES + np.int32(_place(q))])
        else:
            q = q if q > least else least
            q = q if q < top else top
            codes[i] = np.uint8(((q + RINT) - RINT) - least)


@inner
def scaled_weights(weights: Any, w: Any) -> None:
    """Over their largest, so that squared errors stay in float32's range."""
    largest = ZERO
    for i in range(weights.shape[0]):
        largest = weights[i] if weights[i] > largest else largest
    inverse = ONE / largest if largest > ZERO else ZERO
    for i in range(weights.shape[0]):
        w[i] = weights[i] * inverse


@kernel
def _search_single(
    x: Any, weights: Any, known: Any, ends: Any, nearest: Any, starts: Any, lows: int,
    codes: Any, block_scales: Any,
) -> None:  # fmt: skip
    state, w = np.empty(STATE, np.float32), np.empty(x.shape[1], np.float32)
    for b in range(x.shape[0]):
        scaled_weights(weights[b % weights.shape[0]], w)
        block_scales[b] = known[b, 0]
        _group(x[b], w, ends, nearest, starts, lows, True, state, block_scales[b])
        write_codes(x[b], block_scales[b, 0], block_scales[b, 1], ends, nearest, codes[b])


@kernel
def _search_supers(
    x: Any, weights: Any, known: Any, ends: Any, nearest: Any, starts: Any, lows: int,
    bounds: Any, factors: Any, rounds: int, codes: Any, subs: Any, block_scales: Any,
) -> None:  # fmt: skip
    groups, size = subs.shape[1], x.shape[1] // subs.shape[1]
    state, w = np.empty(STATE, np.float32), np.empty(x.shape[1], np.float32)
    alone, asked = np.empty((groups, 2), np.float32), np.empty((groups, 2), np.float32)
    pairs, tried, super_scales = (
        np.zeros((groups, 2), np.int16),
        np.zeros((LANES, 2), np.int16),
        np.empty(2, np.float32),
    )
    for b in range(x.shape[0]):
        scaled_weights(weights[b % weights.shape[0]], w)
        for g in range(groups):
            at = slice(g * size, (g + 1) * size)
            alone[g] = known[b, 1 + g]
            _group(x[b, at], w[at], ends, nearest, starts, lows, False, state, alone[g])
        least = np.inf
        for k in range(-1, factors.shape[0]):
            if k < 0:
                asked[:], super_scales[:] = known[b, 1:], known[b, 0]
            else:
                asked[:] = alone
                _reaching_scales(asked, bounds, factors[k], super_scales)
            for _ in range(rounds):
                narrow(super_scales, super_scales, 2, F16)
                first, second = super_scales[0], super_scales[1]
                error = _round(x[b], w, ends, nearest, lows, bounds, super_scales, asked, pairs, tried, state)
                if error < least:
                    least = error
                    block_scales[b, 0], block_scales[b, 1] = first, second
                    subs[b] = pairs
        for g in range(groups):
            at = slice(g * size, (g + 1) * size)
            scale, low = block_scales[b, 0] * np.float32(subs[b, g, 0]), -block_scales[b, 1] * np.float32(subs[b, g, 1])
            write_codes(x[b, at], scale, low, ends, nearest, codes[b, at])


@inner
def _reaching_scales(asked: Any, bounds: Any, factor: Any, super_scales: Any) -> None:
    """d and dmin that just reach the largest scale and the lowest low, times `factor`."""
    largest, lowest = ZERO, ZERO
    for g in range(asked.shape[0]):
        largest, lowest = max(largest, abs(asked[g, 0])), min(lowest, asked[g, 1])
    super_scales[0] = factor * largest / np.float32(bounds[1])
    super_scales[1] = -factor * lowest / np.float32(max(bounds[2], 1))


@inner
def _below(asked: Any, d: Any) -> Any:
    """The whole number below asked / d; 0 if there is none."""
    q = asked / d
    return np.int64(np.floor(q)) if abs(q) < np.float32(4096) else np.int64(0)


@inner
def _propose(asked: Any, bounds: Any, super_scales: Any, tried: Any) -> None:
    """Pairs (sub-scale, sub-minimum): 4 x 4 around what is asked, without minima 8 of either sign."""
    sub, low = _below(asked[0], super_scales[0]), _below(-asked[1], super_scales[1])
    for c in range(LANES):
        if bounds[2]:
            first, second = sub - 1 + c // 4, low - 1 + c % 4
        else:
            first, second = (sub - 3 + c if c < 8 else -sub - 12 + c), np.int64(0)
        tried[c, 0] = min(max(first, bounds[0]), bounds[1])
        tried[c, 1] = min(max(second, 0), bounds[2])


@kernel
def _round(
    x: Any, w: Any, ends: Any, nearest: Any, lows: int, bounds: Any, super_scales: Any, asked: Any,
    pairs: Any, tried: Any, state: Any,
) -> Any:  # fmt: skip
    """The best pair of every group under `super_scales`; the error.

    `asked` and `super_scales` become what least squares ask for.
    """
    size = x.shape[0] // pairs.shape[0]
    error = a = b = c = e = f = 0.0  # the normal equations of d and dmin: a b, b c = e, f
    for g in range(pairs.shape[0]):
        values, weight = x[g * size : (g + 1) * size], w[g * size : (g + 1) * size]
        _propose(asked[g], bounds, super_scales, tried)
        for k in range(LANES):
            state[SCALE + k] = super_scales[0] * np.float32(tried[k, 0])
            state[LOW + k] = -super_scales[1] * np.float32(tried[k, 1])
        sweep(values, weight, ends, nearest, state)
        k = lowest(state[ERROR : ERROR + LANES])
        pairs[g] = tried[k]
        total, cross = _sums(values, weight)
        sub, low = np.float64(tried[k, 0]), np.float64(tried[k, 1])
        error += np.float64(state[ERROR + k])
        a += sub * sub * np.float64(state[SQUARE + k])
        b -= sub * low * np.float64(state[ALONG + k])
        c += low * low * np.float64(total)
        e += sub * np.float64(state[CROSS + k])
        f -= low * np.float64(cross)
        _mend(total, cross, lows, state)
        asked[g, 0], asked[g, 1] = state[SCALE + k], state[LOW + k]
    spread = a * c - b * b
    if spread > 1e-9 * a * c:
        super_scales[0], super_scales[1] = np.float32((e * c - b * f) / spread), np.float32((a * f - b * e) / spread)
    elif a > 0.0:
        super_scales[0] = np.float32(e / a)
    return error
