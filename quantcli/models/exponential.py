"""The float32 exponential of torch on x86, in the form that its library (MKL) has for processors of every make.

    n = the nearest integer to x * 128 / ln 2      x = n * ln 2 / 128 + r
    exp(x) = 2 ** (n // 128) * table[n % 128] * (1 + r + r * r / 2)

All of it is float32, each operation rounded; `table` is 2 ** (j / 128), a float and what it lacks. One result in a
hundred is not the nearest float. Constants and order were found by comparing results: none differs among all bfloat16
values and fifteen million others. On Intel's newer processors, and elsewhere, other code gives other last bits.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

STEPS = 128
PER_UNIT = np.float32(STEPS / math.log(2))
#: ln 2 / 128 in few bits, so that its products with n are exact, and the rest.
HIGH = np.float32(355 / 2**16)
LOW = np.float32(math.log(2) / STEPS - float(HIGH))
POWERS = 2.0 ** (np.arange(STEPS) / STEPS)
TABLE = POWERS.astype(np.float32)
LACKS = (POWERS - TABLE).astype(np.float32)


def exp(values: Floats) -> Floats:
    """
    >>> exp(np.array([0.0, 1.0, 0.1171875], np.float32)).tolist()
    [1.0, 2.7182817459106445, 1.1243302822113037]
    """
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        steps = np.rint(values * PER_UNIT)
        steps = np.where(np.abs(values) < 1 << 10, steps, np.float32(0))
        n = steps.astype(np.int32)
        rest = (values - steps * HIGH) - steps * LOW
        curve = rest + rest * rest * np.float32(0.5)
        table = TABLE[n % STEPS]
        found: Floats = np.ldexp(table + (table * curve + LACKS[n % STEPS]), n // STEPS)
        return np.where(np.abs(values) < 1 << 10, found, np.exp(values))
