"""What a point of levels that is not in a codebook may become: ggml's lists of neighbours, laid out for vectors.

Source: `iq2xs_init_impl` and `iq3xs_init_impl` in ggml-quants.c (llama.cpp). The neighbours of a point are the rows of
the book in its nearest `shells` distances (squared, between levels), nearer ones first, then in the order of the book.

A point is numbered as its levels read as digits, the first one lowest: 3 ^ 8 points of IQ1 and IQ2, 8 ^ 4 of IQ3.

    where[point]     the row that is this point, or -1 - list
    start[list]      where its list begins in `members`; counts[list] neighbours, padded to a multiple of WIDE
    members          row numbers; the last one again in what is added to reach the multiple
    codes            of list l, digit i, neighbour j: at width * start[l] + i * padded count + j
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from quantcli.kernels.lanes import WIDE

#: Points whose distances to all rows are held at a time.
AT_ONCE = 512


class Neighbours(NamedTuple):
    """The tables of a book; `row_codes`: int8 (rows, width), the codes of its rows."""

    where: NDArray[np.int32]
    start: NDArray[np.int32]
    counts: NDArray[np.int32]
    members: NDArray[np.int16]
    codes: NDArray[np.int8]
    row_codes: NDArray[np.int8]


def neighbours(levels: NDArray[np.uint8], base: int, shells: int, codes: NDArray[np.int8]) -> Neighbours:
    """The tables of a book of `levels` (rows, width), each below `base`; `codes[level]` stands for it in the tables."""
    rows, width = levels.shape
    digits = base ** np.arange(width)
    points = (np.arange(base**width)[:, None] // digits % base).astype(np.uint8)
    where = np.full(len(points), -1, np.int32)
    where[levels.astype(np.int64) @ digits] = np.arange(rows)
    off = np.flatnonzero(where < 0)
    where[off] = -1 - np.arange(off.size)
    lists, rows_of = _nearest(points[off], levels, shells)
    found = np.bincount(lists, minlength=off.size)
    counts = (found + WIDE - 1) // WIDE * WIDE
    start = np.cumsum(counts) - counts
    place = np.arange(lists.size) - np.repeat(np.cumsum(found) - found, found)
    members = np.repeat(rows_of[np.cumsum(found) - 1], counts)
    members[start[lists] + place] = rows_of
    laid, own = np.empty(members.size * width, np.int8), np.repeat(np.arange(off.size), counts)
    place = np.arange(members.size) - start[own]
    for i in range(width):
        laid[width * start[own] + i * counts[own] + place] = codes[levels[members, i]]
    return Neighbours(
        where, start.astype(np.int32), found.astype(np.int32), members.astype(np.int16), laid, codes[levels]
    )


def _nearest(points: NDArray[np.uint8], levels: NDArray[np.uint8], shells: int) -> tuple[Any, Any]:
    """Numbers of points and of rows in their shells: by point, then by distance, then by row."""
    book = levels.astype(np.float32)
    parts = []
    for begin in range(0, len(points), AT_ONCE):
        some = points[begin : begin + AT_ONCE].astype(np.float32)
        squares = np.square(some).sum(1)[:, None] + np.square(book).sum(1)[None]
        distances = (squares - 2 * (some @ book.T)).astype(np.int16)  # whole numbers below 256: exact
        reach = distances.min(axis=1, keepdims=True)
        for _ in range(shells - 1):
            reach = np.where(distances > reach, distances, 1 << 14).min(axis=1, keepdims=True)
        at, row = np.nonzero(distances <= reach)
        order = np.lexsort((row, distances[at, row], at))
        parts.append((at[order] + begin, row[order]))
    return tuple(np.concatenate(part) for part in zip(*parts, strict=True))  # type: ignore[return-value]
