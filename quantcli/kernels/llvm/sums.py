"""How much the rows of some candidates explain: ggml's sums over a group, for eight candidates side by side.

Written as LLVM IR; each product and each sum is rounded, sums go in index order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from quantcli.kernels.lanes import NARROW
from quantcli.kernels.llvm.emit import (
    INT,
    INTS,
    LONG,
    NARROW_FLOATS,
    NARROW_INTS,
    NOTHING,
    REALS,
    WHOLE,
    WORDS,
    loop,
    pointer,
    splat,
    store,
    variable,
)


def _explained(
    builder: Any, width: int, rows: Any, stride: Any, new: Any, words: Any, count: Any, heavy: Any, weights: Any,
    along: Any, square: Any,
) -> None:  # fmt: skip
    """The two sums of eight candidates; all but numbers are pointers."""
    zero, quads = ir.Constant(NARROW_FLOATS, [0.0] * NARROW), width // 4
    sums = [variable(builder, zero) for _ in range(2)]
    places = [builder.sext(builder.load(builder.gep(new, [ir.Constant(LONG, c)])), LONG) for c in range(NARROW)]
    with loop(builder, NOTHING, count) as k:
        of = builder.gep(rows, [builder.mul(k, stride)])
        own = [builder.sext(builder.load(builder.gep(of, [place])), LONG) for place in places]
        first = [builder.mul(number, ir.Constant(LONG, quads)) for number in own]
        totals = [builder.load(one) for one in sums]
        for h in range(quads):
            word = ir.Constant(NARROW_INTS, ir.Undefined)
            for c, place in enumerate(first):
                one = builder.load(builder.gep(words, [builder.add(place, ir.Constant(LONG, h))]))
                word = builder.insert_element(word, one, ir.Constant(INT, c))
            for i in range(4):
                at = builder.add(builder.mul(k, ir.Constant(LONG, width)), ir.Constant(LONG, 4 * h + i))
                shift, mask = (ir.Constant(NARROW_INTS, [number] * NARROW) for number in (8 * i, 255))
                code = builder.sitofp(builder.and_(builder.lshr(word, shift), mask), NARROW_FLOATS)
                x, w = (splat(builder, builder.load(builder.gep(v, [at]))) for v in (heavy, weights))
                totals[0] = builder.fadd(totals[0], builder.fmul(x, code))
                totals[1] = builder.fadd(totals[1], builder.fmul(builder.fmul(w, code), code))
        for one, total in zip(sums, totals, strict=True):
            builder.store(total, one)
    for one, target in zip(sums, (along, square), strict=True):
        store(builder, builder.load(one), target)


def _make_explained(width: int) -> Callable[..., Any]:
    """explained(rows, stride, new, words, count, heavy, weights, at, along, square, first): of eight candidates.

    along[first + c] = the sum of heavy * code, square[first + c] = the sum of weight * code * code, in order, each
    product and sum rounded. new[first + c]: the candidates' places in rows, int32: `count` runs, `stride` apart; words:
    uint32, four codes each, of all rows of the book; heavy and weights: float32, read from `at`.
    """

    def typed(
        _: Any, rows: Any, stride: Any, new: Any, words: Any, count: Any, heavy: Any, weights: Any, at: Any, along: Any,
        square: Any, first: Any,
    ) -> tuple[Any, Any]:  # fmt: skip
        def build(context: Any, builder: Any, signature: Any, given: Any) -> Any:
            rows, stride, new, words, count, heavy, weights, at, along, square, first = given
            _explained(
                builder, width, pointer(context, builder, INTS, rows, NOTHING), stride,
                pointer(context, builder, INTS, new, first), pointer(context, builder, WORDS, words, NOTHING),
                count, *(pointer(context, builder, REALS, array, at) for array in (heavy, weights)),
                *(pointer(context, builder, REALS, array, first) for array in (along, square)),
            )  # fmt: skip
            return context.get_dummy_value()

        given = (INTS, WHOLE, INTS, WORDS, WHOLE, REALS, REALS, WHOLE, REALS, REALS, WHOLE)
        return types.void(*given), build

    made: Callable[..., Any] = intrinsic(typed)
    return made


explained4, explained8 = _make_explained(4), _make_explained(8)
