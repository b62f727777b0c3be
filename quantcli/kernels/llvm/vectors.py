"""Vectors: sixteen (codebooks: eight) stored codes to as many float32 values, and what else is done as often.

    value = scale * (code - zero) - low          each operation rounded once, in float32; code - zero is an int8

    plain16      code = (byte >> shift) & mask
    joined16     code = (byte >> shift) & mask | ((upper byte >> bit) & upper mask) << place
    fifth16      code = (byte >> shift) & 15 | bit i of a word << 4, for the i-th of sixteen
    signed16     code = byte, as an int8
    looked16     value = scale * a byte of a table of sixteen, as an int8, at place (byte >> shift) & 15
    looked8      the same at the lower places of eight bytes, then at the upper
    trits16      five codes -1, 0, 1 of each of sixteen bytes, those of equal weight `stride` apart
    last_trits16 four of each of four bytes, one after the other
    minus8       value = scale * a codebook's byte, with a sign of its own from the bits of a byte
    truncate16   the other way: codes = trunc((x - start) * inverse + half), and what they stand for less x

`at` (and `upper`) count bytes from the start of `data`, uint8; `to` counts values from the start of `out`. Written as
LLVM IR: runs are short, and what LLVM makes of a loop over 16 bytes is mostly its doubt whether arrays overlap.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from quantcli.kernels.compile import bits_of, float_of, inlined
from quantcli.kernels.llvm.emit import BYTE, FLOAT, INT, LONG, REAL, WHOLE

_BIT = ir.IntType(1)
#: Which arguments of an intrinsic are arrays, which float32; the others are int64.
_ARRAYS = ("data", "book", "out", "x", "codes")
_REALS = ("scale", "low", "start", "inverse", "half", "top", "middle")
#: How many floats ahead of a store its memory is sent for. Else a store of 64 bytes that lies on two cache lines, as
#: malloc aligns to 16, takes a third longer.
AHEAD = 256
#: Builds a vector of codes, as bytes, from an intrinsic's arguments.
_Codes = Callable[["Build"], Any]


class Build:
    """The arguments of an intrinsic, by name, and the vectors made of them."""

    def __init__(self, context: Any, builder: Any, kinds: dict[str, Any], given: Any, lanes: int) -> None:
        self.context, self.builder, self.kinds, self.lanes = context, builder, kinds, lanes
        self.given = dict(zip(kinds, given, strict=True))
        self.ints, self.floats = ir.VectorType(INT, lanes), ir.VectorType(FLOAT, lanes)
        self.bytes = ir.VectorType(BYTE, lanes)

    def splat(self, value: Any) -> Any:
        """A number in all lanes."""
        kind = ir.VectorType(value.type, self.lanes)
        one = self.builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(INT, 0))
        return self.builder.shuffle_vector(one, one, ir.Constant(self.ints, [0] * self.lanes))

    def number(self, name: str) -> Any:
        """An argument in all lanes, an integer as int32."""
        value = self.given[name]
        return self.splat(value if value.type == FLOAT else self.builder.trunc(value, INT))

    def small(self, name: str) -> Any:
        """An integer argument in all lanes, as bytes."""
        return self.splat(self.builder.trunc(self.given[name], BYTE))

    def pointer(self, array: str, at: str | None) -> Any:
        made = self.context.make_array(self.kinds[array])(self.context, self.builder, self.given[array])
        return made.data if at is None else self.builder.gep(made.data, [self.given[at]])

    def bytes_at(self, array: str, at: str | None, count: int | None = None) -> Any:
        """`count` bytes, or as many as there are lanes."""
        kind = ir.VectorType(BYTE, count or self.lanes).as_pointer()
        return self.builder.load(self.builder.bitcast(self.pointer(array, at), kind), align=1)

    def mixed(self, one: Any, other: Any, places: list[int]) -> Any:
        """The bytes of two vectors, seen as one, that stand at these places."""
        return self.builder.shuffle_vector(one, other, self.each(places))

    def whole(self, codes: Any) -> Any:
        """Signed bytes as floats."""
        return self.builder.sitofp(self.builder.sext(codes, self.ints), self.floats)

    def floats_at(self, array: str, at: str) -> Any:
        source = self.builder.bitcast(self.pointer(array, at), self.floats.as_pointer())
        return self.builder.load(source, align=4)

    def field(self, at: str, shift: str, mask: Any) -> Any:
        """(byte >> shift) & mask."""
        return self.builder.and_(self.builder.lshr(self.bytes_at("data", at), self.small(shift)), mask)

    def each(self, numbers: list[int]) -> Any:
        return ir.Constant(self.ints, numbers)

    def all(self, byte: int) -> Any:
        return ir.Constant(self.bytes, [byte] * self.lanes)

    def store(self, values: Any) -> Any:
        target = self.builder.bitcast(self.pointer("out", "to"), self.floats.as_pointer())
        self.builder.store(values, target, align=4)
        return self.context.get_dummy_value()

    def stream(self, values: Any) -> Any:
        """Stores the next values of a long array, and sends for what comes AHEAD (past the end that does no harm)."""
        ahead = self.builder.gep(self.pointer("out", "to"), [ir.Constant(LONG, AHEAD)])
        byte, to_write, keep, data = BYTE.as_pointer(), *(ir.Constant(INT, n) for n in (1, 3, 1))
        kind = ir.FunctionType(ir.VoidType(), [byte, INT, INT, INT])
        prefetch = self.builder.module.declare_intrinsic("llvm.prefetch", [byte], kind)
        self.builder.call(prefetch, [self.builder.bitcast(ahead, byte), to_write, keep, data])
        return self.store(values)


def _on_line(codes: _Codes) -> Callable[[Build], Any]:
    """Stores scale * (code - zero) - low."""

    def build(b: Build) -> Any:
        whole = b.whole(b.builder.sub(codes(b), b.small("zero")))
        scaled = b.builder.fmul(b.number("scale"), whole)
        return b.stream(b.builder.fsub(scaled, b.number("low")))

    return build


def _plain(b: Build) -> Any:
    return b.field("at", "shift", b.small("mask"))


def _joined(b: Build) -> Any:
    upper = b.field("upper", "bit", b.small("upper_mask"))
    return b.builder.or_(_plain(b), b.builder.shl(upper, b.small("place")))


def _fifth(b: Build) -> Any:
    bits = b.builder.bitcast(b.builder.trunc(b.given["word"], ir.IntType(b.lanes)), ir.VectorType(_BIT, b.lanes))
    return b.builder.or_(b.field("at", "shift", b.all(15)), b.builder.select(bits, b.all(16), b.all(0)))


def _signed(b: Build) -> Any:
    return b.stream(b.builder.fmul(b.number("scale"), b.whole(b.bytes_at("data", "at"))))


def _looked(places: _Codes) -> Callable[[Build], Any]:
    """LLVM makes one instruction of sixteen look-ups where there is one."""

    def build(b: Build) -> Any:
        book, at, found = b.bytes_at("book", None), places(b), ir.Constant(b.bytes, ir.Undefined)
        for lane in (ir.Constant(INT, i) for i in range(b.lanes)):
            byte = b.builder.extract_element(book, b.builder.extract_element(at, lane))
            found = b.builder.insert_element(found, byte, lane)
        return b.stream(b.builder.fmul(b.number("scale"), b.whole(found)))

    return build


def _nibbles(b: Build) -> Any:
    return b.field("at", "shift", b.all(15))


def _both_nibbles(b: Build) -> Any:
    eight = b.bytes_at("data", "at", 8)
    twice = b.mixed(eight, eight, [*range(8), *range(8)])
    return b.builder.and_(b.builder.lshr(twice, ir.Constant(b.bytes, [0] * 8 + [4] * 8)), b.all(15))


def _digit(b: Build, rest: Any) -> Any:
    """The code of largest weight, a byte being 256 / 3 times it and a rest: -1, 0 or 1."""
    above = b.builder.zext(b.builder.icmp_unsigned(">", rest, b.all(170)), b.bytes)
    return b.builder.add(above, b.builder.sext(b.builder.icmp_unsigned("<", rest, b.all(86)), b.bytes))


def _trits(b: Build) -> Any:
    rest = b.bytes_at("data", "at")
    for _ in range(5):
        b.stream(b.builder.fmul(b.number("scale"), b.whole(_digit(b, rest))))
        rest = b.builder.add(rest, b.builder.add(rest, rest))
        b.given["to"] = b.builder.add(b.given["to"], b.given["stride"])
    return b.context.get_dummy_value()


def _last_trits(b: Build) -> Any:
    four = b.bytes_at("data", "at", 4)
    powers = ir.Constant(b.bytes, [3 ** (i // 4) for i in range(16)])
    rest = b.builder.mul(b.mixed(four, four, [i % 4 for i in range(16)]), powers)
    return b.stream(b.builder.fmul(b.number("scale"), b.whole(_digit(b, rest))))


def _minus(b: Build) -> Any:
    """Two runs of four bytes, which are neighbours in a book of eight, with the signs of one byte."""
    joined = b.mixed(b.bytes_at("book", "at", 4), b.bytes_at("book", "upper", 4), list(range(8)))
    scaled = b.builder.fmul(b.number("scale"), b.builder.uitofp(joined, b.floats))
    signs = b.builder.shl(b.number("signs"), b.each([31 - i for i in range(8)]))
    signs = b.builder.and_(signs, b.each([-(2**31)] * 8))
    return b.stream(b.builder.bitcast(b.builder.xor(b.builder.bitcast(scaled, b.ints), signs), b.floats))


def _truncate(b: Build) -> Any:
    """A NaN is code 0."""
    build, value = b.builder, b.floats_at("x", "at")
    q = build.fmul(build.fsub(value, b.number("start")), b.number("inverse"))
    q = build.fadd(q, b.number("half"))
    zero = ir.Constant(b.floats, [0.0] * b.lanes)
    q = build.select(build.fcmp_ordered(">", q, zero), q, zero)
    q = build.select(build.fcmp_ordered("<", q, b.number("top")), q, b.number("top"))
    whole = build.fptosi(q, b.ints)
    target = build.bitcast(b.pointer("codes", "at"), b.bytes.as_pointer())
    build.store(build.trunc(whole, b.bytes), target, align=1)
    steps = build.fsub(build.sitofp(whole, b.floats), b.number("middle"))
    made = build.fadd(build.fmul(steps, b.number("scale")), b.number("low"))
    return b.store(build.fsub(made, value))


def _made(build: Callable[[Build], Any], lanes: int, *arguments: str) -> Callable[..., Any]:
    """An intrinsic for arrays of the types that it is called with (some cannot be written to)."""

    def typed(context: Any, *kinds: Any) -> tuple[Any, Any]:
        known = {}
        for argument, kind in zip(arguments, kinds, strict=True):
            known[argument] = kind if argument in _ARRAYS else REAL if argument in _REALS else WHOLE

        def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
            return build(Build(context, builder, known, given, lanes))

        return types.void(*known.values()), generate

    # numba asks a function for the names of its arguments.
    names = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in ("context", *arguments)]
    vars(typed)["__signature__"] = inspect.Signature(names)
    made: Callable[..., Any] = intrinsic(typed)
    return made


plain16 = _made(_on_line(_plain), 16, "data", "at", "shift", "mask", "zero", "scale", "low", "out", "to")
joined16 = _made(
    _on_line(_joined), 16,
    "data", "at", "shift", "mask", "upper", "bit", "upper_mask", "place", "zero", "scale", "low", "out", "to",
)  # fmt: skip
fifth16 = _made(_on_line(_fifth), 16, "data", "at", "shift", "word", "zero", "scale", "low", "out", "to")
signed16 = _made(_signed, 16, "data", "at", "scale", "out", "to")
looked16 = _made(_looked(_nibbles), 16, "data", "at", "shift", "book", "scale", "out", "to")
looked8 = _made(_looked(_both_nibbles), 16, "data", "at", "book", "scale", "out", "to")
trits16 = _made(_trits, 16, "data", "at", "stride", "scale", "out", "to")
last_trits16 = _made(_last_trits, 16, "data", "at", "scale", "out", "to")
minus8 = _made(_minus, 8, "book", "at", "upper", "signs", "scale", "out", "to")
truncate16 = _made(
    _truncate, 16, "x", "at", "start", "inverse", "half", "top", "middle", "scale", "low", "codes", "out", "to"
)


@inlined
def half(data: Any, at: Any) -> Any:
    """The f16 in bytes `at` and `at` + 1 of `data`, as float32."""
    bits = np.int32(data[at]) | np.int32(data[at + 1]) << np.int32(8)
    # Sums of integers move the exponent: a product would have to read subnormal numbers, which takes x86 150 cycles.
    magnitude = (bits & np.int32(0x7FFF)) << np.int32(13)
    field = magnitude & np.int32(0x0F800000)
    moved = magnitude + np.int32(0x70000000 if field == np.int32(0x0F800000) else 0x38000000)
    small = bits_of(float_of(magnitude + np.int32(0x38800000)) - np.float32(2.0**-14))
    return float_of((moved if field else small) | (bits & np.int32(0x8000)) << np.int32(16))


@inlined
def word(data: Any, at: Any) -> Any:
    """Four bytes from `at`, little-endian, as an int64."""
    low = np.int64(data[at]) | np.int64(data[at + 1]) << 8
    return low | np.int64(data[at + 2]) << 16 | np.int64(data[at + 3]) << 24
