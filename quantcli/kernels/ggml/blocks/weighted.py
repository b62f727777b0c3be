"""GGML's `q4_0 q4_1 q5_0 q5_1` with an importance matrix on the CPU: ggml's codes and scales.

Source: `quantize_row_q*_impl` in ggml-quants.c (llama.cpp), restated; the searches are described in k_quants/search.py,
layouts are drawn in schemes/ggml/legacy.py. All arithmetic is float32, each operation rounded once, sums in index
order:

    weights     importance * sqrt(s + x * x), s the mean of x * x over the row: a block depends on its row
    q4_0 q5_0   d and codes of `search_scale`          q4_1 q5_1   d, m and codes of `search_minimum`

Codes are the search's own, those of the scale before it is rounded to f16.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantcli.arrays import Array
from quantcli.kernels.chunks import CHUNK, narrow, units, widen
from quantcli.kernels.compile import inner, kernel
from quantcli.kernels.float32 import ZERO
from quantcli.kernels.ggml.formats import BLOCK
from quantcli.kernels.ggml.k_quants.encode import WEIGHTED_STEPS, Encoded, fetch, weigh
from quantcli.kernels.ggml.k_quants.search import (
    INVERSE,
    LOW,
    SCALE,
    SIXTEENS,
    START,
    STATE,
    minimum_steps,
    nearest,
    scale_steps,
    search_minimum,
    search_scale,
    transpose,
)
from quantcli.kernels.ggml.scales import F16, note_overflow, write_f16
from quantcli.kernels.llvm.measure import measure

#: Rows whose squares are added up side by side: a sum in order waits for itself.
ROWS = 8


def encode(values: Array, importance: NDArray[np.float32], bits: int, zero: int | None) -> Encoded:
    """`values` (rows, columns) of any dtype of FLOATS, columns a multiple of 32; importance (1 or rows, columns).

    zero: the code of 0, None where each block has a minimum. Of the result, codes are (blocks, 32), block_scales
    (blocks, 2 or 4) d and m as f16, subs empty.
    """
    (rows, columns), (source, dropped) = values.shape, units(values)
    weights = np.ascontiguousarray(importance, np.float32).reshape(-1)
    blocks, sums = rows * columns // BLOCK, np.zeros(4, np.float64)
    codes, block_scales = np.empty((blocks, BLOCK), np.uint8), np.empty((blocks, 4), np.uint8)
    means = np.empty(rows, np.float32)
    _row_means(source, dropped, columns, means)
    steps = scale_steps(zero) if zero is not None else minimum_steps(2**bits - 1, *WEIGHTED_STEPS)
    middle = -1 if zero is None else zero
    _encode(source, dropped, weights, means, columns, codes, block_scales, sums, steps, middle, SIXTEENS[BLOCK])
    block_scales = block_scales if zero is None else block_scales[:, :2]
    return Encoded(codes, np.empty((blocks, 0, 0), np.uint8), block_scales, sums)


@kernel
def _row_means(source: Any, dropped: int, columns: int, means: Any) -> None:
    """The mean of x * x of each row, summed in index order."""
    per_unit = 1 if dropped else 2
    x, sums = np.empty((ROWS, CHUNK), np.float32), np.empty(ROWS, np.float32)
    for start in range(0, means.shape[0], ROWS):
        rows = min(ROWS, means.shape[0] - start)
        sums[:] = ZERO
        for begin in range(0, columns, CHUNK):
            count = min(CHUNK, columns - begin)
            for r in range(rows):
                first = (start + r) * columns + begin
                widen(source[first * per_unit : (first + count) * per_unit], x[r], count, dropped)
            for j in range(count):
                for r in range(ROWS):
                    sums[r] += x[r, j] * x[r, j]
        for r in range(rows):
            means[start + r] = sums[r] / np.float32(columns)


@kernel
def _encode(
    source: Any,
    dropped: int,
    importance: Any,
    means: Any,
    columns: int,
    codes: Any,
    block_scales: Any,
    sums: Any,
    steps: Any,
    zero: int,
    sixteens: Any,
) -> None:
    per_unit, per_chunk = 1 if dropped else 2, CHUNK // BLOCK
    x, w, off = np.empty(CHUNK, np.float32), np.empty(CHUNK, np.float32), np.empty(CHUNK, np.float32)
    x_lanes, w_lanes, given = np.empty(CHUNK, np.float32), np.empty(CHUNK, np.float32), np.empty(CHUNK, np.float32)
    state = np.empty(STATE, np.float32)
    sigma, exact = np.empty(per_chunk, np.float32), np.zeros((2, per_chunk), np.float32)
    found, rounded = np.empty((2, per_chunk), np.float32), np.empty((2, per_chunk), np.float32)
    for begin in range(0, codes.shape[0], per_chunk):
        count = min(per_chunk, codes.shape[0] - begin)
        first, last = begin * BLOCK, (begin + count) * BLOCK
        x[count * BLOCK :] = ZERO
        w[count * BLOCK :] = ZERO
        widen(source[first * per_unit : last * per_unit], x, count * BLOCK, dropped)
        fetch(importance, first, given, count * BLOCK)
        for b in range(count):
            sigma[b] = means[(first + b * BLOCK) // columns]
        weigh(x, given, sigma, w, count, BLOCK)
        transpose(x, x_lanes, per_chunk, BLOCK)
        transpose(w, w_lanes, per_chunk, BLOCK)
        for k in range(per_chunk // 16):
            here, these = slice(16 * BLOCK * k, 16 * BLOCK * (k + 1)), slice(16 * k, 16 * (k + 1))
            if zero < 0:
                search_minimum(x_lanes[here], w_lanes[here], steps, False, sixteens, state)
                exact[1, these] = state[LOW : LOW + 16]
            else:
                search_scale(x_lanes[here], w_lanes[here], steps, sixteens, state)
            exact[0, these] = state[SCALE : SCALE + 16]
            found[0, these] = state[INVERSE : INVERSE + 16]
            found[1, these] = state[START : START + 16]
        for which in range(2):
            narrow(exact[which], rounded[which], per_chunk, F16)
            note_overflow(exact[which], rounded[which], count, sums)
            write_f16(rounded[which], block_scales[begin : begin + count], count, 2 * which)
        _round_codes(x, found, rounded, codes[begin : begin + count], off, count, zero, steps[0])
        measure(x, off, count * BLOCK, sums)


@inner
def _round_codes(x: Any, found: Any, rounded: Any, codes: Any, off: Any, count: int, zero: int, step: Any) -> None:
    """Codes of each block, and how far the values that they stand for are from x."""
    middle = np.int32(max(zero, 0))
    least, top = -middle, np.int32(step) - np.int32(1 if zero >= 0 else 0)
    for b in range(count):
        begin, end = b * BLOCK, (b + 1) * BLOCK
        value, far, code = x[begin:end], off[begin:end], codes[b]
        inverse, start, d, m = found[0, b], found[1, b], rounded[0, b], rounded[1, b]
        for j in range(value.shape[0]):
            q = min(max(nearest(inverse * (value[j] - start)), least), top)
            q = q if inverse != ZERO else least  # a block of zeros has codes of 0
            code[j] = np.uint8(q - least)
            far[j] = (np.float32(q) * d + m) - value[j]
