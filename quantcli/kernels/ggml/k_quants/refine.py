"""GGML's `make_q3_quants` on the CPU: scales of groups of 16 by up to five rounds of single steps, as ggml takes them.

Source: ggml-quants.c of llama.cpp, restated. All arithmetic is float32, each operation rounded once, sums in index
order:

    begin   codes q = rint(-limit / peak * x), peak the first value of largest magnitude; weights w = x * x
    step    one value, with along = sum(w x q) and square = sum(w q q) of the others: new = rint(x * square / along),
            taken where along > 0 and along**2 / square grows with it
    round   a step of each value in index order; five of them, or until one changes nothing
    end     scale = sum(w x q) / sum(w q q)

A step waits for the one before, so groups take it together, as lanes of vectors. Of a Gaussian's groups eight in ten
have no step to take (all whose peak is positive, for one: no w x q is). So `_look` finds out which have one, without
dividing and without waiting, and rounds are made of these groups alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from quantcli.kernels.compile import inner
from quantcli.kernels.float32 import ONE, ZERO
from quantcli.kernels.ggml.formats import EPSILON
from quantcli.kernels.ggml.k_quants.search import nearest, rounded

#: What is at most so far from a code is rounded to it: half a step, less what rounding a product and a quotient (by
#: 2**-24 of them, their magnitude below 5) can move them.
_NEAR = np.float32(0.5 - 2.0**-10)
#: What lies beyond the first or the last code is clipped to it; `nearest` is right up to 2**22.
_FAR = np.float32(2.0**21)
#: A product with a number from here on is not subnormal: it is rounded by 2**-24 of it.
_NORMAL = np.float32(2.0**-100)
#: Rows of a number for each group in `work`, after three of each value.
_NUMBERS = 8


def floats_of_work(values: int) -> int:
    """How long `work` is for so many values."""
    return 3 * values + _NUMBERS * (values // 16)


@inner
def refine_scale(x: Any, limit: Any, scale: Any, codes: Any, work: Any) -> None:
    """Scales of groups of 16 that lie one after the other, a multiple of 16 groups; 0 for a group of zeros.

    codes: float32 -limit .. limit - 1, as long as x, code i of group g at groups * i + g; -limit in a group of zeros.
    work: float32, `floats_of_work`.
    """
    count, size = scale.shape[0], x.shape[0]
    rows, some_rows, some_codes = work[:size], work[size : 2 * size], work[2 * size : 3 * size]
    numbers = work[3 * size : 3 * size + _NUMBERS * count]
    peak, inverse, sums = numbers[:count], numbers[count : 2 * count], numbers[2 * count : 4 * count]
    some_sums, flags = numbers[4 * count : 6 * count], numbers[6 * count :].view(np.int32)
    steps, order = flags[:count], flags[count:]
    _spread(x, rows, peak)
    for g in range(count):
        inverse[g] = -limit / peak[g]
    sums[:] = ZERO
    steps[:] = np.int32(0)
    for i in range(0, size, count):
        _first_row(rows[i : i + count], codes[i : i + count], limit, inverse, sums[:count], sums[count:])
    for i in range(0, size, count):
        _look(rows[i : i + count], codes[i : i + count], limit, sums[:count], sums[count:], steps)
    some = _list(steps, order)
    lanes = (some + 15) // 16 * 16
    _fetch(rows, order, some, some_rows, lanes)
    _fetch(codes, order, some, some_codes, lanes)
    _fetch(sums, order, some, some_sums, lanes)
    for _ in range(5):
        taken = np.int32(0)
        for i in range(16):
            row, code = some_rows[lanes * i : lanes * (i + 1)], some_codes[lanes * i : lanes * (i + 1)]
            taken += _refine_row(row, code, limit, some_sums[:lanes], some_sums[lanes : 2 * lanes])
        if taken == 0:
            break
    _put_back(some_codes, order, some, codes, lanes)
    _put_back(some_sums, order, some, sums, lanes)
    for g in range(count):
        found = sums[g] / sums[count + g]
        scale[g] = found if sums[count + g] > ZERO else ZERO
    for g in range(count):
        if abs(peak[g]) < EPSILON:
            scale[g] = ZERO
            for i in range(16):
                codes[count * i + g] = -limit


@inner
def _spread(x: Any, rows: Any, peak: Any) -> None:
    """Value i of group g becomes lane g of row i; the first value of largest magnitude of each group."""
    count = peak.shape[0]
    peak[:] = ZERO
    for i in range(16):
        row = rows[count * i : count * (i + 1)]
        for g in range(count):
            row[g] = x[16 * g + i]
        for g in range(count):
            peak[g] = row[g] if abs(row[g]) > abs(peak[g]) else peak[g]


@inner
def _first_row(x: Any, codes: Any, limit: Any, inverse: Any, alongs: Any, squares: Any) -> None:
    """Codes of one value of each lane, and what it adds to sum(w x q) and sum(w q q)."""
    least, top = -limit, limit - ONE
    for g in range(x.shape[0]):
        value = x[g]
        q = rounded(inverse[g] * value, least, top)
        codes[g] = q
        weight = value * value
        alongs[g] += weight * value * q
        squares[g] += weight * q * q


@inner
def _look(x: Any, codes: Any, limit: Any, alongs: Any, squares: Any, steps: Any) -> None:
    """Adds to `steps` in lanes where this value may ask for another code: surely in those where it does.

    It asks for none if the others' sum is not positive, nor if x * square / along is NEAR its code.
    """
    least, top = -limit, limit - ONE
    for g in range(x.shape[0]):
        value, q = x[g], codes[g]
        weight = value * value
        others, others_square = alongs[g] - weight * value * q, squares[g] - weight * q * q
        product = value * others_square
        low = q - _NEAR if q > least else -_FAR
        high = q + _NEAR if q < top else _FAR
        stays = (others >= _NORMAL) & (low * others <= product) & (product <= high * others)
        steps[g] += np.int32(np.int32(others > ZERO) - np.int32(stays))


@inner
def _list(steps: Any, order: Any) -> Any:
    """The groups that may have steps to take: how many, and which."""
    some = 0
    for g in range(steps.shape[0]):
        order[some] = g
        some += 1 if steps[g] > 0 else 0
    return some


@inner
def _fetch(rows: Any, order: Any, some: Any, some_rows: Any, lanes: Any) -> None:
    """The listed groups' lanes of all rows, and lanes of zeros, which take no step."""
    count = order.shape[0]
    for i in range(rows.shape[0] // count):
        row, lane = rows[count * i : count * (i + 1)], some_rows[lanes * i : lanes * (i + 1)]
        for k in range(some):
            lane[k] = row[order[k]]
        for k in range(some, lanes):
            lane[k] = ZERO


@inner
def _put_back(some_rows: Any, order: Any, some: Any, rows: Any, lanes: Any) -> None:
    count = order.shape[0]
    for i in range(rows.shape[0] // count):
        row, lane = rows[count * i : count * (i + 1)], some_rows[lanes * i : lanes * (i + 1)]
        for k in range(some):
            row[order[k]] = lane[k]


@inner
def _refine_row(x: Any, codes: Any, limit: Any, alongs: Any, squares: Any) -> Any:
    """One value of each lane takes the code that the others ask for, where that is better: in how many lanes."""
    taken, least, top = np.int32(0), -limit, limit - ONE
    for g in range(x.shape[0]):
        value, q, along, square = x[g], codes[g], alongs[g], squares[g]
        weight = value * value
        others, others_square = along - weight * value * q, square - weight * q * q
        new = np.float32(nearest(value * others_square / others))
        new = new if new > least else least
        new = new if new < top else top
        found, found_square = others + weight * value * new, others_square + weight * new * new
        better = (others > ZERO) & (new != q) & (found_square > ZERO)
        better = better & (found * found * square > along * along * found_square)
        codes[g] = new if better else q
        alongs[g] = found if better else along
        squares[g] = found_square if better else square
        taken = np.int32(taken + np.int32(better))  # wrapped, or LLVM counts in 64 bits and takes half the lanes
    return taken
