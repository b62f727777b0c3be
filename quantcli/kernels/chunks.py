"""What kernels share: float dtypes in and out. Works on one chunk at a time.

Float dtypes differ in the number of mantissa bits that float32 has more than they do: f32 0, f16 13, bf16 16.
A source of any of them is given as its uint16 units (f32: two units a value, low half first).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from quantcli.arrays import Array, dtype_name
from quantcli.kernels.compile import inner

#: Values a kernel works on at a time; every group size divides it.
CHUNK = 1024
#: Mantissa bits of float32 that a dtype lacks.
DROPPED = {"f32": 0, "f16": 13, "bf16": 16}


def units(values: Array) -> tuple[Array, int]:
    """Float values of any dtype of FLOATS as flat uint16 units, with their DROPPED; f64 is rounded to float32."""
    if values.dtype == np.float64:
        values = values.astype(np.float32)
    flat = np.ascontiguousarray(values).reshape(-1)
    return flat.view(np.uint16), DROPPED[dtype_name(values.dtype)]


def weights_of(importance: Array | None, block: int) -> Array:
    """Importance as float32 (blocks of a row, or of all rows; `block`); no rows where there is none."""
    if importance is None:
        return np.empty((0, block), np.float32)
    return np.ascontiguousarray(importance, np.float32).reshape(-1, block)


@inner
def widen(source: Any, x: Any, count: int, dropped: int) -> None:
    """x[:count] = the values of `source` (uint16 units), as float32."""
    bits = x.view(np.uint32)
    if dropped == 0:
        halves = x.view(np.uint16)
        for j in range(2 * count):
            halves[j] = source[j]
    elif dropped == 16:
        for j in range(count):
            bits[j] = np.uint32(source[j]) << np.uint32(16)
    else:
        for j in range(count):
            bits[j] = np.uint32(source[j] & np.uint16(0x7FFF)) << np.uint32(13)
        for j in range(count):
            x[j] *= np.float32(2.0**112)  # moves the exponent, subnormals included, from bias 15 to bias 127
        for j in range(count):
            half = np.uint32(source[j])
            special = np.uint32(0x7F800000) if half & np.uint32(0x7C00) == np.uint32(0x7C00) else np.uint32(0)
            bits[j] |= special | (half & np.uint32(0x8000)) << np.uint32(16)


@inner
def narrow(x: Any, y: Any, count: int, dropped: int) -> None:
    """y[:count] = x[:count] rounded half to even to the dtype that lacks `dropped` bits (not NaN); overflow is Inf."""
    bits, out = x.view(np.uint32), y.view(np.uint32)
    if dropped == 0:
        for j in range(count):
            y[j] = x[j]
    elif dropped == 16:
        for j in range(count):
            odd = (bits[j] >> np.uint32(16)) & np.uint32(1)
            out[j] = (bits[j] + np.uint32(0x7FFF) + odd) & np.uint32(0xFFFF0000)
    else:
        for j in range(count):
            sign = np.uint32(bits[j] & np.uint32(0x80000000))
            odd = (bits[j] >> np.uint32(13)) & np.uint32(1)
            normal = np.uint32(((bits[j] & np.uint32(0x7FFFFFFF)) + np.uint32(0xFFF) + odd) & np.uint32(0xFFFFE000))
            normal = normal if normal < np.uint32(0x47800000) else np.uint32(0x7F800000)
            small = np.float32(np.float32(abs(x[j]) + np.float32(0.5)) - np.float32(0.5))  # to a multiple of 2**-24
            out[j] = normal | sign
            if abs(x[j]) < np.float32(2.0**-14):
                y[j] = -small if sign else small
