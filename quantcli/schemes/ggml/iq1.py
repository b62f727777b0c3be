"""GGML's `iq1_s`, `iq1_m`: super-blocks of 256 values, eight at a time from a codebook of -1, 0 and 1, all of them
shifted.

Source: `block_iq1_s`, `block_iq1_m` in ggml-common.h and their functions in ggml-quants.c (llama.cpp). A shift is 1/8,
or -1/8 where its bit is set. Numbers are little-endian:

    value = d * (2 * scale + 1) * (book[row][i] + shift)

    iq1_s   50 bytes   d d | r x 32 | h x 8      r, for each 8 values: row's bits 7..0
                           h, a uint16 for each 32 values:
                           15     14..12   11..9   8..6   5..3   2..0
                           shift  scale     bits 10..8 of rows  3 2 1 0
    iq1_m   56 bytes   r x 32 | h x 16 | w x 4   h, a nibble for each 8 values, low one first:
                           3 shift | 2..0 row's bits 10..8
                           w, a uint16 for each 64 values:
                           15..12                 11..9   8..6   5..3   2..0
                           bits 4w+3..4w of d      scales of 16 values each, the first one's lowest
    d is f16; in iq1_m it is put together from the four w, the first one's bits lowest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from quantcli.arrays import Array
from quantcli.schemes.base import Importance
from quantcli.schemes.ggml.blocks import Blocks, f16_bytes, read_f16
from quantcli.schemes.ggml.iq import (
    Codebook,
    Fields,
    joined,
    neighbours,
    split,
    sub_scales,
    word_bytes,
    words,
)

if TYPE_CHECKING:
    import mlx.core as mx

    from quantcli.kernels.ggml.codebooks.neighbours import Neighbours

#: Values that share a scale.
GROUPS = {"iq1_s": 32, "iq1_m": 16}


@dataclass(frozen=True)
class Iq1(Codebook):
    """One of `GROUPS`.

    A block of iq1_m from ones: the row of ones (the last, 2047), shifts 1/8, scales 7; d * 15 * 1.125 = 1 times the
    fudge of 1.1125, so d = 0.0659 (2c38), of which each w holds four bits.

    >>> parts, error = SCHEMES["iq1_m"].encode(np.ones((1, 256), np.float32))
    >>> parts["blocks"][0, 30:34].tobytes().hex(" "), parts["blocks"][0, 48:].tobytes().hex(" ")
    ('ff ff 77 77', 'ff 8f ff 3f ff cf ff 2f')
    """

    @property
    def group(self) -> int:
        return GROUPS[self.type]

    @property
    def largest_scale(self) -> int:
        return 7

    def steps(self, fields: Fields, xp: Any) -> Any:
        return fields.d * (2 * fields.scales.astype(xp.float32) + 1)

    def _values(self, blocks: Blocks) -> NDArray[np.float32]:
        from quantcli.kernels.ggml.codebooks import values as iq_values

        return iq_values.shifted(blocks, self._d(blocks, np).reshape(-1), self.book.rows)

    def _d(self, blocks: Any, xp: Any) -> Any:
        """float32 (n, 1)."""
        if self.type == "iq1_s":
            return read_f16(blocks, 0, 1, xp)
        return read_f16(word_bytes(joined(words(blocks, 48, 4, 2, xp) >> 12, 4, 4, xp), 2, xp), 0, 1, xp)

    def _with_bits(self, values: mx.array, bits: mx.array) -> mx.array:
        import mlx.core as mx

        return values + mx.where(bits[:, :, None] == 1, -0.125, 0.125)

    def _search(self, values: Array, importance: Importance | None) -> tuple[Fields, NDArray[np.float32]]:
        from quantcli.kernels.ggml.codebooks import iq1_search

        rows, minus, scales, whole = iq1_search.search(values, importance, GROUPS[self.type], self._neighbours())
        codes, d = sub_scales(scales, 15, 7, np)
        d = whole[:, None] if self.type == "iq1_m" else d
        return Fields(rows.astype(np.int32), minus, codes, d), d * np.float32(self.fudge)

    def _search_on_mlx(self, x: mx.array, importance: mx.array | None) -> tuple[Fields, mx.array]:
        import mlx.core as mx

        from quantcli.schemes.ggml import iq1_search
        from quantcli.schemes.ggml.iq_search import tables

        found = iq1_search.search(x, importance, GROUPS[self.type], tables(self._neighbours()))
        codes, d = sub_scales(found.scales, 15, 7, mx)
        d = found.whole if self.type == "iq1_m" else d
        return Fields(found.rows, found.minus, codes, d), d * self.fudge

    def _neighbours(self) -> Neighbours:
        return neighbours(self.book_name, self.book.values)

    def unpack(self, blocks: Any, xp: Any) -> Fields:
        if self.type == "iq1_s":
            high = words(blocks, 34, 8, 2, xp)
            rows = blocks[:, 2:34].astype(xp.uint32) | split(high & 4095, 3, 4, xp) << 8
            minus, scales = xp.repeat(high >> 15, 4, axis=1), high >> 12 & 7
        else:
            high, each = split(blocks[:, 32:48], 4, 2, xp), words(blocks, 48, 4, 2, xp)
            rows, minus = blocks[:, :32].astype(xp.uint32) | (high & 7) << 8, high >> 3
            scales = split(each & 4095, 3, 4, xp)
        return Fields(rows.astype(xp.int32), minus.astype(xp.uint8), scales.astype(xp.int32), self._d(blocks, xp))

    def pack_fields(self, fields: Fields, xp: Any) -> Any:
        rows, minus, scales, d = fields
        low = (rows & 255).astype(xp.uint8)
        if self.type == "iq1_s":
            high = joined(rows >> 8, 3, 4, xp) | (scales.astype(xp.uint32) | minus[:, ::4].astype(xp.uint32) << 3) << 12
            return xp.concatenate([f16_bytes(d, xp), low, word_bytes(high, 2, xp)], axis=1)
        high = joined((rows >> 8).astype(xp.uint8) | minus << 3, 4, 2, xp).astype(xp.uint8)
        bits = split(words(f16_bytes(d, xp), 0, 1, 2, xp), 4, 4, xp)
        return xp.concatenate([low, high, word_bytes(joined(scales, 3, 4, xp) | bits << 12, 2, xp)], axis=1)


SCHEMES = {
    scheme.type: scheme
    for scheme in (
        Iq1("iq1_s", "iq1", 0.486, True, 1.125, 15 * 1.125),
        Iq1("iq1_m", "iq1", 0.451, False, 1.1125, 15 * 1.125),
    )
}
