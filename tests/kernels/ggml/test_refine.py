"""The search of q3_k's scales: the same as ggml's steps, taken one by one."""

import numpy as np
import pytest
from numpy.typing import NDArray

from quantcli.kernels.ggml.k_quants.refine import floats_of_work, refine_scale

LIMIT = np.float32(4)


def by_steps(x: NDArray[np.float32]) -> tuple[np.float32, list[float]]:
    """Scale and codes of one group, in ggml's order."""
    peak = x[np.argmax(np.abs(x))]
    codes = [np.float32(min(max(np.rint(-LIMIT / peak * value), -4), 3)) for value in x]
    along = square = np.float32(0)
    for value, q in zip(x, codes, strict=True):
        along, square = along + value * value * value * q, square + value * value * q * q
    for _ in range(5):
        changed = False
        for i, value in enumerate(x):
            weight, q = value * value, codes[i]
            others, others_square = along - weight * value * q, square - weight * q * q
            if not others > 0:
                continue
            new = np.float32(min(max(np.rint(value * others_square / others), -4), 3))
            found, found_square = others + weight * value * new, others_square + weight * new * new
            if new != q and found_square > 0 and found * found * square > along * along * found_square:
                codes[i], along, square, changed = new, found, found_square, True
        if not changed:
            break
    return along / square, [float(q) for q in codes]


@pytest.mark.parametrize("kind", ["gaussian", "whole numbers", "halves", "one outlier", "tiny"])
def test_steps_are_ggmls(kind: str) -> None:
    random = np.random.default_rng(5)
    x = random.standard_normal((64, 16)).astype(np.float32)
    if kind == "whole numbers":  # quotients that lie between two codes
        x = random.integers(-8, 8, (64, 16)).astype(np.float32)
    elif kind == "halves":
        x = (random.integers(-8, 8, (64, 16)) / 2).astype(np.float32)
    elif kind == "one outlier":
        x[:, 3] = -30
    elif kind == "tiny":  # sums are subnormal
        x *= np.float32(1e-13)
    x[x == 0] = np.float32(0.25) * np.abs(x).max()
    scale, codes = np.empty(64, np.float32), np.empty(1024, np.float32)
    refine_scale(x.reshape(-1), LIMIT, scale, codes, np.empty(floats_of_work(1024), np.float32))
    expected = [by_steps(group) for group in x]
    assert scale.tolist() == [float(found) for found, _ in expected]
    assert codes.reshape(16, 64).T.tolist() == [found for _, found in expected]


def test_groups_of_zeros_have_no_scale() -> None:
    x, scale, codes = np.zeros(256, np.float32), np.empty(16, np.float32), np.empty(256, np.float32)
    x[40] = 2
    refine_scale(x, LIMIT, scale, codes, np.empty(floats_of_work(256), np.float32))
    assert scale.tolist() == [0, 0, -0.5, *[0] * 13]
    assert (codes.reshape(16, 16)[:, [0, 1, 3]] == -4).all()
