"""GGML's `q2_k q3_k q4_k q5_k` on the CPU: from codes, sub-scales and scales to super-blocks.

Layouts are drawn in schemes/ggml/k_quants.py, whose `pack` is the same as array operations. All kernels are `inner`:
they only cut arrays, which for them need not be counted.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantcli.kernels.compile import inner
from quantcli.kernels.ggml.k_quants.encode import Encoded

#: Bytes of a super-block; where its lower bits, its highest bits, its sub-scales and its d begin (-1: none).
PLACES = {
    "q2_k": (84, 16, -1, 0, 80),
    "q3_k": (110, 32, 0, 96, 108),
    "q4_k": (144, 16, -1, 4, 0),
    "q5_k": (176, 48, 16, 4, 0),
}
#: Bytes that hold the same bits of codes lie this many apart. Kernels are given it, as LLVM unrolls loops that it knows
#: to be short and then no longer vectorises them.
RUN = 32


def pack(name: str, found: Encoded) -> NDArray[np.uint8]:
    """uint8 (blocks, bytes)."""
    size, low, high, subs, d = PLACES[name]
    blocks = np.empty((len(found.codes), size), np.uint8)
    blocks[:, d : d + found.block_scales.shape[1]] = found.block_scales
    width = 2 if name in ("q2_k", "q3_k") else 4
    _pack_codes(found.codes, blocks, width, low, high, RUN)
    {"q2_k": _pack_q2, "q3_k": _pack_q3}.get(name, _pack_q4)(found.subs, blocks, subs)
    return blocks


@inner
def _pack_codes(codes: Any, blocks: Any, width: int, low: int, high: int, run: int) -> None:
    for b in range(codes.shape[0]):
        code, block = codes[b], blocks[b]
        if width == 2:
            _pairs(code[:128], block[low : low + 32], run)
            _pairs(code[128:], block[low + 32 : low + 64], run)
        else:
            for k in range(4):
                _nibbles(code[64 * k : 64 * k + 64], block[low + 32 * k : low + 32 * k + 32], run)
        if high >= 0:
            _highest(code, block[high : high + 32], width, run)


@inner
def _pairs(code: Any, out: Any, run: int) -> None:
    for j in range(run):
        lower = np.uint8(
            np.uint8(code[j] & np.uint8(3)) | np.uint8(np.uint8(code[j + 32] & np.uint8(3)) << np.uint8(2))
        )
        upper = np.uint8(
            np.uint8(code[j + 64] & np.uint8(3)) | np.uint8(np.uint8(code[j + 96] & np.uint8(3)) << np.uint8(2))
        )
        out[j] = np.uint8(lower | np.uint8(upper << np.uint8(4)))


@inner
def _nibbles(code: Any, out: Any, run: int) -> None:
    for j in range(run):
        out[j] = np.uint8(np.uint8(code[j] & np.uint8(15)) | np.uint8(code[j + 32] << np.uint8(4)))


@inner
def _highest(code: Any, out: Any, width: int, run: int) -> None:
    """The bit above `width` lower ones, of eight codes each."""
    for j in range(run):
        out[j] = np.uint8(0)
    for k in range(8):
        for j in range(run):
            bit = np.uint8(np.uint8(code[32 * k + j] >> np.uint8(width)) & np.uint8(1))
            out[j] |= np.uint8(bit << np.uint8(k))


@inner
def _pack_q2(subs: Any, blocks: Any, at: int) -> None:
    for b in range(blocks.shape[0]):
        for g in range(16):
            blocks[b, at + g] = subs[b, g, 0] | subs[b, g, 1] << np.uint8(4)


@inner
def _pack_q3(subs: Any, blocks: Any, at: int) -> None:
    low, pair = np.uint8(15), np.uint8(4)
    for b in range(blocks.shape[0]):
        sub, out = subs[b, :, 0], blocks[b, at : at + 12]
        for g in range(8):
            out[g] = sub[g] & low | (sub[g + 8] & low) << pair
        for g in range(4):
            first = sub[g] >> pair | sub[g + 4] >> pair << np.uint8(2)
            out[8 + g] = first | sub[g + 8] >> pair << pair | sub[g + 12] >> pair << np.uint8(6)


@inner
def _pack_q4(subs: Any, blocks: Any, at: int) -> None:
    low, six, pair = np.uint8(15), np.uint8(63), np.uint8(4)
    for b in range(blocks.shape[0]):
        sub, out = subs[b], blocks[b, at : at + 12]
        for g in range(4):
            for which in range(2):
                out[4 * which + g] = sub[g, which] & six | sub[g + 4, which] >> pair << np.uint8(6)
            out[8 + g] = sub[g + 4, 0] & low | (sub[g + 4, 1] & low) << pair
