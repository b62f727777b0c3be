"""MLX affine quantization on the CPU: the bits of `mx.quantize`, and float32 values of packed codes.

Source of the rounding: MLX's CPU backend (mlx/backend/cpu/quantized.cpp), restated. All arithmetic is float32 and each
operation is rounded once. For a group with minimum `low` and maximum `high`, n = 2**bits - 1:

    scale = max((high - low) / n, 1e-7), negative unless |low| > |high|       edge = the extreme of larger magnitude
    q0    = rint(edge / scale);  where q0 is not 0: scale = edge / q0, bias = edge (kept exact);  else bias = 0
    code  = clip(rint((value - bias) / scale), 0, n), with scale and bias before they are rounded to their dtype

With one bit there is no such edge: scale = max(high - low, 1e-7), bias = low.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantcli.arrays import Array
from quantcli.kernels.bits import pack_chunk, unpack_chunk
from quantcli.kernels.chunks import CHUNK, DROPPED, narrow, units, widen
from quantcli.kernels.compile import inner, kernel
from quantcli.kernels.llvm.measure import measure

Floats = NDArray[np.float32]


def encode(
    values: Array, bits: int, group: int, scale_dtype: str
) -> tuple[NDArray[np.uint32], Floats, Floats, NDArray[np.float64]]:
    """Quantize `values` (rows, columns), any dtype of FLOATS, after a cast to `scale_dtype`.

    Returns words (rows, columns * bits / 32), scales and biases (rows, columns / group) as float32 already rounded to
    `scale_dtype` (Inf where they overflow it), and float64 sums: squared error against the values as given, squared
    values, largest error.
    """
    rows, columns = values.shape
    source, source_dropped = units(values)
    words = np.empty((rows, columns * bits // 32), np.uint32)
    scales, biases = (np.empty((rows, columns // group), np.float32) for _ in range(2))
    sums = np.zeros(3, np.float64)
    flat = words.reshape(-1), scales.reshape(-1), biases.reshape(-1)
    _encode(source, source_dropped, DROPPED[scale_dtype], *flat, sums, bits, group)
    return words, scales, biases, sums


def decode(words: NDArray[np.uint32], scales: Floats, biases: Floats, bits: int, group: int) -> Floats:
    """float32 (rows, columns) of packed words; `scales` and `biases` float32 (rows, columns / group)."""
    out = np.empty((scales.shape[0], scales.shape[1] * group), np.float32)
    parts = (np.ascontiguousarray(part).reshape(-1) for part in (words, scales, biases))
    _decode(*parts, out.reshape(-1), bits, group)
    return out


@inner
def _first_zero(x: Any) -> Any:
    """Of zeros, a scan for the minimum keeps the first: its sign is stored."""
    for value in x:
        if value == np.float32(0):
            return value
    return np.float32(0)


@kernel
def _find_grids(x: Any, scales: Any, biases: Any, groups: int, bits: int, group: int) -> None:
    """The unrounded scale and bias of each group of x."""
    bins, zero = np.float32((1 << bits) - 1), np.float32(0)
    edges = np.empty(2, np.float32)
    edge_keys, keys = edges.view(np.int32), x.view(np.int32)
    for g in range(groups):
        group_keys = keys[g * group : (g + 1) * group]
        low_key, high_key = np.int32(0x7FFFFFFF), np.int32(-0x80000000)
        for j in range(group):
            # The bits of a float, those of a negative one inverted, are ordered as integers, and integers vectorise.
            key = np.int32(group_keys[j] ^ ((group_keys[j] >> np.int32(31)) & np.int32(0x7FFFFFFF)))
            low_key, high_key = min(low_key, key), max(high_key, key)
        edge_keys[0] = low_key ^ ((low_key >> np.int32(31)) & np.int32(0x7FFFFFFF))
        edge_keys[1] = high_key ^ ((high_key >> np.int32(31)) & np.int32(0x7FFFFFFF))
        low, high = edges[0], edges[1]
        if bits == 1:
            scales[g] = max(np.float32(high - low), np.float32(1e-7))
            biases[g] = low if low != zero else _first_zero(x[g * group : (g + 1) * group])
            continue
        below = abs(low) > abs(high)
        scale = max(np.float32(np.float32(high - low) / bins), np.float32(1e-7))
        scale = scale if below else -scale
        edge = low if below else high
        steps = np.float32(np.rint(np.float32(edge / scale)))
        scales[g] = np.float32(edge / steps) if steps != zero else scale
        biases[g] = edge if steps != zero else zero


@kernel
def _encode(
    source: Any,
    source_dropped: int,
    dropped: int,
    words: Any,
    scales: Any,
    biases: Any,
    sums: Any,
    bits: int,
    group: int,
) -> None:
    values_per_unit = 1 if source_dropped else 2
    count_all = source.shape[0] // values_per_unit
    given, cast, off = np.empty(CHUNK, np.float32), np.empty(CHUNK, np.float32), np.empty(CHUNK, np.float32)
    codes = np.empty(CHUNK, np.uint8)
    exact_scales, exact_biases = np.empty(CHUNK // 32, np.float32), np.empty(CHUNK // 32, np.float32)
    # bf16 and f16 are exact in f32 only; every other pair of dtypes needs the cast.
    same = dropped in (0, source_dropped)
    x = given if same else cast
    bins, zero, half = np.float32((1 << bits) - 1), np.float32(0), np.float32(1.5 * 2**23)
    for start in range(0, count_all, CHUNK):
        count = min(CHUNK, count_all - start)
        widen(source[start * values_per_unit : (start + count) * values_per_unit], given, count, source_dropped)
        if not same:
            narrow(given, cast, count, dropped)
        first, groups = start // group, count // group
        _find_grids(x, exact_scales, exact_biases, groups, bits, group)
        narrow(exact_scales, scales[first : first + groups], groups, dropped)
        narrow(exact_biases, biases[first : first + groups], groups, dropped)
        for g in range(groups):
            begin, end = g * group, (g + 1) * group
            value, code, distance, wanted = x[begin:end], codes[begin:end], off[begin:end], given[begin:end]
            scale, bias = exact_scales[g], exact_biases[g]
            stored_scale, stored_bias = scales[first + g], biases[first + g]
            for j in range(group):
                q = (value[j] - bias) / scale
                q = q if q > zero else zero  # a NaN (scale 0) becomes code 0, as in MLX
                q = q if q < bins else bins
                q = (q + half) - half  # rint of 0 .. 2**22
                code[j] = np.uint8(np.int32(q))
                distance[j] = (stored_scale * q + stored_bias) - wanted[j]
        pack_chunk(codes, words[start * bits // 32 : (start + count) * bits // 32], count, bits)
        measure(given, off, count, sums)


@kernel
def _decode(words: Any, scales: Any, biases: Any, out: Any, bits: int, group: int) -> None:
    codes = np.empty(CHUNK, np.uint8)
    for start in range(0, out.shape[0], CHUNK):
        count = min(CHUNK, out.shape[0] - start)
        unpack_chunk(words[start * bits // 32 : (start + count) * bits // 32], codes, count, bits)
        for g in range(count // group):
            scale, bias = scales[start // group + g], biases[start // group + g]
            code, value = codes[g * group : (g + 1) * group], out[start + g * group : start + (g + 1) * group]
            for j in range(group):
                value[j] = scale * np.float32(code[j]) + bias
