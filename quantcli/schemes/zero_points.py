"""Codes on grids without biases: with one zero point for all groups, or an integer zero point for each group.

    value = scale * code + bias = scale * (code - zero)    where bias = -zero * scale

    scale 0, bias 0     every value is 0 whatever its code
    scale 0, bias b     every value is b: the scale becomes |b|, and the codes those next to the code of 0

Codes on a table have no biases. If scales are powers of two, which 0 is not, a group of zeros has codes of 0.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from quantcli.schemes.base import Codes, DoesNotFit
from quantcli.schemes.ocp import E8M0

Floats = NDArray[np.float32]

#: The smallest scale of E8M0.
SMALLEST_POWER = np.float32(E8M0[0])


def symmetric(codes: Codes, zero: int, bits: int) -> Codes:
    """Return the same values as codes of `bits` bits with the zero point `zero` in every group.

    Codes of groups of zeros are kept if codes have as many bits as before, else they become `zero`. Raises
    `DoesNotFit` if a bias is not a whole multiple of its scale, or if codes could exceed `bits` bits.

    >>> from quantcli.schemes.base import Grid
    >>> given = np.uint8([[*[1] * 32, *[2] * 32, *[3] * 32, *[4] * 32]])
    >>> codes = Codes(Grid(6, 32, "f16"), given, np.float32([[0.5, -2, 0, 0]]), np.float32([[-16, 8, 0, -5]]))
    >>> found = symmetric(codes, 128, 8)
    >>> found.codes[0, ::32].tolist(), found.scales.tolist()
    ([97, 126, 128, 127], [[0.5, -2.0, 0.0, 5.0]])
    >>> bool((found.values() == codes.values()).all())
    True
    """
    grid = replace(codes.grid, bits=bits, zero=zero, zero_points=False)
    room = 2**bits - 2**codes.grid.bits
    if codes.grid.zero is not None:
        shift = zero - codes.grid.zero
        if not 0 <= shift <= room:
            raise DoesNotFit(f"its codes with zero point {codes.grid.zero} exceed {bits} bits with zero point {zero}")
        return Codes(grid, _moved(codes, np.full((1, 1), shift)), codes.scales, _product(codes.scales, -zero))
    idle = codes.scales == 0
    steps = _steps(codes, idle)
    if (wrong := np.isnan(steps)).any():
        scale, bias = codes.scales[wrong][0], _biases(codes)[wrong][0]
        raise DoesNotFit(f"a bias of {bias:g} is not a whole multiple of its scale {scale:g}")
    offsets = steps + np.float32(zero)
    if steps.shape == idle.shape:
        offsets[idle] = 0
    if (outside := ~((offsets >= 0) & (offsets <= room))).any():
        raise DoesNotFit(f"a bias of {steps[outside][0]:g} times its scale moves codes beyond {bits} bits")
    moved, scales = _moved(codes, offsets), codes.scales
    if idle.any():
        biases = _biases(codes)
        constant = idle & (biases != 0)
        moved = _filled(moved, idle if bits > codes.grid.bits else constant, zero + _sign(biases))
        scales = np.where(constant, np.abs(biases), scales)
    return Codes(grid, moved, scales, _product(scales, -zero))


def with_zero_points(codes: Codes, bits: int) -> Codes:
    """Return the same values with biases -zero * scale, with an integer zero of `bits` bits for each group.

    Raises `DoesNotFit` if a bias has no such zero point.
    """
    if codes.grid.zero is not None:
        return codes
    idle = codes.scales == 0
    steps = _steps(codes, idle)
    if (wrong := np.broadcast_to(~((steps <= 0) & (steps > -(2**bits))), idle.shape)).any():
        scale, bias = codes.scales[wrong][0], _biases(codes)[wrong][0]
        raise DoesNotFit(f"a bias of {bias:g} with a scale of {scale:g} is not a zero point")
    moved, scales, biases = codes.codes, codes.scales, steps * codes.scales
    if idle.any():
        signs = _sign(_biases(codes))
        constant = idle & (_biases(codes) != 0)
        scales = np.where(constant, np.abs(_biases(codes)), scales)
        biases = np.where(constant & (signs < 0), -scales, biases)
        moved = _filled(moved, constant, np.maximum(signs, 0))
    return Codes(replace(codes.grid, zero_points=True), moved, scales, biases)


def halved(codes: Codes) -> Codes:
    """Return the same values as 1-bit codes with biases -scale / 2: each value is plus or minus half of its scale.

    Raises `DoesNotFit` if a bias is another.
    """
    if codes.grid.bits > 1 or codes.grid.zero is not None:
        raise DoesNotFit("its codes do not stand for two values of opposite sign")
    scales, biases = codes.scales, _biases(codes)
    constant = (scales == 0) & (biases != 0)
    if (wrong := ~constant & (_product(biases, -2) != scales)).any():
        raise DoesNotFit(f"a bias of {biases[wrong][0]:g} is not minus half of its scale {scales[wrong][0]:g}")
    moved = _filled(codes.codes, constant, (biases > 0).astype(np.int16))
    doubled = np.where(constant, _product(np.abs(biases), 2), scales)
    return Codes(codes.grid, moved, doubled, np.where(constant, -np.abs(biases), biases))


def without_scales_of_zero(codes: Codes) -> Codes:
    """Return the same values with the smallest scale of E8M0 and codes of 0 in place of scales of 0.

    A table with NaN or Inf is unchanged: 0 times these is not 0.
    """
    idle, table = codes.scales == 0, codes.grid.table
    if table is None or not idle.any() or not np.isfinite(table).all():
        return codes
    zero = np.full(idle.shape, table.index(0.0), np.int16)
    return replace(codes, codes=_filled(codes.codes, idle, zero), scales=np.where(idle, SMALLEST_POWER, codes.scales))


def _biases(codes: Codes) -> Floats:
    assert codes.biases is not None
    return codes.biases


def _steps(codes: Codes, idle: NDArray[np.bool_]) -> Floats:
    """How many scales the bias of each group is: (rows, groups), or (1, 1) where all groups have the same number.

    idle: where scales are 0, and so is the number. NaN where it is not a whole number.
    """
    scales, biases = codes.scales, _biases(codes)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        if not idle.all():
            at = np.unravel_index(np.argmin(idle), idle.shape)
            same: Floats = np.rint(biases[at] / scales[at]).reshape(1, 1)
            if np.array_equal(scales * same, biases):
                return same
        steps = np.rint(biases / scales)
        whole: Floats = np.where(steps * scales == biases, steps, np.float32(np.nan))
    whole[idle] = 0
    return whole


def _product(numbers: Floats, factor: int) -> Floats:
    with np.errstate(over="ignore", invalid="ignore"):
        return numbers * np.float32(factor)


def _sign(biases: Floats) -> NDArray[np.int16]:
    """1, -1, and 0 of zeros (and of NaN)."""
    return (biases > 0).astype(np.int16) - (biases < 0)


def _moved(codes: Codes, offsets: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Codes plus the offsets of their groups, (rows, groups) or one for all; not copied where all are 0."""
    least, most = (int(offsets.min()), int(offsets.max())) if offsets.size and codes.codes.size else (0, 0)
    if least == most:
        return codes.codes + np.uint8(least) if least else codes.codes
    return codes.codes + np.repeat(offsets.astype(np.uint8), codes.grid.group, axis=1)


def _filled(codes: NDArray[np.uint8], where: NDArray[np.bool_], values: NDArray[np.int16]) -> NDArray[np.uint8]:
    """Codes with those of some groups replaced by one value each; where, values: (rows, groups)."""
    if not codes.size or not where.any():
        return codes
    grouped = codes.reshape(*where.shape, -1).copy()
    grouped[where] = values[where].astype(np.uint8)[:, None]
    return grouped.reshape(codes.shape)
