"""The nearest of some codebook rows to a few values, in vectors of eight; lists are those of iq_neighbours.py.

A row's distance is the sum over i, in order, of w[i] * (scale * code[i] - x[i]) ** 2, every float32 operation rounded
once; the first of the smallest wins, as in ggml's `iq2_find_best_neighbour`, `iq3_..` and `iq1_find_best_neighbour2`.

    among     exactly that, for eight scales side by side
    glance    about that, for one or two scales, eight rows side by side: which row is nearest where it is clear

Written as LLVM IR, because runs are short: what LLVM makes of a loop over 8 to 40 floats is mostly its own overhead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils as untyped
from numba.extending import intrinsic

from quantcli.kernels.iq_neighbours import LANES

#: numba's helpers for IR, which have no types.
cgutils: Any = untyped

#: A distance has to be below it, as in ggml.
LARGEST = float(np.finfo(np.float32).max)

_FLOAT, _INT, _BYTE, _LONG = ir.FloatType(), ir.IntType(32), ir.IntType(8), ir.IntType(64)
FLOATS, _INTS, _BYTES = (ir.VectorType(kind, LANES) for kind in (_FLOAT, _INT, _BYTE))
_PLACES = ir.Constant(_INTS, list(range(LANES)))


def splat(builder: Any, value: Any) -> Any:
    """A vector of `value` in all lanes."""
    kind = ir.VectorType(value.type, LANES)
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(_INT, 0))
    return builder.shuffle_vector(one, one, ir.Constant(_INTS, [0] * LANES))


def _least(builder: Any, values: Any) -> Any:
    """The smallest of eight int32."""
    kind, name = ir.FunctionType(_INT, [_INTS]), f"llvm.vector.reduce.smin.v{LANES}i32"
    reduce = cgutils.get_or_insert_function(builder.module, kind, name)
    return builder.call(reduce, [values])


def _code(builder: Any, block: Any, stride: Any, i: int, shift: Any) -> Any:
    """Code i of eight rows as floats; `block` points to their first codes, the next ones lie `stride` bytes on."""
    at = builder.gep(block, [builder.mul(stride, ir.Constant(_LONG, i))])
    whole = builder.sext(builder.load(builder.bitcast(at, _BYTES.as_pointer()), align=1), _INTS)
    code = builder.sitofp(whole, FLOATS)
    return code if shift is None else builder.fadd(code, shift)


def _known(builder: Any, width: int, *values: Any) -> list[tuple[Any, ...]]:
    """The first `width` floats behind each pointer, each in all lanes."""
    steps = [ir.Constant(_INT, i) for i in range(width)]
    return [tuple(splat(builder, builder.load(builder.gep(v, [step]))) for v in values) for step in steps]


class _Best:
    """Each lane's smallest distance so far, its place, and the smallest but that one."""

    def __init__(self, builder: Any) -> None:
        far, none = ir.Constant(FLOATS, [LARGEST] * LANES), ir.Constant(_INTS, [0] * LANES)
        self.builder = builder
        self.best, self.second, self.place = (cgutils.alloca_once_value(builder, v) for v in (far, far, none))

    def offer(self, distance: Any, here: Any) -> None:
        """Eight more; places grow, so that of equals the first stays."""
        builder = self.builder
        old, runner = builder.load(self.best), builder.load(self.second)
        better = builder.fcmp_ordered("<", distance, old)
        closer = builder.select(builder.fcmp_ordered("<", distance, runner), distance, runner)
        builder.store(builder.select(better, old, closer), self.second)
        builder.store(builder.select(better, distance, old), self.best)
        builder.store(builder.select(better, here, builder.load(self.place)), self.place)

    def found(self) -> tuple[Any, Any, Any]:
        """Place (int64) of the first smallest, its distance and the next one; distances are ordered as their bits."""
        builder = self.builder
        keys, runners = (builder.bitcast(builder.load(v), _INTS) for v in (self.best, self.second))
        places = builder.load(self.place)
        least = _least(builder, keys)
        none = ir.Constant(_INTS, [2**31 - 1] * LANES)
        first = _least(builder, builder.select(builder.icmp_signed("==", keys, splat(builder, least)), places, none))
        won = builder.icmp_signed("==", places, splat(builder, first))
        other = _least(builder, builder.select(won, runners, keys))
        return builder.sext(first, _LONG), builder.bitcast(least, _FLOAT), builder.bitcast(other, _FLOAT)


def _about(
    builder: Any, width: int, codes: Any, count: Any, w: Any, twice: Any, scales: Any, rests: Any, distances: Any,
    shift: Any,
) -> list[tuple[Any, Any, Any]]:  # fmt: skip
    """What `_Best.found` gives for each scale; `distances`: where all of them go. All but integers are pointers."""
    bests, known = [_Best(builder) for _ in scales], _known(builder, width, w, twice)
    shifts = None if shift is None else splat(builder, shift)
    ends = [(splat(builder, scale), splat(builder, rest)) for scale, rest in zip(scales, rests, strict=True)]
    nought, may_fuse = ir.Constant(FLOATS, [0.0] * LANES), ("contract",)
    with cgutils.for_range_slice(builder, count.type(0), count, count.type(LANES), intp=_LONG) as (at, _):
        square = along = nought
        for i, (weight, double) in enumerate(known):
            code = _code(builder, builder.gep(codes, [at]), count, i, shifts)
            square = builder.fadd(square, builder.fmul(weight, builder.fmul(code, code), may_fuse), may_fuse)
            along = builder.fadd(along, builder.fmul(double, code, may_fuse), may_fuse)
        here = builder.add(splat(builder, builder.trunc(at, _INT)), _PLACES)
        for best, (scale, rest), kept in zip(bests, ends, distances, strict=True):
            distance = builder.fadd(builder.fadd(builder.fmul(scale, square, may_fuse), along, may_fuse), rest)
            distance = builder.select(builder.fcmp_ordered(">", distance, nought), distance, nought)
            builder.store(distance, builder.bitcast(builder.gep(kept, [at]), FLOATS.as_pointer()), align=4)
            best.offer(distance, here)
    return [best.found() for best in bests]


def _among(builder: Any, width: int, rows: Any, ids: Any, count: Any, x: Any, w: Any, scales: Any, shift: Any) -> Any:
    """The nearest row's number for each of eight scales; all but `count` and `shift` are pointers."""
    known, scale = _known(builder, width, x, w), builder.load(builder.bitcast(scales, FLOATS.as_pointer()), align=4)
    start = splat(builder, builder.sext(builder.load(ids), _INT))
    best = cgutils.alloca_once_value(builder, ir.Constant(FLOATS, [LARGEST] * LANES))
    number = cgutils.alloca_once_value(builder, start)
    with cgutils.for_range(builder, count, intp=_LONG) as loop:
        own = builder.sext(builder.load(builder.gep(ids, [loop.index])), _INT)
        row = builder.gep(rows, [builder.mul(builder.sext(own, _LONG), ir.Constant(_LONG, width))])
        total = None
        for i, (value, weight) in enumerate(known):
            code = builder.load(builder.gep(row, [ir.Constant(_INT, i)]))
            code = splat(builder, code if shift is None else builder.fadd(code, shift))
            off = builder.fsub(builder.fmul(scale, code), value)
            term = builder.fmul(builder.fmul(weight, off), off)
            total = term if total is None else builder.fadd(total, term)
        old = builder.load(best)
        better = builder.fcmp_ordered("<", total, old)
        builder.store(builder.select(better, total, old), best)
        builder.store(builder.select(better, splat(builder, own), builder.load(number)), number)
    return builder.load(number)


WHOLE, REAL = types.int64, types.float32
tuple_of: Any = types.Tuple
_CODES, _IDS, _NUMBERS, REALS = (
    types.Array(kind, 1, "C") for kind in (types.int8, types.int16, types.int32, types.float32)
)


def pointer(context: Any, builder: Any, kind: Any, array: Any, at: Any) -> Any:
    return builder.gep(context.make_array(kind)(context, builder, array).data, [at])


def _make_among(width: int, shifted: bool) -> Callable[..., Any]:
    """among(rows, ids, start, count, x, w, at, scales, out, first, shift): out[first + c], eight row numbers.

    rows: float32, `width` codes (+ shift) each; the rows looked at are ids[start : start + count], int16, in that
    order; x, w: float32, read from `at`; scales: float32, read from `first`.
    """

    def typed(
        _: Any, rows: Any, ids: Any, start: Any, count: Any, x: Any, w: Any, at: Any, scales: Any, out: Any, first: Any,
        shift: Any,
    ) -> tuple[Any, Any]:  # fmt: skip
        def build(context: Any, builder: Any, signature: Any, given: Any) -> Any:
            rows, ids, start, count, x, w, at, scales, out, first, shift = given
            nothing = ir.Constant(_LONG, 0)
            found = _among(
                builder, width,
                pointer(context, builder, REALS, rows, nothing), pointer(context, builder, _IDS, ids, start), count,
                pointer(context, builder, REALS, x, at), pointer(context, builder, REALS, w, at),
                pointer(context, builder, REALS, scales, first), shift if shifted else None,
            )  # fmt: skip
            kept = pointer(context, builder, _NUMBERS, out, first)
            builder.store(found, builder.bitcast(kept, _INTS.as_pointer()), align=4)
            return context.get_dummy_value()

        return types.void(REALS, _IDS, WHOLE, WHOLE, REALS, REALS, WHOLE, REALS, _NUMBERS, WHOLE, REAL), build

    made: Callable[..., Any] = intrinsic(typed)
    return made


def _make_glance(width: int, shifted: bool) -> Callable[..., Any]:
    """glance(codes, start, count, w, twice, at, one, other, rest, rest_other, about, about_other, shift).

    Of distances / scale = scale * sum(w q q) + sum(twice q) + rest, not exact, for the scales `one` and `other`: place
    of the smallest, it, and the smallest but that one, twice. codes: int8, rows of `width` from start * width, laid out
    as in iq_neighbours.py, each + shift; w and twice (-2 w x): float32, read from `at`; rest: the sum of w x x, over
    the scale; about: float32, gets all of them.
    """

    def typed(
        _: Any, codes: Any, start: Any, count: Any, w: Any, twice: Any, at: Any, one: Any, other: Any, rest: Any,
        rest_other: Any, about: Any, about_other: Any, shift: Any,
    ) -> tuple[Any, Any]:  # fmt: skip
        def build(context: Any, builder: Any, signature: Any, given: Any) -> Any:
            codes, start, count, w, twice, at, one, other, rest, rest_other, about, about_other, shift = given
            begin = builder.mul(start, ir.Constant(_LONG, width))
            rows = pointer(context, builder, _CODES, codes, begin)
            weights, doubles = (pointer(context, builder, REALS, array, at) for array in (w, twice))
            nothing = ir.Constant(_LONG, 0)
            kept = [pointer(context, builder, REALS, array, nothing) for array in (about, about_other)]
            found = _about(
                builder, width, rows, count, weights, doubles, (one, other), (rest, rest_other), kept,
                shift if shifted else None,
            )  # fmt: skip
            return context.make_tuple(builder, signature.return_type, [part for end in found for part in end])

        result = tuple_of((WHOLE, REAL, REAL) * 2)
        given = (_CODES, WHOLE, WHOLE, REALS, REALS, WHOLE, REAL, REAL, REAL, REAL, REALS, REALS, REAL)
        return result(*given), build

    made: Callable[..., Any] = intrinsic(typed)
    return made


#: Of IQ3's rows of four codes; of IQ2's of eight; of IQ1's of eight, each code moved by the same shift.
among4, among8, among8_shifted = _make_among(4, False), _make_among(8, False), _make_among(8, True)
glance4, glance8, glance8_shifted = _make_glance(4, False), _make_glance(8, False), _make_glance(8, True)
