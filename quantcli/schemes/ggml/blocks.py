"""GGML's block types: what all of them share.

A weight is one part, `blocks`: uint8, a row of n values is n / block_size blocks one after the other, and no block
reaches into the next row. Block sizes and bytes are those of containers/ggml_types.py. One file per kind of block, all
listed in `__init__.py`.

The reference meaning is ggml's own code (ggml-quants.c of llama.cpp): `decode` gives the float32 values of its
`to_float`, `encode` the bytes of its `quantize_row_*_ref`, as built for x86-64 without fused multiply-add. Both are the
same on MLX's CPU device. A GPU that rounds an operation otherwise, fuses two, or takes denormal numbers for 0 may
decode a value to one that differs in its last bit, or to 0 for a denormal; search.py states what it
may do to encoded blocks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from quantcli.arrays import Array, Device, from_mlx, to_float32, to_mlx
from quantcli.containers.ggml_types import BY_NAME, GgmlType, has_nonfinite_scale, row_bytes
from quantcli.kernels.compiling import on_behalf_of
from quantcli.schemes.base import DoesNotFit, Error, Importance, Overflows, Parts, PartSpec, Scheme, matrix_shape

if TYPE_CHECKING:
    import mlx.core as mx

#: The largest finite f16; from 65520 on a float rounds to infinity.
F16_LARGEST, F16_OVERFLOW = 65504, 65520

Blocks = NDArray[np.uint8]
#: Numbers that groups of a block store.
Subs = NDArray[np.int16] | NDArray[np.uint8]
#: Squared error, squared values, largest error, largest scale that overflows f16 (0: none).
Sums = NDArray[np.float64]


class BetterSearch(Protocol):
    """A search for blocks that are nearer to the values than ggml's (best.py)."""

    def improve(self, values: Array, importance: Importance | None, blocks: Blocks) -> Blocks:
        """Return ggml's blocks of a slab (rows, bytes) with nearer ones in place of some.

        importance: (1 or rows, columns).
        """


@dataclass(frozen=True)
class Ggml(Scheme):
    """A GGML type; subclasses read and write its blocks.

    Blocks are passed as uint8 (rows, bytes per row) on the CPU and as (blocks, bytes per block) in MLX.
    """

    type: str
    family = "ggml"
    kept_in = ("gguf",)
    takes_importance = True
    in_arrays = True
    #: Values that are encoded at a time on an MLX device.
    at_once: ClassVar[int] = 1 << 20

    @property
    def name(self) -> str:
        return self.type

    @property
    def ggml_type(self) -> GgmlType:
        """The type's id, block size and bytes."""
        return BY_NAME[self.type]

    @property
    def group(self) -> int:
        """Values that share a scale."""
        grid = self.grid()
        return self.ggml_type.block_size if grid is None else grid.group

    @property
    def better(self) -> BetterSearch | None:
        """The search of `--search best` for blocks that are nearer than ggml's; None if there is none."""
        return None

    @property
    def better_search(self) -> bool:
        return self.better is not None

    @property
    def repacked_scale_dtype(self) -> str | None:
        """f16, in which scales are stored; products of two scales would need f32, at 6 bits per weight instead of 5."""
        return None if self.grid() is None else "f16"

    @property
    def stored_block(self) -> tuple[int, int]:
        return self.ggml_type.block_size, self.ggml_type.block_bytes

    @property
    def fixed_group(self) -> int:
        return self.group

    @property
    def possible_scales(self) -> tuple[str, ...]:
        subs = self.ggml_type.sub_scales
        return super().possible_scales if subs is None else (f"{subs}*f16",)

    def nonfinite(self, part: str, array: Array) -> bool:
        return has_nonfinite_scale(self.ggml_type, array)

    def unit(self, part: str) -> int:
        return self.ggml_type.block_bytes

    def unfit(self, shape: tuple[int, ...]) -> str | None:
        columns, size = matrix_shape(shape)[1], self.ggml_type.block_size
        return f"last axis {columns} is not a multiple of {size}" if columns % size else None

    def layout(self, shape: tuple[int, ...]) -> dict[str, PartSpec]:
        return {"blocks": PartSpec("u8", (*shape[:-1], row_bytes(self.ggml_type, matrix_shape(shape)[1])))}

    def decode(self, parts: Parts, device: Device = Device.CPU) -> NDArray[np.float32]:
        blocks = parts["blocks"]
        if device is Device.CPU or not blocks.size:
            with on_behalf_of(self.name):
                return self._decode_cpu(blocks)
        values = self._decode_mlx(to_mlx(np.ascontiguousarray(blocks).reshape(-1, self.ggml_type.block_bytes)))
        return from_mlx(values).reshape(blocks.shape[0], -1)

    def encode(
        self,
        values: Array,
        device: Device = Device.CPU,
        importance: Importance | None = None,
        search: str = "ggml",
    ) -> tuple[Parts, Error]:
        reason = self.unfit(values.shape)
        if reason is not None:
            raise DoesNotFit(reason)
        on_cpu = device is Device.CPU or not values.size
        with on_behalf_of(self.name):
            blocks, sums = self._encode_cpu(values, importance) if on_cpu else self._encode_on_mlx(values, importance)
        error = Error(*(float(s) for s in sums[:3]))
        if sums[3] > 0 and math.isfinite(error.reference):
            raise Overflows(
                f"a block's scale or minimum of {sums[3]:g} exceeds the largest value of f16, {F16_LARGEST}"
            )
        parts: Parts = {"blocks": blocks}
        if search == "ggml" or (better := self.better) is None:
            return parts, error
        parts = {"blocks": better.improve(values, importance, blocks)}
        return parts, Error.between(to_float32(values), self.decode(parts))

    def assembled(self, codes: Blocks, subs: Subs, block_scales: NDArray[np.float32] | None) -> Blocks:
        """Return blocks, uint8 (n, bytes), of codes, uint8 (n, size), and the scales of groups and blocks.

        subs: (n, groups, 2), sub-block scales and minima as whole multiples of those of the super-block; for scales
        from a table (n, groups, 1), their bytes. block_scales: float32 (n, 2), scale and minimum of a block, each an
        f16; None for scales from a table. Only types whose `better` search finds these implement it.
        """
        raise NotImplementedError

    def _encode_on_mlx(self, values: Array, importance: Importance | None) -> tuple[Blocks, Sums]:
        """Encode some rows at a time, `at_once` values: temporaries stay small."""
        step, parts, sums = max(1, self.at_once // values.shape[1]), [], []
        for start in range(0, len(values), step):
            some = slice(start, start + step)
            weights = importance if importance is None or len(importance) == 1 else importance[some]
            blocks, measured = self._encode_piece(values[some], weights)
            parts.append(blocks)
            sums.append(measured)
        each = np.stack(sums)
        return np.concatenate(parts), np.concatenate([each[:, :2].sum(axis=0), each[:, 2:].max(axis=0)])

    def _encode_piece(self, values: Array, importance: Importance | None) -> tuple[Blocks, Sums]:
        import mlx.core as mx

        size = self.ggml_type.block_size
        narrow = to_float32(values) if values.dtype == np.float64 else values
        x = to_mlx(np.ascontiguousarray(narrow).reshape(-1, size)).astype(mx.float32)
        weights = None
        if importance is not None:
            weights = to_mlx(np.ascontiguousarray(np.broadcast_to(importance, values.shape)).reshape(-1, size))
        blocks, scales = self._encode_mlx(x, weights, values.shape[1] // size)
        sums = np.zeros(4, np.float64)
        sums[:3] = measure_mlx(x, self._decode_mlx(blocks))
        magnitudes = np.abs(from_mlx(scales))
        sums[3] = magnitudes.max(where=magnitudes >= F16_OVERFLOW, initial=0)
        return from_mlx(blocks).reshape(values.shape[0], -1), sums

    def _decode_cpu(self, blocks: Blocks) -> NDArray[np.float32]:
        raise NotImplementedError

    def _decode_mlx(self, blocks: mx.array) -> mx.array:
        """float32 (blocks, block size) of uint8 (blocks, bytes per block)."""
        raise NotImplementedError

    def _encode_cpu(self, values: Array, importance: Importance | None) -> tuple[Blocks, Sums]:
        raise NotImplementedError

    def _encode_mlx(self, x: mx.array, importance: mx.array | None, row_blocks: int) -> tuple[mx.array, mx.array]:
        """Blocks of float32 (blocks, block size), and their scales (and minima) before they are rounded to f16.

        importance: as x, or None. row_blocks: how many consecutive blocks are one row.
        """
        raise NotImplementedError


def measure_mlx(x: mx.array, decoded: mx.array) -> tuple[float, float, float]:
    """Return squared error, squared values and largest error of float32 blocks (n, size).

    Each block is divided by its largest magnitude before it is summed, so that squares stay in float32's range; blocks
    are added up in float64.
    """
    import mlx.core as mx

    if x.size == 0:
        return 0.0, 0.0, 0.0
    peak = mx.max(mx.abs(x), axis=1, keepdims=True)
    unit = mx.where(peak == 0, 1.0, peak)
    off = decoded - x
    sums = [mx.sum(mx.square(part / unit), axis=1) for part in (off, x)]
    squares = np.square(from_mlx(unit).reshape(-1).astype(np.float64))
    squared, reference = (float((from_mlx(part).astype(np.float64) * squares).sum()) for part in sums)
    largest = from_mlx(mx.max(mx.abs(off)))
    return squared, reference, float(largest)


def read_f16(blocks: Any, at: int, count: int, xp: Any) -> Any:
    """Return the f16 numbers from byte `at` of each block as float32 (blocks, count); `xp` is numpy or mlx.core."""
    part = blocks[:, at : at + 2 * count]
    contiguous = np.ascontiguousarray(part) if xp is np else xp.contiguous(part)
    return contiguous.view(xp.float16).astype(xp.float32)


def f16_bytes(values: Any, xp: Any) -> Any:
    """Return float32 (blocks, count), rounded to f16, as uint8 (blocks, 2 * count); `xp` is numpy or mlx.core."""
    return values.astype(xp.float16).view(xp.uint8)


def round_to_f16(values: NDArray[np.float32], what: str) -> NDArray[np.float16]:
    """Round half to even. Raises `DoesNotFit` where a value is not finite or overflows."""
    if not np.isfinite(values).all():
        raise DoesNotFit(f"a {what} is NaN or infinite")
    with np.errstate(over="ignore"):
        narrow = values.astype(np.float16)
    if not np.isfinite(narrow).all():
        raise Overflows(f"a {what} of {np.abs(values).max():g} exceeds the largest value of f16, {F16_LARGEST}")
    return narrow
