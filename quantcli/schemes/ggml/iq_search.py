"""GGML's searches for its IQ2 and IQ3 types as MLX array operations, with the candidates and float32 sums of
kernels/ggml/codebooks/search.py.

Groups (16 or 32 values) are columns: value i of every group is row i, float32 (values, groups), and sums run over rows
one by one, in ggml's order, so that on MLX's CPU device the bytes are ggml's. Each candidate scale is tried on all
groups at once:

    point    of 8 (IQ3: 4) magnitudes: their levels, read as digits
    row      of the codebook: `nearest_rows` looks each point up in a table; of those that are off the book, it measures
             the distances to all of their neighbours, points with lists of like length together
    scale    that fits the rows, kept where it explains more than the best one before

Where a GPU rounds otherwise, another of two rows, candidates or values to flip may win that are equally good but for
rounding; search.py states how much a block's error may grow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from quantcli.arrays import from_mlx, to_mlx
from quantcli.kernels.ggml.formats import SUPER
from quantcli.schemes.ggml import search as ggml_search

if TYPE_CHECKING:
    import mlx.core as mx

    from quantcli.kernels.ggml.codebooks.neighbours import Neighbours
    from quantcli.kernels.ggml.codebooks.search import Rules

#: Distances that are measured at a time.
AT_ONCE = 1 << 19


class Tables(NamedTuple):
    """A codebook and its neighbours (kernels/ggml/codebooks/neighbours.py) as MLX arrays.

    on_book  bool (points,)            whether the point is a row of the book
    row      int32 (points,)           that row, else 0
    start    int32 (points,)           where the list of the point's neighbours begins in `members`
    counts   int32 (points,)           how many there are; 0 of a point in the book
    members  int32                     row numbers, list after list
    words    int32                     their codes: code i, less `lowest`, in bits 4 i
    codes    float32 (rows, width)     the codes of the rows
    lowest   the lowest code where it is below 0, else 0
    """

    on_book: mx.array
    row: mx.array
    start: mx.array
    counts: mx.array
    members: mx.array
    words: mx.array
    codes: mx.array
    lowest: float


class SignedRows(NamedTuple):
    """Of super-blocks: rows int32 (n, 256 / width), signs uint8 (n, 32), a bit each, scales float32 (n, groups)."""

    rows: mx.array
    signs: mx.array
    scales: mx.array


def tables(book: Neighbours) -> Tables:
    on_book = book.where >= 0
    at = np.where(on_book, 0, -1 - book.where)
    lowest = min(0, int(book.row_codes.min()))
    nibbles = (book.row_codes - lowest).astype(np.uint32) << 4 * np.arange(book.row_codes.shape[1], dtype=np.uint32)
    words = np.bitwise_or.reduce(nibbles, axis=1).view(np.int32)
    return Tables(
        to_mlx(on_book),
        to_mlx(np.where(on_book, book.where, 0).astype(np.int32)),
        to_mlx(book.start[at].astype(np.int32)),
        to_mlx(np.where(on_book, 0, book.counts[at]).astype(np.int32)),
        to_mlx(book.members.astype(np.int32)),
        to_mlx(words[book.members]),
        to_mlx(book.row_codes.astype(np.float32)),
        float(lowest),
    )


def lanes(x: mx.array, group: int) -> mx.array:
    """Return (group, groups): value i of every group in row i."""
    import mlx.core as mx

    return mx.contiguous(x.reshape(-1, group).T)


def weigh(x: mx.array, importance: mx.array | None, spread: float, plain: float) -> mx.array:
    """Return ggml's weights of super-blocks (n, 256); without importance x * x + plain * spread * mean square."""
    sigma2 = ggml_search.total((x * x).T).T * spread / SUPER
    if importance is not None:
        return ggml_search.weigh(x, importance, sigma2)
    return plain * sigma2 + x * x if plain else x * x


def point_numbers(levels: mx.array, width: int, base: int) -> mx.array:
    """Return int32 (rows of a group, groups) of levels int32 (group, groups): each `width` levels read as digits."""
    import mlx.core as mx

    digits = mx.array([base**i for i in range(width)], dtype=mx.int32)
    return mx.sum(levels.reshape(-1, width, levels.shape[1]) * digits[:, None], axis=1)


def by_rows(v: mx.array, width: int) -> mx.array:
    """Return (width, n) of (group, groups): value i of every row of the book, those of the groups' first rows first."""
    return v.reshape(-1, width, v.shape[1]).transpose(1, 0, 2).reshape(width, -1)


def codes_of(rows: mx.array, book: Tables) -> mx.array:
    """Return float32 (group, groups) of rows (rows of a group, groups)."""
    return book.codes[rows].transpose(0, 2, 1).reshape(-1, rows.shape[1])


def nearest_rows(
    points: mx.array, x: mx.array, w: mx.array, scale: mx.array, book: Tables, shift: mx.array | None = None
) -> mx.array:
    """Return the book's row for each point, as `points` int32 (rows of a group, groups): itself, or the nearest of its
    neighbours by sum(w * (scale * (code + shift) - x) ** 2), the first of equals.

    x, w: as `by_rows` gives them; scale float32 (1, groups); shift as points, or None.
    """
    import mlx.core as mx

    shape, flat = points.shape, points.reshape(-1)
    scales, count = mx.broadcast_to(scale, shape).reshape(-1), book.counts[flat]
    shifts = None if shift is None else shift.reshape(-1) + book.lowest
    order = mx.argsort(count)
    longest = from_mlx(count[order])
    found = book.row[flat]
    end, on_book = flat.size, int(np.searchsorted(longest, 1))
    while end > on_book:
        begin = max(on_book, end - max(1, AT_ONCE // int(longest[end - 1])))
        some = order[begin:end]
        start, last = book.start[flat[some]], count[some] - 1
        place = mx.arange(int(longest[end - 1]), dtype=mx.int32)[:, None]
        words = book.words[start + mx.minimum(place, last)]
        far = _distances(words, x[:, some], w[:, some], scales[some], None if shifts is None else shifts[some])
        best = mx.argmin(far, axis=0).astype(mx.int32)
        found[some] = book.members[start + mx.minimum(best, last)]
        mx.eval(found)  # keeps one piece's temporaries alive
        end = begin
    return found.reshape(shape)


def _distances(words: mx.array, x: mx.array, w: mx.array, scale: mx.array, shift: mx.array | None) -> mx.array:
    """float32 (list, n) for words (list, n), x and w (width, n), scale (n,) and what is added to a code (n,)."""
    import mlx.core as mx

    far = mx.zeros(words.shape)
    for i in range(x.shape[0]):
        code = (words >> 4 * i & 15).astype(mx.float32)
        off = scale * (code if shift is None else code + shift) - x[i]
        far = far + w[i] * off * off
    return far


def search(x: mx.array, importance: mx.array | None, kind: Rules, book: Tables) -> SignedRows:
    """Find rows, signs and scales for float32 (n, 256); importance as x or None."""
    import mlx.core as mx

    width, base = kind.width, kind.base
    w = lanes(weigh(x, importance, float(kind.spread), float(kind.plain)), kind.group)
    size, signs = magnitudes(lanes(x, kind.group), w, kind.parity)
    if kind.start:
        scale, _ = ggml_search.settle_scales(size, w, base + 1)
        peak = scale * float(base)
    else:
        peak = mx.max(size, axis=0, keepdims=True)
        scale = peak / float(2 * base - 1)
    empty = ~(peak > 0) | (peak < float(kind.epsilon))
    scale, rows = _fit(size, w, scale, peak, kind, book)
    signs = mx.where(scale < 0, 255 - signs, signs)
    rows, scale = mx.where(empty, 0, rows), mx.where(empty, 0.0, mx.abs(scale))
    signs = mx.where(empty, 0, signs).astype(mx.uint8)
    count = x.shape[0]
    return SignedRows(
        rows.T.reshape(count, SUPER // width), signs.T.reshape(count, SUPER // 8), scale.reshape(count, -1)
    )


def magnitudes(x: mx.array, w: mx.array, parity: bool) -> tuple[mx.array, mx.array]:
    """Return float32 as x, and int32 (group / 8, groups) with the minuses' bits.

    With parity, where the minuses of 8 values are odd, the value that weighs least has the other sign than its own.
    """
    import mlx.core as mx

    eights = x.reshape(-1, 8, x.shape[1])
    place = mx.arange(8, dtype=mx.int32)[:, None]
    minus = ~(eights >= 0)
    size = mx.where(minus, -eights, eights)
    if parity:
        odd = mx.sum(minus.astype(mx.int32), axis=1, keepdims=True) & 1
        least = mx.argmin(w.reshape(eights.shape) * eights * eights, axis=1, keepdims=True)
        flip = (odd == 1) & (place == least.astype(mx.int32))
        size, minus = mx.where(flip, -size, size), minus != flip
    return size.reshape(x.shape), mx.sum(minus.astype(mx.int32) << place, axis=1)


def _fit(
    size: mx.array, w: mx.array, scale: mx.array, peak: mx.array, kind: Rules, book: Tables
) -> tuple[mx.array, mx.array]:
    """Scales (1, groups) and rows int32 (rows of a group, groups) of magnitudes; `scale` holds where none explains
    anything.
    """
    import mlx.core as mx

    from quantcli.kernels.ggml.codebooks.search import ALL_OR_NONE, ALWAYS, OFF_BOOK

    width, weighted = kind.width, w * size
    x, root = by_rows(size, width), by_rows(mx.sqrt(w), width)

    def points_at(inverse: mx.array) -> mx.array:
        levels = mx.clip(ggml_search.nearest((inverse * size - 1.0) * 0.5), 0, kind.base - 1)
        return point_numbers(levels, width, kind.base)

    def sums(rows: mx.array) -> tuple[mx.array, mx.array]:
        q = codes_of(rows, book)
        return ggml_search.total(weighted * q), ggml_search.total(w * q * q)

    best = mx.zeros_like(scale)
    rows = mx.zeros((size.shape[0] // width, size.shape[1]), dtype=mx.int32)
    stay = mx.full(rows.shape, kind.last == OFF_BOOK)  # rows that are not looked up again for the best scale
    for code in kind.codes[: kind.tried].tolist():
        inverse = code / peak
        points = points_at(inverse)
        tried = nearest_rows(points, x, root, 1.0 / inverse, book)
        along, square = sums(tried)
        better, found = (square > 0) & (along * along > best * square), along / square
        scale, best = mx.where(better, found, scale), mx.where(better, found * along, best)
        rows, stay = mx.where(better, tried, rows), mx.where(better, book.on_book[points], stay)
        mx.eval(scale, best, rows, stay)  # keeps one candidate's temporaries alive, not thirty's
    anew = {OFF_BOOK: ~stay, ALL_OR_NONE: ~mx.all(stay, axis=0, keepdims=True), ALWAYS: mx.array(True)}[kind.last]
    anew = mx.broadcast_to(anew & (scale > 0), rows.shape)
    inverse = 1.0 / scale
    rows = mx.where(anew, nearest_rows(points_at(inverse), x, root, scale, book), rows)
    along, square = sums(rows)
    refit = mx.any(anew, axis=0, keepdims=True) & (square > 0)
    return mx.where(refit, along / square, scale), rows
