"""MXFP4, MXFP8 and NVFP4 on the CPU: the bits of `mx.quantize` on MLX's CPU device.

Source of the rounding: what MLX 0.32.4 gives (its composition of array operations, mlx/ops.cpp `fp_quantize`). It
computes in the dtype of the values, so the bf16, f16 and f32 forms of the same numbers may get different codes:

    s      = absmax / (6 for E2M1, 448 for E4M3), rounded to that dtype
    scale  E8M0: the smallest power of two that is not below s, byte 127 (1.0) for s = 0;  E4M3: s, half to even,
           at most 448
    code   nearest table value to value / scale, the quotient rounded to that dtype;
           E2M1 takes the smaller magnitude of two equally near, and +0 for what becomes zero; E4M3 rounds half to even

One deviation: groups whose scale is below E8M0's smallest, 2**-127, get that one, as on MLX's Metal device. MLX's CPU
device lets the exponent wrap around there, so that such a group would come back as numbers near 2**128.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantcli.arrays import Array
from quantcli.kernels.bits import pack_chunk, unpack_chunk
from quantcli.kernels.chunks import CHUNK, narrow, units, widen
from quantcli.kernels.compile import inner, kernel
from quantcli.kernels.llvm.measure import measure

Floats = NDArray[np.float32]
#: Quotients from here on lose the difference of neighbouring table values when MLX subtracts them.
COARSE = np.float32(2.0**22)


def encode(
    values: Array, bits: int, group: int, table: Floats, scale_table: Floats
) -> tuple[NDArray[np.uint32], NDArray[np.uint8], NDArray[np.float64]]:
    """Quantize `values` (rows, columns), any dtype of FLOATS, on the value table of each code and of each scale byte.

    Group 16 has E4M3 scales, group 32 E8M0 scales. Returns words (rows, columns * bits / 32), scale bytes
    (rows, columns / group), and float64 sums: squared error, squared values, largest error.
    """
    rows, columns = values.shape
    source, dropped = units(values)
    words = np.empty((rows, columns * bits // 32), np.uint32)
    scales = np.empty((rows, columns // group), np.uint8)
    sums = np.zeros(3, np.float64)
    _encode(source, dropped, words.reshape(-1), scales.reshape(-1), sums, bits, group, table, scale_table)
    return words, scales, sums


def decode(
    words: NDArray[np.uint32], scales: NDArray[np.uint8], bits: int, group: int, table: Floats, scale_table: Floats
) -> Floats:
    """float32 (rows, columns) of packed words and scale bytes (rows, columns / group)."""
    out = np.empty((scales.shape[0], scales.shape[1] * group), np.float32)
    parts = (np.ascontiguousarray(part).reshape(-1) for part in (words, scales))
    _decode(*parts, out.reshape(-1), bits, group, table, scale_table)
    return out


@inner
def _scale_bytes(x: Any, s: Any, scales: Any, groups: int, group: int, largest: Any, dropped: int) -> None:
    """The scale byte of each group of x; s is scratch for a float32 per group."""
    keys, s_keys = x.view(np.int32), s.view(np.uint32)
    for g in range(groups):
        group_keys, key = keys[g * group : (g + 1) * group], np.int32(0)
        for j in range(group):
            key = max(key, np.int32(group_keys[j] & np.int32(0x7FFFFFFF)))
        s_keys[g] = key
    for g in range(groups):
        s[g] = s[g] / largest
    narrow(s, s, groups, dropped)
    if group == 16:
        _round_e4m3(s, scales, groups)
        return
    for g in range(groups):
        field, mantissa = s_keys[g] >> np.uint32(23), s_keys[g] & np.uint32(0x7FFFFF)
        if s_keys[g] == 0:
            scales[g] = 127
        elif field == 0:  # 2**-127 is the largest subnormal power
            scales[g] = 1 if mantissa > np.uint32(0x400000) else 0
        else:
            scales[g] = 255 if field == 255 else field + (1 if mantissa else 0)


@inner
def _round_e4m3(y: Any, codes: Any, count: int) -> None:
    """codes[:count] = y[:count] as E4M3, half to even, saturating at 448."""
    bits = y.view(np.uint32)
    for j in range(count):
        u = bits[j] & np.uint32(0x7FFFFFFF)
        sign = np.uint32(bits[j] >> np.uint32(24)) & np.uint32(0x80)
        odd = (u >> np.uint32(20)) & np.uint32(1)
        high = np.uint32(u + np.uint32(0x7FFFF) + odd - np.uint32(120 << 23)) >> np.uint32(20)
        low = np.uint32(np.int32(((abs(y[j]) + np.float32(2**14)) - np.float32(2**14)) * np.float32(2**9)))
        code = low if u < np.uint32(121 << 23) else high  # below 2**-6 steps are 2**-9
        codes[j] = np.uint8((code if u < np.uint32(543 << 21) else np.uint32(0x7E)) | sign)


@inner
def _round_e2m1(y: Any, codes: Any, count: int) -> None:
    """codes[:count] = y[:count] as E2M1: the magnitude is the number of half-way points that |y| is above."""
    for j in range(count):
        a = abs(y[j])
        low = np.int32(a > np.float32(0.25)) + np.int32(a > np.float32(0.75)) + np.int32(a > np.float32(1.25))
        high = np.int32(a > np.float32(1.75)) + np.int32(a > np.float32(2.5)) + np.int32(a > np.float32(3.5))
        sign = np.int32(8) if y[j] < np.float32(-0.25) else np.int32(0)
        codes[j] = np.uint8(np.int32(low + high + np.int32(a > np.float32(5.0))) | sign)


@inner
def _off_e2m1(codes: Any, x: Any, off: Any, scale: float) -> None:
    """off = scale * value of codes - x; the values as quarters, by arithmetic, which is faster than by table."""
    for j in range(x.shape[0]):
        code = np.int32(codes[j])
        magnitude = np.int32(code & np.int32(7))
        above = np.int32(
            np.int32(np.int32(2) + np.int32(magnitude & np.int32(1))) << np.int32(magnitude >> np.int32(1))
        )
        quarters = np.float32(above if magnitude > np.int32(1) else np.int32(magnitude + magnitude))
        value = (-quarters if code > np.int32(7) else quarters) * np.float32(0.25)
        off[j] = value * scale - x[j]


@inner
def _round_e2m1_coarse(y: Any, codes: Any, table: Any) -> None:
    """As MLX does it, the first smallest difference in float32, where differences of large quotients are equal."""
    for j in range(y.shape[0]):
        best, code = np.float32(np.inf), 0
        for k in range(16):
            distance = abs(np.float32(y[j] - table[k]))
            if distance < best:
                best, code = distance, k
        codes[j] = code


@kernel
def _encode(
    source: Any,
    dropped: int,
    words: Any,
    scales: Any,
    sums: Any,
    bits: int,
    group: int,
    table: Any,
    scale_table: Any,
) -> None:
    values_per_unit = 1 if dropped else 2
    count_all = source.shape[0] // values_per_unit
    x, y, off = np.empty(CHUNK, np.float32), np.empty(CHUNK, np.float32), np.empty(CHUNK, np.float32)
    codes = np.empty(CHUNK, np.uint8)
    s = np.empty(CHUNK // 16, np.float32)
    zero, largest = np.float32(0), np.float32(6) if bits == 4 else np.float32(448)
    for start in range(0, count_all, CHUNK):
        count = min(CHUNK, count_all - start)
        widen(source[start * values_per_unit : (start + count) * values_per_unit], x, count, dropped)
        first, groups = start // group, count // group
        _scale_bytes(x, s, scales[first : first + groups], groups, group, largest, dropped)
        coarse = False
        for g in range(groups):
            scale = scale_table[scales[first + g]]
            value, quotient = x[g * group : (g + 1) * group], y[g * group : (g + 1) * group]
            for j in range(group):
                quotient[j] = value[j] / scale if scale > zero else zero
            coarse |= group == 16 and scale > zero and s[g] / scale > COARSE
        if group == 16:  # divisions by E8M0's powers of two are exact
            narrow(y, y, count, dropped)
        if coarse:
            _round_e2m1_coarse(y[:count], codes, table)
        elif bits == 4:
            _round_e2m1(y, codes, count)
        else:
            _round_e4m3(y, codes, count)
        for g in range(groups):
            scale, begin, end = scale_table[scales[first + g]], g * group, (g + 1) * group
            code, value, distance = codes[begin:end], x[begin:end], off[begin:end]
            if bits == 4:
                _off_e2m1(code, value, distance, scale)
                continue
            for j in range(group):
                distance[j] = table[code[j]] * scale - value[j]
        pack_chunk(codes, words[start * bits // 32 : (start + count) * bits // 32], count, bits)
        measure(x, off, count, sums)


@kernel
def _decode(words: Any, scales: Any, out: Any, bits: int, group: int, table: Any, scale_table: Any) -> None:
    codes = np.empty(CHUNK, np.uint8)
    for start in range(0, out.shape[0], CHUNK):
        count = min(CHUNK, out.shape[0] - start)
        unpack_chunk(words[start * bits // 32 : (start + count) * bits // 32], codes, count, bits)
        for g in range(count // group):
            scale = scale_table[scales[start // group + g]]
            code, value = codes[g * group : (g + 1) * group], out[start + g * group : start + (g + 1) * group]
            for j in range(group):
                value[j] = table[code[j]] * scale
