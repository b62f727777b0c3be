"""GGML's IQ2 and IQ3 types on the CPU: the search for scales, signs and codebook rows, with ggml's results.

Source: `quantize_row_iq2_xxs_impl`, `_iq2_xs_`, `_iq2_s_`, `_iq3_xxs_`, `_iq3_s_impl`, `make_qp_quants` and
`iq2_find_best_neighbour` in ggml-quants.c (llama.cpp), restated. All arithmetic is float32, each operation rounded
once, sums in index order. Codes are 2 * level + 1. For each group (16 or 32 values), with its weights w:

    signs      a value's own; where only 7 of 8 are stored, an odd number of minuses flips the value that weighs least
    point      of 8 (IQ3: 4) magnitudes for a scale s: level = clip(rint((x / s - 1) / 2))
    row        the point if it is in the book, else the one among its neighbours (iq_neighbours.py) that is nearest to x
               when distances are weighted with sqrt(w); the first of equals
    candidates some twenty scales around the peak's (iq2_xxs: `start_scale`'s); kept is the one whose rows explain most
    last       rows anew for the best scale, where the type does so, and the scale that fits them

What is done otherwise, with the same results: a group's candidates are the lanes of vectors. A candidate's point is
often the one before it, so a run of equal points is looked up at once. Of a long list only those rows are looked at
exactly that may win: the difference of two rows' distances, over s, is linear in s, so a row that is farther than some
other at both ends of the run is farther between them. `CLEAR` is far above what rounding can do to a distance (2**-19).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from quantcli.arrays import Array
from quantcli.kernels.chunks import units, weights_of, widen
from quantcli.kernels.compile import inlined, inner, kernel
from quantcli.kernels.iq_nearest import among4, among8, glance4, glance8
from quantcli.kernels.iq_neighbours import Neighbours
from quantcli.kernels.iq_start import RINT, SUPER, magnitudes, nearest_int, start_scale, weigh

#: Values whose levels make a number of their own: half a row of IQ2, a row of IQ3.
QUAD = 4
#: Candidates are padded to a multiple of it.
LANES = 8
#: By how much of (distance + squares) a row has to be farther to be out.
CLEAR = np.float32(2.0**-14)
TINY = np.float32(1e-30)
#: A list up to this long is looked at exactly at once.
SHORT = 8

#: Which of a group's points get new rows for the best scale: those off the book, all where one is, always all.
OFF_BOOK, ALL_OR_NONE, ALWAYS = 0, 1, 2
LAST = {"off-book": OFF_BOOK, "all-or-none": ALL_OR_NONE, "always": ALWAYS}


class Rules(NamedTuple):
    """What sets a type apart.

    group: values that share a scale; width: of the book's rows; base: levels a digit has; parity: 7 signs of 8 are
    stored; steps: of the candidates (padded), the first `tried` count; start: candidates go around `start_scale`'s
    scale; last: one of OFF_BOOK ...; epsilon: a smaller peak is zero; spread: times the mean square is ggml's sigma2;
    plain: times sigma2 is added to x * x for a weight where there is no importance.
    """

    group: int
    width: int
    base: int
    parity: bool
    start: bool
    last: int
    tried: int
    steps: NDArray[np.float32]
    epsilon: np.float32
    spread: np.float32
    plain: np.float32


def rules(
    group: int, width: int, base: int, tried: int, step: float, *, epsilon: float, parity: bool = False,
    start: bool = False, last: str = "off-book", spread: float = 2, plain: float = 0,
) -> Rules:  # fmt: skip
    """`Rules` with the candidates' steps (highest code + step * i) for i from -tried/2 to tried/2."""
    highest, half = np.float32(2 * (base - 1) + 1), tried // 2
    steps = np.array([highest + np.float32(i) * np.float32(step) for i in range(-half, half + 1)], np.float32)
    steps = np.concatenate([steps, np.repeat(steps[-1:], -tried % LANES)])
    return Rules(
        group,
        width,
        base,
        parity,
        start,
        LAST[last],
        tried,
        steps,
        np.float32(epsilon),
        np.float32(spread),
        np.float32(plain),
    )


class Found(NamedTuple):
    """Of super-blocks: rows int16 (n, 256 / width), signs uint8 (n, 32), a bit each, scales float32 (n, groups)."""

    rows: NDArray[np.int16]
    signs: NDArray[np.uint8]
    scales: NDArray[np.float32]


def search(values: Array, importance: NDArray[np.float32] | None, kind: Rules, book: Neighbours) -> Found:
    """Of `values` (rows, columns), any dtype of FLOATS; importance float32 (1 or rows, columns)."""
    count = values.size // SUPER
    source, dropped = units(values)
    weights = weights_of(importance, SUPER)
    found = Found(
        np.zeros((count, SUPER // kind.width), np.int16),
        np.zeros((count, SUPER // 8), np.uint8),
        np.zeros((count, SUPER // kind.group), np.float32),
    )
    words, floats = book.row_codes.view(np.uint32), book.row_codes.astype(np.float32).reshape(-1)
    _search(source, dropped, weights, kind, book, floats, words, found.rows, found.signs, found.scales)
    return found


@inner
def _points(x: Any, at: int, inverse: Any, base: Any, points: Any) -> None:
    """points[c] = the number of the point of four magnitudes for each candidate 1 / scale."""
    x0, x1, x2, x3 = x[at], x[at + 1], x[at + 2], x[at + 3]
    half, one, nought = np.float32(0.5), np.float32(1), np.float32(0)
    digit, highest = np.float32(base), np.float32(base - 1)
    largest = max(max(abs(x0), abs(x1)), max(abs(x2), abs(x3)))
    if not half * (inverse[inverse.shape[0] - 1] * largest + one) < np.float32(1 << 22):
        _far_points(x, at, inverse, base, points)
        return
    for c in range(inverse.shape[0]):
        a = (half * (inverse[c] * x0 - one) + RINT) - RINT
        b = (half * (inverse[c] * x1 - one) + RINT) - RINT
        d = (half * (inverse[c] * x2 - one) + RINT) - RINT
        e = (half * (inverse[c] * x3 - one) + RINT) - RINT
        a, b = a if a > nought else nought, b if b > nought else nought
        d, e = d if d > nought else nought, e if e > nought else nought
        a, b = a if a < highest else highest, b if b < highest else highest
        d, e = d if d < highest else highest, e if e < highest else highest
        points[c] = np.int32(a + digit * (b + digit * (d + digit * e)))


@inner
def _far_points(x: Any, at: int, inverse: Any, base: Any, points: Any) -> None:
    """`_points` where ggml's rint is none: of a magnitude from 2**22 on it takes whatever the mantissa's bits say.

    This happens where a flipped value, whose weight is 0, is that much larger than the others.
    """
    for c in range(inverse.shape[0]):
        number, digit = np.int64(0), np.int64(1)
        for i in range(at, at + QUAD):
            level = np.int64(nearest_int(np.float32(0.5) * (inverse[c] * x[i] - np.float32(1))))
            number += digit * min(max(level, np.int64(0)), np.int64(base - 1))
            digit *= np.int64(base)
        points[c] = np.int32(number)


@inlined
def _exactly(
    floats: Any, ids: Any, start: int, count: int, width: int, x: Any, w: Any, at: int, scale: Any, rows: Any,
    begin: int, end: int,
) -> None:  # fmt: skip
    """rows[begin:end] = the nearest of some rows for each scale; overwrites what follows, up to LANES of them."""
    for c in range(begin, end, LANES):
        if width == 8:
            among8(floats, ids, start, count, x, w, at, scale, rows, c, CLEAR)
        else:
            among4(floats, ids, start, count, x, w, at, scale, rows, c, CLEAR)


@inlined
def _run(
    members: Any, codes: Any, floats: Any, of: int, count: int, width: int, squares: Any, rest: Any, x: Any, w: Any,
    twice: Any, at: int, scale: Any, about: Any, about_last: Any, few: Any, rows: Any, begin: int, end: int,
) -> None:  # fmt: skip
    """rows[begin:end] = the nearest of one list for each scale."""
    if count <= SHORT:
        _exactly(floats, members, of, count, width, x, w, at, scale, rows, begin, end)
        return
    first, last = scale[begin], scale[end - 1]
    rest_first, rest_last = rest / first, rest / last
    if width == 8:
        one, near, second, other, near_last, second_last = glance8(
            codes, of, count, w, twice, at, first, last, rest_first, rest_last, about, about_last, first
        )
    else:
        one, near, second, other, near_last, second_last = glance4(
            codes, of, count, w, twice, at, first, last, rest_first, rest_last, about, about_last, first
        )
    within = CLEAR * (first * squares + rest_first) + TINY
    within_last = CLEAR * (last * squares + rest_last) + TINY
    if one == other and second - near > within and second_last - near_last > within_last:
        for c in range(begin, end):
            rows[c] = members[of + one]
        return
    kept, limit, limit_last = 0, near + within, about_last[one] + within_last
    for j in range(count):
        few[kept] = members[of + j]
        kept += 0 if about[j] > limit and about_last[j] > limit_last else 1
    _exactly(floats, few, 0, kept, width, x, w, at, scale, rows, begin, end)


@inlined
def _rows(
    where: Any, start: Any, counts: Any, members: Any, codes: Any, floats: Any, width: int, squares: Any, rest: Any,
    points: Any, tried: int, x: Any, w: Any, twice: Any, at: int, scale: Any, about: Any, about_last: Any, few: Any,
    rows: Any,
) -> None:  # fmt: skip
    """rows[c] = the row of each candidate's point, scale[c] its scale; runs of equal points as the module tells."""
    begin = 0
    while begin < tried:
        end, number = begin + 1, points[begin]
        while end < tried and points[end] == number:
            end += 1
        point = where[number]
        if point >= 0:
            for c in range(begin, end):
                rows[c] = point
        else:
            of, count = np.int64(start[-1 - point]), np.int64(counts[-1 - point])
            _run(
                members, codes, floats, of, count, width, squares, rest, x, w, twice, at, scale, about, about_last, few,
                rows, begin, end,
            )  # fmt: skip
        begin = end


@inner
def _sums(x: Any, w: Any, at: int, count: int, quads: Any, along: Any, square: Any) -> None:
    """sum(w x q) and sum(w q q) of each candidate; quads (count, candidates): four codes in a word."""
    byte = np.uint32(255)
    for c in range(along.shape[0]):
        along[c], square[c] = np.float32(0), np.float32(0)
    for k in range(count):
        j = at + QUAD * k
        w0, w1, w2, w3 = w[j], w[j + 1], w[j + 2], w[j + 3]
        x0, x1, x2, x3 = w0 * x[j], w1 * x[j + 1], w2 * x[j + 2], w3 * x[j + 3]
        for c in range(along.shape[0]):
            word = quads[k, c]
            q0, q1 = np.float32(np.int32(word & byte)), np.float32(np.int32((word >> np.uint32(8)) & byte))
            q2, q3 = np.float32(np.int32((word >> np.uint32(16)) & byte)), np.float32(np.int32(word >> np.uint32(24)))
            along[c] = along[c] + x0 * q0 + x1 * q1 + x2 * q2 + x3 * q3
            square[c] = square[c] + w0 * q0 * q0 + w1 * q1 * q1 + w2 * q2 * q2 + w3 * q3 * q3


@inner
def _winner(along: Any, square: Any, tried: int, scale: Any) -> Any:
    """The best candidate's scale and number; `scale` and -1 where none explains anything."""
    best, winner, nought = np.float32(0), -1, np.float32(0)
    for c in range(tried):
        if square[c] > nought and along[c] * along[c] > best * square[c]:
            scale = along[c] / square[c]
            best, winner = scale * along[c], c
    return scale, winner


@inner
def _encode_super(
    x: Any, w: Any, root: Any, twice: Any, starts: Any, kind: Any, book: Any, floats: Any, words: Any,
    lanes: Any, whole: Any, quads: Any, few: Any, abouts: Any, out: Any, signs: Any, scales: Any,
) -> None:  # fmt: skip
    """Rows `out` and `scales` of a super-block's magnitudes x; scale, rows and signs 0 for a group of zeros."""
    group, width, base, tried = kind.group, kind.width, kind.base, kind.tried
    nought, per_group, per_row, count = np.float32(0), group // width, width // QUAD, kind.steps.shape[0]
    inverse, scale, along, square = lanes[0, :count], lanes[1], lanes[2, :count], lanes[3, :count]
    points, high, rows = whole[0], whole[1], whole[2]
    top = np.float32((2 * base - 1) * (2 * base - 1))
    for g in range(SUPER // group):
        at, peak = g * group, x[g * group]
        for i in range(at, at + group):
            peak = peak if peak > x[i] else x[i]
        best = peak / np.float32(2 * base - 1)
        if kind.start:
            best, peak = starts[g], starts[g] * np.float32(base)
        scales[g] = nought
        if not peak > nought or peak < kind.epsilon:
            signs[at // 8 : (at + group) // 8] = np.uint8(0)
            continue
        for c in range(count):
            inverse[c] = kind.steps[c] / peak
            scale[c] = np.float32(1) / inverse[c]
        for k in range(per_group):
            first = at + width * k
            _points(x, first, inverse, base, points[k])
            if per_row == 2:
                _points(x, first + QUAD, inverse, base, high[k])
                for c in range(count):
                    points[k, c] += np.int32(81) * high[k, c]
            total, rest = _bounds(x, root, first, width)
            _rows(
                book.where, book.start, book.counts, book.members, book.codes, floats, width, top * total, rest,
                points[k], tried, x, root, twice, first, scale, abouts[0], abouts[1], few, rows[k],
            )  # fmt: skip
            for h in range(per_row):
                for c in range(tried):
                    quads[per_row * k + h, c] = words[rows[k, c], h]
        _sums(x, w, at, group // QUAD, quads, along, square)
        best, winner = _winner(along, square, tried, best)
        chosen = out[g * per_group : (g + 1) * per_group]
        scales[g] = _last(
            x, w, root, twice, at, best, winner, kind, book, floats, words, lanes, points, high, rows, quads, few,
            abouts, chosen,
        )  # fmt: skip


@inlined
def _bounds(x: Any, w: Any, at: int, width: int) -> Any:
    """The sums of w and of w x x."""
    total, rest = np.float32(0), np.float32(0)
    for i in range(at, at + width):
        total += w[i]
        rest += w[i] * x[i] * x[i]
    return total, rest


@inner
def _last(
    x: Any, w: Any, root: Any, twice: Any, at: int, scale: Any, winner: int, kind: Any, book: Any, floats: Any,
    words: Any, lanes: Any, points: Any, high: Any, rows: Any, quads: Any, few: Any, abouts: Any, chosen: Any,
) -> Any:  # fmt: skip
    """chosen = the winner's rows (-1: none won), anew for `scale` where the type asks for it; the scale then."""
    width, base, nought = kind.width, kind.base, np.float32(0)
    anew = kind.last == ALWAYS or (winner < 0 and kind.last == ALL_OR_NONE)
    for k in range(chosen.shape[0]):
        chosen[k] = rows[k, winner] if winner >= 0 else 0
        anew = anew or (winner >= 0 and book.where[points[k, winner]] < 0)
    if not (anew and scale > nought):
        return scale
    per_row, one, own = width // QUAD, lanes[0, :1], lanes[1]
    one[0], own[0] = np.float32(1) / scale, scale
    for k in range(chosen.shape[0]):
        if kind.last == OFF_BOOK and book.where[points[k, winner]] >= 0:
            continue
        first = at + width * k
        _points(x, first, one, base, points[k])
        if per_row == 2:
            _points(x, first + QUAD, one, base, high[k])
            points[k, 0] += np.int32(81) * high[k, 0]
        total, rest = _bounds(x, root, first, width)
        top = np.float32((2 * base - 1) * (2 * base - 1))
        _rows(
            book.where, book.start, book.counts, book.members, book.codes, floats, width, top * total, rest,
            points[k], 1, x, root, twice, first, own, abouts[0], abouts[1], few, rows[k],
        )  # fmt: skip
        chosen[k] = rows[k, 0]
    along, square = lanes[2, :1], lanes[3, :1]
    for k in range(chosen.shape[0]):
        for h in range(per_row):
            quads[per_row * k + h, 0] = words[chosen[k], h]
    _sums(x, w, at, kind.group // QUAD, quads, along, square)
    return along[0] / square[0] if square[0] > nought else scale


@kernel
def _search(
    source: Any, dropped: int, importance: Any, kind: Any, book: Any, floats: Any, words: Any, out: Any, signs: Any,
    scales: Any,
) -> None:  # fmt: skip
    room, work, starts = np.empty((5, SUPER), np.float32), np.empty((4, 32, 8), np.float32), np.zeros(8, np.float32)
    x, weight, root, size, twice = room[0], room[1], room[2], room[3], room[4]
    per_unit, padded, longest = 1 if dropped else 2, kind.steps.size + LANES, book.counts.max()
    lanes, whole = np.zeros((4, padded), np.float32), np.zeros((3, 8, padded), np.int32)
    quads, few = np.zeros((8, padded), np.uint32), np.zeros(longest + 1, np.int16)
    abouts = np.zeros((2, longest), np.float32)
    for b in range(out.shape[0]):
        widen(source[b * SUPER * per_unit : (b + 1) * SUPER * per_unit], x, SUPER, dropped)
        of = b % importance.shape[0] if importance.shape[0] else 0
        weigh(x, importance[of : of + 1].reshape(-1), kind.spread, kind.plain, weight)
        magnitudes(x, weight, kind.parity, size, signs[b])
        for i in range(SUPER):
            root[i] = np.sqrt(weight[i])
            twice[i] = np.float32(-2) * root[i] * size[i]
        if kind.start:
            start_scale(size, weight, work, starts)
        _encode_super(
            size, weight, root, twice, starts, kind, book, floats, words, lanes, whole, quads, few, abouts, out[b],
            signs[b], scales[b],
        )  # fmt: skip
        _mend_signs(scales[b], kind.group // 8, signs[b])


@inner
def _mend_signs(scales: Any, bytes_each: int, signs: Any) -> None:
    """A scale below zero turns its group's signs, as in ggml."""
    for g in range(scales.shape[0]):
        if scales[g] < np.float32(0):
            scales[g] = -scales[g]
            for k in range(g * bytes_each, (g + 1) * bytes_each):
                signs[k] = ~signs[k]
