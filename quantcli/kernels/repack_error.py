"""How far rounded scales and biases take the values of codes, from sums over each group's codes: no value is computed.

With a scale and a bias that change by ds and db, the values of a group's n codes c change by ds * c + db, so that

    squared error   ds**2 * sum(c**2) + 2 * ds * db * sum(c) + n * db**2          values likewise, with scale and bias
    largest error   at the smallest or the largest code

in float64. Float32 values differ from this in their own last bit, far below what rounding a scale to 16 bits does.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantcli.kernels.compile import kernel

Floats = NDArray[np.float32]


def between(
    codes: NDArray[np.uint8], parameters: tuple[Floats, Floats], stored: tuple[Floats, Floats]
) -> tuple[float, float, float]:
    """Squared error, squared values, largest error of codes (rows, columns) under other scales and biases.

    Either pair has (rows, groups) of its own, groups of a power of two.
    """
    if not codes.size:
        return 0.0, 0.0, 0.0
    ours, theirs = (codes.shape[1] // pair[0].shape[1] for pair in (parameters, stored))
    group = min(ours, theirs)
    sums = np.zeros(3, np.float64)
    flat = np.ascontiguousarray(codes).reshape(-1, group)
    own, new = (tuple(np.ascontiguousarray(part).reshape(-1) for part in pair) for pair in (parameters, stored))
    _between(flat, *own, _halvings(ours // group), *new, _halvings(theirs // group), sums)
    return float(sums[0]), float(sums[1]), float(sums[2])


def _halvings(share: int) -> int:
    assert share & (share - 1) == 0, "groups are powers of two"
    return share.bit_length() - 1


@kernel
def _between(
    codes: Any, scales: Any, biases: Any, shift: int, new_scales: Any, new_biases: Any, new_shift: int, sums: Any
) -> None:
    """Group g of the codes is in group g >> shift of the old parameters, g >> new_shift of the new ones."""
    count = codes.shape[1]
    squared = reference = largest = 0.0
    for g in range(codes.shape[0]):
        group = codes[g]
        total, squares, low, high = np.int32(0), np.int32(0), np.uint8(255), np.uint8(0)
        for j in range(count):
            code = np.int32(group[j])
            total += code
            squares += code * code
        for j in range(count):
            low, high = min(low, group[j]), max(high, group[j])
        scale, bias = np.float64(scales[g >> shift]), np.float64(biases[g >> shift])
        ds = np.float64(new_scales[g >> new_shift]) - scale
        db = np.float64(new_biases[g >> new_shift]) - bias
        reference += (scale * scale * squares + 2 * scale * bias * total) + count * bias * bias
        if ds == 0.0 and db == 0.0:
            continue
        squared += max((ds * ds * squares + 2 * ds * db * total) + count * db * db, 0.0)
        largest = max(largest, max(abs(ds * low + db), abs(ds * high + db)))
    sums[0], sums[1], sums[2] = squared, reference, largest
