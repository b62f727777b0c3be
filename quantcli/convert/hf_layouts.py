"""The layouts of Hugging Face's quantizers that are read, one of each kind, as `quant schemes` lists them."""

from __future__ import annotations

from collections.abc import Iterator

from quantcli.schemes.awq_gemv import AwqGemv, AwqGemvFast
from quantcli.schemes.base import Scheme
from quantcli.schemes.bnb4 import TABLES, Bnb4, Nested
from quantcli.schemes.bytewise import Bytewise
from quantcli.schemes.ct_packed import CtPacked
from quantcli.schemes.gpt_oss import GptOss
from quantcli.schemes.gptq import DENSE_BITS, Gptq
from quantcli.schemes.hqq import Hqq
from quantcli.schemes.quark_int import PACKINGS, QuarkInt
from quantcli.schemes.scaled import Scales
from quantcli.schemes.small_floats import ELEMENTS, SmallFloat

#: The group that most tools have unless told otherwise.
GROUP = 128

#: Who reads a family.
READERS = {
    family: ("transformers", "vLLM", "SGLang")
    for family in ("awq", "gptq", "ct", "fp8", "modelopt", "quark", "bnb", "gpt-oss")
} | {family: ("transformers",) for family in ("awq-gemv", "awq-gemv-fast", "hqq", "torchao")}


def layouts(columns: int) -> Iterator[Scheme]:
    """For matrices of so many columns."""
    tensor, channel = Scales("f32", None, rank=0), Scales("bf16")
    halves, block = Scales("f16", 1, GROUP), Scales("f32", 128, 128)
    yield AwqGemv(columns=columns, scales=halves)
    yield AwqGemvFast(columns=columns, scales=halves)
    turned = Scales("f16", 1, GROUP, turned=True)
    for bits in range(2, 9):
        kind = "gptq" if bits in DENSE_BITS else "gptq_p"
        for symmetric in (True, False):
            yield Gptq(columns=columns, scales=turned, bits=bits, symmetric=symmetric, layout_format=kind)
    for bits in range(2, 9):
        for symmetric in (True, False):
            yield CtPacked(columns=columns, scales=Scales("bf16", 1, GROUP), bits=bits, symmetric=symmetric)
    for shared in (Scales("bf16", None, rank=1), channel):
        yield Bytewise(family="ct", columns=columns, scales=shared, stored="i8")
    yield Bytewise(family="ct", columns=columns, scales=channel, stored="i8", symmetric=False, zeros_dtype="i8")
    for shared in (Scales("bf16", None, rank=1), channel, Scales("bf16", 128, 128), Scales("u8", 1, 32)):
        yield Bytewise(family="ct", columns=columns, scales=shared, stored="f8_e4m3")
    yield from _small("ct", columns, divides=True)
    for stored in ("f8_e4m3", "f8_e5m2"):
        for shared in (tensor, channel, block):
            yield Bytewise(family="fp8", columns=columns, scales=shared, stored=stored)
    yield Bytewise(family="modelopt", columns=columns, scales=tensor, stored="f8_e4m3")
    yield next(_small("modelopt", columns, divides=False))
    yield from _quark(columns)
    for quant, values in TABLES.items():
        yield Bnb4(columns=columns, quant=quant, block=64, values=values)
        yield Bnb4(columns=columns, quant=quant, block=64, values=values, nested=Nested(256, 0.0))
    yield Bytewise(family="bnb", columns=columns, scales=Scales("f32", rank=1), stored="i8", divisor=127)
    for kind in ("8bit_u8", "4bit_u8", "3bit_32", "2bit_u8", "1bit_u8"):
        yield Hqq(columns=columns, scales=Scales("bf16", 1, 64), kind=kind)
    yield Bytewise(family="torchao", columns=columns, scales=Scales("f32"), stored="i8")
    yield GptOss()


def _small(family: str, columns: int, *, divides: bool) -> Iterator[Scheme]:
    """NVFP4, then MXFP4."""
    scales = Scales("f8_e4m3", 1, 16)
    yield SmallFloat(family=family, columns=columns, scales=scales, element="e2m1", divides=divides)
    yield SmallFloat(family=family, columns=columns, scales=Scales("u8", 1, 32), element="e2m1")


def _quark(columns: int) -> Iterator[Scheme]:
    stored = {"int2": "i32", "uint2": "u8", "int3": "u8", "int4": "i32", "uint4": "i32", "int8": "i8", "uint8": "u8"}
    groups = Scales("bf16", 1, GROUP, turned=True)
    for dtype in PACKINGS:
        zeros = None if dtype == "int3" else stored[dtype]
        yield QuarkInt(
            columns=columns, scales=groups, dtype=dtype, stored=stored[dtype], symmetric=not dtype.startswith("u"),
            zeros_dtype=zeros,
        )  # fmt: skip
    yield QuarkInt(
        columns=columns, scales=Scales("bf16", rank=1), dtype="int8", stored="i8", symmetric=True, zeros_dtype="i8"
    )
    for dtype in ("f8_e4m3", "f8_e5m2"):
        yield Bytewise(family="quark", columns=columns, scales=Scales("bf16", None, rank=0), stored=dtype)
    for element in ELEMENTS:
        yield SmallFloat(family="quark", columns=columns, scales=Scales("u8", 1, 32), element=element)
    yield next(_small("quark", columns, divides=False))
