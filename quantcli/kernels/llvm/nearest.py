"""The nearest of some codebook rows to a few values, in vectors; lists are those of neighbours.py.

A row's distance is the sum over i, in order, of w[i] * (scale * code[i] - x[i]) ** 2, every float32 operation rounded
once; the first of the smallest wins, as in ggml's `iq2_find_best_neighbour`, `iq3_..` and `iq1_find_best_neighbour2`.
Over the scale it is, but for rounding and a part that all rows have, a line: scale * square + along, with

    square      the sum of w code code             along       the sum of -2 w x code

    lines       square and along of all rows of a list, and which row is nearest for one scale, about
    nearest     about the nearest row for sixteen scales side by side, and for which of them that is not clear; rows
                that are farther than a given line for both of two scales are so for all between, and left out
    direct      the same of a list that one vector holds, nothing left out
    among       exactly the nearest, for eight scales side by side

`CLEAR` says what is clear. As 2 x code <= scale * code ** 2 + x ** 2 / scale, no part of a line, and no half of a
distance over its scale, is above size = scale * squares + rest, where squares is at least any row's square, and rest
the sum of w x x over the scale. Rounding puts a line's value off by at most 21 * 2**-24 of size, and ggml's distance
over the scale by 25 * 2**-24: both for two rows are less than 2**-17 of size, and CLEAR is 2**-16. Underflow may be off
by 2**23 * 2**-149 for each term of a distance (a w that is not 0 and a larger factor have a normal product), so nothing
is clear where scale * size is not above SMALL; nor where it is not below HUGE, which leaves out NaN and overflow.

Written as LLVM IR, because runs are short: what LLVM makes of a loop over 8 to 40 floats is mostly its own overhead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from quantcli.kernels.compile import inlined
from quantcli.kernels.float32 import INFINITE, LARGEST
from quantcli.kernels.lanes import NARROW, PLACES, WIDE
from quantcli.kernels.llvm.emit import (
    CODES,
    FLOAT,
    IDS,
    INT,
    INTS,
    LONG,
    NARROW_FLOATS,
    NOTHING,
    REAL,
    REALS,
    WHOLE,
    bits,
    load,
    loop,
    pointer,
    splat,
    store,
    tuple_of,
    variable,
)

#: A distance has to be below it, as in ggml.
_FAR = float(LARGEST)
#: By how much of its size (above) a distance over its scale has to be larger; and between what distances' sizes.
CLEAR, SMALL, HUGE = np.float32(2.0**-16), np.float32(2.0**-100), np.float32(2.0**100)


_MAY_FUSE = ("contract",)


def _number(value: Any) -> Any:
    return ir.Constant(FLOAT, float(value))


def _least(builder: Any, values: Any) -> Any:
    """The smallest int32 of a vector."""
    name = f"llvm.vector.reduce.smin.v{values.type.count}i32"
    least = builder.module.declare_intrinsic(name, fnty=ir.FunctionType(INT, [values.type]))
    return builder.call(least, [values])


def _known(builder: Any, width: int, lanes: int, *values: Any) -> list[tuple[Any, ...]]:
    """The first `width` floats behind each pointer, each in all lanes."""
    steps = [ir.Constant(INT, i) for i in range(width)]
    return [tuple(splat(builder, builder.load(builder.gep(v, [step])), lanes) for v in values) for step in steps]


def _lines(
    builder: Any, lanes: int, width: int, codes: Any, count: Any, w: Any, twice: Any, scale: Any, rest: Any,
    squares: Any, alongs: Any, shift: Any,
) -> Any:  # fmt: skip
    """The place of a row that is about the nearest; all but numbers are pointers."""
    floats, ints = ir.VectorType(FLOAT, lanes), ir.VectorType(INT, lanes)
    known = _known(builder, width, lanes, w, twice)
    shifts = None if shift is None else splat(builder, shift, lanes)
    zero, scales, rests = (
        ir.Constant(floats, [0.0] * lanes),
        splat(builder, scale, lanes),
        splat(builder, rest, lanes),
    )
    kept = ir.Constant(ints, [0x7FFFFFFF - PLACES] * lanes)
    best = variable(builder, ir.Constant(ints, [0x7FFFFFFF - PLACES] * lanes))
    with loop(builder, NOTHING, count, count.type(lanes)) as at:
        square = along = zero
        for i, (weight, double) in enumerate(known):
            source = builder.gep(codes, [builder.add(at, builder.mul(count, ir.Constant(LONG, i)))])
            code = builder.sitofp(builder.sext(load(builder, source, lanes), ints), floats)
            code = code if shifts is None else builder.fadd(code, shifts)
            square = builder.fadd(
                square, builder.fmul(weight, builder.fmul(code, code), flags=_MAY_FUSE), flags=_MAY_FUSE
            )
            along = builder.fadd(along, builder.fmul(double, code, flags=_MAY_FUSE), flags=_MAY_FUSE)
        store(builder, square, squares, at)
        store(builder, along, alongs, at)
        distance = builder.fadd(
            builder.fadd(builder.fmul(scales, square, flags=_MAY_FUSE), along, flags=_MAY_FUSE), rests
        )
        distance = builder.select(builder.fcmp_ordered(">", distance, zero), distance, zero)
        places = ir.Constant(ints, list(range(lanes)))
        here = builder.add(splat(builder, builder.trunc(at, INT), lanes), places)
        key = builder.or_(builder.and_(builder.bitcast(distance, ints), kept), here)
        old = builder.load(best)
        builder.store(builder.select(builder.icmp_signed("<", key, old), key, old), best)
    return builder.zext(builder.and_(_least(builder, builder.load(best)), ir.Constant(INT, PLACES)), LONG)


def _chunk(builder: Any, squares: Any, alongs: Any, at: Any, ends: Any, vectors: int) -> Any:
    """A bit of each of CHUNK rows from `at` on that is not farther at both ends: (scale, limit) of each."""
    mask = NOTHING
    for k in range(vectors):
        here = builder.add(at, ir.Constant(LONG, WIDE * k))
        square, along, out = load(builder, squares, WIDE, here), load(builder, alongs, WIDE, here), None
        for scale, limit in ends:
            distance = builder.fadd(
                builder.fmul(splat(builder, scale, WIDE), square, flags=_MAY_FUSE), along, flags=_MAY_FUSE
            )
            farther = builder.fcmp_ordered(">", distance, splat(builder, limit, WIDE))
            out = farther if out is None else builder.and_(out, farther)
        mask = builder.or_(mask, builder.shl(bits(builder, builder.not_(out)), ir.Constant(LONG, WIDE * k)))
    return mask


class _Lanes:
    """For each of WIDE scales: the smallest distance so far, its row, and the smallest but that one."""

    def __init__(self, builder: Any, scales: Any) -> None:
        self.builder, self.scale = builder, load(builder, scales, WIDE)
        floats, ints = ir.VectorType(FLOAT, WIDE), ir.VectorType(INT, WIDE)
        far, none = ir.Constant(floats, [_FAR] * WIDE), ir.Constant(ints, [0] * WIDE)
        self.best, self.second, self.number = (variable(builder, v) for v in (far, far, none))

    def offer(self, square: Any, along: Any, own: Any) -> None:
        """One more row."""
        builder = self.builder
        square, along, own = (splat(builder, value, WIDE) for value in (square, along, own))
        distance = builder.fadd(builder.fmul(self.scale, square, flags=_MAY_FUSE), along, flags=_MAY_FUSE)
        old, runner = builder.load(self.best), builder.load(self.second)
        better = builder.fcmp_ordered("<", distance, old)
        behind = builder.select(better, old, distance)
        builder.store(builder.select(builder.fcmp_ordered("<", behind, runner), behind, runner), self.second)
        builder.store(builder.select(better, distance, old), self.best)
        builder.store(builder.select(better, own, builder.load(self.number)), self.number)

    def found(self, total: Any, rest: Any) -> tuple[Any, Any, Any]:
        """The rows; a bit of each that is not clear; a bit of each that is another than the one before."""
        builder, number = self.builder, self.builder.load(self.number)
        scaled = builder.fmul(self.scale, splat(builder, total, WIDE))
        size = builder.fadd(scaled, builder.fdiv(splat(builder, rest, WIDE), self.scale))
        clear, small, huge = (splat(builder, _number(value), WIDE) for value in (CLEAR, SMALL, HUGE))
        off = builder.fsub(builder.load(self.second), builder.load(self.best))
        apart = builder.fcmp_ordered(">", off, builder.fmul(size, clear))
        size = builder.fmul(size, self.scale)
        sound = builder.and_(builder.fcmp_ordered("<", size, huge), builder.fcmp_ordered(">", size, small))
        before = builder.shuffle_vector(number, number, ir.Constant(ir.VectorType(INT, WIDE), [0, *range(WIDE - 1)]))
        moved = bits(builder, builder.icmp_signed("!=", number, before))
        return number, bits(builder, builder.not_(builder.and_(apart, sound))), moved


def _nearest(
    builder: Any, squares: Any, alongs: Any, ids: Any, count: Any, ends: Any, lanes: _Lanes, few: Any, vectors: int
) -> Any:
    """How many rows of a list are not out of the question; they go to `few`, and are offered to the lanes."""
    kept, whole = variable(builder, NOTHING), ir.Constant(LONG, -1)
    chunk, one = ir.Constant(LONG, WIDE * vectors), ir.Constant(LONG, 1)
    mask = variable(builder, NOTHING)
    with loop(builder, NOTHING, count, chunk) as at:
        left = builder.sub(count, at)
        part = builder.sub(builder.shl(one, left), one)
        valid = builder.select(builder.icmp_signed("<", left, ir.Constant(LONG, 64)), part, whole)
        builder.store(builder.and_(_chunk(builder, squares, alongs, at, ends, vectors), valid), mask)
        again, done = builder.append_basic_block("rows"), builder.append_basic_block("done")
        builder.cbranch(builder.icmp_signed("!=", builder.load(mask), NOTHING), again, done)
        builder.position_at_end(again)
        these = builder.load(mask)
        place = builder.add(at, builder.cttz(these, ir.Constant(ir.IntType(1), 1)))
        own, number = builder.load(builder.gep(ids, [place])), builder.load(kept)
        builder.store(own, builder.gep(few, [number]))
        builder.store(builder.add(number, one), kept)
        square, along = (builder.load(builder.gep(v, [place])) for v in (squares, alongs))
        lanes.offer(square, along, builder.sext(own, INT))
        rest = builder.and_(these, builder.sub(these, one))
        builder.store(rest, mask)
        builder.cbranch(builder.icmp_signed("!=", rest, NOTHING), again, done)
        builder.position_at_end(done)
    return builder.load(kept)


def _direct(builder: Any, squares: Any, alongs: Any, ids: Any, count: Any, lanes: _Lanes, rows: int) -> None:
    """All of a list of at most `rows` rows are offered, those beyond `count` as infinitely far."""
    ints, floats = ir.VectorType(INT, WIDE), ir.VectorType(FLOAT, WIDE)
    there = ir.Constant(ints, list(range(WIDE)))
    mine = builder.icmp_signed("<", there, splat(builder, builder.trunc(count, INT), WIDE))
    far = ir.Constant(floats, [float("inf")] * WIDE)
    store(builder, builder.select(mine, load(builder, alongs, WIDE), far), alongs)
    for j in range(rows):
        place = ir.Constant(LONG, j)
        square, along, own = (builder.load(builder.gep(v, [place])) for v in (squares, alongs, ids))
        lanes.offer(square, along, builder.sext(own, INT))


def _among(builder: Any, width: int, rows: Any, ids: Any, count: Any, x: Any, w: Any, scales: Any, shift: Any) -> Any:
    """The nearest row's number for each of eight scales; all but `count` and `shift` are pointers."""
    known, scale = _known(builder, width, NARROW, x, w), load(builder, scales, NARROW)
    start = splat(builder, builder.sext(builder.load(ids), INT))
    best = variable(builder, ir.Constant(NARROW_FLOATS, [_FAR] * NARROW))
    number = variable(builder, start)
    with loop(builder, NOTHING, count) as k:
        own = builder.sext(builder.load(builder.gep(ids, [k])), INT)
        row = builder.gep(rows, [builder.mul(builder.sext(own, LONG), ir.Constant(LONG, width))])
        total = None
        for i, (value, weight) in enumerate(known):
            code = builder.load(builder.gep(row, [ir.Constant(INT, i)]))
            code = splat(builder, code if shift is None else builder.fadd(code, shift))
            off = builder.fsub(builder.fmul(scale, code), value)
            term = builder.fmul(builder.fmul(weight, off), off)
            total = term if total is None else builder.fadd(total, term)
        old = builder.load(best)
        better = builder.fcmp_ordered("<", total, old)
        builder.store(builder.select(better, total, old), best)
        builder.store(builder.select(better, splat(builder, own), builder.load(number)), number)
    return builder.load(number)


def _make_lines(width: int, shifted: bool) -> Callable[..., Any]:
    """lines(codes, start, count, w, twice, at, scale, rest, squares, alongs, shift): the place of a near row.

    codes: int8, `count` rows of `width` from start * width, laid out as in neighbours.py, each + shift; w and twice
    (-2 w x): float32, read from `at`; scale: for which the row is near; rest: the sum of w x x, over that scale;
    squares, alongs: float32, get the lines.
    """

    def typed(
        _: Any, codes: Any, start: Any, count: Any, w: Any, twice: Any, at: Any, scale: Any, rest: Any, squares: Any,
        alongs: Any, shift: Any,
    ) -> tuple[Any, Any]:  # fmt: skip
        def build(context: Any, builder: Any, signature: Any, given: Any) -> Any:
            codes, start, count, w, twice, at, scale, rest, squares, alongs, shift = given
            rows = pointer(context, builder, CODES, codes, builder.mul(start, ir.Constant(LONG, width)))
            weights, doubles = (pointer(context, builder, REALS, array, at) for array in (w, twice))
            squares, alongs = (pointer(context, builder, REALS, array, NOTHING) for array in (squares, alongs))
            moved = shift if shifted else None
            return _lines(builder, WIDE, width, rows, count, weights, doubles, scale, rest, squares, alongs, moved)

        return WHOLE(CODES, WHOLE, WHOLE, REALS, REALS, WHOLE, REAL, REAL, REALS, REALS, REAL), build

    made: Callable[..., Any] = intrinsic(typed)
    return made


def _make_nearest(vectors: int) -> Callable[..., Any]:
    """nearest(squares, alongs, ids, start, count, scales, scale, limit, other, other_limit, total, rest, few, out, at).

    out[at + c]: about the nearest row for each of WIDE scales, float32, read from `at`; of the rows ids[start :
    start + count], int16, whose lines are in `squares` and `alongs`, but those where scale * square + along is above
    `limit`, and other * square + along above `other_limit`. total: no row's square is larger; rest: the sum of w x x.
    Returns how many rows were left (they are in `few`), a bit of each lane that is not clear, and a bit of each lane
    with another row than the one before.
    """

    def typed(
        _: Any, squares: Any, alongs: Any, ids: Any, start: Any, count: Any, scales: Any, scale: Any, limit: Any,
        other: Any, other_limit: Any, total: Any, rest: Any, few: Any, out: Any, first: Any,
    ) -> tuple[Any, Any]:  # fmt: skip
        def build(context: Any, builder: Any, signature: Any, given: Any) -> Any:
            (
                squares, alongs, ids, start, count, scales, scale, limit, other, other_limit, total, rest, few, out,
                first,
            ) = given  # fmt: skip
            square, along = (pointer(context, builder, REALS, array, NOTHING) for array in (squares, alongs))
            lanes = _Lanes(builder, pointer(context, builder, REALS, scales, first))
            kept = _nearest(
                builder, square, along, pointer(context, builder, IDS, ids, start), count,
                ((scale, limit), (other, other_limit)), lanes, pointer(context, builder, IDS, few, NOTHING), vectors,
            )  # fmt: skip
            number, unclear, moved = lanes.found(total, rest)
            store(builder, number, pointer(context, builder, INTS, out, first))
            return context.make_tuple(builder, signature.return_type, [kept, unclear, moved])

        given = (REALS, REALS, IDS, WHOLE, WHOLE, REALS, REAL, REAL, REAL, REAL, REAL, REAL, IDS, INTS, WHOLE)
        return tuple_of((WHOLE,) * 3)(*given), build

    made: Callable[..., Any] = intrinsic(typed)
    return made


def _make_direct(rows: int) -> Callable[..., Any]:
    """direct(squares, alongs, ids, start, count, scales, total, rest, out, at): `nearest`, of `rows` rows at most.

    None of them is left out before; returns the last two numbers.
    """

    def typed(
        _: Any, squares: Any, alongs: Any, ids: Any, start: Any, count: Any, scales: Any, total: Any, rest: Any,
        out: Any, first: Any,
    ) -> tuple[Any, Any]:  # fmt: skip
        def build(context: Any, builder: Any, signature: Any, given: Any) -> Any:
            squares, alongs, ids, start, count, scales, total, rest, out, first = given
            square, along = (pointer(context, builder, REALS, array, NOTHING) for array in (squares, alongs))
            lanes = _Lanes(builder, pointer(context, builder, REALS, scales, first))
            _direct(builder, square, along, pointer(context, builder, IDS, ids, start), count, lanes, rows)
            number, unclear, moved = lanes.found(total, rest)
            store(builder, number, pointer(context, builder, INTS, out, first))
            return context.make_tuple(builder, signature.return_type, [unclear, moved])

        return tuple_of((WHOLE,) * 2)(REALS, REALS, IDS, WHOLE, WHOLE, REALS, REAL, REAL, INTS, WHOLE), build

    made: Callable[..., Any] = intrinsic(typed)
    return made


def _make_among(width: int, shifted: bool) -> Callable[..., Any]:
    """among(rows, ids, count, x, w, at, scales, out, first, shift): out[first + c], eight row numbers.

    rows: float32, `width` codes (+ shift) each; the rows looked at are ids[:count], int16, in that order; x, w:
    float32, read from `at`; scales: float32, read from `first`.
    """

    def typed(
        _: Any, rows: Any, ids: Any, count: Any, x: Any, w: Any, at: Any, scales: Any, out: Any, first: Any, shift: Any
    ) -> tuple[Any, Any]:
        def build(context: Any, builder: Any, signature: Any, given: Any) -> Any:
            rows, ids, count, x, w, at, scales, out, first, shift = given
            found = _among(
                builder, width,
                pointer(context, builder, REALS, rows, NOTHING), pointer(context, builder, IDS, ids, NOTHING), count,
                pointer(context, builder, REALS, x, at), pointer(context, builder, REALS, w, at),
                pointer(context, builder, REALS, scales, first), shift if shifted else None,
            )  # fmt: skip
            store(builder, found, pointer(context, builder, INTS, out, first))
            return context.get_dummy_value()

        return types.void(REALS, IDS, WHOLE, REALS, REALS, WHOLE, REALS, INTS, WHOLE, REAL), build

    made: Callable[..., Any] = intrinsic(typed)
    return made


def _lowest_typed(_: Any, mask: Any) -> tuple[Any, Any]:
    """lowest(mask): the place of the lowest bit that is set."""

    def build(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        return builder.cttz(given[0], ir.Constant(ir.IntType(1), 1))

    return WHOLE(WHOLE), build


#: Of IQ3's rows of four codes; of IQ2's of eight; of IQ1's of eight, each code moved by the same shift.
among4, among8, among8_shifted = _make_among(4, False), _make_among(8, False), _make_among(8, True)
lines4, lines8, lines8_shifted = _make_lines(4, False), _make_lines(8, False), _make_lines(8, True)
#: Of short lists, WIDE rows at a time; of long ones, 64.
nearest4, nearest8 = _make_nearest(1), _make_nearest(4)
direct8, direct16 = _make_direct(8), _make_direct(16)
lowest: Callable[..., Any] = intrinsic(_lowest_typed)


@inlined
def beyond(scale: Any, size: Any, square: Any, along: Any) -> Any:
    """What is clearly farther than a line for a scale; infinity where nothing is."""
    sound = (size * scale > SMALL) & (size * scale < HUGE)
    return scale * square + along + CLEAR * size if sound else INFINITE
