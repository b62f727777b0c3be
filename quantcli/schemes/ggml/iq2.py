"""GGML's `iq2_xxs`, `iq2_xs`, `iq2_s`: super-blocks of 256 values, eight at a time from a codebook, and signs.

Source: `block_iq2_xxs`, `block_iq2_xs`, `block_iq2_s` in ggml-common.h and their functions in ggml-quants.c
(llama.cpp). Book rows (iq_books.py) hold 8, 25 and 43. d is f16, numbers are little-endian:

    value = d * (scale + 1/2) / 4 * (book[row][i] or its negative)

    iq2_xxs  66 bytes   d d | 8 x (r r r r w w w w)        for each 32 values: 4 rows, and in w, a uint32,
                            w   31..28   27..21  20..14  13..7   6..0
                               scale      s3      s2      s1      s0     signs of 8 values each, but the last one's
    iq2_xs   74 bytes   d d | w x 32 | c x 8               w, a uint16 for each 8 values:  15..9 signs | 8..0 row
    iq2_s    82 bytes   d d | r x 32 | s x 32 | h x 8 | c x 8       r, s, for each 8 values: row's bits 7..0, 8 signs
                            h, byte k   7 6 | 5 4 | 3 2 | 1 0                bits 9 and 8 of rows 4k+3 4k+2 4k+1 4k
    c, byte k: 7..4 scale of values 32k+16 .. 32k+31, 3..0 of values 32k .. 32k+15

Where seven of eight signs are stored, the number of minuses is even; a set bit is a minus.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from quantcli.schemes.ggml.blocks import f16_bytes, read_f16
from quantcli.schemes.ggml.iq import Fields, Signed, eighth_sign, joined, split, word_bytes, words

#: Arguments of the search: values that share a scale, candidates, step between them, and what is special.
RULES: dict[str, dict[str, Any]] = {
    "iq2_xxs": {
        "group": 32, "tried": 13, "step": 0.1, "epsilon": 1e-15, "parity": True, "start": True, "last": "always",
        "spread": 1,
    },
    "iq2_xs": {"group": 16, "tried": 19, "step": 0.1, "epsilon": 1e-15, "parity": True, "spread": 1},
    "iq2_s": {"group": 16, "tried": 19, "step": 0.1, "epsilon": 1e-8, "plain": 0.25},
}  # fmt: skip


@dataclass(frozen=True)
class Iq2(Signed):
    """One of `RULES`.

    A block of iq2_s from ones: the last row (1023, all 43) and scale 15 everywhere. The search takes 43 for code 5, so
    a group's scale is 1/5, and d = 1/5 / 31 times the fudge of 0.9875 = 0.00637 (1e86).

    >>> import numpy as np
    >>> parts, error = SCHEMES["iq2_s"].encode(np.ones((1, 256), np.float32))
    >>> parts["blocks"][0, :4].tobytes().hex(" "), parts["blocks"][0, 66:].tobytes().hex(" ")
    ('86 1e ff ff', 'ff ff ff ff ff ff ff ff ff ff ff ff ff ff ff ff')
    """

    def rules(self) -> dict[str, Any]:
        return RULES[self.type]

    def _as_ggml(self, fields: Fields, values: Any, xp: Any) -> Fields:
        return fields if self.type == "iq2_s" else super()._as_ggml(fields, values, xp)

    def steps(self, fields: Fields, xp: Any) -> Any:
        return fields.d * (0.5 + fields.scales.astype(xp.float32)) * 0.25

    def unpack(self, blocks: Any, xp: Any) -> Fields:
        d = read_f16(blocks, 0, 1, xp)
        if self.type == "iq2_xxs":
            pairs = words(blocks, 2, 16, 4, xp).reshape(-1, 8, 2)
            low, high = pairs[:, :, 0], pairs[:, :, 1]
            signs = eighth_sign(split(high & (1 << 28) - 1, 7, 4, xp))
            rows, scales = split(low, 8, 4, xp), high >> 28
        elif self.type == "iq2_xs":
            each = words(blocks, 2, 32, 2, xp)
            rows, signs, scales = each & 511, eighth_sign(each >> 9), split(blocks[:, 66:74], 4, 2, xp)
        else:
            rows = blocks[:, 2:34].astype(xp.uint32) | split(blocks[:, 66:74], 2, 4, xp) << 8
            signs, scales = blocks[:, 34:66], split(blocks[:, 74:82], 4, 2, xp)
        return Fields(rows.astype(xp.int32), signs.astype(xp.uint8), scales.astype(xp.int32), d)

    def pack_fields(self, fields: Fields, xp: Any) -> Any:
        rows, signs, scales, d = fields
        if self.type == "iq2_xxs":
            high = joined(signs & 127, 7, 4, xp) | scales.astype(xp.uint32) << 28
            pairs = xp.stack([joined(rows, 8, 4, xp), high], axis=2).reshape(len(rows), 16)
            parts = [word_bytes(pairs, 4, xp)]
        elif self.type == "iq2_xs":
            each = rows.astype(xp.uint32) | (signs & 127).astype(xp.uint32) << 9
            parts = [word_bytes(each, 2, xp), joined(scales, 4, 2, xp).astype(xp.uint8)]
        else:
            high = joined(rows >> 8, 2, 4, xp).astype(xp.uint8)
            parts = [(rows & 255).astype(xp.uint8), signs, high, joined(scales, 4, 2, xp).astype(xp.uint8)]
        return xp.concatenate([f16_bytes(d, xp), *parts], axis=1)


SCHEMES = {
    scheme.type: scheme
    for scheme in (
        Iq2("iq2_xxs", "iq2_xxs", 0.344, True, 1.0, 43 * 15.5 / 4),
        Iq2("iq2_xs", "iq2_xs", 0.300, True, 1.0, 43 * 15.5 / 4),
        Iq2("iq2_s", "iq2_s", 0.249, False, 0.9875, 43 * 15.5 / 4),
    )
}
