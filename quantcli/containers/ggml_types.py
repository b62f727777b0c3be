"""GGML's tensor types: id, name, block size in elements and bytes, and the multi-byte numbers in a block.

Source: `enum ggml_type` and the type traits of ggml 0.25.3 (ggml.h, ggml-common.h of llama.cpp). Names are ggml's in
lower case (`q4_k` is ggml's `q4_K`). Ids 4, 5, 31-33 and 36-38 belonged to types that ggml has removed; no current
program reads files with them. A row of n elements is stored as n / block_size consecutive blocks. The table is not
taken from the package gguf, because version 0.19 of it does not know q2_0.

The fields of a block (the structs of ggml-common.h, as ggml-quants.c reads them) are written as format characters of
Python's `struct`: B is one byte, H two, I four, Q eight. Multi-byte fields (float16 and float32 scales, 16-bit fields,
and 32-bit numbers) have the byte order of the machine that wrote the file; single bytes have none.

    q4_k   H H 12B 128B     d, dmin, scales, codes

A scale (or minimum) that is stored as a float is NaN or Inf if all of these bits are set:

    f16     two bytes, all five bits of the exponent        e8m0    a byte, 255
    f32     four bytes, all eight                           e4m3    a byte, 127 and, the sign ignored, 255

llama-quantize checks the same in `ggml_validate_row_data` (ggml-quants.c), which accepts every byte in NVFP4 blocks.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field
from functools import cache

import numpy as np

from quantcli.arrays import Array
from quantcli.errors import BadInput


@dataclass(frozen=True)
class ScaleField:
    """`count` little-endian numbers from byte `at` of each block; one is NaN or Inf if all of its `bits` are set."""

    at: int
    dtype: str
    bits: int
    count: int = 1


def _f16(at: int, count: int = 1) -> ScaleField:
    return ScaleField(at, "<u2", 0x7C00, count)


@dataclass(frozen=True)
class GgmlType:
    """A tensor type: `block_size` elements are stored in `block_bytes` bytes.

    fields: the fields of a block; None if ggml reads them inconsistently, so that no byte order is defined.
    scales: the place of the scales in a block; None for types without blocks.
    sub_scales: the type of the sub-block scales of a super-block (`i6`: signed, 6 bits); None without super-blocks.

    >>> BY_NAME["q6_k"]
    GgmlType(id=14, name='q6_k', block_size=256, block_bytes=210)
    """

    id: int
    name: str
    block_size: int
    block_bytes: int
    fields: str | None = field(repr=False)
    scales: ScaleField | None = field(default=None, repr=False)
    sub_scales: str | None = field(default=None, repr=False)

    @property
    def bits_per_weight(self) -> float:
        """Bits per element, scales included: 4.5 for q4_0."""
        return 8 * self.block_bytes / self.block_size


_TYPES = (
    GgmlType(0, "f32", 1, 4, "I"),
    GgmlType(1, "f16", 1, 2, "H"),
    GgmlType(2, "q4_0", 32, 18, "H16B", _f16(0)),
    GgmlType(3, "q4_1", 32, 20, "HH16B", _f16(0, 2)),
    GgmlType(6, "q5_0", 32, 22, "HI16B", _f16(0)),
    GgmlType(7, "q5_1", 32, 24, "HHI16B", _f16(0, 2)),
    GgmlType(8, "q8_0", 32, 34, "H32B", _f16(0)),
    GgmlType(9, "q8_1", 32, 36, "HH32B", _f16(0, 2)),
    GgmlType(10, "q2_k", 256, 84, "16B64BHH", _f16(80, 2), "u4"),
    GgmlType(11, "q3_k", 256, 110, "32B64B12BH", _f16(108), "i6"),
    GgmlType(12, "q4_k", 256, 144, "HH12B128B", _f16(0, 2), "u6"),
    GgmlType(13, "q5_k", 256, 176, "HH12B32B128B", _f16(0, 2), "u6"),
    GgmlType(14, "q6_k", 256, 210, "128B64B16BH", _f16(208), "i8"),
    GgmlType(15, "q8_k", 256, 292, "I256B16H", ScaleField(0, "<u4", 0x7F800000)),
    # ggml reads its codes as bytes in one place and as 32-bit numbers in another.
    GgmlType(16, "iq2_xxs", 256, 66, None, _f16(0), "u4"),
    GgmlType(17, "iq2_xs", 256, 74, "H32H8B", _f16(0), "u4"),
    GgmlType(18, "iq3_xxs", 256, 98, "H64B8I", _f16(0), "u4"),
    GgmlType(19, "iq1_s", 256, 50, "H32B8H", _f16(0), "u3"),
    GgmlType(20, "iq4_nl", 32, 18, "H16B", _f16(0)),
    GgmlType(21, "iq3_s", 256, 110, "H64B8B32B4B", _f16(0), "u4"),
    GgmlType(22, "iq2_s", 256, 82, "H64B8B8B", _f16(0), "u4"),
    GgmlType(23, "iq4_xs", 256, 136, "HH4B128B", _f16(0), "i6"),
    GgmlType(24, "i8", 1, 1, "B"),
    GgmlType(25, "i16", 1, 2, "H"),
    GgmlType(26, "i32", 1, 4, "I"),
    GgmlType(27, "i64", 1, 8, "Q"),
    GgmlType(28, "f64", 1, 8, "Q"),
    # The f16 scale is split over the upper four bits of four words, lowest bits first; words three and four hold the
    # exponent.
    GgmlType(29, "iq1_m", 256, 56, "32B16B4H", ScaleField(52, "<u4", 0x7000C000), "u3"),
    GgmlType(30, "bf16", 1, 2, "H"),
    GgmlType(34, "tq1_0", 256, 54, "48B4BH", _f16(52)),
    GgmlType(35, "tq2_0", 256, 66, "64BH", _f16(64)),
    GgmlType(39, "mxfp4", 32, 17, "B16B", ScaleField(0, "u1", 0xFF)),
    GgmlType(40, "nvfp4", 64, 36, "4B32B", ScaleField(0, "u1", 0x7F, 4)),
    GgmlType(41, "q1_0", 128, 18, "H16B", _f16(0)),
    GgmlType(42, "q2_0", 64, 18, "H16B", _f16(0)),
)
BY_ID: dict[int, GgmlType] = {t.id: t for t in _TYPES}
BY_NAME: dict[str, GgmlType] = {t.name: t for t in _TYPES}


def row_bytes(type: GgmlType, columns: int) -> int:
    """Return the bytes of a row of `columns` elements. Raises `BadInput` if they do not fill whole blocks.

    >>> row_bytes(BY_NAME["q4_0"], 64)
    36
    """
    blocks, rest = divmod(columns, type.block_size)
    if rest or columns < 0:
        raise BadInput(f"rows of {columns} values do not fill blocks of {type.block_size} ({type.name}).")
    return blocks * type.block_bytes


@cache
def swapped(type: GgmlType) -> tuple[int, ...] | None:
    """Return the position in a big-endian block of each byte of a little-endian one; None if it is not defined.

    llama.cpp's gguf_convert_endian.py supports eight of these types; this function agrees with it.

    >>> swapped(BY_NAME["f32"]), swapped(BY_NAME["q4_1"])[:6], swapped(BY_NAME["iq2_xxs"])
    ((3, 2, 1, 0), (1, 0, 3, 2, 4, 5), None)
    """
    if type.fields is None:
        return None
    order: list[int] = []
    for count, code in re.findall("([0-9]*)([BHIQ])", type.fields):
        for _ in range(int(count or 1)):
            start, width = len(order), struct.calcsize("<" + code)
            order += range(start + width - 1, start - 1, -1)
    return tuple(order)


def has_nonfinite_scale(type: GgmlType, blocks: Array) -> bool:
    """Return whether a scale in whole blocks (uint8, any shape) is NaN or Inf; False for types without blocks."""
    scales = type.scales
    if scales is None or not blocks.size:
        return False
    each = np.ascontiguousarray(blocks).reshape(-1, type.block_bytes)
    stop = scales.at + scales.count * np.dtype(scales.dtype).itemsize
    numbers = each[:, scales.at : stop].view(scales.dtype)
    return bool((numbers & scales.bits == scales.bits).any())
