"""The float32 exponential of PyTorch on x86, in the form that its library (MKL) has for processors of every make.

    n = the nearest integer to x * 128 / ln 2      x = n * ln 2 / 128 + r
    exp(x) = 2 ** (n // 128) * table[n % 128] * (1 + r + r * r / 2)

All of it is float32, each operation rounded; `table` is 2 ** (j / 128) as a float32 number plus its rounding error. One
result in a hundred is not the nearest float32 number. Constants and order were found by comparing results: none differs
among all bfloat16 values and fifteen million others. On Intel's newer processors, and on other platforms, PyTorch runs
other code with other last bits.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

STEPS = 128
PER_UNIT = np.float32(STEPS / math.log(2))
#: ln 2 / 128 as its upper bits, whose products with n are exact, and the rest.
HIGH = np.float32(355 / 2**16)
LOW = np.float32(math.log(2) / STEPS - float(HIGH))
POWERS = 2.0 ** (np.arange(STEPS) / STEPS)
TABLE = POWERS.astype(np.float32)
LACKS = (POWERS - TABLE).astype(np.float32)


def exp(values: Floats) -> Floats:
    """Return e ** values in float32, bit for bit PyTorch's.

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
        powers: Floats = np.ldexp(table + (table * curve + LACKS[n % STEPS]), n // STEPS)
        return np.where(np.abs(values) < 1 << 10, powers, np.exp(values))
