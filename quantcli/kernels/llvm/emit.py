"""What the files of this folder share: names of types, and pieces of IR.

FLOAT INT BYTE LONG              IR types of numbers
NARROW_FLOATS NARROW_INTS        IR vectors of NARROW of them
WHOLE REAL                       numba's types of numbers
CODES IDS INTS WORDS REALS       numba's types of arrays, of int8, int16, int32, uint32 and float32
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils as untyped

from quantcli.kernels.lanes import NARROW

#: numba's helpers for IR, which have no types.
cgutils: Any = untyped

FLOAT, INT, BYTE, LONG = ir.FloatType(), ir.IntType(32), ir.IntType(8), ir.IntType(64)
NARROW_FLOATS, NARROW_INTS = (ir.VectorType(kind, NARROW) for kind in (FLOAT, INT))
NOTHING = ir.Constant(LONG, 0)

WHOLE, REAL = types.int64, types.float32
tuple_of: Any = types.Tuple
CODES, IDS, INTS, WORDS, REALS = (
    types.Array(kind, 1, "C") for kind in (types.int8, types.int16, types.int32, types.uint32, types.float32)
)


def splat(builder: Any, value: Any, lanes: int = NARROW) -> Any:
    """A vector of `value` in all lanes."""
    kind = ir.VectorType(value.type, lanes)
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(INT, 0))
    return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(INT, lanes), [0] * lanes))


def load(builder: Any, source: Any, lanes: int, at: Any = None) -> Any:
    """A vector from a pointer, or from so many numbers behind it."""
    source = source if at is None else builder.gep(source, [at])
    kind = ir.VectorType(source.type.pointee, lanes).as_pointer()
    return builder.load(builder.bitcast(source, kind), align=1)


def store(builder: Any, values: Any, target: Any, at: Any = None) -> None:
    target = target if at is None else builder.gep(target, [at])
    builder.store(values, builder.bitcast(target, values.type.as_pointer()), align=1)


def bits(builder: Any, flags: Any) -> Any:
    """A flag of each lane as an int64, the first lane lowest."""
    return builder.zext(builder.bitcast(flags, ir.IntType(flags.type.count)), LONG)


def pointer(context: Any, builder: Any, kind: Any, array: Any, at: Any) -> Any:
    return builder.gep(context.make_array(kind)(context, builder, array).data, [at])
