"""The layouts of Hugging Face's quantizers that are written or read, one of each kind, for `quant schemes`."""

from __future__ import annotations

from collections.abc import Iterator

from quantcli.schemes import hf
from quantcli.schemes.base import Scheme
from quantcli.schemes.hf import awq_gemv, gptq, hqq, quanto, quark_int
from quantcli.schemes.hf.awq import Awq
from quantcli.schemes.hf.bytewise import Bytewise
from quantcli.schemes.hf.gpt_oss import GptOss
from quantcli.schemes.hf.scaled import Scales
from quantcli.schemes.hf.small_floats import SmallFloat


def listed(shape: tuple[int, int]) -> Iterator[Scheme]:
    """Yield the schemes for matrices of that shape: AutoAWQ's, those that are written, then the other ones."""
    columns = shape[1]
    yield from _awq(columns)
    found = (hf.named(name, "bf16", shape) for name in WRITTEN)
    yield from (scheme for scheme in found if scheme is not None)
    for rows in READ:
        yield from rows(columns)
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


def _awq(columns: int) -> Iterator[Scheme]:
    """With zero points, then without."""
    for symmetric, zeros in ((False, "i32"), (True, None)):
        for group in (32, 64, 128):
            shared = Scales("f16", 1, group, transposed=True)
            yield Awq(columns=columns, scales=shared, symmetric=symmetric, zeros_dtype=zeros)


def _fp8(columns: int) -> Iterator[Scheme]:
    """FP8 of releases, MXFP8, and DeepSeek-V4's MXFP4."""
    for stored in ("f8_e4m3", "f8_e5m2"):
        for shared in (Scales("f32", None, rank=0), Scales("bf16"), Scales("f32", 128, 128)):
            yield Bytewise(family="fp8", columns=columns, scales=shared, stored=stored)
    yield Bytewise(family="fp8", columns=columns, scales=Scales("u8", 1, 32), stored="f8_e4m3")
    yield SmallFloat(family="fp8", columns=columns, scales=Scales("f8_e8m0", 1, 32), element="e2m1", stored="i8")


def _int8(columns: int) -> Iterator[Scheme]:
    """bitsandbytes' integers of 8 bits."""
    yield Bytewise(family="bnb", columns=columns, scales=Scales("f32", rank=1), stored="i8", divisor=127)


def _modelopt(columns: int) -> Iterator[Scheme]:
    """FP8 of all shapes of scales, MXFP8, int8, then floats of 4 bits."""
    channel, block = Scales("f32", rank=1), Scales("f32", 128, 128, rank=4)
    for shared in (Scales("f32", None, rank=0), channel, block, Scales("u8", 1, 32)):
        yield Bytewise(family="modelopt", columns=columns, scales=shared, stored="f8_e4m3")
    yield Bytewise(family="modelopt", columns=columns, scales=channel, stored="i8")
    for shared, divides in ((Scales("f8_e4m3", 1, 16), False), (Scales("u8", 1, 32), None)):
        yield SmallFloat(family="modelopt", columns=columns, scales=shared, element="e2m1", divides=divides)
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


#: Those that are read, in the order of the list.
READ = (
    awq_gemv.listed, gptq.listed, _fp8, _modelopt, quark_int.listed, _int8, hqq.listed, _torchao, quanto.listed,
)  # fmt: skip
