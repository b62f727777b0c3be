"""What the files of this folder share: names of types, and pieces of IR.

FLOAT INT BYTE LONG              IR types of numbers
NARROW_FLOATS NARROW_INTS        IR vectors of NARROW of them
WHOLE REAL                       numba's types of numbers
CODES IDS INTS WORDS REALS       numba's types of arrays, of int8, int16, int32, uint32 and float32
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from llvmlite import ir
from numba import types

from quantcli.kernels.lanes import NARROW

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


def variable(builder: Any, value: Any) -> Any:
    """The place of a variable that is `value` from here on. Its memory belongs to the function: loops take it once."""
    with builder.goto_entry_block():
        place = builder.alloca(value.type)
    builder.store(value, place)
    return place


@contextlib.contextmanager
def loop(builder: Any, start: Any, stop: Any, step: Any = None) -> Iterator[Any]:
    """What is built inside runs for each index of `range(start, stop, step)`, step positive, 1 by default."""
    before = builder.basic_block
    test, body, after = (builder.append_basic_block(f"loop.{name}") for name in ("test", "body", "after"))
    builder.branch(test)
    builder.position_at_end(test)
    index = builder.phi(start.type)
    index.add_incoming(start, before)
    builder.cbranch(builder.icmp_signed("<", index, stop), body, after)
    builder.position_at_end(body)
    yield index
    following = builder.add(index, start.type(1) if step is None else step, flags=["nsw"])
    index.add_incoming(following, builder.basic_block)  # the body may have got further blocks
    builder.branch(test)
    builder.position_at_end(after)
