"""The layouts of Hugging Face's quantizers that are written or read, one of each kind, for `quant schemes`."""

from __future__ import annotations

from collections.abc import Iterator

from quantcli.schemes import hf as hugging_face
from quantcli.schemes.base import Scheme
from quantcli.schemes.hf.awq_gemv import AwqGemv, AwqGemvFast
from quantcli.schemes.hf.bytewise import Bytewise
from quantcli.schemes.hf.gpt_oss import GptOss
from quantcli.schemes.hf.gptq import DENSE_BITS, Gptq
from quantcli.schemes.hf.hqq import Hqq
from quantcli.schemes.hf.quanto import Quanto
from quantcli.schemes.hf.quark_int import PACKINGS, QuarkInt
from quantcli.schemes.hf.scaled import Scales
from quantcli.schemes.hf.small_floats import ELEMENTS, SmallFloat

#: The group that most tools have unless told otherwise.
GROUP = 128

#: Who reads a family.
READERS = {
    family: ("transformers", "vLLM", "SGLang")
    for family in ("awq", "gptq", "ct", "fp8", "modelopt", "quark", "bnb", "gpt-oss")
} | {family: ("transformers",) for family in ("awq-gemv", "awq-gemv-fast", "hqq", "torchao", "bare")}
READERS |= {"quanto": ("optimum-quanto",)}


def layouts(shape: tuple[int, int]) -> Iterator[Scheme]:
    """For matrices of that shape: those that are written, then those that are read."""
    columns = shape[1]
    found = (hugging_face.named(name, "bf16", shape) for name in WRITTEN)
    yield from (scheme for scheme in found if scheme is not None)
    tensor, channel = Scales("f32", None, rank=0), Scales("bf16")
    halves, block = Scales("f16", 1, GROUP), Scales("f32", 128, 128)
    yield AwqGemv(columns=columns, scales=halves)
    yield AwqGemvFast(columns=columns, scales=halves)
    turned = Scales("f16", 1, GROUP, turned=True)
    for bits in range(2, 9):
        kind = "gptq" if bits in DENSE_BITS else "gptq_p"
        for symmetric in (True, False):
            yield Gptq(columns=columns, scales=turned, bits=bits, symmetric=symmetric, layout_format=kind)
    for stored in ("f8_e4m3", "f8_e5m2"):
        for shared in (tensor, channel, block):
            yield Bytewise(family="fp8", columns=columns, scales=shared, stored=stored)
    yield Bytewise(family="fp8", columns=columns, scales=Scales("u8", 1, 32), stored="f8_e4m3")
    yield SmallFloat(family="fp8", columns=columns, scales=Scales("f8_e8m0", 1, 32), element="e2m1", stored="i8")
    yield from _modelopt(columns)
    yield from _quark(columns)
    yield Bytewise(family="bnb", columns=columns, scales=Scales("f32", rank=1), stored="i8", divisor=127)
    for kind in ("8bit_u8", "4bit_u8", "3bit_32", "2bit_u8", "1bit_u8"):
        yield Hqq(columns=columns, scales=Scales("bf16", 1, 64), kind=kind)
    yield from _torchao(columns)
    for stored in ("i8", "f8_e4m3", "f8_e5m2"):
        yield Bytewise(family="quanto", columns=columns, scales=Scales("bf16"), stored=stored)
    for bits in (2, 4):
        yield Quanto(columns=columns, scales=Scales("bf16", 1, GROUP), bits=bits)
    yield GptOss()


#: Of the schemes that a Hugging Face folder is written with, those that are listed; others differ in bits and group.
WRITTEN = (
    *(f"{kind}{bits}-g128" for bits in (2, 3, 5, 6, 7) for kind in ("int", "uint")),
    *(
        f"{kind}-{shared}"
        for kind in ("int4", "uint4", "int8", "int8-asym")
        for shared in ("g32", "g64", "g128", "channel")
    ),
    "int8-tensor", "int8-asym-tensor", "fp8-e4m3-tensor", "fp8-e4m3-channel", "fp8-e4m3-block128", "mxfp4", "mxfp8",
    "nvfp4", "nf4-g64", "fp4-g64", "nf4-double-g64", "fp4-double-g64", "fp8-e4m3", "fp8-e5m2",
)  # fmt: skip


def _modelopt(columns: int) -> Iterator[Scheme]:
    """FP8 of all shapes of scales, MXFP8, int8, then floats of 4 bits."""
    channel, block = Scales("f32", rank=1), Scales("f32", 128, 128, rank=4)
    for shared in (Scales("f32", None, rank=0), channel, block, Scales("u8", 1, 32)):
        yield Bytewise(family="modelopt", columns=columns, scales=shared, stored="f8_e4m3")
    yield Bytewise(family="modelopt", columns=columns, scales=channel, stored="i8")
    yield from _small("modelopt", columns, divides=False)
    yield SmallFloat(
        family="modelopt", columns=columns, scales=Scales("f8_e4m3", 1, 32), element="e2m1", divides=False
    )  # fmt: skip


def _torchao(columns: int) -> Iterator[Scheme]:
    """Int8Tensor, Float8Tensor, and IntxUnpackedToInt8Tensor of all widths."""
    yield Bytewise(family="torchao", columns=columns, scales=Scales("f32"), stored="i8")
    for shared in (Scales("f32", None), Scales("f32"), Scales("f32", 128, 128)):
        yield Bytewise(family="torchao", columns=columns, scales=shared, stored="f8_e4m3")
    for bits, symmetric in (*((bits, True) for bits in range(1, 9)), (4, False), (8, False)):
        yield Bytewise(
            family="torchao", columns=columns, scales=Scales("bf16", 1, 32), stored="i8", bits=bits,
            symmetric=symmetric, zeros_dtype="i8",
        )  # fmt: skip


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
