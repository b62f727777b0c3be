"""From a codebook's rows to values, and the error sums of a slab, on the CPU. schemes/iq*.py draw the layouts."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantcli.arrays import Array
from quantcli.kernels.chunks import CHUNK, LANES, measure, units, widen
from quantcli.kernels.compile import kernel

SUPER = 256
#: Row b: 1 or -1 for bits 0 .. 7 of b.
SIGNS = (1 - 2 * (np.arange(256)[:, None] >> np.arange(8) & 1)).astype(np.float32)


def signed(
    rows: NDArray[np.int32], signs: NDArray[np.uint8], steps: NDArray[np.float32], book: NDArray[np.float32]
) -> NDArray[np.float32]:
    """float32 (n, 256): step * value * sign; rows (n, 256 / width), signs (n, 32), a bit each, steps (n, groups)."""
    out = np.empty((len(rows), SUPER), np.float32)
    (_signed8 if book.shape[1] == 8 else _signed4)(rows, np.ascontiguousarray(signs), steps, book, SIGNS, out)
    return out


def shifted(
    rows: NDArray[np.int32], minus: NDArray[np.uint8], steps: NDArray[np.float32], book: NDArray[np.float32]
) -> NDArray[np.float32]:
    """float32 (n, 256): step * (value + shift). rows, minus (n, 32): the shift is -1/8 where it is 1, else 1/8."""
    out, shift = np.empty((len(rows), SUPER), np.float32), np.float32(0.125)
    _shifted(rows + len(book) * minus.astype(np.int32), steps, np.concatenate([book + shift, book - shift]), out)
    return out


def sums(values: Array, decoded: NDArray[np.float32]) -> NDArray[np.float64]:
    """float64 (4,): squared error of `decoded` against `values`, squared values, largest error, 0."""
    total = np.zeros(4, np.float64)
    source, dropped = units(values)
    _sums(source, dropped, decoded.reshape(-1), total)
    return total


@kernel
def _signed8(rows: Any, signs: Any, steps: Any, book: Any, table: Any, out: Any) -> None:
    each = 32 // steps.shape[1]
    for b in range(rows.shape[0]):
        for k in range(32):
            step, row, sign, value = (
                steps[b, k // each],
                book[rows[b, k]],
                table[signs[b, k]],
                out[b, 8 * k : 8 * k + 8],
            )
            for i in range(8):
                value[i] = step * row[i] * sign[i]


@kernel
def _signed4(rows: Any, signs: Any, steps: Any, book: Any, table: Any, out: Any) -> None:
    each = 32 // steps.shape[1]
    for b in range(rows.shape[0]):
        for k in range(32):
            step, sign = steps[b, k // each], table[signs[b, k]]
            low, high, value = book[rows[b, 2 * k]], book[rows[b, 2 * k + 1]], out[b, 8 * k : 8 * k + 8]
            for i in range(4):
                value[i] = step * low[i] * sign[i]
            for i in range(4):
                value[i + 4] = step * high[i] * sign[i + 4]


@kernel
def _shifted(rows: Any, steps: Any, book: Any, out: Any) -> None:
    each = 32 // steps.shape[1]
    for b in range(rows.shape[0]):
        for k in range(32):
            step, row, value = steps[b, k // each], book[rows[b, k]], out[b, 8 * k : 8 * k + 8]
            for i in range(8):
                value[i] = step * row[i]


@kernel
def _sums(source: Any, dropped: int, decoded: Any, total: Any) -> None:
    per_unit = 1 if dropped else 2
    x, off, partial = np.empty(CHUNK, np.float32), np.empty(CHUNK, np.float32), np.empty((2, LANES), np.float32)
    for start in range(0, decoded.shape[0], CHUNK):
        count = min(CHUNK, decoded.shape[0] - start)
        widen(source[start * per_unit : (start + count) * per_unit], x, count, dropped)
        for i in range(count):
            off[i] = decoded[start + i] - x[i]
        measure(x, off, count, partial, total)
