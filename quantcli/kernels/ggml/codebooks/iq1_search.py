"""GGML's IQ1 types on the CPU: the search for scales, shifts and codebook rows, with ggml's results.

Source: `quantize_row_iq1_s_impl`, `quantize_row_iq1_m_impl` and `iq1_find_best_neighbour2` in ggml-quants.c
(llama.cpp), restated. All arithmetic is float32, each operation rounded once, sums in index order. A value is scale *
(level - 1 + shift), level 0, 1 or 2, shift 1/8 or -1/8: one for the group of 32 in iq1_s, one for each half of the
group of 16 in iq1_m.

    splits    values in order of size (equal ones as they stand): the first i1 get level 0, those from i2 on level 2;
              all i1 <= i2 with all shifts are tried, and the one whose scale explains most is kept, the first of
              equals; llvm/splits.py describes how
    flip      where the scale came out below zero, levels and shifts are reversed
    row       of 8 levels: they themselves if they are in the book, else their nearest neighbour (neighbours.py) when
              distances are weighted; then the scale that fits the rows

Groups are the lanes of vectors, as many as there are lanes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from quantcli.arrays import Array
from quantcli.kernels.chunks import units, weights_of, widen
from quantcli.kernels.compile import bits_of, inlined, inner
from quantcli.kernels.ggml.codebooks.neighbours import Neighbours
from quantcli.kernels.ggml.codebooks.search import AHEAD
from quantcli.kernels.ggml.codebooks.start import weigh
from quantcli.kernels.ggml.formats import IQ1_WIDTH, SUPER
from quantcli.kernels.lanes import WIDE
from quantcli.kernels.llvm.nearest import among8_shifted, beyond, lines8_shifted, nearest8
from quantcli.kernels.llvm.splits import SHIFT, SIDE, best_splits, exact, ranks, shift_of, sums_of

#: A smaller peak is zero.
EPSILON_S, EPSILON_M = np.float32(1e-12), np.float32(1e-7)


class ShiftedRows(NamedTuple):
    """Of super-blocks: rows int16 (n, 32); minus uint8 (n, 32): 1 where a row's shift is -1/8; scales (n, groups).

    whole float32 (n,): in iq1_m the scale of a super-block that fits all of its rows, 0 in iq1_s.
    """

    rows: NDArray[np.int16]
    minus: NDArray[np.uint8]
    scales: NDArray[np.float32]
    whole: NDArray[np.float32]


def search(values: Array, importance: NDArray[np.float32] | None, group: int, book: Neighbours) -> ShiftedRows:
    """Of `values` (rows, columns), any dtype of FLOATS; importance float32 (1 or rows, columns); group 32 or 16."""
    count = values.size // SUPER
    source, dropped = units(values)
    weights = weights_of(importance, SUPER)
    found = ShiftedRows(
        np.zeros((count, SUPER // IQ1_WIDTH), np.int16),
        np.zeros((count, SUPER // IQ1_WIDTH), np.uint8),
        np.zeros((count, SUPER // group), np.float32),
        np.zeros(count, np.float32),
    )
    floats = book.row_codes.astype(np.float32).reshape(-1)
    t, s = work(group, int(book.counts.max(initial=0))), sums_of(group)
    _search(source, dropped, weights, group, book, floats, t, s, found.rows, found.minus, found.scales, found.whole)
    return found


class Iq1Work(NamedTuple):
    """What a search writes to and reads again, beside its `Sums`.

    Of SIDE groups, one after the other, float32: values; weights; -2 times weight times value. side float32 (values,
    SIDE): values, those of a group below each other; rank int32: how many of its group come before each; number: of its
    split. Of a group: levels. Of a list: a scale; lines of its rows (nearest.py), those in question, the one found.
    """

    x: NDArray[np.float32]
    w: NDArray[np.float32]
    twice: NDArray[np.float32]
    side: NDArray[np.float32]
    rank: NDArray[np.int32]
    number: NDArray[np.int32]
    levels: NDArray[np.int32]
    scale: NDArray[np.float32]
    squares: NDArray[np.float32]
    alongs: NDArray[np.float32]
    few: NDArray[np.int16]
    found: NDArray[np.int32]


def work(group: int, longest: int) -> Iq1Work:
    """For groups of so many values and so long lists."""

    def floats(count: int) -> NDArray[np.float32]:
        return np.zeros(count, np.float32)

    values, rows = SIDE * group, longest + AHEAD
    return Iq1Work(
        x=floats(values), w=floats(values), twice=floats(values), side=np.zeros((group, SIDE), np.float32),
        rank=np.zeros((group, SIDE), np.int32), number=np.zeros(SIDE, np.int32), levels=np.zeros(group, np.int32),
        scale=np.ones(WIDE, np.float32), squares=floats(rows), alongs=floats(rows), few=np.zeros(rows, np.int16),
        found=np.zeros(WIDE, np.int32),
    )  # fmt: skip


@inner
def _sort(t: Any, s: Any) -> None:
    """t.side, t.rank; s.x, s.w: sums in order of size, equal values as they stand; s.sizes. A NaN goes anywhere."""
    x, w, halves, size = t.x.reshape(SIDE, -1), t.w.reshape(SIDE, -1), s.x.shape[0], t.side.shape[0]
    for g in range(SIDE):
        for i in range(size):
            t.side[i, g] = x[g, i]
    ranks(t.side.reshape(-1), size, t.rank.reshape(-1))
    for half in range(halves):
        first, last, other = half * (size // halves), (half + 1) * (size // halves), halves - 1 - half
        for g in range(SIDE):
            for i in range(first, last):
                place = np.int64(t.rank[i, g]) + 1
                if halves == 2:
                    s.x[other, place, g], s.w[other, place, g] = np.float32(0), np.float32(0)
                s.x[half, place, g], s.w[half, place, g] = w[g, i] * x[g, i], w[g, i]
    for g in range(SIDE):
        s.sizes[g] = np.float32(0)
    for h in range(halves):
        for i in range(1, size + 1):
            for g in range(SIDE):
                s.sizes[g] += abs(s.x[h, i, g])
        for sums in (s.x[h].reshape(-1), s.w[h].reshape(-1)):
            for j in range(SIDE, (size + 1) * SIDE):
                sums[j] += sums[j - SIDE]


@inlined
def _row(book: Any, floats: Any, t: Any, point: int, at: int, scale: Any, shift: Any) -> Any:
    """The book's row for 8 levels, as the number of their point, with one scale and shift."""
    row = np.int64(book.where[point])
    if row < 0:
        of, count = np.int64(book.start[-1 - row]), np.int64(book.counts[-1 - row])
        padded, total, rest = (count + WIDE - 1) // WIDE * WIDE, np.float32(0), np.float32(0)
        for i in range(at, at + IQ1_WIDTH):
            total += np.float32(2) * t.w[i]
            rest += t.w[i] * t.x[i] * t.x[i]
        part = rest / scale
        place = lines8_shifted(book.codes, of, padded, t.w, t.twice, at, scale, part, t.squares, t.alongs, shift)
        limit = beyond(scale, scale * total + part, t.squares[place], t.alongs[place])
        t.scale[0] = scale
        kept, unclear, _ = nearest8(
            t.squares, t.alongs, book.members, of, count, t.scale, scale, limit, scale, limit, total, rest, t.few,
            t.found, 0,
        )  # fmt: skip
        if unclear & 1:
            among8_shifted(floats, t.few, kept, t.x, t.w, at, t.scale, t.found, 0, shift)
        row = np.int64(t.found[0])
    return row


@inlined
def _refit(
    floats: Any, x: Any, w: Any, first: int, group: int, rows: Any, minus: Any, factor: Any, along: Any, square: Any
) -> Any:
    """along and square with sum(w q x) and sum(w q q) of a group added; q = factor * (code + shift)."""
    for k in range(group // IQ1_WIDTH):
        shift, row = -SHIFT if minus[k] else SHIFT, IQ1_WIDTH * np.int64(rows[k])
        for i in range(IQ1_WIDTH):
            q, j = (floats[row + i] + shift) * factor, first + IQ1_WIDTH * k + i
            along += w[j] * q * x[j]
            square += w[j] * q * q
    return along, square


@inlined
def _finish(book: Any, floats: Any, t: Any, g: int, i1: int, i2: int, scale: Any, rows: Any, minus: Any) -> Any:
    """Rows of a group that is split, its shifts flipped where the scale is below zero; the scale."""
    group, flipped, on, zero = t.side.shape[0], scale < np.float32(0), True, np.float32(0)
    for i in range(group):
        level = np.int32(t.rank[i, g] >= i1) + np.int32(t.rank[i, g] >= i2)
        t.levels[i] = np.int32(2) - level if flipped else level
    scale = abs(scale)
    for k in range(group // IQ1_WIDTH):
        minus[k] = np.uint8(1 - minus[k]) if flipped else minus[k]
        point = np.int64(0)
        for i in range(IQ1_WIDTH):
            point = 3 * point + np.int64(t.levels[IQ1_WIDTH * k + IQ1_WIDTH - 1 - i])
        on = on and book.where[point] >= 0
        rows[k] = _row(book, floats, t, point, g * group + IQ1_WIDTH * k, scale, -SHIFT if minus[k] else SHIFT)
    if not on:
        along, square = _refit(floats, t.x, t.w, g * group, group, rows, minus, np.float32(1), zero, zero)
        scale = along / square if along > zero and square > zero else scale
    return scale


@inner
def _whole(floats: Any, x: Any, w: Any, group: int, rows: Any, minus: Any, scales: Any) -> Any:
    """iq1_m's scale of a super-block: what fits all of its rows with the groups' 3-bit scales."""
    largest = np.float32(0)
    for g in range(scales.shape[0]):
        largest = scales[g] if scales[g] > largest else largest
    d = largest / np.float32(15)
    if not d > np.float32(0):
        return np.float32(0)
    along, square = np.float32(0), np.float32(0)
    each = group // IQ1_WIDTH
    for g in range(scales.shape[0]):
        code = np.float32(0.5) * (np.float32(1) / d * scales[g] - np.float32(1))
        code = (code + np.float32(1.5 * 2**23)) - np.float32(1.5 * 2**23)
        code = code if code > np.float32(0) else np.float32(0)
        code = code if code < np.float32(7) else np.float32(7)
        factor = np.float32(2) * code + np.float32(1)
        along, square = _refit(
            floats, x, w, group * g, group, rows[each * g :], minus[each * g :], factor, along, square
        )
    return along / square if square > np.float32(0) else d


@inner
def _search(
    source: Any, dropped: int, importance: Any, group: int, book: Any, floats: Any, t: Any, s: Any, rows: Any,
    minus: Any, scales: Any, whole: Any,
) -> None:  # fmt: skip
    per_unit, halves, per_super, each = SUPER if dropped else 2 * SUPER, 32 // group, SUPER // group, group // IQ1_WIDTH
    at_once, least = SIDE // per_super, bits_of(EPSILON_S if halves == 1 else EPSILON_M)
    for start in range(0, rows.shape[0], at_once):
        count = min(at_once, rows.shape[0] - start)
        for b in range(count):
            of, begin, end = start + b, b * SUPER, (b + 1) * SUPER
            widen(source[of * per_unit : (of + 1) * per_unit], t.x[begin:end], SUPER, dropped)
            at = of % importance.shape[0] if importance.shape[0] else 0
            weigh(t.x[begin:end], importance[at : at + 1].reshape(-1), np.float32(2), np.float32(0), t.w[begin:end])
        for i in range(count * SUPER):
            t.twice[i] = np.float32(-2) * t.w[i] * t.x[i]
        _sort(t, s)
        best_splits(t.side, s, t.number)
        for g in range(count * per_super):
            b, k = start + g // per_super, g % per_super * each
            peak, number = np.int32(0), np.int64(t.number[g])
            for i in range(g * group, (g + 1) * group):
                peak = max(peak, np.int32(bits_of(t.x[i]) & np.int32(0x7FFFFFFF)))
            if peak < least or number < 0:
                continue
            split, shifts = number >> halves, number & (1 << halves) - 1
            i1, i2 = split // (group + 1), split % (group + 1)
            along, square = exact(s.x, s.w, g, i1, i2, shifts)
            for i in range(each):
                minus[b, k + i] = np.uint8(shift_of(halves, shifts, i * halves // each) < np.float32(0))
            scales[b, g % per_super] = _finish(
                book, floats, t, g, i1, i2, along / square, rows[b, k : k + each], minus[b, k : k + each]
            )
        if halves == 2:
            for b in range(count):
                of, begin, end = start + b, b * SUPER, (b + 1) * SUPER
                whole[of] = _whole(floats, t.x[begin:end], t.w[begin:end], group, rows[of], minus[of], scales[of])
