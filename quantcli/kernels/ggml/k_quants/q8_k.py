"""GGML's `q8_k` on the CPU: ggml's bytes and values. Source and layout are described in schemes/ggml/q8_k.py.

The sums of a block of zeros are 0 here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantcli.arrays import Array
from quantcli.kernels.chunks import CHUNK, units, widen
from quantcli.kernels.compile import float_of, inner, kernel
from quantcli.kernels.ggml.formats import SUPER
from quantcli.kernels.ggml.k_quants.search import nearest
from quantcli.kernels.ggml.scales import extremes, peaks
from quantcli.kernels.llvm.measure import measure
from quantcli.kernels.llvm.vectors import signed16, word

#: Bytes of a block; where its sums begin, counted in int16.
BYTES, SUMS = 292, 130


def encode(values: Array) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Blocks (rows, bytes per row) of `values` (rows, columns) of any dtype of FLOATS, columns a multiple of 256.

    Also float64 sums: squared error, squared values, largest error, 0.
    """
    source, dropped = units(values)
    rows, sums = values.shape[0], np.zeros(4, np.float64)
    blocks = np.empty((values.size // SUPER, BYTES), np.uint8)
    _encode(source, dropped, blocks.view(np.float32), blocks.view(np.int8), blocks.view(np.int16), sums, SUPER)
    return blocks.reshape(rows, values.shape[1] // SUPER * BYTES), sums


def decode(blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
    """float32 (rows, columns) of blocks (rows, bytes per row)."""
    out = np.empty((blocks.shape[0], blocks.shape[1] // BYTES * SUPER), np.float32)
    _decode(np.ascontiguousarray(blocks).reshape(-1), out.reshape(-1))
    return out


@kernel
def _encode(source: Any, dropped: int, floats: Any, codes: Any, shorts: Any, sums: Any, width: int) -> None:
    """floats, codes, shorts: the same blocks, as float32, int8 and int16."""
    per_unit, top, zero = 1 if dropped else 2, np.int32(127), np.float32(0)
    x, off = np.empty(CHUNK, np.float32), np.empty(CHUNK, np.float32)
    low, high = np.empty(CHUNK // SUPER, np.float32), np.empty(CHUNK // SUPER, np.float32)
    for start in range(0, codes.shape[0], CHUNK // SUPER):
        count = min(CHUNK // SUPER, codes.shape[0] - start)
        widen(source[start * width * per_unit : (start + count) * width * per_unit], x, count * width, dropped)
        extremes(x, low, high, count, width)
        peaks(x, low, high, high, count, width)
        for b in range(count):
            value, far, code = x[b * width : (b + 1) * width], off[b * width : (b + 1) * width], codes[start + b, 4:260]
            inverse = np.float32(-127) / high[b] if high[b] != zero else zero
            d = np.float32(1) / inverse if high[b] != zero else zero
            floats[start + b, 0] = d
            for j in range(width):
                q = np.int8(min(nearest(inverse * value[j]), top))
                code[j] = q
                far[j] = d * np.float32(q) - value[j]
            for g in range(16):
                total = np.int16(0)
                for j in range(16):
                    total = np.int16(total + np.int16(code[16 * g + j]))
                shorts[start + b, SUMS + g] = total
        measure(x, off, count * width, sums)


@inner
def _decode(data: Any, out: Any) -> None:
    for b in range(out.shape[0] // SUPER):
        scale = float_of(np.int32(word(data, BYTES * b)))
        for k in range(16):
            signed16(data, BYTES * b + 4 + 16 * k, scale, out, SUPER * b + 16 * k)
