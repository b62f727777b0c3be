"""The best split of a group, against all splits tried one by one as ggml does; equal scores among them."""

import itertools

import numpy as np
import pytest

from quantcli.kernels.llvm.splits import SIDE, best_splits, sums_of

ONE, EIGHTH = np.float32(1), np.float32(0.125)


def scores(x: np.ndarray, w: np.ndarray) -> list[tuple[np.float32, np.float32]]:
    """along and square of all splits in ggml's order; x, w: (halves, values + 1) sums over the first values."""
    halves, size, found = len(x), x.shape[1] - 1, []
    for i1, i2 in itertools.combinations_with_replacement(range(size + 1), 2):
        for shifts in itertools.product((EIGHTH, -EIGHTH), repeat=halves):
            parts = []
            for s, a, b in zip(shifts, x, w, strict=True):
                low, high = s - ONE, s + ONE
                if halves == 1:
                    along = a[i1] * low + (a[i2] - a[i1]) * s + (a[-1] - a[i2]) * high
                    square = b[i1] * low * low + (b[i2] - b[i1]) * s * s + (b[-1] - b[i2]) * high * high
                else:
                    along = a[-1] * high - (a[i1] + a[i2])
                    square = b[-1] * high * high + b[i1] * (low * low - s * s) + b[i2] * (s * s - high * high)
                parts.append((along, square))
            found.append((sum(p[0] for p in parts[1:]) + parts[0][0], sum(p[1] for p in parts[1:]) + parts[0][1]))
    return found


def kept(found: list[tuple[np.float32, np.float32]]) -> int:
    best, at = -np.finfo(np.float32).max, -1
    for k, (along, square) in enumerate(found):
        if square > 0 and along * along > best * square:
            best, at = along / square * along, k
    return at


@pytest.mark.parametrize("group", [32, 16])
@pytest.mark.parametrize("kind", ["gaussian", "few", "mirrored", "tiny", "one sign"])
def test_the_split_is_ggmls(rng: np.random.Generator, group: int, kind: str) -> None:
    values = rng.standard_normal((SIDE, group)).astype(np.float32)
    weights = rng.random((SIDE, group)).astype(np.float32)
    if kind == "few":
        values, weights = np.rint(2 * values), np.ones_like(weights)
    if kind == "mirrored":
        values[:, group // 2 :], weights = -values[:, : group // 2], np.ones_like(weights)
    if kind == "tiny":
        values *= np.float32(1e-20)
    if kind == "one sign":
        values = np.abs(values) + 5
    halves, s, number = 32 // group, sums_of(group), np.zeros(SIDE, np.int32)
    order = np.argsort(values, axis=1, kind="stable")
    for g, h in itertools.product(range(SIDE), range(halves)):
        mine = order[g] * halves // group == h
        heavy = (weights[g] * values[g])[order[g]] * mine
        s.x[h, 1:, g] = np.cumsum(heavy, dtype=np.float32)
        s.w[h, 1:, g] = np.cumsum(weights[g][order[g]] * mine, dtype=np.float32)
    s.sizes[:] = np.abs(weights * values).sum(axis=1)
    best_splits(np.ascontiguousarray(values.T), s, number)
    pairs = list(itertools.combinations_with_replacement(range(group + 1), 2))
    ways = 2**halves
    for g in range(0, SIDE, 4):
        with np.errstate(all="ignore"):
            at = kept(scores(s.x[:, :, g], s.w[:, :, g]))
        i1, i2 = pairs[at // ways]
        assert number[g] == ways * ((group + 1) * i1 + i2) + at % ways
