"""GGML's `q2_k q3_k q4_k q5_k` on the CPU: ggml's float32 values.

Source: `dequantize_row_q*_K` in ggml-quants.c (llama.cpp), restated; layouts are drawn in schemes/k_quants.py. Scales,
minima and scale * code are exact in float32, so a value is rounded once, where the minimum is subtracted.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantcli.kernels.compile import kernel

#: Values of a super-block.
SUPER = 256


def decode(name: str, blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
    """float32 (rows, columns) of super-blocks (rows, bytes per row)."""
    run, size, at = DECODERS[name]
    flat = np.ascontiguousarray(blocks).reshape(-1, size)
    numbers = 1 if name == "q3_k" else 2
    heads = np.ascontiguousarray(flat[:, at : at + 2 * numbers]).view(np.float16).astype(np.float32)
    out = np.empty((blocks.shape[0], blocks.shape[1] // size * SUPER), np.float32)
    run(flat, heads, out.reshape(-1))
    return out


@kernel
def _decode_q2(blocks: Any, heads: Any, out: Any) -> None:
    two = np.uint8(3)
    for b in range(blocks.shape[0]):
        d, dmin, subs = heads[b, 0], heads[b, 1], blocks[b, :16]
        for half in range(2):
            pairs, values = blocks[b, 16 + 32 * half : 48 + 32 * half], out[SUPER * b + 128 * half :]
            for k in range(8):
                sub, shift = subs[8 * half + k], np.uint8(k // 2 * 2)
                scale, low = d * np.float32(sub & np.uint8(15)), dmin * np.float32(sub >> np.uint8(4))
                pair, value = pairs[16 * (k & 1) : 16 * (k & 1) + 16], values[16 * k : 16 * k + 16]
                for i in range(16):
                    value[i] = scale * np.float32(np.uint8(pair[i] >> shift) & two) - low


@kernel
def _decode_q3(blocks: Any, heads: Any, out: Any) -> None:
    for b in range(blocks.shape[0]):
        high, subs = blocks[b, :32], blocks[b, 96:108]
        for g in range(16):
            low = np.int32(subs[g & 7] >> np.uint8(4 * (g >> 3))) & np.int32(15)
            upper = np.int32(subs[8 + (g & 3)] >> np.uint8(2 * (g >> 2))) & np.int32(3)
            scale = heads[b, 0] * np.float32((low | (upper << np.int32(4))) - np.int32(32))
            at = 32 + 32 * (g >> 3) + 16 * (g & 1)
            pair, bit = blocks[b, at : at + 16], high[16 * (g & 1) : 16 * (g & 1) + 16]
            value, shift, which = out[SUPER * b + 16 * g :], np.int32((g & 7) // 2 * 2), np.int32(g // 2)
            for i in range(16):
                third = ((np.int32(bit[i]) >> which) & np.int32(1)) << np.int32(2)
                value[i] = scale * np.float32((((np.int32(pair[i]) >> shift) & np.int32(3)) | third) - np.int32(4))


@kernel
def _numbers_of(subs: Any, g: int) -> Any:
    """Sub-scale and sub-minimum of group g from the 12 bytes of q4_k and q5_k."""
    if g < 4:
        return subs[g] & np.uint8(63), subs[g + 4] & np.uint8(63)
    low = np.uint8(subs[g + 4] & np.uint8(15)) | np.uint8((subs[g - 4] >> np.uint8(6)) << np.uint8(4))
    return low, np.uint8(subs[g + 4] >> np.uint8(4)) | np.uint8((subs[g] >> np.uint8(6)) << np.uint8(4))


@kernel
def _decode_q4(blocks: Any, heads: Any, out: Any) -> None:
    for b in range(blocks.shape[0]):
        for g in range(8):
            sub, minimum = _numbers_of(blocks[b, 4:16], g)
            scale, low = heads[b, 0] * np.float32(sub), heads[b, 1] * np.float32(minimum)
            nibbles, value = blocks[b, 16 + 32 * (g // 2) : 48 + 32 * (g // 2)], out[SUPER * b + 32 * g :]
            shift = np.uint8(4 * (g & 1))
            for i in range(32):
                value[i] = scale * np.float32(np.uint8(nibbles[i] >> shift) & np.uint8(15)) - low


@kernel
def _decode_q5(blocks: Any, heads: Any, out: Any) -> None:
    for b in range(blocks.shape[0]):
        for g in range(8):
            sub, minimum = _numbers_of(blocks[b, 4:16], g)
            scale, low = heads[b, 0] * np.float32(sub), heads[b, 1] * np.float32(minimum)
            nibbles, value = blocks[b, 48 + 32 * (g // 2) : 80 + 32 * (g // 2)], out[SUPER * b + 32 * g :]
            bits, shift, which = blocks[b, 16:48], np.int32(4 * (g & 1)), np.int32(g)
            for i in range(32):
                fifth = ((np.int32(bits[i]) >> which) & np.int32(1)) << np.int32(4)
                value[i] = scale * np.float32(((np.int32(nibbles[i]) >> shift) & np.int32(15)) | fifth) - low


#: How a type is decoded, bytes of its super-block, where its d (and dmin) begins.
DECODERS: dict[str, tuple[Any, int, int]] = {
    "q2_k": (_decode_q2, 84, 80),
    "q3_k": (_decode_q3, 110, 108),
    "q4_k": (_decode_q4, 144, 0),
    "q5_k": (_decode_q5, 176, 0),
}
