"""The mean of float32 numbers with the order of additions that torch has on a CPU: bits depend on it.

Eight lanes with four accumulators each; each accumulator has four levels, which are folded into the next one after
every 16 additions (more for long arrays). Then the four accumulators, then the lanes, one after another.
Source: PyTorch (aten/src/ATen/native/cpu/SumKernel.cpp: cascade_sum), with AVX2's lanes and one thread; torch itself
splits arrays of more than 32768 numbers among its threads, and their number then shows in the last bits.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

LANES, ACCUMULATORS, LEVELS = 8, 4, 4


def mean(values: Floats) -> np.float32:
    """Return the mean of a float32 vector, rounded after each addition.

    >>> float(mean(np.float32([1, 2, 3, 6])))
    3.0
    """
    return np.float32(_sum(np.ascontiguousarray(values)) / np.float32(len(values)))


def _sum(values: Floats) -> np.float32:
    vectors = len(values) // LANES
    rest = values[vectors * LANES :]
    total = np.float32(0)
    for value in rest:
        total = np.float32(total + value)
    for lane in _lanes(values[: vectors * LANES].reshape(vectors, LANES)):
        total = np.float32(total + lane)
    return total


def _lanes(vectors: Floats) -> Floats:
    """(LANES,): the sum of each lane."""
    whole = len(vectors) // ACCUMULATORS
    sums = _levels(vectors[: whole * ACCUMULATORS].reshape(whole, ACCUMULATORS, LANES))
    for vector in vectors[whole * ACCUMULATORS :]:
        sums[0] += vector
    total: Floats = sums[0]
    for accumulator in sums[1:]:
        total = total + accumulator
    return total


def _levels(rows: Floats) -> Floats:
    """(ACCUMULATORS, LANES) of rows (n, ACCUMULATORS, LANES)."""
    power = max(4, (max(len(rows), 1) - 1).bit_length() // LEVELS)
    step, at = 1 << power, 0
    levels = np.zeros((LEVELS, *rows.shape[1:]), np.float32)
    while at + step <= len(rows):
        for row in rows[at : at + step]:
            levels[0] += row
        at += step
        for level in range(1, LEVELS):
            levels[level] += levels[level - 1]
            levels[level - 1] = 0
            if at & (step - 1) << level * power:
                break
    for row in rows[at:]:
        levels[0] += row
    for level in range(1, LEVELS):
        levels[0] += levels[level]
    found: Floats = levels[0]
    return found
