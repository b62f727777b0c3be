"""GGML's blocks of 32 (`q4_0 q4_1 q5_0 q5_1 q8_0`) on the CPU: ggml's bytes, ggml's float32 values.

Source of the rounding: `quantize_row_*_ref` and `dequantize_row_*` in ggml-quants.c (llama.cpp), restated; layouts are
drawn in schemes/ggml/legacy.py. All arithmetic is float32, each operation rounded once. With `zero` as the code of 0:

    q4_0 q5_0   d = peak / -zero (peak: the first value of largest magnitude)   code = trunc(x / d + zero + 0.5)
    q4_1 q5_1   d = (high - low) / (2**bits - 1), m = low                       code = trunc((x - low) / d + 0.5)
    q8_0        d = largest magnitude / 127                                     code = x / d, rounded half away from 0

where "/ d" is a product with 1 / d (0 where d is 0), before d is rounded to f16. A code out of range is clamped, a NaN
among the quotients (1 / d is infinite where d < 2**-128) is the lowest code: ggml leaves those undefined.
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
from quantcli.kernels.ggml.scales import F16, extremes, magnitudes, note_overflow, peaks, write_f16
from quantcli.kernels.llvm.measure import measure
from quantcli.kernels.llvm.vectors import fifth16, half, plain16, signed16, truncate16, word

#: Blocks of a chunk. Kernels are given BLOCK as `width`: where LLVM knows how short a loop is, it unrolls it and no
#: longer vectorises it, at two to three times the cost.
_BLOCKS = CHUNK // BLOCK


def encode(values: Array, bits: int, zero: int | None) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Blocks (rows, bytes per row) of `values` (rows, columns), any dtype of FLOATS, columns a multiple of 32.

    Also float64 sums: squared error, squared values, largest error, and the largest magnitude of a scale or minimum
    that overflows f16 (0 where none does).
    """
    rows, columns = values.shape
    source, dropped = units(values)
    size = block_bytes(bits, zero)
    blocks = np.empty((rows, columns // BLOCK * size), np.uint8)
    sums = np.zeros(4, np.float64)
    _encode(source, dropped, blocks.reshape(-1, size), sums, bits, -1 if zero is None else zero, BLOCK)
    return blocks, sums


def decode(blocks: NDArray[np.uint8], bits: int, zero: int | None) -> NDArray[np.float32]:
    """float32 (rows, columns) of blocks (rows, bytes per row)."""
    out = np.empty((blocks.shape[0], blocks.shape[1] // block_bytes(bits, zero) * BLOCK), np.float32)
    data, middle = np.ascontiguousarray(blocks).reshape(-1), -1 if zero is None else zero
    if bits == 8:
        _decode_bytes(data, out.reshape(-1))
    elif bits == 4:
        _decode_4(data, out.reshape(-1), middle)
    else:
        _decode_5(data, out.reshape(-1), middle)
    return out


def block_bytes(bits: int, zero: int | None) -> int:
    """f16 scale, f16 minimum where the zero is not fixed, `bits` bits a value."""
    return (2 if zero is not None else 4) + BLOCK * bits // 8


@kernel
def _find_scales(x: Any, scale: Any, low: Any, blocks: int, bits: int, zero: int, width: int) -> None:
    """Unrounded scale of each block of x; `low` is what codes count from: the minimum, 0 where the zero is fixed."""
    high = np.empty(_BLOCKS, np.float32)
    if bits == 8:
        magnitudes(x, high, blocks, width)
        for b in range(blocks):
            scale[b], low[b] = high[b] / np.float32(127), ZERO
        return
    extremes(x, low, high, blocks, width)
    if zero < 0:
        for b in range(blocks):
            scale[b] = np.float32(high[b] - low[b]) / np.float32((1 << bits) - 1)
        return
    peaks(x, low, high, high, blocks, width)
    for b in range(blocks):
        scale[b], low[b] = high[b] / np.float32(-zero), ZERO


@inner
def _round_codes(
    x: Any,
    inverse: Any,
    low: Any,
    scale: Any,
    minimum: Any,
    codes: Any,
    off: Any,
    blocks: int,
    bits: int,
    zero: int,
    width: int,
) -> None:
    """codes of x by truncation, and how far the values that they stand for are from x."""
    top, middle = np.float32((1 << bits) - 1), np.float32(max(zero, 0))
    half_step = np.float32(middle + np.float32(0.5))
    for b in range(blocks):
        for at in (b * BLOCK, b * BLOCK + 16):
            truncate16(x, at, low[b], inverse[b], half_step, top, middle, scale[b], minimum[b], codes, off, at)


@inner
def _round_bytes(x: Any, inverse: Any, scale: Any, codes: Any, off: Any, blocks: int, width: int) -> None:
    """Signed codes of x, rounded half away from zero."""
    top, half = np.float32(127), np.float32(0.5)
    for b in range(blocks):
        begin, end = b * width, (b + 1) * width
        value, code, distance = x[begin:end], codes[begin:end], off[begin:end]
        factor, d = inverse[b], scale[b]
        for j in range(width):
            q = value[j] * factor
            q = q if q > -top else -top
            q = q if q < top else top
            whole = np.int32(q)
            rest = np.float32(q - np.float32(whole))
            whole = np.int32(whole + np.int32(rest >= half) - np.int32(rest <= -half))
            code[j] = np.uint8(whole)
            distance[j] = np.float32(whole) * d - value[j]


@inner
def _write_codes(codes: Any, blocks: Any, count: int, bits: int, at: int, width: int) -> None:
    """The codes of each block, from byte `at` on: high bits first where there are five, then the nibbles."""
    half = width // 2
    if bits == 8:
        for b in range(count):
            block, code = blocks[b, at : at + width], codes[b * width : (b + 1) * width]
            for j in range(width):
                block[j] = code[j]
        return
    if bits == 5:
        eights = codes.view(np.uint64)
        for b in range(count):
            for k in range(4):
                fifth = (eights[4 * b + k] >> np.uint64(4)) & np.uint64(0x0101010101010101)
                # The product moves bit 8 i to bit 56 + i, for each of the eight.
                blocks[b, at + k] = np.uint8((fifth * np.uint64(0x0102040810204080)) >> np.uint64(56))
        at += 4
    for b in range(count):
        nibbles, code = blocks[b, at : at + half], codes[b * width : (b + 1) * width]
        for j in range(half):
            nibbles[j] = np.uint8(np.uint8(code[j] & np.uint8(15)) | np.uint8(code[j + half] << np.uint8(4)))


@kernel
def _encode(source: Any, dropped: int, blocks: Any, sums: Any, bits: int, zero: int, width: int) -> None:
    per_unit = 1 if dropped else 2
    x, off = np.empty(CHUNK, np.float32), np.empty(CHUNK, np.float32)
    codes = np.empty(CHUNK, np.uint8)
    exact, inverse, low = (np.empty(_BLOCKS, np.float32), np.empty(_BLOCKS, np.float32), np.empty(_BLOCKS, np.float32))
    scale, minimum = np.empty(_BLOCKS, np.float32), np.empty(_BLOCKS, np.float32)
    one = np.float32(1)
    for start in range(0, blocks.shape[0], _BLOCKS):
        count = min(_BLOCKS, blocks.shape[0] - start)
        out = blocks[start : start + count]
        first, last = start * BLOCK, (start + count) * BLOCK
        widen(source[first * per_unit : last * per_unit], x, count * BLOCK, dropped)
        _find_scales(x, exact, low, count, bits, zero, width)
        for b in range(count):
            inverse[b] = one / exact[b] if exact[b] != ZERO else ZERO
        narrow(exact, scale, count, F16)
        narrow(low, minimum, count, F16)
        if bits == 8:
            _round_bytes(x, inverse, scale, codes, off, count, width)
        else:
            _round_codes(x, inverse, low, scale, minimum, codes, off, count, bits, zero, width)
        write_f16(scale, out, count, 0)
        if zero < 0:
            write_f16(minimum, out, count, 2)
        _write_codes(codes, out, count, bits, 2 if zero >= 0 else 4, width)
        note_overflow(exact, scale, count, sums)
        note_overflow(low, minimum, count, sums)
        measure(x, off, count * BLOCK, sums)


@inner
def _decode_bytes(data: Any, out: Any) -> None:
    for b in range(out.shape[0] // BLOCK):
        at, to = 34 * b, BLOCK * b
        scale = half(data, at)
        signed16(data, at + 2, scale, out, to)
        signed16(data, at + 18, scale, out, to + 16)


@inner
def _decode_4(data: Any, out: Any, zero: int) -> None:
    """q4_0, or with `zero` -1 q4_1."""
    start, middle = (2, zero) if zero >= 0 else (4, 0)
    for b in range(out.shape[0] // BLOCK):
        at, to = (start + 16) * b, BLOCK * b
        scale, low = half(data, at), ZERO if zero >= 0 else -half(data, at + 2)
        plain16(data, at + start, 0, 15, middle, scale, low, out, to)
        plain16(data, at + start, 4, 15, middle, scale, low, out, to + 16)


@inner
def _decode_5(data: Any, out: Any, zero: int) -> None:
    """q5_0, or with `zero` -1 q5_1."""
    start, middle = (2, zero) if zero >= 0 else (4, 0)
    for b in range(out.shape[0] // BLOCK):
        at, to = (start + 20) * b, BLOCK * b
        scale, low = half(data, at), ZERO if zero >= 0 else -half(data, at + 2)
        fifths, nibbles = word(data, at + start), at + start + 4
        fifth16(data, nibbles, 0, fifths, middle, scale, low, out, to)
        fifth16(data, nibbles, 4, fifths >> 16, middle, scale, low, out, to + 16)
