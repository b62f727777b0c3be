"""GGML's IQ2 and IQ3 types on the CPU: the search for scales, signs and codebook rows, with ggml's results.

Source: `quantize_row_iq2_xxs_impl`, `_iq2_xs_`, `_iq2_s_`, `_iq3_xxs_`, `_iq3_s_impl`, `make_qp_quants` and
`iq2_find_best_neighbour` in ggml-quants.c (llama.cpp), restated. All arithmetic is float32, each operation rounded
once, sums in index order. Codes are 2 * level + 1. For each group (16 or 32 values), with its weights w:

    signs      a value's own; where only 7 of 8 are stored, an odd number of minuses flips the value that weighs least
    point      of 8 (IQ3: 4) magnitudes for a scale s: level = clip(rint((x / s - 1) / 2))
    row        the point if it is in the book, else the one among its neighbours (neighbours.py) that is nearest to x
               when distances are weighted with sqrt(w); the first of equals
    candidates some twenty scales around the peak's (iq2_xxs: `start_scale`'s); kept is the one whose rows explain most
    last       rows anew for the best scale, where the type does so, and the scale that fits them

What is done otherwise, with the same results. From one candidate to the next few levels change, levels.py
finds where; a run of candidates with the same point looks its list up at once, and rows that are clearly farther than
some other for all of the run's scales are left out (nearest.py defines what is clear); what is left is compared about,
and exactly where that is not clear. Candidates with the same rows as the one before are left out: they explain no more.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from quantcli.arrays import Array
from quantcli.kernels.chunks import units, weights_of, widen
from quantcli.kernels.compile import bits_of, float_of, inlined, inner
from quantcli.kernels.float32 import INFINITE
from quantcli.kernels.ggml.codebooks.levels import crossings, far_points, levels_at
from quantcli.kernels.ggml.codebooks.lookup import lookup
from quantcli.kernels.ggml.codebooks.neighbours import Neighbours
from quantcli.kernels.ggml.codebooks.start import magnitudes, start_scale, weigh
from quantcli.kernels.ggml.formats import SUPER
from quantcli.kernels.lanes import NARROW, WIDE
from quantcli.kernels.llvm.nearest import SMALL, lowest
from quantcli.kernels.llvm.sums import explained4, explained8

#: Values whose levels make a word: half a row of IQ2, a row of IQ3.
QUAD = 4
#: Points of a group, at most.
POINTS = 8
#: Scores that differ by at most this many steps of float32 are not clearly ordered.
CLOSE = np.int32(64)
#: Rows that a vector may reach beyond a list.
AHEAD = 64

#: Which of a group's points get new rows for the best scale: those off the book, all where one is, always all.
OFF_BOOK, ALL_OR_NONE, ALWAYS = 0, 1, 2
LAST = {"off-book": OFF_BOOK, "all-or-none": ALL_OR_NONE, "always": ALWAYS}


class Rules(NamedTuple):
    """What distinguishes a type.

    group: values that share a scale; width: of the book's rows; base: levels a digit has; parity: 7 signs of 8 are
    stored; tried: candidates, whose code for the peak is the highest one plus `step` for each from the middle one;
    codes: these, padded; start: candidates go around `start_scale`'s scale; last: one of OFF_BOOK ...; epsilon: a
    smaller peak is zero; spread: times the mean square is ggml's sigma2; plain: times sigma2 is added to x * x for a
    weight where there is no importance.
    """

    group: int
    width: int
    base: int
    parity: bool
    start: bool
    last: int
    tried: int
    step: np.float32
    codes: NDArray[np.float32]
    epsilon: np.float32
    spread: np.float32
    plain: np.float32


@cache
def rules(
    group: int, width: int, base: int, tried: int, step: float, *, epsilon: float, parity: bool = False,
    start: bool = False, last: str = "off-book", spread: float = 2, plain: float = 0,
) -> Rules:  # fmt: skip
    """`Rules` of a type."""
    highest, half, each = np.float32(2 * base - 1), tried // 2, np.float32(step)
    codes = np.array([highest + np.float32(i) * each for i in range(-half, half + 1)], np.float32)
    codes = np.concatenate([codes, np.repeat(codes[-1:], -tried % NARROW + WIDE)])
    small = (np.float32(number) for number in (epsilon, spread, plain))
    return Rules(group, width, base, parity, start, LAST[last], tried, each, codes, *small)


class Work(NamedTuple):
    """What a search writes to and reads again.

    Of a super-block, float32 (256,): x its values; weight; size magnitudes, some of them flipped; root sqrt(weight);
    twice -2 * root * size; heavy weight * size. total, rest (64,): bounds of its points' lines (nearest.py); starts,
    start: `start_scale`'s. Of a group: low, high levels for its first and last scale; cross candidates where a level
    changes; inverse, scale of each candidate. Of its points: number of the first; turns candidates from which it
    changes, a bit each; jump by how much; on candidates for which it is in the book; stays: its row is no more looked
    up; rows (8, candidates), flat the same. Of candidates that are new: new, which; along, square sums; score. Of a
    list: few rows still in question, squares and alongs its lines.
    """

    x: NDArray[np.float32]
    weight: NDArray[np.float32]
    size: NDArray[np.float32]
    root: NDArray[np.float32]
    twice: NDArray[np.float32]
    heavy: NDArray[np.float32]
    total: NDArray[np.float32]
    rest: NDArray[np.float32]
    starts: NDArray[np.float32]
    start: NDArray[np.float32]
    low: NDArray[np.int32]
    high: NDArray[np.int32]
    cross: NDArray[np.int32]
    inverse: NDArray[np.float32]
    scale: NDArray[np.float32]
    number: NDArray[np.int64]
    turns: NDArray[np.int64]
    jump: NDArray[np.int32]
    on: NDArray[np.int64]
    stays: NDArray[np.bool_]
    rows: NDArray[np.int32]
    flat: NDArray[np.int32]
    along: NDArray[np.float32]
    square: NDArray[np.float32]
    score: NDArray[np.int32]
    new: NDArray[np.int32]
    few: NDArray[np.int16]
    squares: NDArray[np.float32]
    alongs: NDArray[np.float32]


def work(padded: int, longest: int) -> Work:
    """For so many candidates and so long lists."""

    def floats(count: int) -> NDArray[np.float32]:
        return np.zeros(count, np.float32)

    def points() -> NDArray[np.int64]:
        return np.zeros(POINTS, np.int64)

    every, quads, lines, rows = SUPER, SUPER // QUAD, longest + AHEAD, np.zeros((POINTS, padded), np.int32)
    return Work(
        x=floats(every), weight=floats(every), size=floats(every), root=floats(every), twice=floats(every),
        heavy=floats(every), total=floats(quads), rest=floats(quads), starts=floats(8),
        start=np.zeros((4, 32, 8), np.float32), low=np.zeros(32, np.int32), high=np.zeros(32, np.int32),
        cross=np.zeros(32, np.int32), inverse=floats(padded), scale=floats(padded), number=points(), turns=points(),
        jump=np.zeros((POINTS, padded), np.int32), on=points(), stays=np.zeros(POINTS, np.bool_), rows=rows,
        flat=rows.reshape(-1), along=floats(padded), square=floats(padded), score=np.zeros(padded, np.int32),
        new=np.zeros(padded, np.int32), few=np.zeros(lines, np.int16), squares=floats(lines), alongs=floats(lines),
    )  # fmt: skip


class SignedRows(NamedTuple):
    """Of super-blocks: rows int16 (n, 256 / width), signs uint8 (n, 32), a bit each, scales float32 (n, groups)."""

    rows: NDArray[np.int16]
    signs: NDArray[np.uint8]
    scales: NDArray[np.float32]


def search(values: Array, importance: NDArray[np.float32] | None, kind: Rules, book: Neighbours) -> SignedRows:
    """Of `values` (rows, columns), any dtype of FLOATS; importance float32 (1 or rows, columns)."""
    count = values.size // SUPER
    source, dropped = units(values)
    weights = weights_of(importance, SUPER)
    found = SignedRows(
        np.zeros((count, SUPER // kind.width), np.int16),
        np.zeros((count, SUPER // 8), np.uint8),
        np.zeros((count, SUPER // kind.group), np.float32),
    )
    words, floats = book.row_codes.view(np.uint32).reshape(-1), book.row_codes.astype(np.float32).reshape(-1)
    room = work(kind.codes.size, int(book.counts.max(initial=0)))
    _search(source, dropped, weights, kind, book, floats, words, room, found.rows, found.signs, found.scales)
    return found


@inlined
def _number(kind: Any, t: Any) -> None:
    """Each point's number for the levels t.low; it does not change."""
    width = kind.width
    for k in range(kind.group // width):
        number = np.int64(0)
        for i in range(width):
            number = kind.base * number + np.int64(t.low[k * width + width - 1 - i])
        t.number[k], t.turns[k] = number, 1


@inlined
def _points(kind: Any, t: Any, at: int, peak: Any, largest: Any) -> None:
    """Each point's number for the first candidate, and where it changes by how much from one to the next."""
    group, width, tried = kind.group, kind.width, kind.tried
    if not np.float32(0.5) * (t.inverse[tried - 1] * largest + np.float32(1)) < np.float32(1 << 22):
        far_points(t.size, at, kind, t.inverse, t.number, t.turns, t.jump)
        return
    levels_at(t.size, at, group, t.inverse[tried - 1], kind.base, t.high)
    levels_at(t.size, at, group, t.inverse[0], kind.base, t.low)
    _number(kind, t)
    most = np.int32(0)
    for i in range(group):
        most = max(most, t.high[i] - t.low[i])
    for event in range(1, most + 1):
        crossings(t.size, at, kind, peak, t.low, t.high, np.int32(event), t.cross)
        for k in range(group // width):
            turns, digit, jump = np.int64(0), np.int32(1), t.jump[k]
            for i in range(k * width, (k + 1) * width):
                turns |= 1 << np.int64(t.cross[i])
                jump[t.cross[i]] += digit
                digit *= np.int32(kind.base)
            t.turns[k] |= turns


@inlined
def _rows(kind: Any, book: Any, floats: Any, t: Any, at: int, tried: int) -> Any:
    """t.rows = the rows of a group's points for so many candidates; a bit of each where one may change."""
    changes, width = np.int64(1), kind.width
    for k in range(kind.group // width):
        number, begin, on, jump, row = t.number[k], np.int64(0), np.int64(0), t.jump[k], t.rows[k]
        left, point, first = t.turns[k] & ((1 << tried) - 1) | 1 << tried, at // width + k, at + width * k
        while begin < tried:
            left &= left - 1
            end = lowest(left)
            number += np.int64(jump[begin])
            jump[begin] = np.int32(0)
            found = book.where[number]
            if found >= 0:
                for c in range(begin, end):
                    row[c] = found
                changes |= 1 << begin
                on |= (1 << end) - (1 << begin)
            else:
                changes |= lookup(book, floats, -1 - found, width, t, row, first, point, begin, end)
            begin = end
        t.on[k] = on
    return changes


@inlined
def _explain(kind: Any, words: Any, t: Any, at: int, changes: Any) -> int:
    """t.along = sum(w x q), t.square = sum(w q q) for the candidates t.new, those of `changes`; their number.

    The last one again in what fills a vector.
    """
    count, padded = 0, t.rows.shape[1]
    while changes:
        t.new[count] = np.int32(lowest(changes))
        changes &= changes - 1
        count += 1
    for c in range(count, count + NARROW):
        t.new[c] = t.new[count - 1]
    for c in range(0, count, NARROW):
        if kind.width == 8:
            explained8(t.flat, padded, t.new, words, kind.group // 8, t.heavy, t.weight, at, t.along, t.square, c)
        else:
            explained4(t.flat, padded, t.new, words, kind.group // 4, t.heavy, t.weight, at, t.along, t.square, c)
    return count


@inlined
def _winner(t: Any, count: int, scale: Any) -> Any:
    """The best candidate's scale and place; `scale` and -1 where none explains anything.

    ggml goes through them and keeps one whose along ** 2 is above the kept score times its square. Where all other
    scores are clearly below the largest, that is the largest, whatever the rounding, unless an along ** 2 overflows.
    Positive floats are ordered as their bits.
    """
    best, winner, zero, top, close = np.float32(0), -1, np.float32(0), np.int32(0), np.int32(0)
    most = zero
    for c in range(count):
        score = t.along[c] / t.square[c] * t.along[c]
        t.score[c] = bits_of(score if t.square[c] > zero else zero)
        most = max(most, abs(t.along[c]))
    for c in range(count):
        top = max(top, t.score[c])
    for c in range(count):
        near = t.score[c] > top - CLOSE
        close += np.int32(near)
        winner = c if near else winner
    finite = most * most < INFINITE and top < bits_of(INFINITE)
    if close == 1 and finite and t.along[winner] * t.along[winner] > SMALL:
        return t.along[winner] / t.square[winner], winner
    winner = -1
    for c in range(count):
        if t.square[c] > zero and t.along[c] * t.along[c] > best * t.square[c]:
            scale = t.along[c] / t.square[c]
            best, winner = scale * t.along[c], c
    return scale, winner


@inlined
def _peaks(x: Any, at: int, group: int) -> Any:
    """The largest value of a group, not above 0 where none is; the largest magnitude. Both are found as bits."""
    most, largest = np.int32(-(2**31)), np.int32(0)
    for i in range(at, at + group):
        bits = bits_of(x[i])
        most, largest = max(most, bits), max(largest, bits & np.int32(0x7FFFFFFF))
    return float_of(most), float_of(largest)


@inlined
def _choose(kind: Any, t: Any, winner: int, chosen: Any) -> bool:
    """chosen = the winner's rows (-1: none won); whether the type asks for new ones; t.stays: which are to stay."""
    anew = kind.last == ALWAYS or (winner < 0 and kind.last == ALL_OR_NONE)
    for k in range(chosen.shape[0]):
        on = winner >= 0 and (t.on[k] >> np.int64(t.new[winner])) & 1 == 1
        chosen[k] = t.rows[k, t.new[winner]] if winner >= 0 else 0
        t.stays[k] = on and kind.last == OFF_BOOK
        anew = anew or (winner >= 0 and not on)
    return anew


@inlined
def _encode_super(kind: Any, book: Any, floats: Any, words: Any, t: Any, out: Any, signs: Any, scales: Any) -> None:
    """Rows `out` and `scales` of a super-block's magnitudes; scale, rows and signs 0 for a group of zeros."""
    group, one, zero = kind.group, np.float32(1), np.float32(0)
    highest, per_group = np.float32(2 * kind.base - 1), group // kind.width
    for g in range(SUPER // group):
        at, chosen = g * group, out[g * per_group : (g + 1) * per_group]
        peak, largest = _peaks(t.size, at, group)
        scale = peak / highest
        if kind.start:
            scale, peak = t.starts[g], t.starts[g] * np.float32(kind.base)
        scales[g] = zero
        if not peak > zero or peak < kind.epsilon:
            signs[at // 8 : (at + group) // 8] = np.uint8(0)
            continue
        for c in range(kind.codes.shape[0]):
            t.inverse[c] = kind.codes[c] / peak
            t.scale[c] = one / t.inverse[c]
        _points(kind, t, at, peak, largest)
        for last in range(2):
            changes = _rows(kind, book, floats, t, at, 1 if last else kind.tried)
            for k in range(per_group):
                if last and t.stays[k]:
                    t.rows[k, 0] = chosen[k]
            count = _explain(kind, words, t, at, changes)
            if last:
                scale = t.along[0] / t.square[0] if t.square[0] > zero else scale
                for k in range(per_group):
                    chosen[k] = t.rows[k, 0]
                break
            scale, winner = _winner(t, count, scale)
            if not (_choose(kind, t, winner, chosen) and scale > zero):
                break
            t.inverse[0], t.scale[0] = one / scale, scale
            levels_at(t.size, at, group, t.inverse[0], kind.base, t.low)
            _number(kind, t)
        scales[g] = scale


@inlined
def _bounds(kind: Any, t: Any) -> None:
    """t.total, t.rest of each point: bounds, so the order of sums does not matter."""
    top, each = np.float32((2 * kind.base - 1) * (2 * kind.base - 1)), kind.width // QUAD
    for k in range(SUPER // QUAD):
        i = QUAD * k
        a, b, c, d = t.root[i], t.root[i + 1], t.root[i + 2], t.root[i + 3]
        e, f, g, h = t.size[i], t.size[i + 1], t.size[i + 2], t.size[i + 3]
        t.total[k], t.rest[k] = top * ((a + b) + (c + d)), (a * e * e + b * f * f) + (c * g * g + d * h * h)
    if each == 2:
        for k in range(SUPER // kind.width):
            t.total[k], t.rest[k] = t.total[2 * k] + t.total[2 * k + 1], t.rest[2 * k] + t.rest[2 * k + 1]


@inner
def _search(
    source: Any, dropped: int, importance: Any, kind: Any, book: Any, floats: Any, words: Any, t: Any, out: Any,
    signs: Any, scales: Any,
) -> None:  # fmt: skip
    per_unit = 1 if dropped else 2
    for b in range(out.shape[0]):
        widen(source[b * SUPER * per_unit : (b + 1) * SUPER * per_unit], t.x, SUPER, dropped)
        of = b % importance.shape[0] if importance.shape[0] else 0
        weigh(t.x, importance[of : of + 1].reshape(-1), kind.spread, kind.plain, t.weight)
        magnitudes(t.x, t.weight, kind.parity, t.size, signs[b])
        for i in range(SUPER):
            t.root[i] = np.sqrt(t.weight[i])
            t.twice[i] = np.float32(-2) * t.root[i] * t.size[i]
            t.heavy[i] = t.weight[i] * t.size[i]
        _bounds(kind, t)
        if kind.start:
            start_scale(t.size, t.weight, t.start, t.starts)
        _encode_super(kind, book, floats, words, t, out[b], signs[b], scales[b])
        _mend_signs(scales[b], kind.group // 8, signs[b])


@inner
def _mend_signs(scales: Any, bytes_each: int, signs: Any) -> None:
    """A scale below zero flips its group's signs, as in ggml."""
    for g in range(scales.shape[0]):
        if scales[g] < np.float32(0):
            scales[g] = -scales[g]
            for k in range(g * bytes_each, (g + 1) * bytes_each):
                signs[k] = ~signs[k]
