"""Where GGML's blocks hold their scales (and minima), and which of them are NaN or Inf.

    f16     two bytes, all five bits of the exponent set        e8m0    a byte, 255
    f32     four bytes, all eight                               e4m3    a byte, 127 and, the sign ignored, 255

Of iq1_m the f16 scale is the upper four bits of four 16-bit words, the lowest first: its exponent stands in the third
and fourth. Source: ggml-common.h; what llama-quantize refuses is `ggml_validate_row_data` in ggml-quants.c, whose
NVFP4 takes every byte.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from quantcli.arrays import Array
from quantcli.containers.ggml_types import BY_NAME


@dataclass(frozen=True)
class Field:
    """`count` numbers from byte `at` of each block on, little-endian; NaN or Inf where all `bits` are set."""

    at: int
    dtype: str
    bits: int
    count: int = 1


def _f16(at: int, count: int = 1) -> Field:
    return Field(at, "<u2", 0x7C00, count)


SCALES: dict[str, Field] = {
    **{name: _f16(0) for name in ("q4_0", "q5_0", "q8_0", "q1_0", "q2_0", "iq4_nl", "iq4_xs")},
    **{name: _f16(0) for name in ("iq1_s", "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s")},
    **{name: _f16(0, 2) for name in ("q4_1", "q5_1", "q8_1", "q4_k", "q5_k")},
    "q2_k": _f16(80, 2),
    "q3_k": _f16(108),
    "q6_k": _f16(208),
    "q8_k": Field(0, "<u4", 0x7F800000),
    "iq1_m": Field(52, "<u4", 0x7000C000),
    "tq1_0": _f16(52),
    "tq2_0": _f16(64),
    "mxfp4": Field(0, "u1", 0xFF),
    "nvfp4": Field(0, "u1", 0x7F, 4),
}


def nonfinite(type_name: str, blocks: Array) -> bool:
    """Whether a scale of whole blocks, uint8 of any shape, is NaN or Inf; False of a type whose scales are unknown."""
    field = SCALES.get(type_name)
    if field is None or not blocks.size:
        return False
    each = np.ascontiguousarray(blocks).reshape(-1, BY_NAME[type_name].block_bytes)
    stop = field.at + field.count * np.dtype(field.dtype).itemsize
    numbers = each[:, field.at : stop].view(field.dtype)
    return bool((numbers & field.bits == field.bits).any())
