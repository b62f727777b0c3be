"""From a codebook's rows to values, and the error sums of a slab, on the CPU. schemes/iq*.py draw the layouts."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from quantcli.arrays import Array
from quantcli.kernels.chunks import CHUNK, units, widen
from quantcli.kernels.compile import inner, kernel
from quantcli.kernels.ggml.formats import SUPER
from quantcli.kernels.llvm.emit import NARROW_FLOATS, REAL, REALS, WHOLE, pointer, splat
from quantcli.kernels.llvm.measure import measure
from quantcli.kernels.llvm.vectors import half, minus8, word

#: Byte b with the eighth sign that its lower seven ask for: the number of minuses is even.
EVEN = np.array([b & 127 | (b & 127).bit_count() % 2 << 7 for b in range(256)], np.uint8)


def signed(name: str, blocks: NDArray[np.uint8], book: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32 (n, 256) of blocks of an IQ2 or IQ3 type, uint8 (n, block bytes)."""
    out = np.empty((len(blocks), SUPER), np.float32)
    data, codes = np.ascontiguousarray(blocks).reshape(-1), book.astype(np.uint8).reshape(-1)
    _SIGNED[name](data, codes, EVEN, out.reshape(-1))
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


@inner
def _eight(book: Any, row: Any, signs: Any, step: Any, out: Any, to: Any) -> None:
    """Row `row` of a book of eights."""
    minus8(book, 8 * row, 8 * row + 4, signs, step, out, to)


@inner
def _iq2_xxs(data: Any, book: Any, even: Any, out: Any) -> None:
    for b in range(out.shape[0] // SUPER):
        at, to = 66 * b, SUPER * b
        d = half(data, at)
        for k in range(8):
            high = word(data, at + 6 + 8 * k)
            step = d * (np.float32(0.5) + np.float32(high >> 28)) * np.float32(0.25)
            for i in range(4):
                row = np.int64(data[at + 2 + 8 * k + i])
                _eight(book, row, np.int64(even[high >> 7 * i & 127]), step, out, to + 32 * k + 8 * i)


@inner
def _iq2_xs(data: Any, book: Any, even: Any, out: Any) -> None:
    for b in range(out.shape[0] // SUPER):
        at, to = 74 * b, SUPER * b
        d = half(data, at)
        for k in range(16):
            scale = np.int32(data[at + 66 + k // 2]) >> np.int32(4 * (k % 2)) & np.int32(15)
            step = d * (np.float32(0.5) + np.float32(scale)) * np.float32(0.25)
            for i in range(2):
                first = at + 2 + 4 * k + 2 * i
                each = np.int64(data[first]) | np.int64(data[first + 1]) << 8
                _eight(book, each & 511, np.int64(even[each >> 9]), step, out, to + 16 * k + 8 * i)


@inner
def _iq2_s(data: Any, book: Any, even: Any, out: Any) -> None:
    for b in range(out.shape[0] // SUPER):
        at, to = 82 * b, SUPER * b
        d = half(data, at)
        for k in range(16):
            scale = np.int32(data[at + 74 + k // 2]) >> np.int32(4 * (k % 2)) & np.int32(15)
            step = d * (np.float32(0.5) + np.float32(scale)) * np.float32(0.25)
            for i in range(2):
                j = 2 * k + i
                row = np.int64(data[at + 2 + j]) | (np.int64(data[at + 66 + j // 4]) >> 2 * (j % 4) & 3) << 8
                _eight(book, row, np.int64(data[at + 34 + j]), step, out, to + 8 * j)


@inner
def _iq3_xxs(data: Any, book: Any, even: Any, out: Any) -> None:
    for b in range(out.shape[0] // SUPER):
        at, to = 98 * b, SUPER * b
        d = half(data, at)
        for k in range(8):
            high = word(data, at + 66 + 4 * k)
            step = d * (np.float32(0.5) + np.float32(high >> 28)) * np.float32(0.5)
            for i in range(4):
                rows = at + 2 + 8 * k + 2 * i
                low, up = 4 * np.int64(data[rows]), 4 * np.int64(data[rows + 1])
                minus8(book, low, up, np.int64(even[high >> 7 * i & 127]), step, out, to + 32 * k + 8 * i)


@inner
def _iq3_s(data: Any, book: Any, even: Any, out: Any) -> None:
    for b in range(out.shape[0] // SUPER):
        at, to = 110 * b, SUPER * b
        d = half(data, at)
        for k in range(8):
            scale = np.int32(data[at + 106 + k // 2]) >> np.int32(4 * (k % 2)) & np.int32(15)
            step, high = d * np.float32(np.int32(1) + np.int32(2) * scale), np.int64(data[at + 66 + k])
            for i in range(4):
                rows = at + 2 + 8 * k + 2 * i
                low = 4 * (np.int64(data[rows]) | (high >> 2 * i & 1) << 8)
                up = 4 * (np.int64(data[rows + 1]) | (high >> 2 * i + 1 & 1) << 8)
                minus8(book, low, up, np.int64(data[at + 74 + 4 * k + i]), step, out, to + 32 * k + 8 * i)


_SIGNED: dict[str, Any] = {
    "iq2_xxs": _iq2_xxs,
    "iq2_xs": _iq2_xs,
    "iq2_s": _iq2_s,
    "iq3_xxs": _iq3_xxs,
    "iq3_s": _iq3_s,
}


def _scaled8(_: Any, table: Any, at: Any, step: Any, out: Any, to: Any) -> tuple[Any, Any]:
    """out[to : to + 8] = step * table[at : at + 8], as one vector."""

    def build(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        table, at, step, out, to = given
        kind = NARROW_FLOATS.as_pointer()
        row = builder.load(builder.bitcast(pointer(context, builder, REALS, table, at), kind), align=4)
        values = builder.fmul(splat(builder, step), row)
        builder.store(values, builder.bitcast(pointer(context, builder, REALS, out, to), kind), align=4)
        return context.get_dummy_value()

    return types.void(REALS, WHOLE, REAL, REALS, WHOLE), build


scaled8: Any = intrinsic(_scaled8)


@inner
def _iq1_s(blocks: Any, d: Any, table: Any, rows: int, out: Any) -> None:
    for b in range(blocks.shape[0]):
        block = blocks[b]
        for k in range(8):
            high = np.int64(block[34 + 2 * k]) | np.int64(block[35 + 2 * k]) << 8
            step = d[b] * np.float32(2 * (high >> 12 & 7) + 1)
            for i in range(4):
                row = np.int64(block[2 + 4 * k + i]) | (high >> 3 * i & 7) << 8
                scaled8(table, 8 * (row + rows * (high >> 15)), step, out, SUPER * b + 32 * k + 8 * i)


@inner
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
    x, off = np.empty(CHUNK, np.float32), np.empty(CHUNK, np.float32)
    for start in range(0, decoded.shape[0], CHUNK):
        count = min(CHUNK, decoded.shape[0] - start)
        widen(source[start * per_unit : (start + count) * per_unit], x, count, dropped)
        for i in range(count):
            off[i] = decoded[start + i] - x[i]
        measure(x, off, count, total)
