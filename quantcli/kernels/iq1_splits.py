"""The split of a group of GGML's IQ1 types: which values get level 0, 1 and 2, and which shifts, as ggml finds it.

ggml tries all i1 <= i2 and all shifts in order, and keeps the one of largest score = along * along / square, where

    along  = sum(w x q) = sum over halves of T (1 + shift)                            - X[i1] - X[i2]
    square = sum(w q q) = sum over halves of W (1 + shift)**2 + V[i1] (1 - 2 shift)   - V[i2] (1 + 2 shift)

X, V: sums of w x and of w over the first values in order of size, T and W over all of them; iq1_s has one half. Its
order of operations is another, and its scores are rounded, so this only says which splits are worth a look:

    guess     the score, in ggml's arithmetic, of a good split: the scale that fits a split and the split that fits
              a scale, in turns
    rivals    a split whose score may not be below (1 - NEAR) * guess, for sixteen groups side by side: where
              along ** 2 >= ((1 - NEAR) guess * square - slack) * (1 - NEAR)
    walk      the rows (of equal i1) that have rivals, in ggml's order and arithmetic

The first rival whose score is above (1 - NEAR / 2) * guess beats whatever ggml has seen before, for that is clearly
less; from there on all that may count are rivals. `along` here and in ggml is off by less than E = 2**-18 * S each, where
S is the sum of |w x|, and 2 along E <= NEAR / 4 * along ** 2 + 4 / NEAR * E ** 2; `square` by less than 2**-18 * W. So
slack = 2**-18 * S ** 2 + 2**-16 * guess * W covers both. Where these are so small or large that float32 does not hold
them, or there is no guess, all rows are walked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils as untyped
from numba.extending import intrinsic

from quantcli.kernels.compile import inlined, inner
from quantcli.kernels.iq_nearest import REALS, WHOLE, bits, load, lowest, pointer
from quantcli.kernels.iq_neighbours import WIDE

#: numba's helpers for IR, which have no types.
cgutils: Any = untyped

#: Groups that are searched side by side.
SIDE = 16
SHIFT = np.float32(0.125)
NEAR = np.float32(2.0**-14)
#: How often a scale and a split are fitted to each other.
ROUNDS = 1
LEAST, MOST = np.float32(2.0**-80), np.float32(2.0**80)
_LARGEST = np.float32(np.finfo(np.float32).max)
_LONG, _INT = ir.IntType(64), ir.IntType(32)


@inlined
def shift_of(halves: int, shifts: int, half: int) -> Any:
    """The shift of a half; shifts: 1 where the only half's is -1/8, or 2 for the first and 1 for the second."""
    return -SHIFT if shifts >> (halves - 1 - half) & 1 else SHIFT


@inlined
def exact(sumx: Any, sumw: Any, g: int, i1: int, i2: int, shifts: int) -> Any:
    """along and square of a split, as ggml forms them; sumx, sumw: (halves, values + 1, groups)."""
    halves, size = sumx.shape[0], sumx.shape[1] - 1
    if halves == 1:
        shift = shift_of(1, shifts, 0)
        low, high, x, w = shift - np.float32(1), shift + np.float32(1), sumx[0], sumw[0]
        x1, x2, x3 = x[i1, g], x[i2, g] - x[i1, g], x[size, g] - x[i2, g]
        w1, w2, w3 = w[i1, g], w[i2, g] - w[i1, g], w[size, g] - w[i2, g]
        return x1 * low + x2 * shift + x3 * high, w1 * low * low + w2 * shift * shift + w3 * high * high
    a, qa = _half(sumx[0], sumw[0], g, i1, i2, shift_of(2, shifts, 0))
    b, qb = _half(sumx[1], sumw[1], g, i1, i2, shift_of(2, shifts, 1))
    return a + b, qa + qb


@inlined
def _half(x: Any, w: Any, g: int, i1: int, i2: int, shift: Any) -> Any:
    low, high, middle, size = shift - np.float32(1), shift + np.float32(1), shift * shift, x.shape[0] - 1
    along = x[size, g] * high - (x[i1, g] + x[i2, g])
    return along, w[size, g] * high * high + w[i1, g] * (low * low - middle) + w[i2, g] * (middle - high * high)


@inlined
def _below(values: Any, g: int, limit: Any) -> int:
    """How many of a group's sorted values are below a limit, all but the last one asked."""
    count, step = 0, values.shape[0] // 2
    while step:
        count += step if values[count + step - 1, g] < limit else 0
        step //= 2
    return count


@inlined
def _guess(values: Any, sumx: Any, sumw: Any, g: int, start: Any) -> Any:
    """The score of a good split; values (values, groups): sorted; start: a scale."""
    halves, best, half, nought = sumx.shape[0], np.float32(-1), np.float32(0.5), np.float32(0)
    one, two = np.float32(1), np.float32(2)
    scale, ways, size = start, 1 << halves, sumx.shape[1] - 1
    x, w = sumx[0], sumw[0]
    for turn in range(ROUNDS):
        i1, i2 = _below(values, g, -scale * half), _below(values, g, scale * half)
        along = x[size, g] - x[i1, g] - x[i2, g]
        square = w[size, g] + w[i1, g] - w[i2, g]
        if halves == 2:
            along += sumx[1, size, g] - sumx[1, i1, g] - sumx[1, i2, g]
            square += sumw[1, size, g] + sumw[1, i1, g] - sumw[1, i2, g]
        scale = along / square if (along > nought) & (square > nought) else scale
    first, second, which = 0, 0, 0
    for shifts in range(ways):
        middle = half * (shift_of(halves, shifts, 0) + shift_of(halves, shifts, halves - 1))
        i1 = _below(values, g, scale * (middle - half))
        i2 = _below(values, g, scale * (middle + half))
        along, square = nought, nought
        for h in range(halves):
            shift, x, w = shift_of(halves, shifts, h), sumx[h], sumw[h]
            along += x[size, g] * (one + shift) - x[i1, g] - x[i2, g]
            square += w[size, g] * (one + shift) * (one + shift)
            square += w[i1, g] * (one - two * shift) - w[i2, g] * (one + two * shift)
        score = along / square * along
        if (square > nought) & (score > best):
            best, first, second, which = score, i1, i2, shifts
    along, square = exact(sumx, sumw, g, first, second, which)
    return along / square * along if square > nought else nought


@inner
def best_splits(values: Any, sumx: Any, sumw: Any, sizes: Any, room: Any, best: Any, number: Any) -> None:
    """number[g] = (values + 1) * i1 + i2, times the number of shifts, + shifts, of each group's best split; -1 for none.

    values (values, SIDE): sorted; sumx, sumw (halves, values + 1, SIDE): sums over the first ones, of either half's;
    sizes (SIDE,): sums of |w x|; room (10, values + 1, SIDE), best: work space.
    """
    halves, size, one, two = sumx.shape[0], sumx.shape[1] - 1, np.float32(1), np.float32(2)
    ways, all_x = 1 << halves, room[0]
    for g in range(SIDE):
        total = sumw[0, size, g] + (sumw[1, size, g] if halves == 2 else np.float32(0))
        guess = _guess(values, sumx, sumw, g, np.float32(1.5) * sizes[g] / total)
        slack = np.float32(2.0**-18) * sizes[g] * sizes[g] + np.float32(2.0**-16) * guess * total
        sound = (slack > LEAST) & (slack < MOST) & (guess * total > LEAST)
        best[g], number[g] = -_LARGEST, np.int32(-1)
        room[9, 0, g] = guess * (one - two * NEAR) if sound else np.float32(0)
        room[9, 1, g] = slack if sound else np.float32(np.inf)
    factor, slacks = room[9, 0], room[9, 1]
    for i in range(size + 1):
        for g in range(SIDE):
            all_x[i, g] = sumx[0, i, g]
        if halves == 2:
            for g in range(SIDE):
                all_x[i, g] += sumx[1, i, g]
    for k in range(ways):
        firsts, lasts, top = room[1 + k], room[1 + ways + k], room[9, 2 + k]
        for g in range(SIDE):
            top[g] = np.float32(0)
        for h in range(halves):
            shift = shift_of(halves, k, h)
            low, high, square, x, w = one - two * shift, one + two * shift, (one + shift) * (one + shift), sumx[h], sumw[h]
            for g in range(SIDE):
                top[g] += x[size, g] * (one + shift)
            for i in range(size + 1):
                first, last, wi, whole = firsts[i], lasts[i], w[i], w[size]
                for g in range(SIDE):
                    a, b = factor[g] * (low * wi[g] + square * whole[g]), factor[g] * high * wi[g]
                    first[g] = a + first[g] if h else a - slacks[g]
                    last[g] = last[g] - b if h else -b
    flat, stride = room.reshape(-1), (size + 1) * SIDE
    for at in range(0, SIDE, WIDE):
        for i1 in range(size + 1):
            mask = rivals2(flat, stride, at, i1, size) if ways == 2 else rivals4(flat, stride, at, i1, size)
            while mask:
                _walk(sumx, sumw, room, at + lowest(mask), i1, best, number)
                mask &= mask - 1


@inlined
def _walk(sumx: Any, sumw: Any, room: Any, g: int, i1: int, best: Any, number: Any) -> None:
    """best, number of a group after all rivals with one i1, as ggml tries them; room: as `best_splits` fills it."""
    size, ways, nought = sumx.shape[1] - 1, 1 << sumx.shape[0], np.float32(0)
    top, at = best[g], number[g]
    for i2 in range(i1, size + 1):
        for k in range(ways):
            about = room[9, 2 + k, g] - room[0, i1, g] - room[0, i2, g]
            if not about * about < room[1 + k, i1, g] + room[1 + ways + k, i2, g]:
                along, square = exact(sumx, sumw, g, i1, i2, k)
                if square > nought and along * along > top * square:
                    top, at = along / square * along, np.int32(ways * ((size + 1) * i1 + i2) + k)
    best[g], number[g] = top, at


def _rivals(builder: Any, ways: int, room: Any, stride: Any, at: Any, i1: Any, size: Any) -> Any:
    """A bit of each of WIDE groups with a rival in row i1; room: as `best_splits` fills it."""

    def part(number: int, line: Any) -> Any:
        start = builder.add(builder.mul(stride, ir.Constant(_LONG, number)), at)
        return load(builder, room, WIDE, builder.add(start, builder.mul(line, ir.Constant(_LONG, SIDE))))

    flags = ir.VectorType(ir.IntType(1), WIDE)
    found = cgutils.alloca_once_value(builder, ir.Constant(flags, [0] * WIDE))
    left = [builder.fsub(part(9, ir.Constant(_LONG, 2 + k)), part(0, i1)) for k in range(ways)]
    wanted = [part(1 + k, i1) for k in range(ways)]
    end = builder.add(size, ir.Constant(_LONG, 1))
    with cgutils.for_range_slice(builder, i1, end, ir.Constant(_LONG, 1), intp=_LONG) as (i2, _):
        x, here = part(0, i2), builder.load(found)
        for k in range(ways):
            along = builder.fsub(left[k], x)
            limit = builder.fadd(wanted[k], part(1 + ways + k, i2))
            here = builder.or_(here, builder.fcmp_unordered(">=", builder.fmul(along, along), limit))
        builder.store(here, found)
    return bits(builder, builder.load(found))


def _make_rivals(ways: int) -> Callable[..., Any]:
    def typed(_: Any, room: Any, stride: Any, at: Any, i1: Any, size: Any) -> tuple[Any, Any]:
        def build(context: Any, builder: Any, signature: Any, given: Any) -> Any:
            room, stride, at, i1, size = given
            data = pointer(context, builder, REALS, room, ir.Constant(_LONG, 0))
            return _rivals(builder, ways, data, stride, at, i1, size)

        return WHOLE(REALS, WHOLE, WHOLE, WHOLE, WHOLE), build

    made: Callable[..., Any] = intrinsic(typed)
    return made


rivals2, rivals4 = _make_rivals(2), _make_rivals(4)
