"""The error sums of a chunk, by which a conversion's errors are reported; the squares are summed in vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from quantcli.kernels.compile import float_of, inner
from quantcli.kernels.llvm.emit import INT, NOTHING, WHOLE, loop, variable
from quantcli.kernels.llvm.vectors import Build


def _energies(_: Any, off: Any, x: Any) -> tuple[Any, Any]:
    """Sums of squares of `off` and of x, and the bits of the largest magnitude in `off`; both are of length CHUNK.

    Summed in float32, in 64 lanes, which then are added in halves; the last eight in float64.
    """

    def build(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        kinds, chains = {"off": off, "x": x, "at": WHOLE}, 8
        start = Build(context, builder, kinds, (*given, NOTHING), 8)
        zero, none = ir.Constant(start.floats, [0.0] * 8), ir.Constant(start.ints, [0] * 8)
        sums = [[variable(builder, zero) for _ in range(chains)] for _ in range(2)]
        most = variable(builder, none)
        count = context.make_array(off)(context, builder, given[0]).nitems
        step = count.type(8 * chains)
        with loop(builder, NOTHING, count, step) as at:
            for k in range(chains):
                here = Build(context, builder, kinds, (*given, builder.add(at, count.type(8 * k))), 8)
                values = [here.floats_at(name, "at") for name in ("off", "x")]
                for value, lanes in zip(values, sums, strict=True):
                    builder.store(builder.fadd(builder.load(lanes[k]), builder.fmul(value, value)), lanes[k])
                bits = builder.and_(builder.bitcast(values[0], here.ints), here.each([0x7FFFFFFF] * 8))
                old = builder.load(most)
                builder.store(builder.select(builder.icmp_signed(">", bits, old), bits, old), most)
        found = [_added(builder, [builder.load(lane) for lane in lanes]) for lanes in sums]
        largest = ir.Constant(INT, 0)
        for i in range(8):
            lane = builder.extract_element(builder.load(most), ir.Constant(INT, i))
            largest = builder.select(builder.icmp_signed(">", lane, largest), lane, largest)
        return context.make_tuple(builder, signature.return_type, [*found, largest])

    tuple_of: Any = types.Tuple
    return tuple_of((types.float64, types.float64, types.int32))(off, x), build


energies8: Callable[..., Any] = intrinsic(_energies)


def _added(builder: Any, vectors: list[Any]) -> Any:
    while len(vectors) > 1:
        half = len(vectors) // 2
        vectors = [builder.fadd(vectors[k], vectors[k + half]) for k in range(half)]
    lanes = [builder.extract_element(vectors[0], ir.Constant(INT, i)) for i in range(8)]
    total = builder.fpext(lanes[0], ir.DoubleType())
    for lane in lanes[1:]:
        total = builder.fadd(total, builder.fpext(lane, ir.DoubleType()))
    return total


@inner
def measure(x: Any, off: Any, count: int, sums: Any) -> None:
    """Adds a chunk to `sums`: squared `off`, squared `x`, largest |off|. Both are CHUNK long, zeroed past `count`.

    Summed in float32, in lanes; in float64 where squares leave float32's range.
    """
    off[count:] = 0
    x[count:] = 0
    error, total, largest = energies8(off, x)
    if not 1e-12 < total < 1e30:
        error = total = 0.0
        for j in range(count):
            error += np.float64(off[j]) ** 2
            total += np.float64(x[j]) ** 2
    sums[0] += error
    sums[1] += total
    sums[2] = max(sums[2], np.float64(float_of(largest)))
