"""The quantizers' layouts written bit by bit, each after its own tool's description: what readers are held to.

Every function takes codes (rows, columns) with scales and zero points (rows, groups), and gives the arrays that the
tool stores for a module, by their suffixes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

Arrays = dict[str, np.ndarray]
BF16, F8 = np.dtype(ml_dtypes.bfloat16), np.dtype(ml_dtypes.float8_e4m3fn)
PLANES = {3: (2, 1), 5: (4, 1), 6: (4, 2), 7: (4, 2, 1)}
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def stream(codes: np.ndarray, bits: int) -> np.ndarray:
    """i32 words of rows of codes, lowest bit first, the last word padded."""
    each = np.ascontiguousarray(codes, np.uint8)[..., None] >> np.arange(bits, dtype=np.uint8) & 1
    flat = each.reshape(len(codes), -1)
    flat = np.pad(flat, ((0, 0), (0, -flat.shape[1] % 32)))
    return np.packbits(flat, axis=1, bitorder="little").view("<i4")


def padded(codes: np.ndarray, bits: int) -> np.ndarray:
    """i32 words of 32 // bits whole codes each."""
    together = 32 // bits
    wide = np.pad(codes.astype(np.uint32), ((0, 0), (0, -codes.shape[1] % together)))
    wide = wide.reshape(len(codes), -1, together) << np.arange(together, dtype=np.uint32) * np.uint32(bits)
    return wide.sum(axis=2, dtype=np.uint32).view(np.int32)


def planar(codes: np.ndarray, bits: int) -> np.ndarray:
    """i32 words of 32 codes at a time, the low bits of all before the next ones."""
    words = []
    for start in range(0, codes.shape[1], 32):
        at = 0
        for width in PLANES[bits]:
            words.append(stream(codes[:, start : start + 32] >> at & (1 << width) - 1, width))
            at += width
    return np.concatenate(words, axis=1)


@dataclass(frozen=True)
class Grid:
    """Random codes of a matrix with its scales and zero points; `values` is what they mean, exact in float32."""

    codes: np.ndarray
    scales: np.ndarray
    zeros: np.ndarray
    group: int

    @property
    def values(self) -> np.ndarray:
        columns = self.codes.shape[1]
        scales, zeros = (
            np.repeat(part.astype(np.float64), self.group, axis=1)[:, :columns] for part in (self.scales, self.zeros)
        )
        return ((self.codes - zeros) * scales).astype(np.float32)


def random_grid(
    shape: tuple[int, int], bits: int, group: int, symmetric: bool, dtype: Any = np.float16, seed: int = 0
) -> Grid:
    """Codes of all bits; zero points from 0 to the largest code, or all the middle. group: -1 for whole rows."""
    random = np.random.default_rng([seed, bits, *shape])
    group = shape[1] if group == -1 else group
    groups = (shape[0], -(-shape[1] // group))
    zeros = np.full(groups, 1 << bits - 1) if symmetric else random.integers(0, 1 << bits, groups)
    scales = (random.uniform(0.5, 2, groups) * 0.1 / (1 << bits)).astype(dtype)
    return Grid(random.integers(0, 1 << bits, shape), scales, zeros, group)


def gptq(grid: Grid, bits: int, layout: str) -> Arrays:
    """GPTQModel's: inputs run down the words; version 1 stores zero points less one."""
    pack = planar if layout == "gptq_p" and bits in PLANES else stream
    zeros = grid.zeros.T
    if layout == "gptq" and bits == 3:
        stored = pack(zeros - 1 & 7, bits)
    else:
        less = np.uint32(0xFFFFFFFF // ((1 << bits) - 1)) if layout == "gptq" else np.uint32(0)
        stored = (pack(zeros, bits).view(np.uint32) - less).view(np.int32)
    return {
        ".qweight": np.ascontiguousarray(pack(grid.codes, bits).T), ".qzeros": stored,
        ".scales": np.ascontiguousarray(grid.scales.T),
        ".g_idx": np.arange(grid.codes.shape[1], dtype=np.int32) // np.int32(grid.group),
    }  # fmt: skip


def compressed(grid: Grid, bits: int, pack: Callable[[np.ndarray, int], np.ndarray], symmetric: bool) -> Arrays:
    """compressed-tensors' pack-quantized."""
    made = {
        ".weight_packed": pack(grid.codes, bits), ".weight_scale": grid.scales,
        ".weight_shape": np.array(grid.codes.shape, np.int64),
    }  # fmt: skip
    if not symmetric:
        made[".weight_zero_point"] = np.ascontiguousarray(pack(grid.zeros.T, bits).T)
    return made


def bytewise(grid: Grid, bits: int, symmetric: bool) -> Arrays:
    """compressed-tensors' int-quantized: integers around 0, a byte each."""
    middle = 1 << bits - 1
    made = {".weight": (grid.codes - middle).astype(np.int8), ".weight_scale": grid.scales}
    return made if symmetric else {**made, ".weight_zero_point": (grid.zeros - middle).astype(np.int8)}


def awq(grid: Grid) -> Arrays:
    """AutoAWQ's GEMM: outputs run along the words, eight in AWQ_ORDER."""

    def words(codes: np.ndarray) -> np.ndarray:
        eights = codes.reshape(len(codes), -1, 8)[:, :, AWQ_ORDER]
        return stream(eights.reshape(codes.shape), 4)

    scales = np.ascontiguousarray(grid.scales.T)
    return {".qweight": words(grid.codes.T), ".qzeros": words(grid.zeros.T), ".scales": scales}


def fp8(values: np.ndarray, block: tuple[int, int]) -> tuple[Arrays, np.ndarray]:
    """DeepSeek's blocks, those at the edges cut off; the arrays and what they mean in bfloat16."""
    rows, columns = values.shape
    scales = np.empty((-(-rows // block[0]), -(-columns // block[1])), np.float32)
    codes, meant = np.empty(values.shape, F8), np.empty(values.shape, np.float32)
    for i in range(scales.shape[0]):
        for j in range(scales.shape[1]):
            at = np.s_[i * block[0] : (i + 1) * block[0], j * block[1] : (j + 1) * block[1]]
            scales[i, j] = np.abs(values[at]).max() / 448
            codes[at] = (values[at] / scales[i, j]).astype(F8)
            meant[at] = (codes[at].astype(np.float32) * scales[i, j]).astype(BF16).astype(np.float32)
    return {".weight": codes, ".weight_scale_inv": scales}, meant


def nvfp4(codes: np.ndarray, scales: np.ndarray, whole: np.float32, inputs: np.float32, tool: str) -> Arrays:
    """E2M1 codes (rows, columns), E4M3 scales (rows, columns / 16), a global scale that multiplies or, stored by
    compressed-tensors, divides; and one of the inputs.
    """
    packed = codes[:, 0::2] | codes[:, 1::2] << np.uint8(4)
    if tool == "modelopt":
        second = {".weight_scale_2": np.array(whole), ".input_scale": np.array(inputs)}
        return {".weight": packed, ".weight_scale": scales, **second}
    second = {".weight_global_scale": np.array([whole]), ".input_global_scale": np.array([inputs])}
    return {".weight_packed": packed, ".weight_scale": scales, **second}


def hqq(grid: Grid, bits: int, zeros: np.ndarray) -> Arrays:
    """HQQ's along rows: groups one below the other, in equal parts one over the other; `zeros` are fractional."""
    flat = grid.codes.reshape(-1, grid.group).astype(np.uint8)
    together = 8 // bits
    step = len(flat) // together
    stored = np.zeros((step, grid.group), np.uint8)
    for part in range(together):
        stored |= flat[part * step : (part + 1) * step] << np.uint8(bits * (together - 1 - part))
    settings: dict[str, Any] = {
        "nbits": bits, "group_size": grid.group, "axis": 1, "quant_scale": 0, "quant_zero": 0, "view_as_float": 0,
        "shape": list(grid.codes.shape), "packing": f"{bits}bit_u8", "compute_dtype": "torch.bfloat16",
    }  # fmt: skip

    def small(value: Any) -> np.ndarray:
        return np.frombuffer(value.encode(), np.uint8) if isinstance(value, str) else np.array(value, np.int32)

    made = {".W_q": stored, ".scale": grid.scales.reshape(-1, 1), ".zero": zeros.reshape(-1, 1)}
    return made | {f".{name}": small(value) for name, value in settings.items()}


def nf4(values: np.ndarray, block: int, table: np.ndarray) -> tuple[Arrays, np.ndarray]:
    """bitsandbytes' NF4: runs of `block` values through all rows; the arrays and what they mean in bfloat16."""
    flat = values.reshape(-1)
    runs = np.pad(flat, (0, -len(flat) % block)).reshape(-1, block)
    absmax = np.abs(runs).max(axis=1).astype(np.float32)
    codes = np.abs(runs[:, :, None] / absmax[:, None, None] - table).argmin(axis=2).reshape(-1)[: len(flat)]
    meant = (table[codes] * np.repeat(absmax, block)[: len(flat)]).astype(BF16).astype(np.float32)
    said = {"quant_type": "nf4", "blocksize": block, "dtype": "bfloat16", "shape": list(values.shape)}
    return {
        ".weight": (codes[0::2] << 4 | codes[1::2]).astype(np.uint8).reshape(-1, 1), ".weight.absmax": absmax,
        ".weight.quant_map": table,
        ".weight.quant_state.bitsandbytes__nf4": np.frombuffer(json.dumps(said).encode(), np.uint8),
    }, meant.reshape(values.shape)  # fmt: skip


def beside(module: str, arrays: Mapping[str, np.ndarray]) -> Arrays:
    """The arrays under their names."""
    return {module + suffix: array for suffix, array in arrays.items()}
