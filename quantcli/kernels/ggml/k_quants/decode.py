"""GGML's `q2_k q3_k q4_k q5_k q6_k` on the CPU: ggml's float32 values.

Source: `dequantize_row_q*_K` in ggml-quants.c (llama.cpp), restated; layouts are drawn in schemes/ggml/k_quants.py and
q6_k.py there. Scales, minima and scale * code are exact in float32, so a value is rounded once, where the minimum is
subtracted.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantcli.kernels.compile import inlined, inner
from quantcli.kernels.float32 import ZERO
from quantcli.kernels.ggml.formats import SUPER
from quantcli.kernels.llvm.vectors import half, joined16, plain16


def decode(name: str, blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
    """float32 (rows, columns) of super-blocks (rows, bytes per row)."""
    run, size = DECODERS[name]
    out = np.empty((blocks.shape[0], blocks.shape[1] // size * SUPER), np.float32)
    run(np.ascontiguousarray(blocks).reshape(-1), out.reshape(-1))
    return out


@inner
def _decode_q2(data: Any, out: Any) -> None:
    for b in range(out.shape[0] // SUPER):
        at = 84 * b
        d, dmin = half(data, at + 80), half(data, at + 82)
        for k in range(2):
            _plane_of_q2(data, at, d, dmin, k, 0, out, SUPER * b)
            _plane_of_q2(data, at, d, dmin, k, 1, out, SUPER * b)
            _plane_of_q2(data, at, d, dmin, k, 2, out, SUPER * b)
            _plane_of_q2(data, at, d, dmin, k, 3, out, SUPER * b)


@inlined
def _plane_of_q2(data: Any, at: Any, d: Any, dmin: Any, k: Any, plane: Any, out: Any, to: Any) -> None:
    """32 codes of half k: two groups."""
    g = 8 * k + 2 * plane
    for j in range(2):
        sub = data[at + g + j]
        scale, low = d * np.float32(sub & np.uint8(15)), dmin * np.float32(sub >> np.uint8(4))
        plain16(data, at + 16 + 32 * k + 16 * j, 2 * plane, 3, 0, scale, low, out, to + 16 * (g + j))


@inner
def _decode_q3(data: Any, out: Any) -> None:
    for b in range(out.shape[0] // SUPER):
        d = half(data, 110 * b + 108)
        _half_of_q3(data, 110 * b, d, 0, out, SUPER * b)
        _half_of_q3(data, 110 * b, d, 1, out, SUPER * b)


@inlined
def _half_of_q3(data: Any, at: Any, d: Any, k: Any, out: Any, to: Any) -> None:
    _plane_of_q3(data, at, d, k, 0, out, to)
    _plane_of_q3(data, at, d, k, 1, out, to)
    _plane_of_q3(data, at, d, k, 2, out, to)
    _plane_of_q3(data, at, d, k, 3, out, to)


@inlined
def _plane_of_q3(data: Any, at: Any, d: Any, k: Any, plane: Any, out: Any, to: Any) -> None:
    """32 codes of half k: two groups."""
    for j in range(2):
        g = 8 * k + 2 * plane + j
        low = np.int32(data[at + 96 + g % 8]) >> np.int32(4 * k) & np.int32(15)
        upper = np.int32(data[at + 104 + g % 4]) >> np.int32(2 * (g // 4)) & np.int32(3)
        scale = d * np.float32((low | upper << np.int32(4)) - np.int32(32))
        pairs, bits = at + 32 + 32 * k + 16 * j, at + 16 * j
        joined16(data, pairs, 2 * plane, 3, bits, 4 * k + plane, 1, 2, 4, scale, ZERO, out, to + 16 * g)


@inlined
def _numbers_of(data: Any, at: Any, g: Any) -> Any:
    """Sub-scale and sub-minimum of group g from the 12 bytes of q4_k and q5_k."""
    if g < 4:
        return np.float32(data[at + g] & np.uint8(63)), np.float32(data[at + g + 4] & np.uint8(63))
    both = np.int32(data[at + g + 4])
    scale = (both & np.int32(15)) | np.int32(data[at + g - 4]) >> np.int32(6) << np.int32(4)
    return np.float32(scale), np.float32(both >> np.int32(4) | np.int32(data[at + g]) >> np.int32(6) << np.int32(4))


@inner
def _decode_q4(data: Any, out: Any) -> None:
    for b in range(out.shape[0] // SUPER):
        at = 144 * b
        d, dmin = half(data, at), half(data, at + 2)
        _quarter_of_q4(data, at, d, dmin, 0, out, SUPER * b)
        _quarter_of_q4(data, at, d, dmin, 1, out, SUPER * b)
        _quarter_of_q4(data, at, d, dmin, 2, out, SUPER * b)
        _quarter_of_q4(data, at, d, dmin, 3, out, SUPER * b)


@inlined
def _quarter_of_q4(data: Any, at: Any, d: Any, dmin: Any, k: Any, out: Any, to: Any) -> None:
    """64 codes: two groups."""
    nibbles = at + 16 + 32 * k
    for j in range(2):
        g = 2 * k + j
        sub, minimum = _numbers_of(data, at + 4, g)
        scale, low = d * sub, dmin * minimum
        plain16(data, nibbles, 4 * j, 15, 0, scale, low, out, to + 32 * g)
        plain16(data, nibbles + 16, 4 * j, 15, 0, scale, low, out, to + 32 * g + 16)


@inner
def _decode_q5(data: Any, out: Any) -> None:
    for b in range(out.shape[0] // SUPER):
        at = 176 * b
        d, dmin = half(data, at), half(data, at + 2)
        _quarter_of_q5(data, at, d, dmin, 0, out, SUPER * b)
        _quarter_of_q5(data, at, d, dmin, 1, out, SUPER * b)
        _quarter_of_q5(data, at, d, dmin, 2, out, SUPER * b)
        _quarter_of_q5(data, at, d, dmin, 3, out, SUPER * b)


@inlined
def _quarter_of_q5(data: Any, at: Any, d: Any, dmin: Any, k: Any, out: Any, to: Any) -> None:
    """64 codes: two groups."""
    nibbles = at + 48 + 32 * k
    for j in range(2):
        g = 2 * k + j
        sub, minimum = _numbers_of(data, at + 4, g)
        scale, low = d * sub, dmin * minimum
        joined16(data, nibbles, 4 * j, 15, at + 16, g, 1, 4, 0, scale, low, out, to + 32 * g)
        joined16(data, nibbles + 16, 4 * j, 15, at + 32, g, 1, 4, 0, scale, low, out, to + 32 * g + 16)


@inner
def _decode_q6(data: Any, out: Any) -> None:
    for b in range(out.shape[0] // SUPER):
        at = 210 * b
        d = half(data, at + 208)
        for k in range(2):
            _plane_of_q6(data, at, d, k, 0, out, SUPER * b)
            _plane_of_q6(data, at, d, k, 1, out, SUPER * b)
            _plane_of_q6(data, at, d, k, 2, out, SUPER * b)
            _plane_of_q6(data, at, d, k, 3, out, SUPER * b)


@inlined
def _plane_of_q6(data: Any, at: Any, d: Any, k: Any, plane: Any, out: Any, to: Any) -> None:
    """32 codes of half k: two groups."""
    for j in range(2):
        g = 8 * k + 2 * plane + j
        scale = d * np.float32(np.int8(data[at + 192 + g]))
        low, pairs = at + 64 * k + 32 * (plane % 2) + 16 * j, at + 128 + 32 * k + 16 * j
        joined16(data, low, plane // 2 * 4, 15, pairs, plane * 2, 3, 4, 32, scale, ZERO, out, to + 16 * g)


#: How a type is decoded, bytes of its super-block.
DECODERS: dict[str, tuple[Any, int]] = {
    "q2_k": (_decode_q2, 84),
    "q3_k": (_decode_q3, 110),
    "q4_k": (_decode_q4, 144),
    "q5_k": (_decode_q5, 176),
    "q6_k": (_decode_q6, 210),
}
