"""GGML's `q8_k` on the CPU: ggml's bytes and values. Source and layout are told in schemes/q8_k.py.

The sums of a block of zeros are 0 here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantcli.arrays import Array
from quantcli.kernels.chunks import CHUNK, LANES, measure, units, widen
from quantcli.kernels.compile import kernel
from quantcli.kernels.ggml_search import nearest

BLOCK, BYTES = 256, 292


def encode(values: Array) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Blocks (rows, bytes per row) of `values` (rows, columns) of any dtype of FLOATS, columns a multiple of 256.

    Also float64 sums: squared error, squared values, largest error, 0.
    """
    source, dropped = units(values)
    count, sums = values.size // BLOCK, np.zeros(4, np.float64)
    codes, scales = np.empty((count, BLOCK), np.int8), np.empty((count, 1), np.float32)
    _encode(source, dropped, codes, scales, sums, BLOCK)
    added = codes.reshape(count, 16, 16).sum(axis=2, dtype=np.int16)
    blocks = np.concatenate([scales.view(np.uint8), codes.view(np.uint8), added.view(np.uint8)], axis=1)
    return blocks.reshape(values.shape[0], values.shape[1] // BLOCK * BYTES), sums


def decode(blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
    """float32 (rows, columns) of blocks (rows, bytes per row)."""
    flat = np.ascontiguousarray(blocks).reshape(-1, BYTES)
    scales = np.ascontiguousarray(flat[:, :4]).view(np.float32).reshape(-1)
    out = np.empty((blocks.shape[0], blocks.shape[1] // BYTES * BLOCK), np.float32)
    _decode(flat, scales, out.reshape(-1, BLOCK))
    return out


@kernel
def _encode(source: Any, dropped: int, codes: Any, scales: Any, sums: Any, width: int) -> None:
    per_unit, top, nought = 1 if dropped else 2, np.int32(127), np.float32(0)
    x, off, partial = np.empty(CHUNK, np.float32), np.empty(CHUNK, np.float32), np.empty((2, LANES), np.float32)
    for start in range(0, codes.shape[0], CHUNK // BLOCK):
        count = min(CHUNK // BLOCK, codes.shape[0] - start)
        widen(source[start * width * per_unit : (start + count) * width * per_unit], x, count * width, dropped)
        for b in range(count):
            value, far, code = x[b * width : (b + 1) * width], off[b * width : (b + 1) * width], codes[start + b]
            peak = nought
            for j in range(width):
                peak = value[j] if abs(value[j]) > abs(peak) else peak
            if peak == nought:
                scales[start + b, 0] = nought
                code[:] = np.int8(0)
                for j in range(width):
                    far[j] = -value[j]
                continue
            inverse = np.float32(-127) / peak
            d = np.float32(1) / inverse
            scales[start + b, 0] = d
            for j in range(width):
                q = np.int8(min(nearest(inverse * value[j]), top))
                code[j] = q
                far[j] = d * np.float32(q) - value[j]
        measure(x, off, count * width, partial, sums)


@kernel
def _decode(blocks: Any, scales: Any, out: Any) -> None:
    for b in range(blocks.shape[0]):
        d, code, value = scales[b], blocks[b, 4:260], out[b]
        for j in range(value.shape[0]):
            value[j] = d * np.float32(np.int8(code[j]))
