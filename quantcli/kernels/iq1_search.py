"""GGML's IQ1 types on the CPU: the search for scales, shifts and codebook rows, with ggml's results.

Source: `quantize_row_iq1_s_impl`, `quantize_row_iq1_m_impl` and `iq1_find_best_neighbour2` in ggml-quants.c
(llama.cpp), restated. All arithmetic is float32, each operation rounded once, sums in index order. A value is scale *
(level - 1 + shift), level 0, 1 or 2, shift 1/8 or -1/8: one for the group of 32 in iq1_s, one for each half of the
group of 16 in iq1_m.

    splits    values in order of size (equal ones as they stand): the first i1 get level 0, those from i2 on level 2;
    all
              i1 <= i2 with all shifts are tried, and the one whose scale explains most is kept, the first of equals
    flip      where the scale came out below zero, levels and shifts are turned round
    row       of 8 levels: they themselves if they are in the book, else their nearest neighbour (iq_neighbours.py) when
              distances are weighted; then the scale that fits the rows

The groups of several super-blocks are the lanes of vectors. Sums that ggml forms anew for each split are kept for each
i1 and each i2, where that is the same arithmetic.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from quantcli.arrays import Array
from quantcli.kernels.chunks import units, weights_of, widen
from quantcli.kernels.compile import inner, kernel
from quantcli.kernels.iq1_splits import SHIFT, SIDE, best_splits, exact, shift_of
from quantcli.kernels.iq_nearest import among8_shifted, beyond, lines8_shifted, nearest8
from quantcli.kernels.iq_neighbours import WIDE, Neighbours
from quantcli.kernels.iq_search import AHEAD
from quantcli.kernels.iq_start import SUPER, weigh

#: Values of a row of the book.
WIDTH = 8
#: A smaller peak is zero.
EPSILON_S, EPSILON_M = np.float32(1e-12), np.float32(1e-7)


class Found(NamedTuple):
    """Of super-blocks: rows int16 (n, 32); minus uint8 (n, 32): 1 where a row's shift is -1/8; scales (n, groups).

    whole float32 (n,): in iq1_m the scale of a super-block that fits all of its rows, 0 in iq1_s.
    """

    rows: NDArray[np.int16]
    minus: NDArray[np.uint8]
    scales: NDArray[np.float32]
    whole: NDArray[np.float32]


def search(values: Array, importance: NDArray[np.float32] | None, group: int, book: Neighbours) -> Found:
    """Of `values` (rows, columns), any dtype of FLOATS; importance float32 (1 or rows, columns); group 32 or 16."""
    count = values.size // SUPER
    source, dropped = units(values)
    weights = weights_of(importance, SUPER)
    found = Found(
        np.zeros((count, SUPER // WIDTH), np.int16),
        np.zeros((count, SUPER // WIDTH), np.uint8),
        np.zeros((count, SUPER // group), np.float32),
        np.zeros(count, np.float32),
    )
    floats = book.row_codes.astype(np.float32).reshape(-1)
    _search(source, dropped, weights, group, book, floats, found.rows, found.minus, found.scales, found.whole)
    return found


@inner
def _sort(x: Any, side: Any, rank: Any, order: Any) -> None:
    """order[r, g] = which value of group g comes r-th, equal ones as they stand; x (groups, values).

    side, rank (values, groups): work space. A NaN goes anywhere.
    """
    groups, size = x.shape
    for g in range(groups):
        for i in range(size):
            side[i, g], rank[i, g], order[i, g] = x[g, i], np.int32(0), np.int32(0)
    for i in range(1, size):
        for j in range(i):
            for g in range(groups):
                after = np.int32(1) if side[j, g] <= side[i, g] else np.int32(0)
                rank[i, g] += after
                rank[j, g] += np.int32(1) - after
    for g in range(groups):
        for i in range(size):
            order[rank[i, g], g] = np.int32(i)


@inner
def _row(
    book: Any, floats: Any, point: int, x: Any, w: Any, twice: Any, at: int, scale: Any, shift: Any, abouts: Any,
    few: Any, own: Any, found: Any,
) -> Any:  # fmt: skip
    """The book's row for 8 levels, as the number of their point, with one scale and shift."""
    row = book.where[point]
    if row >= 0:
        return np.int64(row)
    of, count = np.int64(book.start[-1 - row]), np.int64(book.counts[-1 - row])
    padded, total, rest = (count + WIDE - 1) // WIDE * WIDE, np.float32(0), np.float32(0)
    for i in range(at, at + WIDTH):
        total += np.float32(2) * w[i]
        rest += w[i] * x[i] * x[i]
    part, squares, alongs = rest / scale, abouts[0], abouts[1]
    place = lines8_shifted(book.codes, of, padded, w, twice, at, scale, part, squares, alongs, shift)
    limit = beyond(scale, scale * total + part, squares[place], alongs[place])
    own[0] = scale
    kept, unclear, _ = nearest8(
        squares, alongs, book.members, of, count, own, scale, limit, scale, limit, total, rest, few, found, 0
    )
    if unclear & 1:
        among8_shifted(floats, few, kept, x, w, at, own, found, 0, shift)
    return np.int64(found[0])


@inner
def _refit(floats: Any, x: Any, w: Any, first: int, group: int, rows: Any, minus: Any, factor: Any, sums: Any) -> None:
    """Adds sum(w q x) and sum(w q q) of a group to `sums`; q = factor * (code + shift)."""
    along, square = sums[0], sums[1]
    for k in range(group // WIDTH):
        shift, row = -SHIFT if minus[k] else SHIFT, WIDTH * np.int64(rows[k])
        for i in range(WIDTH):
            q, j = (floats[row + i] + shift) * factor, first + WIDTH * k + i
            along += w[j] * q * x[j]
            square += w[j] * q * q
    sums[0], sums[1] = along, square


@inner
def _finish(
    book: Any, floats: Any, x: Any, w: Any, twice: Any, first: int, group: int, order: Any, lane: int, i1: int, i2: int,
    scale: Any, levels: Any, abouts: Any, few: Any, own: Any, found: Any, sums: Any, rows: Any, minus: Any,
) -> Any:  # fmt: skip
    """Rows of a group that is split, its shifts turned where the scale is below zero; the scale."""
    turned = scale < np.float32(0)
    for r in range(group):
        level = 0 if r < i1 else (1 if r < i2 else 2)
        levels[order[r, lane]] = np.int32(2 - level if turned else level)
    scale, on = abs(scale), True
    for k in range(group // WIDTH):
        minus[k] = np.uint8(1 - minus[k]) if turned else minus[k]
        point, digit = np.int64(0), np.int64(1)
        for i in range(WIDTH):
            point += digit * np.int64(levels[WIDTH * k + i])
            digit *= np.int64(3)
        on = on and book.where[point] >= 0
        shift = -SHIFT if minus[k] else SHIFT
        rows[k] = _row(book, floats, point, x, w, twice, first + WIDTH * k, scale, shift, abouts, few, own, found)
    if on:
        return scale
    sums[0], sums[1] = np.float32(0), np.float32(0)
    _refit(floats, x, w, first, group, rows, minus, np.float32(1), sums)
    return sums[0] / sums[1] if sums[0] > np.float32(0) and sums[1] > np.float32(0) else scale


@inner
def _prefixes(x: Any, w: Any, order: Any, side: Any, sizes: Any, sumx: Any, sumw: Any) -> None:
    """sumx, sumw (halves, group + 1, lanes): sums over the first values in order, each value into its half's.

    side: the values in order; sizes: sums of |w x|.
    """
    groups, size = x.shape
    halves, half = sumx.shape[0], size // sumx.shape[0]
    for g in range(groups):
        sizes[g] = np.float32(0)
        for h in range(halves):
            sumx[h, 0, g], sumw[h, 0, g] = np.float32(0), np.float32(0)
    for r in range(size):
        for g in range(groups):
            i = np.int64(order[r, g])
            weight, heavy, h = w[g, i], w[g, i] * x[g, i], np.int64(i >= half) if halves == 2 else np.int64(0)
            side[r, g] = x[g, i]
            sizes[g] += abs(heavy)
            if halves == 2:
                sumx[1 - h, r + 1, g], sumw[1 - h, r + 1, g] = sumx[1 - h, r, g], sumw[1 - h, r, g]
            sumx[h, r + 1, g] = sumx[h, r, g] + heavy
            sumw[h, r + 1, g] = sumw[h, r, g] + weight


@inner
def _whole(floats: Any, x: Any, w: Any, group: int, rows: Any, minus: Any, scales: Any, sums: Any) -> Any:
    """iq1_m's scale of a super-block: what fits all of its rows with the groups' 3-bit scales."""
    largest = np.float32(0)
    for g in range(scales.shape[0]):
        largest = scales[g] if scales[g] > largest else largest
    d = largest / np.float32(15)
    if not d > np.float32(0):
        return np.float32(0)
    sums[0], sums[1] = np.float32(0), np.float32(0)
    each = group // WIDTH
    for g in range(scales.shape[0]):
        code = np.float32(0.5) * (np.float32(1) / d * scales[g] - np.float32(1))
        code = (code + np.float32(1.5 * 2**23)) - np.float32(1.5 * 2**23)
        code = code if code > np.float32(0) else np.float32(0)
        code = code if code < np.float32(7) else np.float32(7)
        factor = np.float32(2) * code + np.float32(1)
        _refit(floats, x, w, group * g, group, rows[each * g :], minus[each * g :], factor, sums)
    return sums[0] / sums[1] if sums[1] > np.float32(0) else d


@kernel
def _search(
    source: Any, dropped: int, importance: Any, group: int, book: Any, floats: Any, rows: Any, minus: Any, scales: Any,
    whole: Any,
) -> None:  # fmt: skip
    per_unit, halves, per_super, each = 1 if dropped else 2, 32 // group, SUPER // group, group // WIDTH
    at_once, longest = SIDE // per_super, book.counts.max()
    own_values, sums = np.zeros((3, SIDE * group), np.float32), np.zeros(2, np.float32)
    x, w, twice = own_values[0], own_values[1], own_values[2]
    order, rank = np.zeros((group, SIDE), np.int32), np.zeros((group, SIDE), np.int32)
    levels, number, side = np.zeros(group, np.int32), np.zeros(SIDE, np.int32), np.zeros((group, SIDE), np.float32)
    sumx, sumw = np.zeros((halves, group + 1, SIDE), np.float32), np.zeros((halves, group + 1, SIDE), np.float32)
    room, best, sizes = np.zeros((10, group + 1, SIDE), np.float32), np.zeros(SIDE, np.float32), np.zeros(SIDE, np.float32)
    abouts, few = np.zeros((2, longest + AHEAD), np.float32), np.zeros(longest + AHEAD, np.int16)
    own, found = np.ones(WIDE, np.float32), np.zeros(WIDE, np.int32)
    plain, epsilon = np.float32(0), EPSILON_S if halves == 1 else EPSILON_M
    for start in range(0, rows.shape[0], at_once):
        count = min(at_once, rows.shape[0] - start)
        for b in range(count):
            of, units_each = start + b, SUPER * per_unit
            widen(source[of * units_each : (of + 1) * units_each], x[b * SUPER : (b + 1) * SUPER], SUPER, dropped)
            at = of % importance.shape[0] if importance.shape[0] else 0
            given = importance[at : at + 1].reshape(-1)
            weigh(x[b * SUPER : (b + 1) * SUPER], given, np.float32(2), plain, w[b * SUPER : (b + 1) * SUPER])
        for i in range(count * SUPER):
            twice[i] = np.float32(-2) * w[i] * x[i]
        x2, w2 = x.reshape(SIDE, group), w.reshape(SIDE, group)
        _sort(x2, side, rank, order)
        _prefixes(x2, w2, order, side, sizes, sumx, sumw)
        best_splits(side, sumx, sumw, sizes, room, best, number)
        for g in range(count * per_super):
            b, k = start + g // per_super, g % per_super * each
            peak = np.float32(0)
            for i in range(g * group, (g + 1) * group):
                peak = abs(x[i]) if abs(x[i]) > peak else peak
            if peak < epsilon or number[g] < 0:
                continue
            split, shifts = number[g] >> halves, number[g] & (1 << halves) - 1
            i1, i2 = split // (group + 1), split % (group + 1)
            along, square = exact(sumx, sumw, g, i1, i2, shifts)
            for i in range(each):
                minus[b, k + i] = np.uint8(shift_of(halves, shifts, i * halves // each) < np.float32(0))
            scale = along / square
            scales[b, g % per_super] = _finish(
                book, floats, x, w, twice, g * group, group, order, g, i1, i2, scale, levels, abouts, few, own, found,
                sums, rows[b, k : k + each], minus[b, k : k + each],
            )  # fmt: skip
        if halves == 2:
            for b in range(count):
                of, begin = start + b, b * SUPER
                whole[of] = _whole(
                    floats,
                    x[begin : begin + SUPER],
                    w[begin : begin + SUPER],
                    group,
                    rows[of],
                    minus[of],
                    scales[of],
                    sums,
                )
