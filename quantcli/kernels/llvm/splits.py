"""The split of a group of GGML's IQ1 types: which values get level 0, 1 and 2, and which shifts, as ggml finds it.

ggml tries all i1 <= i2 and all shifts in order, and keeps the one of largest score = along * along / square, where

    along  = sum(w x q) = sum over halves of T (1 + shift)                            - X[i1] - X[i2]
    square = sum(w q q) = sum over halves of W (1 + shift)**2 + V[i1] (1 - 2 shift)   - V[i2] (1 + 2 shift)

X, V: sums of w x and of w over the first values in order of size, T and W over all of them; iq1_s has one half. Its
order of operations is another, and its scores are rounded, so this only says which splits are worth a look:

    guess     the score, in ggml's arithmetic, of a good split: the one that a scale asks for
    rivals    a split whose score may not be below (1 - NEAR) * guess, for sixteen groups side by side: where
              along ** 2 >= (1 - 2 NEAR) guess * square - slack
    walk      the rivals, in ggml's order and arithmetic

The first split whose score is above (1 - NEAR / 2) * guess beats whatever ggml keeps by then, unless that is above it
too; all such splits are rivals, and what is none is clearly less than what is kept from there on. `along` here and in
ggml are less than E = 2**-17 * S apart, where S is the sum of |w x|, and 2 along E <= NEAR / 4 * along ** 2 +
4 / NEAR * E ** 2; the squares less than 2**-17 * W. So slack = 2**-18 * S ** 2 + 2**-16 * guess * W covers both. Where
these are so small or large that float32 does not hold them, or there is no guess, every split is a rival.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from quantcli.kernels.compile import inlined, inner
from quantcli.kernels.float32 import INFINITE, LARGEST
from quantcli.kernels.lanes import WIDE
from quantcli.kernels.llvm.emit import (
    FLOAT,
    INT,
    INTS,
    LONG,
    NOTHING,
    REALS,
    WHOLE,
    bits,
    load,
    loop,
    pointer,
    store,
    variable,
)
from quantcli.kernels.llvm.nearest import lowest

#: Groups that are searched side by side.
SIDE = WIDE
SHIFT = np.float32(0.125)
NEAR = np.float32(2.0**-14)
LEAST, MOST = np.float32(2.0**-80), np.float32(2.0**80)
_VECTOR, _NUMBERS = ir.VectorType(FLOAT, SIDE), ir.VectorType(INT, SIDE)


class Sums(NamedTuple):
    """Of SIDE groups, with values in order of size.

    x, w: float32 (halves, values + 1, SIDE): sums of w x and of w over the first values, of those of either half;
    all_x (values + 1, SIDE): of w x over both halves; scaled, as w: w times `factor`. sizes: sums of |w x|; factor:
    (1 - 2 NEAR) * guess; slack: as the module says, infinite where all splits have to be tried; limits: six thresholds
    (6 * SIDE,); counts: values below them; best: the score so far; rivals: of each i2, a bit of each group.
    """

    x: NDArray[np.float32]
    w: NDArray[np.float32]
    all_x: NDArray[np.float32]
    scaled: NDArray[np.float32]
    sizes: NDArray[np.float32]
    factor: NDArray[np.float32]
    slack: NDArray[np.float32]
    scale: NDArray[np.float32]
    limits: NDArray[np.float32]
    counts: NDArray[np.int32]
    best: NDArray[np.float32]
    rivals: NDArray[np.int32]


def sums_of(group: int) -> Sums:
    """Room for groups of so many values."""

    def floats(*shape: int) -> NDArray[np.float32]:
        return np.zeros((*shape, SIDE), np.float32)

    halves, rows = 32 // group, group + 1
    return Sums(
        x=floats(halves, rows), w=floats(halves, rows), all_x=floats(rows), scaled=floats(halves, rows),
        sizes=floats(), factor=floats(), slack=floats(), scale=floats(), limits=np.zeros(6 * SIDE, np.float32),
        counts=np.zeros(6 * SIDE, np.int32), best=floats(), rivals=np.zeros(rows, np.int32),
    )  # fmt: skip


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
        low, high, own, weight = shift - np.float32(1), shift + np.float32(1), sumx[0], sumw[0]
        x1, x2, x3 = own[i1, g], own[i2, g] - own[i1, g], own[size, g] - own[i2, g]
        w1, w2, w3 = weight[i1, g], weight[i2, g] - weight[i1, g], weight[size, g] - weight[i2, g]
        return x1 * low + x2 * shift + x3 * high, w1 * low * low + w2 * shift * shift + w3 * high * high
    a, qa = _half(sumx[0], sumw[0], g, i1, i2, shift_of(2, shifts, 0))
    b, qb = _half(sumx[1], sumw[1], g, i1, i2, shift_of(2, shifts, 1))
    return a + b, qa + qb


@inlined
def _half(half_x: Any, half_w: Any, g: int, i1: int, i2: int, shift: Any) -> Any:
    low, high, middle, size = shift - np.float32(1), shift + np.float32(1), shift * shift, half_x.shape[0] - 1
    along = half_x[size, g] * high - (half_x[i1, g] + half_x[i2, g])
    square = half_w[size, g] * high * high + half_w[i1, g] * (low * low - middle)
    return along, square + half_w[i2, g] * (middle - high * high)


@inner
def _guess(side: Any, s: Any) -> None:
    """s.factor, s.slack from the score of a good split of each group; side (values, SIDE): its values, in any order."""
    x, w, halves, size = s.x, s.w, s.x.shape[0], s.x.shape[1] - 1
    zero, one, two, half = np.float32(0), np.float32(1), np.float32(2), np.float32(0.5)
    for g in range(SIDE):
        total = w[0, size, g] + (w[halves - 1, size, g] if halves == 2 else zero)
        s.scale[g] = np.float32(1.5) * s.sizes[g] / total
        s.limits[g], s.limits[SIDE + g] = -half * s.scale[g], half * s.scale[g]
    below(side.reshape(-1), size, s.limits, 0, s.counts)
    below(side.reshape(-1), size, s.limits, 1, s.counts)
    for g in range(SIDE):
        i1, i2, along, square = s.counts[g], s.counts[SIDE + g], zero, zero
        for h in range(halves):
            along += x[h, size, g] - x[h, i1, g] - x[h, i2, g]
            square += w[h, size, g] + w[h, i1, g] - w[h, i2, g]
        scale = along / square if (along > zero) & (square > zero) else s.scale[g]
        for k in range(3):
            middle = SHIFT * np.float32(1 - k)
            at = 2 * SIDE * k + g
            s.limits[at], s.limits[SIDE + at] = scale * (middle - half), scale * (middle + half)
    for k in range(6):
        below(side.reshape(-1), size, s.limits, k, s.counts)
    for g in range(SIDE):
        best, first, second, which = np.float32(-1), np.int32(0), np.int32(0), 0
        for shifts in range(1 << halves):
            k = 2 * shifts if halves == 1 else shifts - shifts // 2  # of the shifts' mean: 1/8, 0, -1/8
            at = 2 * SIDE * k + g
            i1, i2, along, square = s.counts[at], s.counts[SIDE + at], zero, zero
            for h in range(halves):
                shift = shift_of(halves, shifts, h)
                along += x[h, size, g] * (one + shift) - x[h, i1, g] - x[h, i2, g]
                square += w[h, size, g] * (one + shift) * (one + shift)
                square += w[h, i1, g] * (one - two * shift) - w[h, i2, g] * (one + two * shift)
            score = along * along / square
            better = (square > zero) & (score > best)
            best, which = score if better else best, shifts if better else which
            first, second = i1 if better else first, i2 if better else second
        along, square = exact(x, w, g, np.int64(first), np.int64(max(first, second)), which)
        guess = along / square * along if square > zero else zero
        total = w[0, size, g] + (w[halves - 1, size, g] if halves == 2 else zero)
        slack = np.float32(2.0**-18) * s.sizes[g] * s.sizes[g] + np.float32(2.0**-16) * guess * total
        sound = (slack > LEAST) & (slack < MOST) & (guess * total > LEAST)
        s.factor[g], s.slack[g] = guess * (one - two * NEAR) if sound else zero, slack if sound else INFINITE


@inner
def best_splits(side: Any, s: Any, number: Any) -> None:
    """number[g] = ((values + 1) * i1 + i2) * ways of shifts + shifts, of each group's best split; -1 for none.

    side (values, SIDE): the values, in any order; s: `Sums` whose x, w and sizes are set.
    """
    halves, size = s.x.shape[0], s.x.shape[1] - 1
    _guess(side, s)
    for g in range(SIDE):
        s.best[g], number[g] = -LARGEST, np.int32(-1)
    for i in range(size + 1):
        for g in range(SIDE):
            s.all_x[i, g] = s.x[0, i, g] + (s.x[1, i, g] if halves == 2 else np.float32(0))
        for h in range(halves):
            for g in range(SIDE):
                s.scaled[h, i, g] = s.w[h, i, g] * s.factor[g]
    flat_x, flat_all, flat_w = s.x.reshape(-1), s.all_x.reshape(-1), s.scaled.reshape(-1)
    for i1 in range(size + 1):
        if halves == 1:
            any_rival = rivals1(flat_x, flat_all, flat_w, s.slack, i1, size, s.rivals)
        else:
            any_rival = rivals2(flat_x, flat_all, flat_w, s.slack, i1, size, s.rivals)
        if any_rival:
            _walk(s, i1, number)


@inlined
def _walk(s: Any, i1: int, number: Any) -> None:
    """s.best, number of each group after its rivals with one i1, as ggml tries them."""
    size, ways = s.x.shape[1] - 1, 1 << s.x.shape[0]
    for i2 in range(i1, size + 1):
        mask = np.int64(s.rivals[i2])
        while mask:
            g = lowest(mask)
            mask &= mask - 1
            for k in range(ways):
                along, square = exact(s.x, s.w, g, i1, i2, k)
                if square > np.float32(0) and along * along > s.best[g] * square:
                    s.best[g] = along / square * along
                    number[g] = np.int32(ways * ((size + 1) * i1 + i2) + k)


def _number(value: float) -> Any:
    return ir.Constant(_VECTOR, [value] * SIDE)


def _rivals(builder: Any, halves: int, x: Any, all_x: Any, w: Any, slack: Any, i1: Any, size: Any, out: Any) -> Any:
    """out[i2] = a bit of each group that has a rival there in row i1; all bits. x, all_x, w, slack: of a `Sums`."""
    ways, shifts = 1 << halves, (0.125, -0.125)
    each = builder.mul(builder.add(size, ir.Constant(LONG, 1)), ir.Constant(LONG, SIDE))

    def line(of: Any, i: Any, h: int = 0) -> Any:
        start = builder.mul(each, ir.Constant(LONG, h))
        return load(builder, of, SIDE, builder.add(start, builder.mul(i, ir.Constant(LONG, SIDE))))

    def joined(parts: list[list[Any]]) -> list[Any]:
        """Of each half's numbers for its two shifts, those for all shifts; ggml's order."""
        if halves == 1:
            return parts[0]
        return [builder.fadd(parts[0][k >> 1], parts[1][k & 1]) for k in range(ways)]

    def times(value: Any, factors: list[float]) -> list[Any]:
        return [builder.fmul(value, _number(factor)) for factor in factors]

    low, high, tops = ([1 + sign * 2 * s for s in shifts] for sign in (-1, 1, 0.5))
    fixed = joined([times(line(w, size, h), [t * t for t in tops]) for h in range(halves)])
    start = joined([times(line(w, i1, h), low) for h in range(halves)])
    slack = load(builder, slack, SIDE)
    wanted = [builder.fsub(builder.fadd(a, b), slack) for a, b in zip(fixed, start, strict=True)]
    left = joined([times(line(x, size, h), tops) for h in range(halves)])
    left = [builder.fsub(one, line(all_x, i1)) for one in left]
    none = ir.Constant(ir.VectorType(ir.IntType(1), SIDE), [0] * SIDE)
    found = variable(builder, none)
    with loop(builder, i1, builder.add(size, ir.Constant(LONG, 1))) as i2:
        here, two = none, line(all_x, i2)
        squares = joined([times(line(w, i2, h), high) for h in range(halves)])
        for a, b, square in zip(left, wanted, squares, strict=True):
            along = builder.fsub(a, two)
            limit = builder.fsub(b, square)
            here = builder.or_(here, builder.fcmp_unordered(">=", builder.fmul(along, along), limit))
        builder.store(builder.trunc(bits(builder, here), INT), builder.gep(out, [i2]))
        builder.store(builder.or_(builder.load(found), here), found)
    return bits(builder, builder.load(found))


def _below(builder: Any, values: Any, size: Any, limits: Any, counts: Any) -> None:
    """counts = how many values of each group are below its limit; all but `size` are pointers."""
    limit, one, none = load(builder, limits, SIDE), ir.Constant(_NUMBERS, [1] * SIDE), ir.Constant(_NUMBERS, [0] * SIDE)
    count = variable(builder, none)
    with loop(builder, NOTHING, size) as k:
        value = load(builder, values, SIDE, builder.mul(k, ir.Constant(LONG, SIDE)))
        under = builder.fcmp_ordered("<", value, limit)
        builder.store(builder.add(builder.load(count), builder.select(under, one, none)), count)
    store(builder, builder.load(count), counts)


def _make_rivals(halves: int) -> Callable[..., Any]:
    """rivals(x, all_x, w, slack, i1, size, out): `_rivals`; the first four and `out` are arrays of a `Sums`, flat."""

    def typed(_: Any, x: Any, all_x: Any, w: Any, slack: Any, i1: Any, size: Any, out: Any) -> tuple[Any, Any]:
        def build(context: Any, builder: Any, signature: Any, given: Any) -> Any:
            x, all_x, w, slack = (pointer(context, builder, REALS, array, NOTHING) for array in given[:4])
            return _rivals(
                builder,
                halves,
                x,
                all_x,
                w,
                slack,
                given[4],
                given[5],
                pointer(context, builder, INTS, given[6], NOTHING),
            )

        return WHOLE(REALS, REALS, REALS, REALS, WHOLE, WHOLE, INTS), build

    made: Callable[..., Any] = intrinsic(typed)
    return made


def _below_typed(_: Any, values: Any, size: Any, limits: Any, k: Any, counts: Any) -> tuple[Any, Any]:
    """below(values, size, limits, k, counts): `_below` of the k-th limits."""

    def build(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        values, size, limits, k, counts = given
        at = builder.mul(k, ir.Constant(LONG, SIDE))
        _below(
            builder, pointer(context, builder, REALS, values, NOTHING), size,
            pointer(context, builder, REALS, limits, at), pointer(context, builder, INTS, counts, at),
        )  # fmt: skip
        return context.get_dummy_value()

    return types.void(REALS, WHOLE, REALS, WHOLE, INTS), build


def _ranks(builder: Any, values: Any, size: Any, out: Any) -> None:
    """out[i] = how many values of each group come before value i: smaller ones, and equal ones that stand before it."""
    one, none = ir.Constant(_NUMBERS, [1] * SIDE), ir.Constant(_NUMBERS, [0] * SIDE)

    def line(i: Any) -> Any:
        return builder.mul(i, ir.Constant(LONG, SIDE))

    with loop(builder, NOTHING, size) as i:
        value, count = load(builder, values, SIDE, line(i)), variable(builder, none)
        for begin, end, order in ((NOTHING, i, "<="), (i, size, "<")):
            with loop(builder, begin, end) as j:
                before = builder.fcmp_ordered(order, load(builder, values, SIDE, line(j)), value)
                builder.store(builder.add(builder.load(count), builder.select(before, one, none)), count)
        store(builder, builder.load(count), out, line(i))


def _ranks_typed(_: Any, values: Any, size: Any, out: Any) -> tuple[Any, Any]:
    """ranks(values, size, out): `_ranks`."""

    def build(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        values, size, out = given
        _ranks(
            builder, pointer(context, builder, REALS, values, NOTHING), size,
            pointer(context, builder, INTS, out, NOTHING),
        )  # fmt: skip
        return context.get_dummy_value()

    return types.void(REALS, WHOLE, INTS), build


ranks: Callable[..., Any] = intrinsic(_ranks_typed)
rivals1, rivals2 = _make_rivals(1), _make_rivals(2)
below: Callable[..., Any] = intrinsic(_below_typed)
