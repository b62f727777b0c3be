"""Which bytes of a GGML block are numbers of several bytes, so that a big-endian file has them the other way round.

Source: the structs of ggml-common.h and how ggml-quants.c reads their fields (ggml 0.25.3 of llama.cpp). A block is in
the byte order of the machine that wrote it: float16 and float32 scales, fields of 16 bits, and the four bytes that are
taken as one 32-bit number. All else is bytes. Spelled as `struct` does, H 2 bytes, I 4, Q 8, B one:

    q4_k   H H 12B 128B     d, dmin, scales, codes

iq2_xxs is left out: ggml takes its codes as bytes in one place and as 32-bit numbers in another, so what a big-endian
machine writes it cannot read itself. llama.cpp's gguf_convert_endian.py knows eight of these types, and agrees.
"""

from __future__ import annotations

import re
import struct
from functools import cache

#: Type -> fields of a block.
FIELDS = {
    "f32": "I", "f16": "H", "bf16": "H", "f64": "Q", "i8": "B", "i16": "H", "i32": "I", "i64": "Q",
    "q1_0": "H16B", "q2_0": "H16B",
    "q4_0": "H16B", "q4_1": "HH16B", "q5_0": "HI16B", "q5_1": "HHI16B", "q8_0": "H32B", "q8_1": "HH32B",
    "q2_k": "16B64BHH", "q3_k": "32B64B12BH", "q4_k": "HH12B128B", "q5_k": "HH12B32B128B", "q6_k": "128B64B16BH",
    "q8_k": "I256B16H",
    "iq1_s": "H32B8H", "iq1_m": "32B16B4H", "iq2_xs": "H32H8B", "iq2_s": "H64B8B8B",
    "iq3_xxs": "H64B8I", "iq3_s": "H64B8B32B4B", "iq4_nl": "H16B", "iq4_xs": "HH4B128B",
    "tq1_0": "48B4BH", "tq2_0": "64BH", "mxfp4": "B16B", "nvfp4": "4B32B",
}  # fmt: skip


@cache
def swapped(type_name: str) -> tuple[int, ...] | None:
    """Where each byte of a little-endian block stands in a big-endian one; None of a type that is not known.

    >>> swapped("f32"), swapped("q4_1")[:6], swapped("iq2_xxs")
    ((3, 2, 1, 0), (1, 0, 3, 2, 4, 5), None)
    """
    fields = FIELDS.get(type_name)
    if fields is None:
        return None
    order: list[int] = []
    for count, code in re.findall("([0-9]*)([BHIQ])", fields):
        for _ in range(int(count or 1)):
            start, width = len(order), struct.calcsize("<" + code)
            order += range(start + width - 1, start - 1, -1)
    return tuple(order)
