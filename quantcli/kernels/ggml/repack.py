"""GGML's nibbles and fifth bits to codes and back on the CPU, without the values: what a repack moves.

Layouts are drawn in schemes/ggml: legacy.py, floats.py and k_quants.py. Codes are bytes, one a value. Nibbles lie
in runs, each of which holds two runs of codes:

    byte j of a run      7 6 5 4     | 3 2 1 0         q4_0 q4_1 q5_0 q5_1 mxfp4: half 16, nvfp4: half 8
                       code j + half | code j          q4_k q5_k: half 32

All is done on eight bytes at a time, as one little-endian 64-bit word.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantcli.kernels.compile import inner

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

_ONES = np.uint64(0x0101010101010101)
_LOW = np.uint64(0x0F0F0F0F0F0F0F0F)
#: Bit k of byte k.
_DIAGONAL = np.uint64(0x8040201008040201)
#: A product with it has the lowest bits of the bytes of a word, that of byte k as bit k, in its highest byte.
_GATHER = np.uint64(0x0102040810204080)


def split_nibbles(nibbles: Bytes, half: int) -> Bytes:
    """Codes uint8 (blocks, 2 * n) of nibbles uint8 (blocks, n), in runs of `half` bytes.

    >>> split_nibbles(np.array([[0x21, 0x43, 0x65, 0x87, 0x10, 0x32, 0x54, 0x76]], np.uint8), 8).tolist()
    [[1, 3, 5, 7, 0, 2, 4, 6, 2, 4, 6, 8, 1, 3, 5, 7]]
    """
    stored = np.ascontiguousarray(nibbles)
    codes = np.empty((stored.shape[0], 2 * stored.shape[1]), np.uint8)
    _split(stored.view(np.uint64).reshape(-1, half // 8), codes.view(np.uint64).reshape(-1, 2, half // 8))
    return codes


def join_nibbles(codes: Bytes, half: int) -> Bytes:
    """The reverse; codes uint8 (blocks, n), of which the lower four bits count."""
    given = np.ascontiguousarray(codes)
    nibbles = np.empty((given.shape[0], given.shape[1] // 2), np.uint8)
    _join(given.view(np.uint64).reshape(-1, 2, half // 8), nibbles.view(np.uint64).reshape(-1, half // 8))
    return nibbles


def add_fifth_bits(codes: Bytes, bits: Bytes) -> None:
    """Sets bit 4 of codes (blocks, n), contiguous: code j of a block has bit j % 8 of its byte j / 8."""
    _add_along(codes.reshape(-1).view(np.uint64), np.ascontiguousarray(bits).reshape(-1))


def add_fifth_planes(codes: Bytes, bits: Bytes) -> None:
    """Sets bit 4 of codes (blocks, 256), contiguous: code j + 32 * k has bit k of byte j of its block's 32."""
    _add_across(codes.view(np.uint64), np.ascontiguousarray(bits).view(np.uint64))


def take_fifth_bits(codes: Bytes) -> Bytes:
    """uint8 (blocks, n / 8): the reverse of `add_fifth_bits`."""
    given = np.ascontiguousarray(codes)
    bits = np.empty((given.shape[0], given.shape[1] // 8), np.uint8)
    _take_along(given.reshape(-1).view(np.uint64), bits.reshape(-1))
    return bits


def k_numbers(subs: Bytes, block_scales: Floats) -> tuple[Floats, Floats]:
    """Scales and biases, float32 (blocks, 8), exact: of the 12 bytes of q4_k or q5_k blocks, d and dmin (blocks, 2)."""
    scales, biases = (np.empty((subs.shape[0], 8), np.float32) for _ in range(2))
    _k_numbers(subs, block_scales, scales, biases)
    return scales, biases


@inner
def _split(stored: Any, codes: Any) -> None:
    for run in range(stored.shape[0]):
        for j in range(stored.shape[1]):
            codes[run, 0, j] = stored[run, j] & _LOW
            codes[run, 1, j] = (stored[run, j] >> np.uint64(4)) & _LOW


@inner
def _join(codes: Any, stored: Any) -> None:
    for run in range(stored.shape[0]):
        for j in range(stored.shape[1]):
            stored[run, j] = (codes[run, 0, j] & _LOW) | (codes[run, 1, j] & _LOW) << np.uint64(4)


@inner
def _add_along(codes: Any, bits: Any) -> None:
    for j in range(bits.shape[0]):
        picked = (np.uint64(bits[j]) * _ONES) & _DIAGONAL
        codes[j] |= (((picked + _ONES * np.uint64(0x7F)) >> np.uint64(7)) & _ONES) << np.uint64(4)


@inner
def _add_across(codes: Any, bits: Any) -> None:
    for b in range(bits.shape[0]):
        for k in range(8):
            for j in range(4):
                codes[b, 4 * k + j] |= ((bits[b, j] >> np.uint64(k)) & _ONES) << np.uint64(4)


@inner
def _take_along(codes: Any, bits: Any) -> None:
    for j in range(bits.shape[0]):
        bits[j] = np.uint8((((codes[j] >> np.uint64(4)) & _ONES) * _GATHER) >> np.uint64(56))


@inner
def _k_numbers(subs: Any, block_scales: Any, scales: Any, biases: Any) -> None:
    six, four = np.uint8(63), np.uint8(15)
    for b in range(subs.shape[0]):
        d, dmin = block_scales[b, 0], block_scales[b, 1]
        for g in range(4):
            first, second, last = subs[b, g], subs[b, g + 4], subs[b, g + 8]
            scales[b, g] = d * np.float32(first & six)
            biases[b, g] = -(dmin * np.float32(second & six))
            upper, lower = np.uint8(first >> np.uint8(6)), np.uint8(second >> np.uint8(6))
            scales[b, g + 4] = d * np.float32(np.uint8(last & four) | np.uint8(upper << np.uint8(4)))
            biases[b, g + 4] = -(dmin * np.float32(np.uint8(last >> np.uint8(4)) | np.uint8(lower << np.uint8(4))))
