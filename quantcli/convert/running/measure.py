"""How far values are apart where both may hold NaN and Inf that were copied (`--allow-nonfinite`)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from quantcli.arrays import nonfinite
from quantcli.schemes.base import Error


def difference(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> Error:
    """`Error.between`, where NaN and Inf at the same places are equal; infinitely far apart where they are not."""
    if nonfinite(ours):
        odd = ~np.isfinite(ours)
        if not np.array_equal(ours[odd], theirs[odd], equal_nan=True):
            return Error(math.inf, 1.0, math.inf)
        ours, theirs = np.where(odd, 0, ours), np.where(odd, 0, theirs)
    return Error.between(ours, theirs)
