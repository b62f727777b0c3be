"""GGML's `iq3_xxs`, `iq3_s`: super-blocks of 256 values, four at a time from a codebook, and signs.

Source: `block_iq3_xxs`, `block_iq3_s` in ggml-common.h and their functions in ggml-quants.c (llama.cpp). Book rows
(iq_books.py) hold 4, 12, 20 ... 52, 62 (xxs) and 1, 3 ... 15 (s). d is f16, numbers are little-endian:

    iq3_xxs   98 bytes   d d | r x 64 | w x 8      value = d * (scale + 1/2) / 2 * (book[row][i] or its negative)
                             r, for each 4 values: row;   w, a uint32 for each 32 values:
                             31..28   27..21  20..14  13..7   6..0
                             scale      s3      s2      s1      s0     signs of 8 values each, but the last one's: the
                                                                       number of minuses is even
    iq3_s    110 bytes   d d | r x 64 | h x 8 | s x 32 | c x 4      value = d * (2 * scale + 1) * (.. or its negative)
                             r, for each 4 values: row's bits 7..0;   h, byte k, bit i: bit 8 of row 8k+i
                             s, for each 8 values: their signs;       c, byte k: 7..4 scale of values 64k+32 ..
                                                                      64k+63, 3..0 of values 64k .. 64k+31
    A set sign bit is a minus.

ggml's encoder of iq3_s has a fault: after a group of 32 zeros it writes the bytes r and s of the next group where the
zeros' belong, but h and c where they belong, so that such a super-block decodes to something else. Its bytes are what
is promised, so the fault is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from quantcli.arrays import Array
from quantcli.schemes.ggml.blocks import Blocks, f16_bytes, read_f16
from quantcli.schemes.ggml.iq import Fields, Signed, eighth_sign, joined, split, word_bytes, words

#: Arguments of the search: values that share a scale, candidates, step between them, and what is special.
RULES: dict[str, dict[str, Any]] = {
    "iq3_xxs": {"group": 32, "tried": 31, "step": 0.2, "epsilon": 1e-8, "parity": True},
    "iq3_s": {"group": 32, "tried": 19, "step": 0.2, "epsilon": 0, "last": "all-or-none"},
}


@dataclass(frozen=True)
class Iq3(Signed):
    """One of `RULES`.

    A block of iq3_s from minus ones: all signs set, rows of equal codes, all scales 15.

    >>> parts, error = SCHEMES["iq3_s"].encode(np.full((1, 256), -1, np.float32))
    >>> parts["blocks"][0, 74:80].tobytes().hex(" "), parts["blocks"][0, 106:].tobytes().hex(" ")
    ('ff ff ff ff ff ff', 'ff ff ff ff')
    """

    def rules(self) -> dict[str, Any]:
        return RULES[self.type]

    def _as_ggml(self, fields: Fields, values: Any, xp: Any) -> Fields:
        if self.type == "iq3_xxs":
            return super()._as_ggml(fields, values, xp)
        return _moved(fields, _zeros_last(values, xp), xp)

    def without_fault(self, blocks: Blocks, values: Array) -> Blocks:
        if self.type == "iq3_xxs":
            return blocks
        places = np.argsort(_zeros_last(values, np), axis=1)
        fixed: Blocks = self.pack_fields(_moved(self.unpack(blocks, np), places, np), np)
        return fixed

    def steps(self, fields: Fields, xp: Any) -> Any:
        scales = fields.scales.astype(xp.float32)
        return fields.d * (0.5 + scales) * 0.5 if self.type == "iq3_xxs" else fields.d * (1 + 2 * scales)

    def unpack(self, blocks: Any, xp: Any) -> Fields:
        d, rows = read_f16(blocks, 0, 1, xp), blocks[:, 2:66].astype(xp.uint32)
        if self.type == "iq3_xxs":
            high = words(blocks, 66, 8, 4, xp)
            signs, scales = eighth_sign(split(high & (1 << 28) - 1, 7, 4, xp)), high >> 28
        else:
            rows = rows | split(blocks[:, 66:74], 1, 8, xp) << 8
            signs, scales = blocks[:, 74:106], split(blocks[:, 106:110], 4, 2, xp)
        return Fields(rows.astype(xp.int32), signs.astype(xp.uint8), scales.astype(xp.int32), d)

    def pack_fields(self, fields: Fields, xp: Any) -> Any:
        rows, signs, scales, d = fields
        low = (rows & 255).astype(xp.uint8)
        if self.type == "iq3_xxs":
            high = joined(signs & 127, 7, 4, xp) | scales.astype(xp.uint32) << 28
            parts = [low, word_bytes(high, 4, xp)]
        else:
            high = joined(rows >> 8, 1, 8, xp).astype(xp.uint8)
            parts = [low, high, signs, joined(scales, 4, 2, xp).astype(xp.uint8)]
        return xp.concatenate([f16_bytes(d, xp), *parts], axis=1)


def _zeros_last(values: Any, xp: Any) -> Any:
    """(blocks, 8): a super-block's groups of 32, those of zeros behind the others; values (blocks, 256)."""
    zeros = ~(values.reshape(-1, 8, 32) != 0).any(axis=2)
    return xp.argsort(zeros.astype(xp.int32) * 8 + xp.arange(8, dtype=xp.int32), axis=1)


def _moved(fields: Fields, order: Any, xp: Any) -> Fields:
    """Lower bytes of rows, and signs, of group order[b, k] in the place of group k."""
    rows, signs = fields.rows.reshape(-1, 8, 8), fields.bits.reshape(-1, 8, 4)
    low, signs = (xp.take_along_axis(part, order[:, :, None], axis=1) for part in (rows & 255, signs))
    return fields._replace(rows=(rows & 256 | low).reshape(-1, 64), bits=signs.reshape(-1, 32))


SCHEMES = {
    scheme.type: scheme
    for scheme in (
        Iq3("iq3_xxs", "iq3_xxs", 0.182, False, 1.0125, 62 * 15.5 / 2),
        Iq3("iq3_s", "iq3_s", 0.137, False, 1.033, 15 * 31.0),
    )
}
