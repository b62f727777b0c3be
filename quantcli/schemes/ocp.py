"""OCP's small floats: elements of 4, 6 and 8 bits and scales of 8, which MLX, ggml and Hugging Face's quantizers share.

    element   sign, exponent, mantissa   bias   largest
    E2M1      s ee m                        1         6    0 .5 1 1.5 2 3 4 6 and their negatives: FP4
    E2M3      s ee mmm                      1       7.5    FP6
    E3M2      s eee mm                      3        28    FP6
    E4M3      s eeee mmm                    7       448    FP8; no Inf, 7f and ff are NaN
    E5M2      s eeeee mm                   15     57344    FP8; Inf and NaN as in half precision: 7c to 7f, fc to ff
    E8M0      eeeeeeee                    127    2**127    scales: powers of two without a sign; no zero, ff is NaN

    value = (-1)**s * 2**(exponent - bias) * 1.mantissa
            (-1)**s * 2**(1 - bias) * 0.mantissa             where the exponent is 0

E4M3's byte 4d is 0 1001 101: 2**(9 - 7) * (1 + 5/8) = 6.5; its largest is 7e, 0 1111 110: 2**8 * (1 + 6/8). 05 has the
exponent 0: 2**-6 * 5/8. E2M1's code 1101 is -(2**(2 - 1) * (1 + 1/2)), and E8M0's byte 80 is 2**(128 - 127).

>>> E4M3[0x4D], E4M3[0x7E], E4M3[0x05] == 2**-6 * 5 / 8, E2M1[0b1101], E8M0[0x80]
(6.5, 448.0, True, -3.0, 2.0)

Formats made of them: MXFP4, MXFP6, MXFP8 (groups of 32 values that share an E8M0 scale), NVFP4 (groups of 16 that share
an E4M3 scale, and a float32 for all of them, which some store and others leave out).
Sources: OCP Microscaling Formats 1.0 (MX), OCP 8-bit Floating Point Specification 1.0 (OFP8).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from quantcli.schemes.base import DoesNotFit, Grade, Grid


def _table(exponent_bits: int, mantissa_bits: int, bias: int) -> tuple[float, ...]:
    """The values of all codes, as if none were Inf or NaN: those without a sign, then their negatives."""
    values = []
    for code in range(1 << exponent_bits + mantissa_bits):
        exponent, mantissa = code >> mantissa_bits, code & (1 << mantissa_bits) - 1
        whole = mantissa + (1 << mantissa_bits) if exponent else mantissa
        values.append(float(whole) * 2.0 ** (max(exponent, 1) - bias - mantissa_bits))
    return (*values, *(-value for value in values))


def _ending(values: tuple[float, ...], *last: float) -> tuple[float, ...]:
    """A table whose last codes of either sign mean something else."""
    half = len(values) // 2
    kept = half - len(last)
    negative = (value if math.isnan(value) else -value for value in last)
    return (*values[:kept], *last, *values[half : half + kept], *negative)


E2M1, E2M3, E3M2 = _table(2, 1, 1), _table(2, 3, 1), _table(3, 2, 3)
E4M3 = _ending(_table(4, 3, 7), math.nan)
E5M2 = _ending(_table(5, 2, 15), math.inf, math.nan, math.nan, math.nan)
#: The last is Inf, which 2**128 is in float32: MLX has no NaN there.
E8M0 = (*(2.0 ** (byte - 127) for byte in range(255)), math.inf)

#: The values of all codes of an element.
ELEMENTS = {"e2m1": E2M1, "e2m3": E2M3, "e3m2": E3M2, "e4m3": E4M3, "e5m2": E5M2}
#: The largest value of each that is a number.
LARGEST = {name: max(value for value in table if math.isfinite(value)) for name, table in ELEMENTS.items()}
#: Relative RMSE of rounding a Gaussian that fills their range: half a unit in the last place, spread over a binade.
FP8_ROUNDING = {"e4m3": 0.0265, "e5m2": 0.053}

#: Values that share a scale in the MX formats.
MX_GROUP = 32
#: The same of NVFP4, which some tools make larger.
NVFP4_GROUP = 16
#: Relative RMSE of rounding a Gaussian to NVFP4 with its scale for all.
NVFP4_ROUNDING = 0.095
#: NVFP4: the largest scale times the largest code.
NVFP4_LARGEST = LARGEST["e4m3"] * LARGEST["e2m1"]


def holds_nonfinite(codes: NDArray[np.uint8], table: tuple[float, ...]) -> bool:
    """Whether some byte is the code of NaN or Inf in a table of all codes."""
    odd = [code for code in range(len(table)) if not math.isfinite(table[code])]
    half = len(table) // 2
    if odd and odd == [*range(odd[0], half), *range(half + odd[0], len(table))]:
        return bool((codes & np.uint8(half - 1) >= odd[0]).any())
    return any(bool((codes == code).any()) for code in odd)


def codes_fit(grid: Grid, name: str, table: tuple[float, ...], group: int, scale_dtype: str) -> Grade | str:
    """Return `Scheme.fits` for a format with these codes, groups and scales, MLX's or GGML's."""
    grade = codes_may_fit(grid, name, table, group)
    if isinstance(grade, str):
        return grade
    if grid.group % group:
        return f"its group size {grid.group} is not a multiple of {group}"
    if grid.scale_dtype != scale_dtype:
        return f"its scales are {grid.scale_dtype}, but those of {name} are {scale_dtype}"
    return grade


def codes_may_fit(grid: Grid, name: str, table: tuple[float, ...], group: int) -> Grade | str:
    """Return `Scheme.may_fit`: scales of any dtype, also products with a global scale, may be among the format's."""
    if grid.table is None or not np.array_equal(grid.table, table, equal_nan=True):
        return f"its codes are not those of {name}"
    if grid.group % group and group % grid.group:
        return f"its group size {grid.group} is not a multiple of {group}"
    return Grade.EXACT


def scale_bytes(scales: NDArray[np.float32], known: NDArray[np.float32], scale_dtype: str) -> NDArray[np.uint8]:
    """Return the bytes of scales, whose values are `known` in this order. Raises `DoesNotFit` for another scale.

    All of them have at most four significant bits, so that a float32's upper twelve bits say which it may be.
    """
    byte_of = np.zeros(1 << 12, np.uint8)
    byte_of[known.view(np.uint32) >> 20] = np.arange(len(known), dtype=np.uint8)
    stored: NDArray[np.uint8] = byte_of[np.ascontiguousarray(scales).view(np.uint32) >> 20]
    if (wrong := known[stored] != scales).any():
        raise DoesNotFit(f"a scale of {scales[wrong][0]:g} is not a value of {scale_dtype}")
    return stored
