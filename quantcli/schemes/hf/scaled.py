"""Codes times scales: what the layouts of Hugging Face's quantizers share, whichever way each packs its codes.

    value = (code - zero) * scale     or     table[code] * scale          rounded to the dtype that the tool computes in

    which values share a scale          stored array
    tensor    all                       () or (1,)
    channel   a row                     (rows,) or (rows, 1)
    group     `columns` of a row        (rows, groups), or transposed (groups, rows); the last may be cut off
    block     `rows` x `columns`        (blocks of rows, blocks of columns), with axes of 1 behind both where its rank
                                        is 4; those at the edges may be cut off

Of stacked matrices (experts, rows, columns) each has its own: the array's first axis is theirs.

These layouts are read and copied; those that are written too go on in written.py. Each tool's file states its packing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from quantcli.arrays import FLOATS, Array, Device, nonfinite, numpy_dtype, to_float32
from quantcli.schemes.base import Codes, DoesNotFit, Grid, Parts, PartSpec, Scheme, stacked_rows
from quantcli.schemes.hf.minmax import rounded
from quantcli.schemes.ocp import E4M3, E8M0, holds_nonfinite

Floats = NDArray[np.float32]

#: The default group of most tools.
GROUP = 128
#: Rows and columns of a block of FP8 by default.
FP8_BLOCK = 128

#: A slab holds whole blocks of so many rows at most; scales that more rows share are read as one for each row.
MOST_ROWS = 256

#: Stored dtypes of scales that are powers of two, one byte: 2 ** (byte - 127), 255 is NaN.
POWERS = ("u8", "f8_e8m0")


@dataclass(frozen=True)
class Extra:
    """A stored array of a weight that does not affect its values: a tool's settings, a scale for inputs.

    It is copied if the layout is.
    """

    part: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Scales:
    """Which values share a scale, and how scales (and their zero points) are stored.

    rows: how many rows share one, None for all. columns: how many values of a row share one, None for all.
    rank: of the stored array. transposed: groups are its first axis. powers: all are powers of two, whatever the dtype.
    stacked: rows of each matrix of a stack, each with separate scales; 0 for one matrix. single: all matrices of a
    stack share one scale. each_row: there is an entry for each row, shared ones repeated.
    """

    dtype: str
    rows: int | None = 1
    columns: int | None = None
    rank: int = 2
    transposed: bool = False
    powers: bool = False
    stacked: int = 0
    single: bool = False
    each_row: bool = False

    def spec(self, shape: tuple[int, ...], dtype: str | None = None) -> PartSpec:
        """Return the spec of the array for a weight of this shape; dtype: of another array stored in the same way."""
        dtype = dtype or self.dtype
        if self.each_row:
            return PartSpec(dtype, (math.prod(shape[:-1]), self._groups(shape[-1])))
        if self.is_one:
            return PartSpec(dtype, (1,) * self.rank, axis=None)
        if self.stacked:
            return self._stacked_spec(shape, dtype)
        assert self.rows is not None
        blocks, groups = -(-shape[0] // self.rows), self._groups(shape[1])
        if self.rank == 1:
            return PartSpec(dtype, (blocks,), axis=1, rows=self.rows)
        if self.transposed:
            return PartSpec(dtype, (groups, blocks), axis=1, rows=self.rows)
        if self.rank == 4:
            return PartSpec(dtype, (blocks, 1, groups, 1), rows=self.rows, indices=groups)
        return PartSpec(dtype, (blocks, groups), rows=self.rows)

    def _groups(self, columns: int) -> int:
        return -(-columns // (self.columns or columns))

    @property
    def is_one(self) -> bool:
        """Whether all values share one scale."""
        return self.single or (self.rows is None and not self.stacked)

    @property
    def shared_rows(self) -> int:
        """Rows of one of the stacked matrices that share a scale."""
        return min(self.rows or self.stacked, self.stacked)

    def _stacked_spec(self, shape: tuple[int, ...], dtype: str) -> PartSpec:
        """The spec for stacked matrices. If their last blocks of rows are cut off, only whole matrices can be read."""
        blocks = -(-self.stacked // self.shared_rows)
        if self.rank == 1:
            return PartSpec(dtype, shape[:1], axis=1, rows=self.stacked)
        if self.rank == 2:  # scales of a matrix's blocks of rows, next to each other
            return PartSpec(dtype, (*shape[:-2], blocks), rows=self.stacked, block=self.shared_rows)
        stored = (*shape[:-2], blocks, self._groups(shape[-1]))
        if self.is_even:
            return PartSpec(dtype, stored, rows=self.shared_rows)
        return PartSpec(dtype, stored, rows=self.stacked, indices=blocks, block=self.shared_rows)

    @property
    def is_even(self) -> bool:
        """Whether blocks of rows fill each of the stacked matrices."""
        return not self.stacked or self.stacked % self.shared_rows == 0

    def spread(self, stored: Array, rows: int) -> Array:
        """Return a slab's stored array as (rows, groups), an entry for each row, in its dtype."""
        if self.each_row:
            return stored
        if self.is_one:
            return np.broadcast_to(stored.reshape(1, 1), (rows, 1))
        if self.stacked:
            stored = stored.reshape(-1, 1) if self.rank < 3 else stored
            index = stacked_rows(np.arange(rows), self.stacked, self.shared_rows)
            return stored if self.shared_rows == 1 else stored[index]
        if self.rank == 1:
            stored = stored.reshape(-1, 1)
        elif self.transposed:
            stored = np.ascontiguousarray(stored.T)
        shared = self.rows or 1
        if self.rank == 4:
            stored = stored.reshape(-(-rows // shared), -1)
        return stored if shared == 1 else np.repeat(stored, shared, axis=0)[:rows]

    @property
    def grid_dtype(self) -> str:
        """The dtype that holds these scales: as `Grid.scale_dtype`."""
        return "f8_e8m0" if self.powers or self.dtype in POWERS else self.dtype

    @property
    def suffix(self) -> str:
        """The end of a scheme's name.

        >>> [Scales("f32", *shared).suffix for shared in ((None, None), (1, None), (1, 64), (128, 128), (64, 128))]
        ['-tensor', '-channel', '-g64', '-block128', '-block64x128']
        >>> Scales("f32", 64, None, rank=3, stacked=128).suffix
        '-rows64'
        """
        if self.rows is None:
            return "-tensor"
        if self.rows > 1 and self.columns is None:
            return f"-rows{self.rows}"
        if self.rows == 1:
            return "-channel" if self.columns is None else f"-g{self.columns}"
        return f"-block{self.rows}" if self.rows == self.columns else f"-block{self.rows}x{self.columns}"


def floats(stored: Array) -> Floats:
    """Return stored scales as float32; bytes are E8M0."""
    if stored.dtype.itemsize == 1 and (stored.dtype.kind == "u" or stored.dtype.name == "float8_e8m0fnu"):
        return np.array((*E8M0[:255], np.nan), np.float32)[stored.view(np.uint8)]
    return to_float32(stored)


def divides(scales: Scales, shape: tuple[int, ...]) -> str | None:
    """Return why groups do not divide a weight's rows, as a clause; None if they do."""
    if scales.rows != 1 or scales.columns is None or shape[-1] % scales.columns == 0:
        return None
    return f"last axis {shape[-1]} is not a multiple of {scales.columns}"


def along(groups: Array, group: int, columns: int) -> Array:
    """Return (rows, columns) with every group's entry of (rows, groups) at each of its columns."""
    if groups.shape[1] == 1:
        return np.broadcast_to(groups, (len(groups), columns))
    return np.repeat(groups, group, axis=1)[:, :columns]


@dataclass(frozen=True, kw_only=True)
class Scaled(Scheme):
    """What the layouts have in common. A subclass packs codes and, if it has them, zero points.

    scales: which values share one. columns: of the weight. compute: the dtype that the tool computes in, None for
    float32; narrow_scales: it rounds scales to it before the product. ordered: column k belongs to group `g_idx[k]`
    (the part of that name), in no order: such codes are not a grid. extras: arrays that are copied with it.
    """

    family: str
    columns: int
    scales: Scales
    compute: str | None = None
    narrow_scales: bool = False
    ordered: bool = False
    extras: tuple[Extra, ...] = ()
    kept_in = ("hf",)

    #: Bits of a code, the values of codes (None: evenly spaced), the code that means 0 in every group (None: none).
    @property
    def code_bits(self) -> int:
        raise NotImplementedError

    @property
    def table(self) -> tuple[float, ...] | None:
        return None

    @property
    def zero(self) -> int | None:
        return None

    def unpack(self, parts: Parts) -> NDArray[np.uint8]:
        """Return the codes (rows, columns), contiguous."""
        raise NotImplementedError

    def zeros(self, parts: Parts, rows: int) -> Floats:
        """Return the zero points of codes without a table, float32, broadcastable to (rows, groups)."""
        return np.full((1, 1), self.zero, np.float32)

    def _held_zeros(self, parts: Parts, scales: Floats) -> Floats:
        """The zero points; raises `DoesNotFit` where settings say that there is one for all, and one is another.

        Where scales (rows, groups) are 0, so is every value, whatever the zero point.
        """
        zeros = self.zeros(parts, len(scales))
        if self.zero is not None and (odd := (zeros != self.zero) & (scales != 0)).any():
            other = np.broadcast_to(zeros, odd.shape)[odd][0]
            raise DoesNotFit(f"its settings say symmetric, but a zero point is {other:g} instead of {self.zero}")
        return zeros

    def packing(self, shape: tuple[int, ...]) -> dict[str, PartSpec]:
        """Return the parts that hold codes and zero points."""
        raise NotImplementedError

    def scales_spec(self, shape: tuple[int, ...]) -> PartSpec:
        """Return the spec of the scales."""
        return self.scales.spec(shape)

    def float_scales(self, parts: Parts, rows: int) -> Floats:
        """Return the scales, float32 (rows, groups), unrounded."""
        return self.scales.spread(floats(parts["scales"]), rows)

    def computed_scales(self, parts: Parts, rows: int) -> Floats:
        """Return the scales as the tool multiplies by them."""
        scales = self.float_scales(parts, rows)
        return rounded(scales, self.compute) if self.narrow_scales else scales

    @property
    def named_dtype(self) -> str:
        return self.scales.dtype

    @property
    def scales_dtype(self) -> str:
        return self.scales.grid_dtype

    @property
    def values_dtype(self) -> str:
        return self.compute or "f32"

    @property
    def rounding(self) -> float:
        if self.table is not None:
            return 0.0
        return even_rounding(self.code_bits, self.group if self.scales.rows else 1 << 20, self.zero is not None)

    def unfit(self, shape: tuple[int, ...]) -> str | None:
        if self.scales.stacked and (len(shape) != 3 or shape[1] != self.scales.stacked):
            return f"shape {list(shape)} is not a stack of matrices of {self.scales.stacked} rows"
        if not self.scales.stacked and len(shape) != 2:
            return f"{self.family}'s layout holds matrices, not {len(shape)}-D tensors"
        return None if shape[-1] == self.columns else f"expected rows of {self.columns} values, found {shape[-1]}"

    def layout(self, shape: tuple[int, ...]) -> dict[str, PartSpec]:
        parts = self.packing(shape) | {"scales": self.scales_spec(shape)}
        if self.ordered:
            parts["g_idx"] = PartSpec("i32", (self.columns,), axis=None)
        return parts | {extra.part: PartSpec(extra.dtype, extra.shape, axis=None) for extra in self.extras}

    def decode(self, parts: Parts, device: Device = Device.CPU) -> Floats:
        codes = self.unpack(parts)
        rows = len(codes)
        scales = self.computed_scales(parts, rows)
        if self.table is not None:
            values = np.asarray(self.table, np.float32)[codes]
        else:
            values = codes.astype(np.float32)
            self._by_group(np.subtract, values, self.zeros(parts, rows), parts)
        with np.errstate(over="ignore", invalid="ignore"):
            values = self.scaled(values, scales, parts)
        return rounded(values, self.compute)

    def scaled(self, values: Floats, scales: Floats, parts: Parts) -> Floats:
        """Multiply float32 values by the scales of their groups, possibly in place."""
        self._by_group(np.multiply, values, scales, parts)
        return values

    def _by_group(self, operate: np.ufunc, values: Floats, groups: Floats, parts: Parts) -> None:
        """Each value with its group's entry, in place; where groups fill rows, without an entry for each value."""
        if self.ordered or self.columns % self.group:
            operate(values, self._placed(groups, parts), out=values)
            return
        grouped = values.reshape(len(values), -1, self.group)
        operate(grouped, groups[:, :, None], out=grouped)

    def _placed(self, groups: Floats, parts: Parts) -> Floats:
        """Each group's entry at its columns."""
        if self.ordered and groups.shape[1] > 1:
            return groups[:, parts["g_idx"].reshape(-1)]
        return along(groups, self.group, self.columns)

    @property
    def fixed_group(self) -> int | None:
        return self.scales.columns

    @property
    def group(self) -> int:
        """Values that share a scale; the row's length if all of a row do."""
        return self.fixed_group or self.columns

    @property
    def group_size(self) -> int:
        return self.group

    def nonfinite(self, part: str, array: Array) -> bool:
        if part == self.codes_part and self.table is not None:
            return holds_nonfinite(array.view(np.uint8), self.table)
        if part == "scales" and self.scales.dtype in POWERS:
            return holds_nonfinite(array.view(np.uint8), E8M0)
        if part == "scales" and self.scales.dtype == "f8_e4m3":
            return holds_nonfinite(array.view(np.uint8), E4M3)
        return array.dtype.name in _FLOAT_NAMES and nonfinite(array)

    def grid(self) -> Grid | None:
        if self.ordered:
            return None
        points = self.table is None and self.zero is None
        zero = self.zero if self.table is None else None
        return Grid(self.code_bits, self._whole, self.scales_dtype, zero, self.table, points)

    @property
    def _whole(self) -> int:
        """The largest group that fills rows: where the last one is cut off, a part of them all."""
        return math.gcd(self.group, self.columns)

    @property
    def is_ungrouped(self) -> bool:
        return self.grid() is None

    def codes(self, parts: Parts) -> Codes:
        grid, codes = self.grid(), self.unpack(parts)
        assert grid is not None
        scales = np.ascontiguousarray(self.float_scales(parts, len(codes)))
        biases = None if self.table is not None else -self._held_zeros(parts, scales) * scales
        return Codes(grid, codes, self._filled(scales), None if biases is None else self._filled(biases))

    def _filled(self, groups: Floats) -> Floats:
        """(rows, groups) as (rows, groups of the grid)."""
        if self._whole == self.group:
            return groups
        return np.repeat(groups, self.group // self._whole, axis=1)[:, : self.columns // self._whole]

    def bare(self) -> Scheme:
        return replace(self, extras=()) if self.extras else self

    def by_row(self, *, always: bool = False) -> Scheme | None:
        shared = self.scales
        if (
            shared.stacked
            and not shared.single
            and (shared.rows is None or shared.rows > MOST_ROWS or not shared.is_even or shared.rank == 2)
        ) or (always and not shared.stacked and shared.rows != 1 and shared.rank < 3):
            return replace(self, scales=replace(self.scales, each_row=True))
        return None


_FLOAT_NAMES = tuple(numpy_dtype(name).name if name != "bf16" else "bfloat16" for name in FLOATS)


def even_rounding(bits: int, count: int, symmetric: bool) -> float:
    """Return the relative RMSE of rounding a Gaussian to evenly spaced codes with the range of `count` values.

    The range is that between quantiles, and errors spread evenly over a step; on a symmetric grid the value that sets
    the scale is half a step beyond the last code, so its squared error is thrice that of others. For 3 bits and more,
    groups of 16 and more this is within 1.3 % of what compressed-tensors' encoder (minmax.py) makes of
    `numpy.random.default_rng(0).standard_normal((1024, 1024))`: 11.08 % for int4-g128, 10.06 % for uint4-g128.

    >>> round(even_rounding(4, 128, True), 3), round(even_rounding(4, 128, False), 3)
    (0.111, 0.101)
    """
    reach = NormalDist().inv_cdf(1 - (0.28 if symmetric else 0.56) / max(count, 2))
    squared = 1 + 2 / count if symmetric else 1.0
    return 2 * reach / float(2**bits - 1) * math.sqrt(squared / 12)
