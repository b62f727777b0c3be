"""The rows of a list of neighbours that are nearest for the scales of some candidates: a part of search.py's kernel.

A list that one vector holds is compared as it is; of a longer one, rows that are clearly farther than some other for
all of the scales are left out first. What is not clear is looked at exactly, as llvm/nearest.py describes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from quantcli.kernels.compile import inlined
from quantcli.kernels.float32 import INFINITE
from quantcli.kernels.lanes import NARROW, WIDE
from quantcli.kernels.llvm.nearest import among4, among8, beyond, direct8, direct16, lines4, lines8, nearest4, nearest8


@inlined
def _long(
    book: Any, width: int, t: Any, row: Any, at: int, of: int, count: int, total: Any, rest: Any, c: int, end: int
) -> Any:
    """`nearest` of a list of more than WIDE rows, for the scales from c to `end`."""
    first, last, padded, zero = t.scale[c], t.scale[end], (count + WIDE - 1) // WIDE * WIDE, np.float32(0)
    rest_first, rest_last = rest * t.inverse[c], rest * t.inverse[end]
    if width == 8:
        place = lines8(book.codes, of, padded, t.root, t.twice, at, first, rest_first, t.squares, t.alongs, zero)
    else:
        place = lines4(book.codes, of, padded, t.root, t.twice, at, first, rest_first, t.squares, t.alongs, zero)
    square, along = t.squares[place], t.alongs[place]
    limit = beyond(first, first * total + rest_first, square, along)
    limit_last = beyond(last, last * total + rest_last, square, along)
    if not (limit < INFINITE and limit_last < INFINITE):
        limit = INFINITE
    if width == 8:
        return nearest8(
            t.squares, t.alongs, book.members, of, count, t.scale, first, limit, last, limit_last, total, rest, t.few,
            row, c,
        )  # fmt: skip
    return nearest4(
        t.squares, t.alongs, book.members, of, count, t.scale, first, limit, last, limit_last, total, rest, t.few, row,
        c,
    )  # fmt: skip


@inlined
def lookup(
    book: Any, floats: Any, which: Any, width: int, t: Any, row: Any, at: int, point: int, begin: int, end: int
) -> Any:
    """row[begin:end] = the nearest of a list for each scale; a bit of each candidate where it may change.

    Overwrites what follows, up to WIDE of them.
    """
    of, count, zero = np.int64(book.start[which]), np.int64(book.counts[which]), np.float32(0)
    total, rest, changes = t.total[point], t.rest[point], np.int64(0)
    for c in range(begin, end, WIDE):
        lanes, kept = min(end - c, WIDE), count
        if count <= WIDE:
            if width == 8:
                lines8(book.codes, of, WIDE, t.root, t.twice, at, zero, zero, t.squares, t.alongs, zero)
            else:
                lines4(book.codes, of, WIDE, t.root, t.twice, at, zero, zero, t.squares, t.alongs, zero)
            if count <= 8:
                unclear, moved = direct8(t.squares, t.alongs, book.members, of, count, t.scale, total, rest, row, c)
            else:
                unclear, moved = direct16(t.squares, t.alongs, book.members, of, count, t.scale, total, rest, row, c)
        else:
            kept, unclear, moved = _long(book, width, t, row, at, of, count, total, rest, c, c + lanes - 1)
        mine = (np.int64(1) << lanes) - 1
        if unclear & mine:
            moved = mine
            if count <= WIDE:
                for j in range(count):
                    t.few[j] = book.members[of + j]
            for i in range(c, c + lanes, NARROW):
                if width == 8:
                    among8(floats, t.few, kept, t.size, t.root, at, t.scale, row, i, zero)
                else:
                    among4(floats, t.few, kept, t.size, t.root, at, t.scale, row, i, zero)
        changes |= (moved & mine | 1) << c
    return changes
