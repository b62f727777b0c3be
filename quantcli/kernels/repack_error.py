"""How far rounded scales and biases take the values of codes, from sums over each group's codes: no value is computed.

With a scale and a bias that change by ds and db, the values of a group's n codes c change by ds * c + db, so that

    squared error   ds**2 * sum(c**2) + 2 * ds * db * sum(c) + n * db**2          values: with scale and bias
    largest error   at the smallest or the largest code

in float64. Float32 values differ from this in their own last bit, far below what rounding a scale to 16 bits does.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantcli.kernels.compile import inner, kernel

Floats = NDArray[np.float32]

#: Groups that are summed before their errors are.
AT_ONCE = 256


def between(
    codes: NDArray[np.uint8], parameters: tuple[Floats, Floats], stored: tuple[Floats, Floats]
) -> tuple[float, float, float]:
    """Squared error, squared values, largest error of codes (rows, columns) under other scales and biases.

    Each pair has its own (rows, groups); the groups of one fill those of the other.
    """
    if not codes.size:
        return 0.0, 0.0, 0.0
    groups = max(pair[0].shape[1] for pair in (parameters, stored))
    sums = np.zeros(3, np.float64)
    flat = np.ascontiguousarray(codes).reshape(-1, codes.shape[1] // groups)
    own, new = (_spread(pair, groups) for pair in (parameters, stored))
    _between(flat, int(codes.max()), *own, *new, sums)
    return float(sums[0]), float(sums[1]), float(sums[2])


def _spread(pair: tuple[Floats, Floats], groups: int) -> tuple[Floats, Floats, int]:
    """Scales and biases, flat, and how often a group's number is halved for the number of its entry.

    Where groups are no power of two of the smaller ones (rows of 320 in groups of 64), entries are repeated.
    """
    share = groups // pair[0].shape[1]
    if share & (share - 1):
        pair, share = (np.repeat(pair[0], share, axis=1), np.repeat(pair[1], share, axis=1)), 1
    scales, biases = (np.ascontiguousarray(part).reshape(-1) for part in pair)
    return scales, biases, share.bit_length() - 1


@kernel
def _between(
    codes: Any,
    top: int,
    scales: Any,
    biases: Any,
    shift: int,
    new_scales: Any,
    new_biases: Any,
    new_shift: int,
    sums: Any,
) -> None:
    """Group g of the codes is in group g >> shift of the old parameters, g >> new_shift of the new ones.

    top: no code is above it.
    """
    values, bound = np.float64(codes.shape[1]), np.empty(AT_ONCE, np.float64)
    total, squares = np.empty(AT_ONCE, np.float64), np.empty(AT_ONCE, np.float64)
    squared = reference = largest = 0.0
    for first in range(0, codes.shape[0], AT_ONCE):
        count = min(AT_ONCE, codes.shape[0] - first)
        _sum_codes(codes[first : first + count], total, squares)
        for i in range(count):
            old, new = (first + i) >> shift, (first + i) >> new_shift
            scale, bias = np.float64(scales[old]), np.float64(biases[old])
            ds, db = np.float64(new_scales[new]) - scale, np.float64(new_biases[new]) - bias
            reference += (scale * scale * squares[i] + 2 * scale * bias * total[i]) + values * bias * bias
            squared += max((ds * ds * squares[i] + 2 * ds * db * total[i]) + values * db * db, 0.0)
            bound[i] = abs(ds) * top + abs(db)
        for i in range(count):
            if bound[i] > largest:  # seldom: few groups could have a larger error than all before
                old, new = (first + i) >> shift, (first + i) >> new_shift
                ds = np.float64(new_scales[new]) - np.float64(scales[old])
                db = np.float64(new_biases[new]) - np.float64(biases[old])
                low, high = codes[first + i].min(), codes[first + i].max()
                largest = max(largest, max(abs(ds * low + db), abs(ds * high + db)))
    sums[0], sums[1], sums[2] = squared, reference, largest


@inner
def _sum_codes(codes: Any, total: Any, squares: Any) -> None:
    """Of each group the sum of its codes, and of their squares."""
    count = codes.shape[1]
    for g in range(codes.shape[0]):
        group = codes[g]
        first, second = np.int32(0), np.int32(0)
        for j in range(count):
            code = np.int32(group[j])
            first += code
            second += code * code
        total[g], squares[g] = first, second
