"""Codes to words and back: `pack` and `unpack` for whole arrays, `pack_chunk` and `unpack_chunk` within a kernel.

Codes of b bits lie one after the other from the lowest bit of little-endian words, value 0 lowest: 8 codes are b bytes,
32 codes are b words, and no code of a group shares a word with the next group's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantcli.kernels.chunks import CHUNK
from quantcli.kernels.compile import inner, kernel

_LOW8 = np.uint64(0x00FF00FF00FF00FF)
_LOW16 = np.uint64(0x0000FFFF0000FFFF)
_LOW32 = np.uint64(0x00000000FFFFFFFF)


def pack(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint32]:
    """Words (rows, columns * bits / 32) of codes (rows, columns), columns a multiple of 32.

    Codes of 8 bits are words already: a view, where they are contiguous.
    """
    if bits == 8:
        return np.ascontiguousarray(codes).view(np.uint32)
    words = np.empty((codes.shape[0], codes.shape[1] * bits // 32), np.uint32)
    if bits == 4:
        _pack_pairs(np.ascontiguousarray(codes).reshape(-1).view(np.uint16), words.reshape(-1).view(np.uint8))
        return words
    _pack(np.ascontiguousarray(codes).reshape(-1), words.reshape(-1), bits)
    return words


def unpack(words: NDArray[np.uint32], bits: int) -> NDArray[np.uint8]:
    """Codes (rows, columns) of words (rows, columns * bits / 32); of 8 bits a view, where the words are contiguous."""
    if bits == 8:
        return np.ascontiguousarray(words).view(np.uint8)
    codes = np.empty((words.shape[0], words.shape[1] * 32 // bits), np.uint8)
    if bits == 4:
        _unpack_pairs(np.ascontiguousarray(words).reshape(-1).view(np.uint8), codes.reshape(-1).view(np.uint16))
        return codes
    _unpack(np.ascontiguousarray(words).reshape(-1), codes.reshape(-1), bits)
    return codes


@inner
def pack_chunk(codes: Any, words: Any, count: int, bits: int) -> None:
    """words = codes[:count] (uint8, count a multiple of 32) packed; overwrites `codes`."""
    eights = codes[:count].view(np.uint64)
    one, two, four = np.uint64(bits), np.uint64(2 * bits), np.uint64(4 * bits)
    for j in range(count // 8):
        v = eights[j]
        v = (v & _LOW8) | ((v >> np.uint64(8)) & _LOW8) << one
        v = (v & _LOW16) | ((v >> np.uint64(16)) & _LOW16) << two
        eights[j] = (v & _LOW32) | (v >> np.uint64(32)) << four
    if bits == 8:
        for j in range(count // 8):
            words[2 * j] = np.uint32(eights[j])
            words[2 * j + 1] = np.uint32(eights[j] >> np.uint64(32))
    elif bits == 4:
        for j in range(count // 8):
            words[j] = np.uint32(eights[j])
    else:
        _join(eights, words, count // 32, bits)


@inner
def _join(eights: Any, words: Any, blocks: int, bits: int) -> None:
    """Each four runs of 8 * bits bits become `bits` words."""
    width = 8 * bits
    for block in range(blocks):
        run, word = eights[4 * block : 4 * block + 4], words[bits * block : bits * block + bits]
        pending, fill, at = np.uint64(0), 0, 0
        for k in range(4):
            pending |= run[k] << np.uint64(fill)
            carried = run[k] >> np.uint64(1) >> np.uint64(63 - fill)
            fill += width
            while fill >= 32:
                word[at] = np.uint32(pending)
                pending = pending >> np.uint64(32) | carried << np.uint64(32)
                carried = np.uint64(0)
                fill -= 32
                at += 1


@inner
def unpack_chunk(words: Any, codes: Any, count: int, bits: int) -> None:
    """codes[:count] (uint8, count a multiple of 32) = the codes in `words`."""
    eights = codes[:count].view(np.uint64)
    if bits == 8:
        for j in range(count // 8):
            eights[j] = np.uint64(words[2 * j]) | np.uint64(words[2 * j + 1]) << np.uint64(32)
    elif bits == 4:
        for j in range(count // 8):
            eights[j] = words[j]
    else:
        _split(words, eights, count // 32, bits)
    one, two, four = np.uint64(bits), np.uint64(2 * bits), np.uint64(4 * bits)
    mask4 = (np.uint64(1) << four) - np.uint64(1)
    mask2 = ((np.uint64(1) << two) - np.uint64(1)) * np.uint64(0x0000000100000001)
    mask1 = ((np.uint64(1) << one) - np.uint64(1)) * np.uint64(0x0001000100010001)
    for j in range(count // 8):
        v = eights[j]
        v = (v & mask4) | ((v >> four) & mask4) << np.uint64(32)
        v = (v & mask2) | ((v >> two) & mask2) << np.uint64(16)
        eights[j] = (v & mask1) | ((v >> one) & mask1) << np.uint64(8)


@inner
def _split(words: Any, eights: Any, blocks: int, bits: int) -> None:
    """Each `bits` words become four runs of 8 * bits bits (what lies above a run is masked off later)."""
    width = 8 * bits
    for block in range(blocks):
        run, word = eights[4 * block : 4 * block + 4], words[bits * block : bits * block + bits]
        for k in range(4):
            at, shift = k * width // 32, np.uint64(k * width % 32)
            high = np.uint64(word[at + 1]) if at + 1 < bits else np.uint64(0)
            run[k] = (np.uint64(word[at]) | high << np.uint64(32)) >> shift
            if k * width % 32 + width > 64:  # 7 bits alone: 56 of them may reach into a third word
                run[k] |= np.uint64(word[at + 2]) << (np.uint64(64) - shift)


@kernel
def _pack(codes: Any, words: Any, bits: int) -> None:
    scratch = np.empty(CHUNK, np.uint8)
    for start in range(0, codes.shape[0], CHUNK):
        count = min(CHUNK, codes.shape[0] - start)
        scratch[:count] = codes[start : start + count]
        pack_chunk(scratch, words[start * bits // 32 : (start + count) * bits // 32], count, bits)


@inner
def _unpack(words: Any, codes: Any, bits: int) -> None:
    for start in range(0, codes.shape[0], CHUNK):
        count = min(CHUNK, codes.shape[0] - start)
        unpack_chunk(
            words[start * bits // 32 : (start + count) * bits // 32], codes[start : start + count], count, bits
        )


@inner
def _pack_pairs(pairs: Any, stored: Any) -> None:
    """4 bits: two codes, as a little-endian uint16, become a byte."""
    for j in range(stored.shape[0]):
        stored[j] = np.uint8(pairs[j] | np.uint16(pairs[j] >> np.uint16(4)))


@inner
def _unpack_pairs(stored: Any, pairs: Any) -> None:
    for j in range(stored.shape[0]):
        byte = np.uint16(stored[j])
        pairs[j] = np.uint16(byte | np.uint16(byte << np.uint16(4))) & np.uint16(0x0F0F)
