"""compressed-tensors' min-max observer and `quantize`: scales and zero points of extremes, values rounded onto them.

    scale        symmetric integers   amax / ((2**bits - 1) / 2)          E4M3   amax / 448
                 with zero points     (max - min) / (2**bits - 1)         min <= 0 <= max
                 MX                   power of two: of amax, counted up from 1.75 of a binade, over that of the largest
                 NVFP4                (amax / 6) * global, as E4M3;  global = (1 / amax of the weight) * 448 * 6
                 0 becomes the dtype's epsilon (of E4M3 scales 0.125, of powers that are 0 in the dtype 1)
    zero point   clip(min_code - min / scale), rounded half to even
    code         clip(value / scale + zero point), rounded half to even

Each operation is rounded to the dtype of the weight, as torch does it; NVFP4 divides in float32.
Source: compressed-tensors 0.20 (quantization/utils: helpers.py, mxfp_utils.py; lifecycle/forward_helpers.py),
llm-compressor 0.14 (observers/min_max.py, memoryless).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from quantcli.arrays import Array, numpy_dtype, to_float32
from quantcli.schemes.base import DoesNotFit
from quantcli.schemes.ocp import LARGEST, NVFP4_LARGEST

Floats = NDArray[np.float32]
Extremes = tuple[Floats, Floats]

#: Bits of the mantissa that are stored, and what a scale of 0 becomes.
MANTISSA = {"f32": 23, "f16": 10, "bf16": 7}
#: An E4M3 scale of 0 becomes this.
E4M3_LEAST = 0.125
#: Exponent of the largest value of the element that has so many bits.
TOP_EXPONENT = {4: math.frexp(LARGEST["e2m1"])[1] - 1, 8: math.frexp(LARGEST["e4m3"])[1] - 1}


def rounded(values: Floats, dtype: str | None) -> Floats:
    """Return float32 values rounded to a dtype and back; unchanged for None."""
    if dtype in (None, "f32", "f64"):
        return values
    with np.errstate(over="ignore", invalid="ignore"):
        return to_float32(values.astype(numpy_dtype(str(dtype))))


def extremes(values: Floats, rows: int | None, columns: int | None) -> Extremes:
    """Return the smallest (at most 0) and largest (at least 0) value of each block.

    Both are (blocks of rows, blocks of columns).

    >>> [part.tolist() for part in extremes(np.float32([[1, 2, -3, -4]]), 1, 2)]
    [[[0.0, -4.0]], [[2.0, 0.0]]]
    """
    count, width = values.shape
    by_column = values.reshape(count, -1, columns) if columns and width % columns == 0 else None
    low, high = (_reduced(reduce, values, by_column, columns) for reduce in (np.minimum, np.maximum))
    if rows != 1:
        starts = np.arange(0, count, rows or count)
        low, high = np.minimum.reduceat(low, starts, axis=0), np.maximum.reduceat(high, starts, axis=0)
    return np.minimum(low, np.float32(0)), np.maximum(high, np.float32(0))


def _reduced(reduce: np.ufunc, values: Floats, by_column: Floats | None, columns: int | None) -> Floats:
    found: Floats
    if by_column is not None:
        found = reduce.reduce(by_column, axis=2)
    elif columns is None:
        found = reduce.reduce(values, axis=1, keepdims=True)
    else:
        found = reduce.reduceat(values, np.arange(0, values.shape[1], columns), axis=1)
    return found


def of_all(slabs: Iterable[Array], dtype: str | None) -> tuple[Extremes, str]:
    """Return the extremes of a weight, (1, 1), and the dtype to compute in: `dtype`, or that of the values."""
    low, high, found = np.zeros((1, 1), np.float32), np.zeros((1, 1), np.float32), dtype or "f32"
    for slab in slabs:
        found = dtype or arithmetic(slab)
        some = extremes(rounded(to_float32(slab), found), None, None)
        low, high = np.minimum(low, some[0]), np.maximum(high, some[1])
    return (low, high), found


def arithmetic(values: Array) -> str:
    """Return the dtype to compute in: that of the values, float32 for wider ones."""
    return {"bfloat16": "bf16", "float16": "f16"}.get(values.dtype.name, "f32")


def largest(found: Extremes) -> Floats:
    """Return the largest magnitude of each block."""
    return np.maximum(-found[0], found[1])


def integer_grid(found: Extremes, bits: int, symmetric: bool, dtype: str) -> tuple[Floats, Floats | None]:
    """Return scales, and zero points as codes 0 .. 2**bits - 1, None if the grid is symmetric."""
    low, high = found
    steps = np.float32(2**bits - 1)
    if symmetric:
        return _above_zero(rounded(largest(found) / (steps / 2), dtype), dtype), None
    least = np.float32(-(2 ** (bits - 1)))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        scales = rounded(rounded(high - low, dtype) / steps, dtype)
        zeros = rounded(least - rounded(low / scales, dtype), dtype)
    if (lost := np.isfinite(low) & np.isfinite(high) & ~np.isfinite(scales)).any():
        raise DoesNotFit(f"the range from {low[lost][0]:g} to {high[lost][0]:g} exceeds the largest value of {dtype}")
    zeros = np.rint(np.clip(np.nan_to_num(zeros, nan=0.0), least, -least - 1))
    return _above_zero(scales, dtype), zeros - least


def float_scales(found: Extremes, dtype: str) -> Floats:
    """Return scales that map the largest value of a block to E4M3's largest."""
    return _above_zero(rounded(largest(found) / np.float32(LARGEST["e4m3"]), dtype), dtype)


def _above_zero(scales: Floats, dtype: str) -> Floats:
    return np.where(scales == 0, np.float32(2.0 ** -MANTISSA[dtype]), scales)


def powers(found: Extremes, bits: int, dtype: str) -> Floats:
    """Return scales of MX: powers of two, in the dtype of the weight."""
    mantissa = MANTISSA[dtype]
    kind = np.uint32 if dtype == "f32" else np.uint16
    patterns = largest(found).astype(numpy_dtype(dtype)).view(kind).astype(np.uint64)
    patterns = (patterns + np.uint64(1 << mantissa - 2)) >> np.uint64(mantissa) << np.uint64(mantissa)
    binade = to_float32(patterns.astype(kind).view(numpy_dtype(dtype)))
    if np.isinf(binade).any():
        raise DoesNotFit("a value is so near the largest of its dtype that no power of two can be its scale")
    exponents = np.frexp(binade)[1] - 1 - TOP_EXPONENT[bits]
    exponents = np.where(binade > 0, np.clip(exponents, -127, 127), -127)
    exact = np.asarray(np.ldexp(np.float32(1), exponents), np.float32)
    scales = rounded(exact, dtype)
    return np.where(scales == 0, np.float32(1), scales)


def global_scale(found: Extremes, dtype: str) -> Floats:
    """Return NVFP4's global scale, float32 (1,): it maps a weight's largest value to that of E2M1 times E4M3."""
    tiny = 2.0**-14 if dtype == "f16" else 2.0**-126
    top: Floats = np.maximum(largest(found).reshape(1), np.float32(tiny))
    with np.errstate(over="ignore"):
        # torch divides a number by a tensor as the tensor's reciprocal times the number.
        whole = rounded(rounded(np.reciprocal(top), dtype) * np.float32(NVFP4_LARGEST), dtype)
    return np.where(np.isfinite(whole), whole, np.float32(1))


def two_level_scales(found: Extremes, whole: Floats, dtype: str) -> Floats:
    """Return NVFP4's scales of groups, values of E4M3."""
    with np.errstate(over="ignore", invalid="ignore"):
        wanted = whole * rounded(largest(found) / np.float32(LARGEST["e2m1"]), dtype)
    scales = to_float32(np.clip(wanted, -LARGEST["e4m3"], LARGEST["e4m3"]).astype(numpy_dtype("f8_e4m3")))
    return np.where(scales == 0, np.float32(E4M3_LEAST), scales)


def integers(values: Floats, zeros: Floats | None, bits: int, dtype: str) -> NDArray[np.uint8]:
    """Return codes 0 .. 2**bits - 1 for values over their scales, which are overwritten; zeros: as codes."""
    half = np.float32(2 ** (bits - 1))
    if zeros is not None:
        values += zeros - half
        values = rounded(values, dtype)
    with np.errstate(invalid="ignore"):
        np.rint(np.clip(values, -half, half - 1, out=values), out=values)
        values += half
        return values.astype(np.uint8)


def e4m3(values: Floats) -> NDArray[np.uint8]:
    """Return bytes for values over their scales, which are overwritten."""
    np.clip(values, -LARGEST["e4m3"], LARGEST["e4m3"], out=values)
    values += np.float32(0)  # -0 becomes 0, as adding a zero point does it; what is rounded to 0 keeps its sign
    return values.astype(numpy_dtype("f8_e4m3")).view(np.uint8)


def e2m1(values: Floats) -> NDArray[np.uint8]:
    """Return codes for values over their scales, which are overwritten."""
    import ml_dtypes

    np.clip(values, -LARGEST["e2m1"], LARGEST["e2m1"], out=values)
    values += np.float32(0)
    return values.astype(ml_dtypes.float4_e2m1fn).view(np.uint8)
