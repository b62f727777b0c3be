"""Rows of float32 that make a search for scales stumble, each kind a function of (random, rows) -> (rows, 256).

All lie where ggml's C is defined: nothing overflows float16 or an int, and no scale is so small that 1 / scale is Inf.
"""

from collections.abc import Callable

import numpy as np

COLUMNS = 256
Random = np.random.Generator
Rows = np.ndarray


def _gaussian(random: Random, rows: int) -> Rows:
    return random.standard_normal((rows, COLUMNS))


def _spread(random: Random, rows: int, low: float, high: float, columns: int = 1) -> Rows:
    """Powers of ten, evenly spread over the exponents."""
    return 10.0 ** random.uniform(low, high, (rows, columns))


def _laplace(random: Random, rows: int) -> Rows:
    return random.laplace(size=(rows, COLUMNS))


def _heavy_tails(random: Random, rows: int) -> Rows:
    return random.standard_t(1.5, (rows, COLUMNS))


def _uniform(random: Random, rows: int) -> Rows:
    return random.uniform(-1, 1, (rows, COLUMNS))


def _zeros(random: Random, rows: int) -> Rows:
    """+0 and -0, one in eight rows with a single other value."""
    values = np.where(random.random((rows, COLUMNS)) < 0.5, 0.0, -0.0)
    few = np.flatnonzero(random.random(rows) < 0.125)
    values[few, random.integers(0, COLUMNS, len(few))] = random.standard_normal(len(few))
    return values


def _constant(random: Random, rows: int) -> Rows:
    return np.repeat(_gaussian(random, rows)[:, :1], COLUMNS, 1)


def _constant_groups(random: Random, rows: int) -> Rows:
    return np.repeat(random.standard_normal((rows, COLUMNS // 16)), 16, 1)


def _two_values(random: Random, rows: int) -> Rows:
    pair = random.standard_normal((rows, 2))
    return np.take_along_axis(pair, random.integers(0, 2, (rows, COLUMNS)), 1)


def _signs(random: Random, rows: int) -> Rows:
    return np.sign(_gaussian(random, rows))


def _ties(random: Random, rows: int) -> Rows:
    """Halves: many values lie between two codes."""
    return np.round(2 * _gaussian(random, rows)) / 2


def _integers(random: Random, rows: int) -> Rows:
    return random.integers(-8, 9, (rows, COLUMNS)).astype(np.float64)


def _ramp(random: Random, rows: int) -> Rows:
    return np.arange(COLUMNS) * random.standard_normal((rows, 1)) + random.integers(-256, 256, (rows, 1))


def _one_outlier(random: Random, rows: int) -> Rows:
    values = _gaussian(random, rows)
    values[np.arange(rows), random.integers(0, COLUMNS, rows)] *= _spread(random, rows, 1, 3)[:, 0]
    return values


def _sparse(random: Random, rows: int) -> Rows:
    return np.where(random.random((rows, COLUMNS)) < random.uniform(0.5, 0.99, (rows, 1)), 0, _gaussian(random, rows))


def _empty_groups(random: Random, rows: int) -> Rows:
    return _gaussian(random, rows) * np.repeat(random.random((rows, COLUMNS // 32)) < 0.6, 32, 1)


def _one_sign(random: Random, rows: int) -> Rows:
    return np.abs(_gaussian(random, rows)) * np.where(random.random((rows, 1)) < 0.5, 1, -1)


def _offset(random: Random, rows: int) -> Rows:
    return _gaussian(random, rows) + 10 * random.standard_normal((rows, 1))


def _groups_apart(random: Random, rows: int) -> Rows:
    return _gaussian(random, rows) * np.repeat(_spread(random, rows, -2, 2, COLUMNS // 32), 32, 1)


def _huge_range(random: Random, rows: int) -> Rows:
    return _gaussian(random, rows) * _spread(random, rows, -6, 2, COLUMNS)


def _denormals_among(random: Random, rows: int) -> Rows:
    """A tenth of the values are denormal in float32."""
    tiny = random.uniform(-1e-38, 1e-38, (rows, COLUMNS))
    return np.where(random.random((rows, COLUMNS)) < 0.1, tiny, _gaussian(random, rows))


KINDS: tuple[Callable[[Random, int], Rows], ...] = (
    _gaussian, _laplace, _heavy_tails, _uniform, _zeros, _constant, _constant_groups, _two_values, _signs, _ties,
    _integers, _ramp, _one_outlier, _sparse, _empty_groups, _one_sign, _offset, _groups_apart, _huge_range,
    _denormals_among,
)  # fmt: skip

#: The largest magnitude: float16 holds every type's scales, also minima that a search puts beyond the values.
LARGEST = 2e3


def rows(random: Random, count: int) -> Rows:
    """float32 (count, 256): kinds by turns, each row at a size of its own; float16 holds some scales as denormals."""
    out = np.empty((count, COLUMNS), np.float32)
    for number, kind in enumerate(KINDS):
        part = out[number :: len(KINDS)]
        values = kind(random, len(part))
        as_is = random.random((len(part), 1)) < 0.25
        part[:] = np.clip(values * np.where(as_is, 1, _spread(random, len(part), -7, 3)), -LARGEST, LARGEST)
    return out


def matrix(random: Random) -> np.ndarray:
    """float32 (256,): weights of one kind or another, none of them so that all count nothing."""
    even = random.random(COLUMNS) + 0.01
    wide = 10 ** random.uniform(-4, 4, COLUMNS)
    gaps = np.where(random.random(COLUMNS) < 0.1, 0, even**4 * 100)
    return (even, wide, gaps, np.full(COLUMNS, 0.5))[random.integers(0, 4)].astype(np.float32)
