"""The small floats of OCP: elements of 4, 6 and 8 bits, scales of 8, and what formats made of them have in common."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from quantcli.schemes.base import DoesNotFit, Grade, Grid


def _table(exponent_bits: int, mantissa_bits: int, bias: int) -> tuple[float, ...]:
    """The values of all codes of a float without Inf and NaN.

    >>> _table(2, 1, 1) == E2M1, max(_table(2, 3, 1)), max(_table(3, 2, 3))
    (True, 7.5, 28.0)
    """
    values = []
    for code in range(1 << exponent_bits + mantissa_bits):
        exponent, mantissa = code >> mantissa_bits, code & (1 << mantissa_bits) - 1
        whole = mantissa + (1 << mantissa_bits) if exponent else mantissa
        values.append(float(whole) * 2.0 ** (max(exponent, 1) - bias - mantissa_bits))
    return (*values, *(-value for value in values))


def _e4m3(byte: int) -> float:
    sign, exponent, mantissa = -1.0 if byte & 0x80 else 1.0, byte >> 3 & 15, byte & 7
    if exponent == 15 and mantissa == 7:
        return float("nan")
    return sign * (2.0 ** (exponent - 10) * (8 + mantissa) if exponent else 2.0**-9 * mantissa)


def _e5m2(byte: int) -> float:
    sign, exponent, mantissa = -1.0 if byte & 0x80 else 1.0, byte >> 2 & 31, byte & 3
    if exponent == 31:
        return float("nan") if mantissa else sign * float("inf")
    return sign * (2.0 ** (exponent - 17) * (4 + mantissa) if exponent else 2.0**-16 * mantissa)


E2M1 = tuple(sign * value for sign in (1.0, -1.0) for value in (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0))
E4M3 = tuple(_e4m3(byte) for byte in range(256))
#: The last is 2**128, Inf in float32: MLX has no NaN there.
E8M0 = (*(2.0 ** (byte - 127) for byte in range(255)), float("inf"))
E2M3, E3M2 = _table(2, 3, 1), _table(3, 2, 3)
E5M2 = tuple(_e5m2(byte) for byte in range(256))
#: Relative RMSE of rounding a Gaussian to E2M1 with two levels of scales.
NVFP4_ROUNDING = 0.095


def holds_nonfinite(codes: NDArray[np.uint8], table: tuple[float, ...]) -> bool:
    """Whether some byte is the code of NaN or Inf in a table of all codes."""
    odd = [code for code in range(len(table)) if not math.isfinite(table[code])]
    half = len(table) // 2
    if odd and odd == [*range(odd[0], half), *range(half + odd[0], len(table))]:
        return bool((codes & np.uint8(half - 1) >= odd[0]).any())
    return any(bool((codes == code).any()) for code in odd)


def small_floats_fit(grid: Grid, name: str, table: tuple[float, ...], group: int, scale_dtype: str) -> Grade | str:
    """`Scheme.fits` of a format with these codes, groups and scales, MLX's or GGML's."""
    grade = small_floats_may_fit(grid, name, table, group)
    if isinstance(grade, str):
        return grade
    if grid.group % group:
        return f"its groups of {grid.group} are no multiple of {group}"
    if grid.scale_dtype != scale_dtype:
        return f"its scales are {grid.scale_dtype}, those of {name} are {scale_dtype}"
    return grade


def small_floats_may_fit(grid: Grid, name: str, table: tuple[float, ...], group: int) -> Grade | str:
    """`Scheme.may_fit`: scales of any dtype, products with a global scale among them, may be among those it has."""
    if grid.table is None or not np.array_equal(grid.table, table, equal_nan=True):
        return f"its codes are not those of {name}"
    if grid.group % group and group % grid.group:
        return f"its groups of {grid.group} are no multiple of {group}"
    return Grade.EXACT


def scale_bytes(scales: NDArray[np.float32], known: NDArray[np.float32], scale_dtype: str) -> NDArray[np.uint8]:
    """The bytes whose values, `known` in this order, are these scales; raises `DoesNotFit` where one is none of them.

    All of them have at most four significant bits, so that a float32's upper twelve bits say which it may be.
    """
    byte_of = np.zeros(1 << 12, np.uint8)
    byte_of[known.view(np.uint32) >> 20] = np.arange(len(known), dtype=np.uint8)
    stored: NDArray[np.uint8] = byte_of[np.ascontiguousarray(scales).view(np.uint32) >> 20]
    if (wrong := known[stored] != scales).any():
        raise DoesNotFit(f"a scale of {scales[wrong][0]:g} is not one of {scale_dtype}")
    return stored
