"""float32 numbers that kernels compute with: a Python number would be a float64, and so what is computed with it."""

import numpy as np

ZERO, ONE, INFINITE = np.float32(0), np.float32(1), np.float32(np.inf)
#: The largest that is a number.
LARGEST = np.float32(np.finfo(np.float32).max)
#: Adding and subtracting it rounds a float32 below 2**22 half to even; its last 23 bits are the number in between.
RINT = np.float32(1.5 * 2**23)
