"""The weighted squared error of each block, by which `--search best` keeps the better of two encodings."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantcli.kernels.compile import kernel


def block_errors(
    x: NDArray[np.float32], decoded: NDArray[np.float32], weights: NDArray[np.float32]
) -> NDArray[np.float64]:
    """float64 (blocks,): sum(w * (decoded - x) ** 2) in float64, of (blocks, size); weights (some, size), those of
    block b in row b % some.
    """
    errors = np.empty(len(x), np.float64)
    _errors(x, decoded, weights, errors)
    return errors


@kernel
def _errors(x: Any, decoded: Any, weights: Any, errors: Any) -> None:
    for b in range(x.shape[0]):
        error, w = 0.0, weights[b % weights.shape[0]]
        for i in range(x.shape[1]):
            off = np.float64(decoded[b, i]) - np.float64(x[b, i])
            error += np.float64(w[i]) * off * off
        errors[b] = error
