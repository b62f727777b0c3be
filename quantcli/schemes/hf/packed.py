"""Codes from words: streams of bits, lowest first, that run along a row or, transposed, along a column.

    dense      code i of a row has bits b * i .. b * i + b - 1 of the row's stream; a code may straddle two words
    padded     32 // b codes a word, lowest first, the bits above them unused
    planes     of 32 codes first the low bits of all, then the next ones, each a dense stream: 5 bits = 4 + 1

The dense stream of 32 codes is the same as MLX's.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from quantcli.arrays import Array

Codes8 = NDArray[np.uint8]

#: Bits of a code -> widths of its planes, the lowest first.
PLANES = {2: (2,), 3: (2, 1), 4: (4,), 5: (4, 1), 6: (4, 2), 7: (4, 2, 1), 8: (8,)}

WORD = 32


def words_of(count: int, bits: int) -> int:
    """Return how many 32-bit words hold `count` codes of a dense stream."""
    return -(-count * bits // WORD)


def dense(words: Array, bits: int, count: int) -> Codes8:
    """Return codes (rows, count) from words (rows, words_of(count, bits)) of any 32-bit dtype.

    >>> dense(np.array([[0b10_001_000]], np.uint32), 3, 3).tolist()
    [[0, 1, 2]]
    """
    from quantcli.kernels.bits import unpack

    words = np.ascontiguousarray(words).view(np.uint32)
    if lacking := -words.shape[1] % bits:  # the kernel takes 32 codes at a time, which are `bits` words
        words = np.pad(words, ((0, 0), (0, lacking)))
    codes = unpack(words, bits)
    return codes if codes.shape[1] == count else np.ascontiguousarray(codes[:, :count])


def words(codes: Codes8, bits: int) -> NDArray[np.uint32]:
    """Return words (rows, words_of(count, bits)) for codes (rows, count): the reverse of `dense`.

    >>> words(np.array([[0, 1, 2]], np.uint8), 3).tolist() == [[0b10_001_000]]
    True
    """
    from quantcli.kernels.bits import pack

    count = codes.shape[1]
    if lacking := -count % WORD:
        codes = np.pad(codes, ((0, 0), (0, lacking)))
    return pack(codes, bits)[:, : words_of(count, bits)]


def padded(words: Array, bits: int, count: int) -> Codes8:
    """Return codes (rows, count) from words (rows, ceil(count / (32 // bits)))."""
    shifts = np.arange(WORD // bits, dtype=np.uint32) * np.uint32(bits)
    wide = np.ascontiguousarray(words).view(np.uint32)[:, :, None] >> shifts & np.uint32((1 << bits) - 1)
    return np.ascontiguousarray(wide.astype(np.uint8).reshape(len(words), -1)[:, :count])


def planes(words: Array, bits: int, count: int) -> Codes8:
    """Return codes (rows, count) from words (rows, count * bits / 32), count a multiple of 32."""
    blocks = np.ascontiguousarray(words).view(np.uint32).reshape(len(words), -1, bits)
    codes = np.zeros((len(words), count), np.uint8)
    start = 0
    for width in PLANES[bits]:
        plane = np.ascontiguousarray(blocks[:, :, start : start + width]).reshape(len(words), -1)
        codes |= dense(plane, width, count) << np.uint8(start)
        start += width
    return codes


def nibbles(stored: Array, *, high_first: bool = False) -> Codes8:
    """Return codes (rows, 2n) from bytes (rows, n), by default the low half first."""
    stored = np.ascontiguousarray(stored).view(np.uint8)
    codes = np.empty((*stored.shape, 2), np.uint8)
    codes[..., int(high_first)] = stored & 15
    codes[..., 1 - int(high_first)] = stored >> 4
    return codes.reshape(len(stored), -1)
