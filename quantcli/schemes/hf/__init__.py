"""The quantized schemes that a Hugging Face folder is written with, by name.

compressed-tensors   int2..int7, uint2..uint7, int8-asym   -g{N} -channel    packed into words
                     int8 -g{N}                                              packed into words
                     int8 -channel -tensor, int8-asym -tensor                a byte each
                     fp8-e4m3-tensor -channel -block128, mxfp4 mxfp8 nvfp4
bitsandbytes         nf4 fp4 -g{N}, nf4-double fp4-double -g{N}
no layout at all     fp8-e4m3 fp8-e5m2                                       bare numbers
"""

from __future__ import annotations

import re
from collections.abc import Callable

from quantcli.schemes.base import Scheme
from quantcli.schemes.hf import bnb4, bytewise, ct_packed, small_floats
from quantcli.schemes.hf.bare_fp8 import BareFp8
from quantcli.schemes.hf.scaled import FP8_BLOCK, Scales

#: name, dtype of scales, shape of the weight -> its scheme.
Maker = Callable[[re.Match[str], str, tuple[int, ...]], Scheme]


def _packed(found: re.Match[str], dtype: str, shape: tuple[int, ...]) -> Scheme:
    kind, group = found["kind"], found["group"]
    symmetric = kind.startswith("int") and kind != "int8-asym"
    bits = int(re.sub(r"\D", "", kind))
    return ct_packed.written(bits, symmetric, int(group) if group else None, dtype, shape[-1])


def _integers(found: re.Match[str], dtype: str, shape: tuple[int, ...]) -> Scheme:
    rows = 1 if found["shared"] == "channel" else None
    return bytewise.written_integers(found["kind"] == "int8", rows, dtype, shape[-1])


def _floats(found: re.Match[str], dtype: str, shape: tuple[int, ...]) -> Scheme:
    shared = {
        "tensor": Scales(dtype, None, None, rank=1),
        "channel": Scales(dtype, 1, None),
        "block128": Scales(dtype, FP8_BLOCK, FP8_BLOCK),
    }
    return bytewise.written_floats(shared[found["shared"]], shape[-1])


def _mx(found: re.Match[str], dtype: str, shape: tuple[int, ...]) -> Scheme:
    if found["kind"] == "mxfp8":
        return bytewise.written_floats(Scales("u8", 1, 32), shape[-1])
    return small_floats.written(found["kind"] == "nvfp4", shape[-1])


def _bnb(found: re.Match[str], dtype: str, shape: tuple[int, ...]) -> Scheme:
    return bnb4.written(found["kind"], int(found["group"]), bool(found["double"]), dtype, shape)


FORMS: tuple[tuple[str, Maker], ...] = (
    ("(?P<kind>u?int[2-7]|uint8|int8-asym)-(g(?P<group>[0-9]+)|channel)", _packed),
    ("(?P<kind>int8)-g(?P<group>[0-9]+)", _packed),
    ("(?P<kind>int8)-(?P<shared>channel|tensor)", _integers),
    ("(?P<kind>int8-asym)-(?P<shared>tensor)", _integers),
    ("fp8-e4m3-(?P<shared>tensor|channel|block128)", _floats),
    ("(?P<kind>mxfp4|mxfp8|nvfp4)", _mx),
    ("(?P<kind>nf4|fp4)(?P<double>-double)?-g(?P<group>[0-9]+)", _bnb),
    ("fp8-(?P<kind>e4m3|e5m2)", lambda found, dtype, shape: BareFp8(found["kind"])),
)


def named(name: str, dtype: str, shape: tuple[int, ...]) -> Scheme | None:
    """Return the scheme of that name for a weight of this shape, None if there is none. dtype: of float scales.

    >>> named("int4-g128", "bf16", (64, 256)).name, named("int4-tensor", "bf16", (64, 256))
    ('int4-g128', None)
    """
    for pattern, make in FORMS:
        if found := re.fullmatch(pattern, name):
            return make(found, dtype, shape or (1, 1))
    return None
