"""The error between values that may both hold copied NaN and Inf (`--allow-nonfinite`)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from quantcli.arrays import nonfinite
from quantcli.schemes.base import Error


def difference(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> Error:
    """Return `Error.between`; NaN and Inf at the same places are equal, at different places infinitely far apart."""
    if nonfinite(ours):
        odd = ~np.isfinite(ours)
        if not np.array_equal(ours[odd], theirs[odd], equal_nan=True):
            return Error(math.inf, 1.0, math.inf)
        ours, theirs = np.where(odd, 0, ours), np.where(odd, 0, theirs)
    return Error.between(ours, theirs)
