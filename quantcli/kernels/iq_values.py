"""From a codebook's rows to values, and the error sums of a slab, on the CPU. schemes/iq*.py draw the layouts."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from quantcli.arrays import Array
from quantcli.kernels.chunks import CHUNK, LANES, measure, units, widen
from quantcli.kernels.compile import kernel
from quantcli.kernels.iq_nearest import FLOATS, REAL, REALS, WHOLE, pointer, splat

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


def shifted(blocks: NDArray[np.uint8], d: NDArray[np.float32], book: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32 (n, 256) of blocks of iq1_s or iq1_m, uint8 (n, 50 or 56): d * (2 * scale + 1) * (value + shift).

    d: float32 (n,), of the blocks.
    """
    out, shift = np.empty((len(blocks), SUPER), np.float32), np.float32(0.125)
    table = np.concatenate([book + shift, book - shift]).reshape(-1)
    (_iq1_s if blocks.shape[1] == 50 else _iq1_m)(blocks, d, table, len(book), out.reshape(-1))
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


def _scaled8(_: Any, table: Any, at: Any, step: Any, out: Any, to: Any) -> tuple[Any, Any]:
    """out[to : to + 8] = step * table[at : at + 8], as one vector."""

    def build(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        table, at, step, out, to = given
        kind = FLOATS.as_pointer()
        row = builder.load(builder.bitcast(pointer(context, builder, REALS, table, at), kind), align=4)
        values = builder.fmul(splat(builder, step), row)
        builder.store(values, builder.bitcast(pointer(context, builder, REALS, out, to), kind), align=4)
        return context.get_dummy_value()

    return types.void(REALS, WHOLE, REAL, REALS, WHOLE), build


scaled8: Any = intrinsic(_scaled8)


@kernel
def _iq1_s(blocks: Any, d: Any, table: Any, rows: int, out: Any) -> None:
    for b in range(blocks.shape[0]):
        block = blocks[b]
        for k in range(8):
            high = np.int64(block[34 + 2 * k]) | np.int64(block[35 + 2 * k]) << 8
            step = d[b] * np.float32(2 * (high >> 12 & 7) + 1)
            for i in range(4):
                row = np.int64(block[2 + 4 * k + i]) | (high >> 3 * i & 7) << 8
                scaled8(table, 8 * (row + rows * (high >> 15)), step, out, SUPER * b + 32 * k + 8 * i)


@kernel
def _iq1_m(blocks: Any, d: Any, table: Any, rows: int, out: Any) -> None:
    for b in range(blocks.shape[0]):
        block = blocks[b]
        for k in range(16):
            scales = np.int64(block[48 + k // 4 * 2]) | np.int64(block[49 + k // 4 * 2]) << 8
            step = d[b] * np.float32(2 * (scales >> 3 * (k % 4) & 7) + 1)
            for i in range(2):
                high = np.int64(block[32 + k]) >> 4 * i
                row = np.int64(block[2 * k + i]) | (high & 7) << 8
                scaled8(table, 8 * (row + rows * (high >> 3 & 1)), step, out, SUPER * b + 16 * k + 8 * i)


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
