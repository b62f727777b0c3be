"""GGML's `q6_k` on the CPU: ggml's bytes with and without an importance matrix.

Source: `quantize_row_q6_K_impl` in ggml-quants.c (llama.cpp), restated; the layout is drawn in
schemes/ggml/q6_k.py, the search is `search_scale` of search.py. All arithmetic is float32, each operation rounded
once, sums in index order:

    for each group of 16: scale and codes -32 .. 31 by `search_scale`, weights x * x, or the importance alone
    super-block: d = f16(largest scale / -128), sub-scale = rint(scale / d), codes rounded anew on d * sub-scale

Super-blocks are worked on 16 at a time; the 16 groups of each are the lanes of a vector, which sums in ggml's order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantcli.arrays import Array
from quantcli.kernels.chunks import CHUNK, narrow, units, widen
from quantcli.kernels.compile import inner, kernel
from quantcli.kernels.float32 import RINT
from quantcli.kernels.ggml.formats import EPSILON, Q6_GROUP, Q6_GROUPS, SUPER
from quantcli.kernels.ggml.k_quants.encode import BATCH, TOGETHER, fetch
from quantcli.kernels.ggml.k_quants.search import (
    HIGH,
    INVERSE,
    SCALE,
    SIXTEENS,
    STATE,
    scale_steps,
    search_scale,
    transpose,
)
from quantcli.kernels.llvm.measure import measure

#: Bytes of a super-block.
BYTES = 210


def encode(
    values: Array, importance: NDArray[np.float32] | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Super-blocks (rows, bytes per row) of `values` (rows, columns), any dtype of FLOATS, columns a multiple of 256;
    importance (1 or rows, columns).

    Also float64 sums: squared error, squared values, largest error, and the largest magnitude of a super-block's scale
    that overflows f16 (0 where none does).
    """
    rows, columns = values.shape
    source, dropped = units(values)
    blocks = np.empty((rows, columns // SUPER * BYTES), np.uint8)
    sums = np.zeros(4, np.float64)
    weights = (
        np.empty(0, np.float32) if importance is None else np.ascontiguousarray(importance, np.float32).reshape(-1)
    )
    _encode(source, dropped, weights, blocks.reshape(-1, BYTES), sums, scale_steps(32), SIXTEENS[16])
    return blocks, sums


@inner
def _round(x: Any, factor: Any, divide: bool, codes: Any) -> None:
    """codes = clip(rint(x / factor), or of x * factor) + 32 of one group."""
    lowest, highest = np.float32(-32), np.float32(31)
    for i in range(Q6_GROUP):
        q = x[i] / factor if divide else x[i] * factor
        q = (q + RINT) - RINT
        q = q if q > lowest else lowest
        q = q if q < highest else highest
        codes[i] = np.uint8(np.int32(q) + np.int32(32))


@inner
def _pack(codes: Any, block: Any) -> None:
    """Low nibbles and high pairs of 256 codes into bytes 0 .. 191 of a super-block."""
    low, pair = np.uint8(15), np.uint8(4)
    for half in range(2):
        code = codes[128 * half : 128 * half + 128]
        nibbles, pairs = block[64 * half : 64 * half + 64], block[128 + 32 * half : 160 + 32 * half]
        for j in range(64):
            nibbles[j] = np.uint8(np.uint8(code[j] & low) | np.uint8(code[j + 64] << pair))
        for j in range(32):
            first = np.uint8(np.uint8(code[j] >> pair) | np.uint8((code[j + 32] >> pair) << np.uint8(2)))
            last = np.uint8((code[j + 64] & np.uint8(0x30)) | np.uint8((code[j + 96] & np.uint8(0x30)) << np.uint8(2)))
            pairs[j] = first | last


@inner
def _encode_super(x: Any, off: Any, block: Any, sums: Any, state: Any, small: Any, codes: Any) -> None:
    """One super-block: its 210 bytes, and how far the values that they stand for are from x."""
    peak, scale, inverse = state[HIGH : HIGH + 16], state[SCALE : SCALE + 16], state[INVERSE : INVERSE + 16]
    whole, rounded = small[0:1], small[1:2]
    zero = np.float32(0)
    largest = zero
    for g in range(Q6_GROUPS):
        largest = scale[g] if abs(scale[g]) > abs(largest) else largest
    for g in range(Q6_GROUPS):
        largest = largest if np.isfinite(scale[g]) else np.float32(np.inf)  # the search's sums overflowed
    block[:] = np.uint8(0)
    if abs(largest) < EPSILON:
        for j in range(SUPER):
            off[j] = -x[j]
        return
    to_sub = np.float32(-128) / largest
    whole[0] = np.float32(1) / to_sub
    narrow(whole, rounded, 1, 13)
    if abs(rounded[0]) > np.float32(65504):
        _note_overflow(whole[0], peak, sums)
    bits = np.float32(abs(rounded[0]) * np.float32(2.0**-112)).view(np.int32)
    half = min(np.int32(bits >> np.int32(13)), np.int32(0x7C00))
    block[208] = np.uint8(half)
    block[209] = np.uint8((half >> np.int32(8)) | (np.int32(0x80) if whole[0] < zero else np.int32(0)))
    for g in range(Q6_GROUPS):
        begin, end = Q6_GROUP * g, Q6_GROUP * (g + 1)
        sub = (to_sub * scale[g] + RINT) - RINT
        sub = sub if sub > np.float32(-128) else np.float32(-128)
        sub = sub if sub < np.float32(127) else np.float32(127)
        block[192 + g] = np.uint8(np.int32(sub))
        d = rounded[0] * sub
        if d != zero:
            _round(x[begin:end], d, True, codes[begin:end])
        elif inverse[g] != zero:
            _round(x[begin:end], inverse[g], False, codes[begin:end])
        else:
            codes[begin:end] = np.uint8(0)
        for i in range(begin, end):
            off[i] = d * np.float32(np.int32(codes[i]) - np.int32(32)) - x[i]
    _pack(codes, block)


@inner
def _note_overflow(whole: Any, peak: Any, sums: Any) -> None:
    """sums[3]: the largest scale that overflows f16; where the search's sums overflowed, what the peak asks for."""
    if np.isfinite(whole):
        sums[3] = max(sums[3], np.float64(abs(whole)))
        return
    for g in range(Q6_GROUPS):
        sums[3] = max(sums[3], np.float64(abs(peak[g])) / (32 * 128))


@kernel
def _encode(source: Any, dropped: int, importance: Any, blocks: Any, sums: Any, steps: Any, sixteens: Any) -> None:
    per_unit = 1 if dropped else 2
    x, off, w = np.empty(BATCH, np.float32), np.empty(BATCH, np.float32), np.empty(BATCH, np.float32)
    lanes, weights, state = np.empty(SUPER, np.float32), np.empty(SUPER, np.float32), np.empty(STATE, np.float32)
    small, codes = np.empty(2, np.float32), np.empty(SUPER, np.uint8)
    for start in range(0, blocks.shape[0], TOGETHER):
        count = min(TOGETHER, blocks.shape[0] - start)
        first, last = start * SUPER, (start + count) * SUPER
        widen(source[first * per_unit : last * per_unit], x, count * SUPER, dropped)
        if importance.shape[0]:
            fetch(importance, first, w, count * SUPER)
        else:
            for j in range(count * SUPER):
                w[j] = x[j] * x[j]
        for b in range(count):
            begin, end = b * SUPER, (b + 1) * SUPER
            transpose(x[begin:end], lanes, Q6_GROUPS, Q6_GROUP)
            transpose(w[begin:end], weights, Q6_GROUPS, Q6_GROUP)
            search_scale(lanes, weights, steps, sixteens, state)
            _encode_super(x[begin:end], off[begin:end], blocks[start + b], sums, state, small, codes)
        for piece in range(0, count * SUPER, CHUNK):
            end = min(CHUNK, count * SUPER - piece)
            measure(x[piece : piece + CHUNK], off[piece : piece + CHUNK], end, sums)
