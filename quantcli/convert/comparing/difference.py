"""The difference of two arrays of values: float64 sums that are added over slabs.

    mse             mean of (b - a)^2
    relative RMSE   root of (sum of (b - a)^2 / sum of a^2)
    cosine          sum of a * b / root of (sum of a^2 * sum of b^2)

Values are equal if a == b (so -0 equals +0) or if both are NaN. If one of two unequal values is NaN or Inf, the pair is
counted and excluded from the sums.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from quantcli.arrays import Array, numpy_dtype
from quantcli.schemes.base import MEASURED_AT_ONCE


@dataclass(frozen=True)
class Difference:
    """Numbers of values, of unequal ones and of those with NaN or Inf; sums over finite values."""

    count: int = 0
    unequal: int = 0
    nonfinite: int = 0
    squared: float = 0.0
    reference: float = 0.0
    other: float = 0.0
    product: float = 0.0
    largest: float = 0.0

    def __add__(self, more: Difference) -> Difference:
        return Difference(
            self.count + more.count,
            self.unequal + more.unequal,
            self.nonfinite + more.nonfinite,
            self.squared + more.squared,
            self.reference + more.reference,
            self.other + more.other,
            self.product + more.product,
            max(self.largest, more.largest),
        )

    @property
    def mse(self) -> float:
        return self.squared / max(1, self.count)

    @property
    def relative_rmse(self) -> float:
        """Relative to A; infinite if A is all zeros and B is not."""
        if self.squared == 0:
            return 0.0
        return math.sqrt(self.squared / self.reference) if self.reference > 0 else math.inf

    @property
    def cosine(self) -> float:
        """1 if both are all zeros, 0 if one is."""
        if self.unequal == 0:
            return 1.0
        norms = math.sqrt(self.reference) * math.sqrt(self.other)
        return max(-1.0, min(1.0, self.product / norms)) if norms > 0 else 0.0


def between(a: Array, b: Array) -> Difference:
    """Return the difference of `b` from `a`, arrays of one shape and any float or integer dtypes.

    >>> found = between(np.array([1.0, -0.0, np.nan, 2.0]), np.array([1.0, 0.0, np.nan, 5.0]))
    >>> found.unequal, found.mse, found.largest, round(found.cosine, 6)
    (1, 2.25, 3.0, 0.964764)
    """
    a, b = a.reshape(-1), b.reshape(-1)
    blocks = (slice(start, start + MEASURED_AT_ONCE) for start in range(0, a.size, MEASURED_AT_ONCE))
    return sum((_block(a[place], b[place]) for place in blocks), Difference())


def _block(a: Array, b: Array) -> Difference:
    x, y = a.astype(np.float64), b.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        off = y - x
    odd = 0
    if not np.isfinite(off).all():
        outside = ~(np.isfinite(x) & np.isfinite(y))
        same = (x == y) | (np.isnan(x) & np.isnan(y))
        odd = int(np.count_nonzero(outside & ~same))
        x[outside] = y[outside] = off[outside] = 0
    unequal = int(np.count_nonzero(off)) + odd
    reference = float(np.square(x).sum())
    if unequal == 0:
        return Difference(x.size, 0, 0, 0.0, reference, reference, reference, 0.0)
    return Difference(
        x.size,
        unequal,
        odd,
        float(np.square(off).sum()),
        reference,
        float(np.square(y).sum()),
        float((x * y).sum()),
        float(np.abs(off).max(initial=0.0)),
    )


def equal_in(dtype: str, a: Array, b: Array) -> bool:
    """Return whether both are equal after rounding to a float dtype (half to even)."""
    narrow = numpy_dtype(dtype)
    with np.errstate(over="ignore"):
        x, y = (values.astype(np.float32).astype(narrow).astype(np.float32) for values in (a, b))
    return bool(np.array_equal(x, y, equal_nan=True))
