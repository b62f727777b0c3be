"""Better scale bytes for GGML's `mxfp4` and `nvfp4` on the CPU: for `--search best`.

A scale is one of a table of 256, so nothing is refined: the 16 bytes around ggml's are tried for each group, each
value with the level nearest to it, and that of the least sum(w * (decoded - x) ** 2) is taken. Sums are float32 in
index order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantcli.kernels.compile import kernel
from quantcli.kernels.ggml.better.grid import (
    ERROR,
    LOW,
    SCALE,
    STATE,
    lowest,
    nearest_levels,
    scaled_weights,
    sweep,
)
from quantcli.kernels.ggml.better.grid import write_codes as write
from quantcli.kernels.lanes import LANES


def search(
    x: NDArray[np.float32],
    weights: NDArray[np.float32],
    scales: NDArray[np.float32],
    table: tuple[float, ...],
    known: NDArray[np.uint8],
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Codes and scale bytes of groups x (n, group); weights (some, group), those of group g in row g % some.

    scales: what bytes stand for, ascending; only these are tried. table: of the codes, the negative ones behind the
    others. known: ggml's bytes (n,).
    """
    values = np.array(table, np.float32)
    order = np.flatnonzero(np.diff(np.sort(values), prepend=-np.inf))
    ascending = np.argsort(values, kind="stable")[order].astype(np.uint8)
    nearest = nearest_levels(tuple(values[ascending].tolist()))
    codes, found = np.empty(x.shape, np.uint8), np.empty(len(x), np.uint8)
    ends = values[ascending[[0, -1]]]
    _search(x, weights, scales, ends, nearest, known, codes, found)
    return ascending[codes], found


@kernel
def _search(
    x: Any, weights: Any, scales: Any, ends: Any, nearest: Any, known: Any, codes: Any, found: Any
) -> None:  # fmt: skip
    state, w = np.zeros(STATE, np.float32), np.empty(x.shape[1], np.float32)
    for g in range(x.shape[0]):
        scaled_weights(weights[g % weights.shape[0]], w)
        first = min(max(np.int64(known[g]) - LANES // 2, 0), scales.shape[0] - LANES)
        for c in range(LANES):
            state[SCALE + c], state[LOW + c] = scales[first + c], np.float32(0)
        sweep(x[g], w, ends, nearest, state)
        found[g] = np.uint8(first + lowest(state[ERROR : ERROR + LANES]))
        write(x[g], scales[found[g]], np.float32(0), ends, nearest, codes[g])
