"""GGML's `mxfp4` and `nvfp4` on the CPU: ggml's bytes, ggml's float32 values.

Source of the rounding: `quantize_row_mxfp4_ref`, `quantize_row_nvfp4_ref`, `best_index_mxfp4` in ggml-quants.c and
`ggml_fp32_to_ue4m3` in ggml-impl.h (llama.cpp), restated; layouts are drawn in schemes/ggml/floats.py. In float32:

    mxfp4   E8M0 byte = floor(log2(peak)) + 125, at least 0, peak the group's largest magnitude; 0 for a group of zeros.
            log2 is rounded to float32 before the floor, so that a peak just below a power of two can count as one:
            `field_starts` lists from which mantissa on.
    nvfp4   E4M3 byte of s = peak / 6: half up; 448 from 256 on (ggml never gives 256 ... 416); below 2**-6 multiples of
            2**-9, at most 7 of them
    code    the first with the smallest |value * scale - x|, in the order 0 .5 1 1.5 2 3 4 6, then the negative values

A negative x looks for its magnitude among the positive values and gets the sign bit, except with code 0: the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantcli.arrays import Array
from quantcli.kernels.chunks import CHUNK, units, widen
from quantcli.kernels.compile import inner, kernel
from quantcli.kernels.ggml.scales import magnitudes
from quantcli.kernels.llvm.measure import measure
from quantcli.kernels.llvm.vectors import looked8, looked16

Floats = NDArray[np.float32]


def encode(
    values: Array, group: int, block: int, scales: Floats, table: Floats, starts: NDArray[np.uint32]
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Blocks (rows, bytes per row) of `values` (rows, columns), any dtype of FLOATS.

    group: 32 with E8M0 scales, 16 with E4M3 scales; block: values of a block, whose scale bytes come first. scales,
    table: the value of each scale byte and code. starts: of each exponent field (E8M0). Also float64 sums: squared
    error, squared values, largest error, and a 0, since no scale overflows.
    """
    rows, columns = values.shape
    source, dropped = units(values)
    size = block // group + block // 2
    blocks = np.empty((rows, columns // block * size), np.uint8)
    sums = np.zeros(4, np.float64)
    _encode(source, dropped, blocks.reshape(-1, size), sums, group, block, scales, table, starts)
    return blocks, sums


def decode(blocks: NDArray[np.uint8], group: int, block: int, scales: Floats, table: Floats) -> Floats:
    """float32 (rows, columns) of blocks (rows, bytes per row); what codes stand for are whole numbers."""
    size = block // group + block // 2
    data, codes = np.ascontiguousarray(blocks).reshape(-1), table.astype(np.int8).view(np.uint8)
    out = np.empty((blocks.shape[0], blocks.shape[1] // size * block), np.float32)
    (_decode_mxfp4 if group == 32 else _decode_nvfp4)(data, scales, codes, out.reshape(-1))
    return out


@inner
def _e8m0(peak: Any, stored: Any, starts: Any, count: int) -> None:
    bits = peak.view(np.uint32)
    for g in range(count):
        field = bits[g] >> np.uint32(23)
        above = np.int32((bits[g] & np.uint32(0x7FFFFF)) >= starts[field])
        stored[g] = np.uint8(max(np.int32(field) - np.int32(2) + above, np.int32(0)))


@inner
def _e4m3(peak: Any, stored: Any, count: int) -> None:
    bits = peak.view(np.uint32)
    for g in range(count):
        peak[g] /= np.float32(6)
    for g in range(count):
        high = np.int32((bits[g] + np.uint32(1 << 19)) >> np.uint32(20)) - np.int32(120 << 3)
        low = min(np.int32(peak[g] * np.float32(512) + np.float32(0.5)), np.int32(7))
        code = low if peak[g] < np.float32(2.0**-6) else high
        stored[g] = np.uint8(code if code < np.int32(120) else np.int32(0x7E))


@inner
def _round(x: Any, steps: Any, codes: Any, off: Any, width: int) -> None:
    """Codes of one group, and how far what they stand for is from x, in magnitude."""
    for j in range(width):
        magnitude = abs(x[j])
        least, code, value = magnitude, np.int32(0), np.float32(0)
        for k in range(1, 8):
            distance = abs(np.float32(steps[k] - magnitude))
            closer = distance < least
            least = distance if closer else least
            code = np.int32(k) if closer else code
            value = steps[k] if closer else value
        negative = (x[j] < np.float32(0)) & (code > np.int32(0))
        codes[j] = np.uint8(code | (np.int32(8) if negative else np.int32(0)))
        off[j] = value - magnitude


@kernel
def _encode(
    source: Any,
    dropped: int,
    blocks: Any,
    sums: Any,
    group: int,
    block: int,
    scales: Any,
    table: Any,
    starts: Any,
) -> None:
    per_unit, per_chunk, share, half = 1 if dropped else 2, CHUNK // block, block // group, group // 2
    x, off, codes = np.empty(CHUNK, np.float32), np.empty(CHUNK, np.float32), np.empty(CHUNK, np.uint8)
    steps = np.empty(8, np.float32)
    peak, stored = np.empty(CHUNK // group, np.float32), np.empty(CHUNK // group, np.uint8)
    for start in range(0, blocks.shape[0], per_chunk):
        count = min(per_chunk, blocks.shape[0] - start)
        first, last, groups = start * block, (start + count) * block, count * share
        widen(source[first * per_unit : last * per_unit], x, count * block, dropped)
        magnitudes(x, peak, groups, group)
        if group == 32:
            _e8m0(peak, stored, starts, groups)
        else:
            _e4m3(peak, stored, groups)
        for g in range(groups):
            begin, end = g * group, (g + 1) * group
            for k in range(8):
                steps[k] = table[k] * scales[stored[g]]
            _round(x[begin:end], steps, codes[begin:end], off[begin:end], group)
            b, k = start + g // share, g % share
            blocks[b, k] = stored[g]
            nibbles, code = blocks[b, share + k * half : share + (k + 1) * half], codes[begin:end]
            for j in range(half):
                nibbles[j] = np.uint8(code[j] | np.uint8(code[j + half] << np.uint8(4)))
        measure(x, off, count * block, sums)


@inner
def _decode_mxfp4(data: Any, scales: Any, table: Any, out: Any) -> None:
    for b in range(out.shape[0] // 32):
        at, scale = 17 * b + 1, scales[data[17 * b]]
        looked16(data, at, 0, table, scale, out, 32 * b)
        looked16(data, at, 4, table, scale, out, 32 * b + 16)


@inner
def _decode_nvfp4(data: Any, scales: Any, table: Any, out: Any) -> None:
    for b in range(out.shape[0] // 64):
        for k in range(4):
            scale = scales[data[36 * b + k]]
            looked8(data, 36 * b + 4 + 8 * k, table, scale, out, 64 * b + 16 * k)
