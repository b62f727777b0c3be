"""GGML's searches for its IQ1 types as MLX array operations, with the splits and float32 sums of
kernels/ggml/codebooks/iq1_search.py.

Groups (32 or 16 values) are columns, as in iq_search.py, and what that file says about bytes and GPUs holds here too.
Each split of a group's values in order of size, with each of its shifts, is tried on all groups at once: 1,122 of
iq1_s, 612 of iq1_m. One that explains more than the best before is kept, and levels follow from the ranks of values:
0 of ranks below i1, 2 of those from i2 on, 1 between.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from quantcli.arrays import to_mlx
from quantcli.kernels.ggml.formats import IQ1_WIDTH, SUPER
from quantcli.schemes.ggml import search as ggml_search
from quantcli.schemes.ggml.iq import sub_scales
from quantcli.schemes.ggml.iq_search import Tables, by_rows, codes_of, lanes, nearest_rows, point_numbers, weigh

if TYPE_CHECKING:
    import mlx.core as mx

SHIFT = 0.125
#: A smaller peak is zero, in groups of so many values.
EPSILON = {32: 1e-12, 16: 1e-7}
#: Any split explains more.
LEAST = -float(np.finfo(np.float32).max)


class ShiftedRows(NamedTuple):
    """Of super-blocks: rows int32 (n, 32); minus uint8 (n, 32): 1 where a row's shift is -1/8; scales (n, groups).

    whole float32 (n, 1): the scale of a super-block that fits all of its rows.
    """

    rows: mx.array
    minus: mx.array
    scales: mx.array
    whole: mx.array


class Best(NamedTuple):
    """The best split so far of each group, (1, groups): what it explains, its scale, its number (-1: none yet)."""

    score: mx.array
    scale: mx.array
    number: mx.array


def search(x: mx.array, importance: mx.array | None, group: int, book: Tables) -> ShiftedRows:
    """Find rows, shifts and scales for float32 (n, 256); importance as x or None; group 32 or 16."""
    import mlx.core as mx

    count, halves = x.shape[0], 32 // group
    w, x = lanes(weigh(x, importance, 2, 0), group), lanes(x, group)
    rank = ranks(x)
    best = _best_split(*_prefixes(x, w, mx.argsort(rank, axis=0), halves))
    first, last, shifts = (to_mlx(part)[mx.maximum(best.number, 0)] for part in _splits(group))
    level = (rank >= first).astype(mx.int32) + (rank >= last).astype(mx.int32)
    minus = mx.repeat(mx.concatenate([shifts >> 1, shifts & 1], axis=0), group // 16, axis=0) == 1
    is_negative = best.scale < 0
    level, minus, scale = mx.where(is_negative, 2 - level, level), minus != is_negative, mx.abs(best.scale)
    shift = mx.where(minus, -SHIFT, SHIFT)
    points = point_numbers(level, IQ1_WIDTH, 3)
    rows = nearest_rows(points, by_rows(x, IQ1_WIDTH), by_rows(w, IQ1_WIDTH), scale, book, shift)
    along, square = (ggml_search.total(part) for part in _terms(rows, shift, 1.0, x, w, book))
    refit = ~mx.all(book.on_book[points], axis=0, keepdims=True) & (along > 0) & (square > 0)
    scale = mx.where(refit, along / square, scale)
    empty = (best.number < 0) | (mx.max(mx.abs(x), axis=0, keepdims=True) < EPSILON[group])
    rows, minus, scale = mx.where(empty, 0, rows), ~empty & minus, mx.where(empty, 0.0, scale)
    scales = scale.reshape(count, -1)
    found = rows.T.reshape(count, -1), minus.T.reshape(count, -1).astype(mx.uint8), scales
    return ShiftedRows(*found, _whole_scale(scales, rows, mx.where(minus, -SHIFT, SHIFT), x, w, book))


def ranks(x: mx.array) -> mx.array:
    """Return int32, as x: how many of a group's values come before it in order of size, equal ones as they stand."""
    import mlx.core as mx

    place = mx.arange(x.shape[0], dtype=mx.int32)[:, None]
    rank = mx.zeros(x.shape, dtype=mx.int32)
    for i in range(x.shape[0]):
        before = (x[i] < x) | ((x[i] == x) & (place > i))
        rank = rank + before.astype(mx.int32)
        mx.eval(rank)
    return rank


def _prefixes(x: mx.array, w: mx.array, order: mx.array, halves: int) -> tuple[list[mx.array], list[mx.array]]:
    """Sums of w x and of w over the first values in order, float32 (group + 1, groups): each half's own values."""
    import mlx.core as mx

    group = x.shape[0]
    ordered_w = mx.take_along_axis(w, order, axis=0)
    ordered_x = ordered_w * mx.take_along_axis(x, order, axis=0)
    sums = []
    for part, half in itertools.product((ordered_x, ordered_w), range(halves)):
        mine = order // (group // halves) == half
        rows = [mx.zeros_like(part[:1])]
        for i in range(group):
            rows.append(mx.where(mine[i : i + 1], rows[-1] + part[i : i + 1], rows[-1]))
        sums.append(mx.concatenate(rows, axis=0))
    mx.eval(*sums)
    return sums[:halves], sums[halves:]


def _splits(group: int) -> tuple[NDArray[np.int32], ...]:
    """i1, i2 and shifts of every split, in the order in which they are tried.

    Shifts: 2 where that of the first half of a group's rows is -1/8, + 1 where the second half's is.
    """
    shifts = (0, 3) if group == 32 else (0, 1, 2, 3)
    pairs = itertools.combinations_with_replacement(range(group + 1), 2)
    each = [(first, last, code) for first, last in pairs for code in shifts]
    return tuple(np.array(part, np.int32) for part in zip(*each, strict=True))


def _best_split(sumx: list[mx.array], sumw: list[mx.array]) -> Best:
    """Of the sums that `_prefixes` gives; the first of equals."""
    import mlx.core as mx

    group, groups = sumx[0].shape[0] - 1, sumx[0].shape[1]
    number = mx.full((1, groups), -1, dtype=mx.int32)
    best, tried = Best(mx.full((1, groups), LEAST), mx.zeros((1, groups)), number), 0
    for first in range(group + 1):
        tries = _tries32(sumx[0], sumw[0], first) if group == 32 else _tries16(sumx, sumw, first)
        along, square = (mx.stack(list(part), axis=1).reshape(-1, groups) for part in zip(*tries, strict=True))
        best = _keep(best, along, square, tried)
        tried += along.shape[0]
        mx.eval(*best)
    return best


def _keep(best: Best, along: mx.array, square: mx.array, number: int) -> Best:
    """The best of `best` and of what the rows of `along` and `square` explain, numbered from `number`."""
    import mlx.core as mx

    scale, squared, sound = along / square, along * along, square > 0
    score = scale * along
    for i in range(along.shape[0]):
        row = slice(i, i + 1)
        better = sound[row] & (squared[row] > best.score * square[row])
        best = Best(
            mx.where(better, score[row], best.score),
            mx.where(better, scale[row], best.scale),
            mx.where(better, number + i, best.number),
        )
    return best


def _tries32(sumx: mx.array, sumw: mx.array, first: int) -> list[tuple[mx.array, mx.array]]:
    """Sums of w x q and w q q for each shift, a row for each i2 from `first` on."""
    x1, x2, x3 = sumx[first : first + 1], sumx[first:], sumx[-1:]
    w1, w2, w3 = sumw[first : first + 1], sumw[first:], sumw[-1:]
    tries = []
    for shift in (SHIFT, -SHIFT):
        low, high = shift - 1, shift + 1
        along = x1 * low + (x2 - x1) * shift + (x3 - x2) * high
        tries.append((along, w1 * low * low + (w2 - w1) * shift * shift + (w3 - w2) * high * high))
    return tries


def _tries16(sumx: list[mx.array], sumw: list[mx.array], first: int) -> list[tuple[mx.array, mx.array]]:
    """As `_tries32`, for each shift of the first half with each of the second."""
    halves = []
    for x, w in zip(sumx, sumw, strict=True):
        both, shifted = x[first : first + 1] + x[first:], []
        for shift in (SHIFT, -SHIFT):
            low, high = shift - 1, shift + 1
            square = w[-1:] * high * high + w[first : first + 1] * (low * low - shift * shift)
            shifted.append((x[-1:] * high - both, square + w[first:] * (shift * shift - high * high)))
        halves.append(shifted)
    return [(a + b, c + d) for (a, c), (b, d) in itertools.product(*halves)]


def _terms(rows: mx.array, shift: mx.array, factor: Any, x: mx.array, w: mx.array, book: Tables) -> list[mx.array]:
    """w q x and w q q, as x; q = factor * (code + shift), rows and shift (rows of a group, groups)."""
    import mlx.core as mx

    q = (codes_of(rows, book) + mx.repeat(shift, IQ1_WIDTH, axis=0)) * factor
    weighted = w * q
    return [weighted * x, weighted * q]


def _whole_scale(scales: mx.array, rows: mx.array, shift: mx.array, x: mx.array, w: mx.array, book: Tables) -> mx.array:
    """float32 (n, 1): the scale of a super-block that fits all of its rows, with 3-bit scales of its groups."""
    import mlx.core as mx

    codes, d = sub_scales(scales, 15, 7, mx)
    factor = (2 * codes + 1).astype(mx.float32).reshape(1, -1)
    terms = (part.reshape(len(x), *scales.shape) for part in _terms(rows, shift, factor, x, w, book))
    along, square = (ggml_search.total(part.transpose(2, 0, 1).reshape(SUPER, -1)).T for part in terms)
    return mx.where(d > 0, mx.where(square > 0, along / square, d), 0.0)
