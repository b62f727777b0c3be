"""GGML's `q1_0`, `q2_0`, `tq1_0` and `tq2_0` on the CPU: ggml's bytes, ggml's float32 values.

Source of the rounding: `quantize_row_{q1_0,q2_0,tq1_0,tq2_0}_ref` in ggml-quants.c (llama.cpp), restated; layouts are
drawn in schemes/ggml/ternary.py. All arithmetic is float32, each operation rounded once:

    q1_0     d = mean magnitude, summed in index order       code = x >= 0
    others   d = largest magnitude, inverse = 1 / d          code = 1 + (x * inverse, rounded half away from 0)

before d is rounded to f16. Where 1 / d is infinite (d < 2**-128) all codes are 1, as ggml's `lroundf` makes them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantcli.arrays import Array
from quantcli.kernels.chunks import CHUNK, narrow, units, widen
from quantcli.kernels.compile import inner, kernel
from quantcli.kernels.float32 import ZERO
from quantcli.kernels.ggml.scales import F16, magnitudes, note_overflow, write_f16
from quantcli.kernels.llvm.measure import measure
from quantcli.kernels.llvm.vectors import half, last_trits16, plain16, trits16

#: Values and bytes of a block, and the byte where its scale starts.
SIZES = {"q1_0": (128, 18, 0), "q2_0": (64, 18, 0), "tq1_0": (256, 54, 52), "tq2_0": (256, 66, 64)}


def encode(values: Array, kind: str) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Blocks (rows, bytes per row) of `values` (rows, columns), any dtype of FLOATS; `kind` of SIZES.

    Also float64 sums: squared error, squared values, largest error, and the largest magnitude of a scale that overflows
    f16 (0 where none does).
    """
    rows, columns = values.shape
    width, size, at = SIZES[kind]
    source, dropped = units(values)
    blocks = np.empty((rows, columns // width * size), np.uint8)
    sums = np.zeros(4, np.float64)
    _encode(source, dropped, blocks.reshape(-1, size), sums, width, at)
    return blocks, sums


def decode(blocks: NDArray[np.uint8], kind: str) -> NDArray[np.float32]:
    """float32 (rows, columns) of blocks (rows, bytes per row)."""
    width, size, at = SIZES[kind]
    out = np.empty((blocks.shape[0], blocks.shape[1] // size * width), np.float32)
    if kind in _DECODERS:
        _DECODERS[kind](np.ascontiguousarray(blocks).reshape(-1), out.reshape(-1))
        return out
    flat = np.ascontiguousarray(blocks).reshape(-1, size)
    scales = np.ascontiguousarray(flat[:, at : at + 2]).view(np.float16).astype(np.float32).reshape(-1)
    (_decode_bits if kind == "q1_0" else _decode_pairs)(flat, scales, out.reshape(-1), 8)
    return out


@inner
def _means(x: Any, mean: Any, count: int, width: int) -> None:
    """The mean magnitude of each block, summed in index order; blocks side by side, so that no sum waits."""
    mean[:] = 0
    for j in range(width):
        for b in range(count):
            mean[b] += abs(x[b * width + j])
    for b in range(count):
        mean[b] /= np.float32(width)


@inner
def _signs(x: Any, scale: Any, codes: Any, off: Any, count: int, width: int) -> None:
    for b in range(count):
        begin, end = b * width, (b + 1) * width
        value, code, distance, d = x[begin:end], codes[begin:end], off[begin:end], scale[b]
        for j in range(width):
            above = value[j] >= np.float32(0)
            code[j] = np.uint8(above)
            distance[j] = (d if above else -d) - value[j]


@inner
def _round(x: Any, inverse: Any, scale: Any, codes: Any, off: Any, count: int, width: int) -> None:
    for b in range(count):
        begin, end = b * width, (b + 1) * width
        value, code, distance = x[begin:end], codes[begin:end], off[begin:end]
        factor, d = inverse[b], scale[b]
        for j in range(width):
            q = value[j] * factor
            whole = np.int32(q >= np.float32(0.5)) - np.int32(q <= np.float32(-0.5))
            code[j] = np.uint8(whole + np.int32(1))
            distance[j] = np.float32(whole) * d - value[j]


@inner
def _pack_bits(codes: Any, blocks: Any, count: int) -> None:
    eights = codes.view(np.uint64)
    for b in range(count):
        for k in range(16):
            # The product moves bit 8 i to bit 56 + i, for each of the eight.
            blocks[b, 2 + k] = np.uint8((eights[16 * b + k] * np.uint64(0x0102040810204080)) >> np.uint64(56))


@inner
def _pack_pairs(codes: Any, blocks: Any, count: int) -> None:
    fours = codes.view(np.uint32)
    for b in range(count):
        for k in range(16):
            # The product moves bits 8 i, 8 i + 1 to 24 + 2 i, for each of the four.
            blocks[b, 2 + k] = np.uint8((fours[16 * b + k] * np.uint32(0x01040000 + 0x1000 + 0x40)) >> np.uint32(24))


@inner
def _pack_planes(codes: Any, blocks: Any, count: int, run: int) -> None:
    for b in range(count):
        for k in range(2):
            code, out = codes[256 * b + 128 * k :], blocks[b, 32 * k : 32 * k + 32]
            for j in range(run):
                low = np.uint8(code[j] | np.uint8(code[j + 32] << np.uint8(2)))
                out[j] = np.uint8(low | np.uint8(code[j + 64] << np.uint8(4)) | np.uint8(code[j + 96] << np.uint8(6)))


@inner
def _pack_trits(code: Any, out: Any, run: int, five: int) -> None:
    """`run` bytes of five codes each (`five` 1) or of four and a 0, which stand `run` apart; the first weighs most."""
    for j in range(run):
        number = np.uint32(0)
        for n in range(4):
            number = np.uint32(3) * number + np.uint32(code[j + n * run])
        number = np.uint32(3) * number + (np.uint32(code[j + 4 * run]) if five else np.uint32(0))
        out[j] = np.uint8((number * np.uint32(256) + np.uint32(242)) // np.uint32(243))


@kernel
def _encode(source: Any, dropped: int, blocks: Any, sums: Any, width: int, at: int) -> None:
    per_unit, per_chunk = 1 if dropped else 2, CHUNK // width
    x, off, codes = np.empty(CHUNK, np.float32), np.empty(CHUNK, np.float32), np.zeros(CHUNK + 16, np.uint8)
    exact = np.empty(per_chunk, np.float32)
    inverse, scale = np.empty(per_chunk, np.float32), np.empty(per_chunk, np.float32)
    zero = np.float32(0)
    for start in range(0, blocks.shape[0], per_chunk):
        count = min(per_chunk, blocks.shape[0] - start)
        out, first, last = blocks[start : start + count], start * width, (start + count) * width
        widen(source[first * per_unit : last * per_unit], x, count * width, dropped)
        if width == 128:
            _means(x, exact, count, width)
            narrow(exact, scale, count, F16)
            _signs(x, scale, codes, off, count, width)
        else:
            magnitudes(x, exact, count, width)
            for b in range(count):
                inverse[b] = np.float32(1) / exact[b]
                inverse[b] = inverse[b] if abs(inverse[b]) < np.float32(np.inf) else zero
            narrow(exact, scale, count, F16)
            _round(x, inverse, scale, codes, off, count, width)
        write_f16(scale, out, count, at)
        if width == 128:
            _pack_bits(codes, out, count)
        elif width == 64:
            _pack_pairs(codes, out, count)
        elif at == 64:
            _pack_planes(codes, out, count, 32)
        else:
            for b in range(count):
                code = codes[256 * b :]
                _pack_trits(code, out[b], 32, 1)
                _pack_trits(code[160:], out[b, 32:], 16, 1)
                _pack_trits(code[240:], out[b, 48:], 4, 0)
        note_overflow(exact, scale, count, sums)
        measure(x, off, count * width, sums)


@inner
def _decode_bits(blocks: Any, scales: Any, out: Any, eight: int) -> None:
    for b in range(blocks.shape[0]):
        d = scales[b]
        for k in range(16):
            byte, value = np.int32(blocks[b, 2 + k]), out[128 * b + 8 * k : 128 * b + 8 * k + 8]
            for j in range(eight):
                value[j] = d if byte & (np.int32(1) << np.int32(j)) else -d


@inner
def _decode_pairs(blocks: Any, scales: Any, out: Any, eight: int) -> None:
    for b in range(blocks.shape[0]):
        d = scales[b]
        for k in range(8):
            word = np.int32(blocks[b, 2 + 2 * k]) | np.int32(blocks[b, 3 + 2 * k]) << np.int32(8)
            value = out[64 * b + 8 * k : 64 * b + 8 * k + 8]
            for j in range(eight):
                value[j] = np.float32(((word >> np.int32(2 * j)) & np.int32(3)) - np.int32(1)) * d


@inner
def _decode_trits(data: Any, out: Any) -> None:
    for b in range(out.shape[0] // 256):
        at, to = 54 * b, 256 * b
        d = half(data, at + 52)
        trits16(data, at, 32, d, out, to)
        trits16(data, at + 16, 32, d, out, to + 16)
        trits16(data, at + 32, 16, d, out, to + 160)
        last_trits16(data, at + 48, d, out, to + 240)


@inner
def _decode_planes(data: Any, out: Any) -> None:
    for b in range(out.shape[0] // 256):
        d = half(data, 66 * b + 64)
        for k in range(2):
            for n in range(4):
                at, to = 66 * b + 32 * k, 256 * b + 128 * k + 32 * n
                plain16(data, at, 2 * n, 3, 1, d, ZERO, out, to)
                plain16(data, at + 16, 2 * n, 3, 1, d, ZERO, out, to + 16)


_DECODERS: dict[str, Any] = {"tq1_0": _decode_trits, "tq2_0": _decode_planes}
