"""The centre: a stored weight seen as parts, as codes, as values.

    parts   the arrays as stored              {"weight": u32 (rows, words), "scales": ..., "biases": ...}
    codes   small integers on a grid          value = scales[g] * code + biases[g]   or   scales[g] * table[code]
    values  float32                           (rows, columns)

A `Scheme` is a number format with its parameters. All of its functions are pure and work on a *slab*: a range of a
weight's rows, seen as a matrix (leading axes flattened), so that a weight is never in memory as a whole.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from quantcli.arrays import DTYPES, Array, Device, nonfinite
from quantcli.schemes.facts import Facts

Parts = Mapping[str, Array]

#: How much each column of a weight matters: float32 (1, columns), or one row for each row of the slab.
Importance = NDArray[np.float32]


#: Whose choice among several possible encodings: their owner's, byte for byte, or one that is nearer to the values.
SEARCHES = ("ggml", "best")

#: Significant bits of a float dtype.
SIGNIFICANT_BITS = {"f32": 24, "f16": 11, "bf16": 8}

#: Values that are compared in one piece: a few float64 copies of them stay in a core's cache.
MEASURED_AT_ONCE = 1 << 15


class Grade(IntEnum):
    """What a route does to a weight's values; the larger the worse.

    EXACT        the same float32 values, where -0 counts as +0; of a repack those of its `Codes`
    CODES_EXACT  the same codes; scales or biases are rounded to the dtype that the target stores
    LOSSY        values are rounded onto another grid, or to a float dtype of less precision
    """

    EXACT = 0
    CODES_EXACT = 1
    LOSSY = 2

    def __str__(self) -> str:
        return self.name.lower().replace("_", "-")


class DoesNotFit(Exception):
    """Codes or values that a scheme cannot hold, with the reason as a clause (`a scale of 7e5 exceeds f16's
    65504`).
    """


class Overflows(DoesNotFit):
    """Values that another dtype of the scheme's scales, or of the dense weight, holds."""


@dataclass(frozen=True)
class PartSpec:
    """How one stored array of a weight is laid out.

    `axis` is the axis that runs along the weight's rows: `rows` rows of the weight are `indices` indices of it (AWQ
    packs 8 rows into one word along axis 1: rows=8, indices=1). None: the part cannot be cut by rows, and every slab
    gets all of it. A vector is a matrix of one row, so axis 1 runs along it. With axis 0 the part's leading axes (all
    but its last) are flattened as the weight's are. `block`: rows of one index if the last of the `indices` stands for
    fewer; 0 if all stand for as many.
    """

    dtype: str
    shape: tuple[int, ...]
    axis: int | None = 0
    rows: int = 1
    indices: int = 1
    block: int = 0


@dataclass(frozen=True)
class Grid:
    """The codes of a scheme, known from its parameters alone.

    `bits`: codes are 0 .. 2**bits - 1. `group`: values that share a scale, along the last axis. `table`: the value of
    each code if they are not evenly spaced, else None. `zero`: the code that means 0 in every group (symmetric
    grids), else None. `zero_points`: biases are -zero * scale with an integer zero for each group, unrounded; else
    they are stored floats. `scale_dtype`: the dtype that holds scales (and stored biases) without rounding.
    `scale_bits`: the most significant bits that a scale has, if they are fewer than that dtype's.
    """

    bits: int
    group: int
    scale_dtype: str
    zero: int | None = None
    table: tuple[float, ...] | None = None
    zero_points: bool = False
    scale_bits: int | None = None

    @property
    def exact_products(self) -> bool:
        """Whether float32 holds every scale * code, so that `scale * code + bias` is rounded once."""
        if self.table is not None:
            return False
        return (self.scale_bits or SIGNIFICANT_BITS.get(self.scale_dtype, 24)) + self.bits <= 24


@dataclass(frozen=True)
class Codes:
    """A slab seen on a grid: `codes` uint8 (rows, columns); `scales`, `biases` float32 (rows, columns / group).

    value = scales * code + biases, or scales * table[code] (then `biases` is None), or scales * (code - zero) of a
    symmetric grid: each operation rounded once.
    """

    grid: Grid
    codes: NDArray[np.uint8]
    scales: NDArray[np.float32]
    biases: NDArray[np.float32] | None

    def values(self) -> NDArray[np.float32]:
        """Return the values, float32 (rows, columns)."""
        group = self.grid.group
        scales = np.repeat(self.scales, group, axis=1)
        if self.grid.table is not None:
            return np.asarray(self.grid.table, np.float32)[self.codes] * scales
        if self.grid.zero is not None:
            return scales * (self.codes.astype(np.float32) - np.float32(self.grid.zero))
        assert self.biases is not None
        return scales * self.codes.astype(np.float32) + np.repeat(self.biases, group, axis=1)

    def rows(self, start: int, stop: int) -> Codes:
        """Return rows start..stop, not copied."""
        biases = None if self.biases is None else self.biases[start:stop]
        return Codes(self.grid, self.codes[start:stop], self.scales[start:stop], biases)

    def regrouped(self, group: int) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Return scales and biases for groups of another size: repeated, or merged where neighbours are equal.

        Raises `DoesNotFit` where neighbours differ.
        """
        scales = _regrouped(self.scales, self.grid.group, group, "scales")
        return scales, None if self.biases is None else _regrouped(self.biases, self.grid.group, group, "biases")


def _regrouped(parameters: NDArray[np.float32], own: int, group: int, what: str) -> NDArray[np.float32]:
    if own % group == 0:
        return parameters if own == group else np.repeat(parameters, own // group, axis=1)
    merged = parameters.reshape(parameters.shape[0], -1, group // own)
    if not (merged == merged[:, :, :1]).all():
        raise DoesNotFit(f"adjacent groups of {own} have different {what}")
    return np.ascontiguousarray(merged[:, :, 0])


@dataclass(frozen=True)
class Error:
    """How far encoded values are from the original ones: sums over a slab, to be added up.

    saturated: how many values beyond the largest of a format without scales became the largest.
    """

    squared: float = 0.0
    reference: float = 0.0
    largest: float = 0.0
    saturated: int = field(default=0, kw_only=True)

    def __add__(self, other: Error) -> Error:
        return Error(
            self.squared + other.squared,
            self.reference + other.reference,
            max(self.largest, other.largest),
            saturated=self.saturated + other.saturated,
        )

    @property
    def relative_rmse(self) -> float:
        """Root of (squared error / squared values); 0 where both are 0."""
        return math.sqrt(self.squared / self.reference) if self.reference > 0 else math.sqrt(self.squared)

    @staticmethod
    def between(values: Array, decoded: Array) -> Error:
        """Measure `decoded` against `values` in float64, a block at a time, so that temporaries stay in the cache."""
        total = Error()
        ours, theirs = values.reshape(-1), decoded.reshape(-1)
        for start in range(0, ours.size, MEASURED_AT_ONCE):
            wanted = ours[start : start + MEASURED_AT_ONCE].astype(np.float64)
            off = theirs[start : start + MEASURED_AT_ONCE].astype(np.float64) - wanted
            squared, reference = float(np.square(off).sum()), float(np.square(wanted).sum())
            total += Error(squared, reference, float(np.abs(off).max()))
        return total


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return (rows, columns) of a weight of any rank: leading axes flattened; a vector is one row, a scalar 1 x 1."""
    if not shape:
        return 1, 1
    return math.prod(shape[:-1]), shape[-1]


def stacked_rows(rows: NDArray[np.int64], each: int, shared: int) -> NDArray[np.int64]:
    """Return the block that each row is in, in a stack of matrices of `each` rows; a block has at most `shared` rows.

    >>> stacked_rows(np.arange(10), 5, 2).tolist()
    [0, 0, 1, 1, 2, 3, 3, 4, 4, 5]
    """
    return rows // each * -(-each // shared) + rows % each // shared


@dataclass(frozen=True)
class GlobalScale:
    """A second scale of a weight, which multiplies all of its scales.

    part: the part that holds it. without: the scheme of the weight if it had none. divides: it divides scales instead.
    unit: the stored number that leaves scales unchanged. each_row: there is an entry for each row.
    """

    part: str
    without: Scheme
    divides: bool = False
    unit: float = 1.0
    each_row: bool = False


class Scheme(Facts):
    """A number format with its parameters; subclasses are frozen dataclasses, equal only with equal families.

    Its arithmetic is here; `Facts` has everything else.

    name      as users spell it (`affine4-g64`);  family  whose storage layout it has (`mlx`, `ggml`, `awq`, `dense`)
    rounding  relative RMSE of encoding a Gaussian in it; 0.0 if nothing is rounded except to a dtype
    """

    @property
    def codes_part(self) -> str | None:
        """The part that holds codes and nothing else; None where codes and scales share a part."""
        return None

    @property
    def values_dtype(self) -> str:
        """The narrowest float dtype that holds every decoded value exactly."""
        return "f32"

    @property
    def values_dtypes(self) -> tuple[str, ...]:
        """The narrowest float dtypes, none of which holds another, that hold every decoded value exactly."""
        return (self.values_dtype,)

    @property
    def rounding(self) -> float:
        raise NotImplementedError

    def unfit(self, shape: tuple[int, ...]) -> str | None:
        """Why a weight of this shape cannot have this scheme, as a clause; None if it can."""
        raise NotImplementedError

    def unread(self, shape: tuple[int, ...]) -> str | None:
        """Why no stored weight of this shape has this scheme; tools may store shapes that are not written anew."""
        return self.unfit(shape)

    def layout(self, shape: tuple[int, ...]) -> dict[str, PartSpec]:
        """Return the parts of a weight of this shape, in a fixed order."""
        raise NotImplementedError

    def is_stored_as(self, found: Scheme, shape: tuple[int, ...]) -> bool:
        """Whether a weight of this shape that was written in this scheme may be read back as `found`."""
        return found.layout(shape) == self.layout(shape)

    def goes_with(self, other: Scheme) -> bool:
        """Whether one output may hold weights in both: an output has one family's layouts, and dense tensors."""
        return self.family == other.family

    def bare(self) -> Scheme:
        """Return the scheme without parts that do not affect the values; itself if there are none."""
        return self

    def by_row(self, *, always: bool = False) -> Scheme | None:
        """Return the scheme in which parts that cannot be cut by rows have an entry (rows, 1) for each row.

        always: also parts that can be cut between blocks of rows only. None if there are no such parts.
        """
        return None

    def decode(self, parts: Parts, device: Device = Device.CPU) -> NDArray[np.float32]:
        """Return the values of a slab, float32 (rows, columns): the reference meaning of the format."""
        raise NotImplementedError

    def grid(self) -> Grid | None:
        """Return the grid of this scheme's codes; None if it has none (dense)."""
        return None

    @property
    def code_bits(self) -> int | None:
        """Bits of a code; None if there is not a code for each value."""
        grid = self.grid()
        return None if grid is None else grid.bits

    @property
    def group_size(self) -> int | None:
        """Values of a row that share a scale, the row's length if all do; None if scales do not follow groups."""
        grid = self.grid()
        return None if grid is None else grid.group

    @property
    def fixed_group(self) -> int | None:
        """Values that share a scale, whatever the weight's shape; None for rows, whole weights, and without scales."""
        return self.group_size

    @property
    def possible_scales(self) -> tuple[str, ...]:
        """The dtypes that scales can have; two that are stored together are one, joined by `*`.

        The first is the one that sizes are counted with.
        """
        grid = self.grid()
        return () if grid is None else (grid.scale_dtype,)

    @property
    def global_scale(self) -> GlobalScale | None:
        """The scale for all of a weight, or of each expert, which is a separate tensor in GGUF; None without one."""
        return None

    @property
    def is_ungrouped(self) -> bool:
        """Whether it has no grid because scales do not follow groups along rows (act-order, runs across rows)."""
        return False

    def codes(self, parts: Parts) -> Codes:
        """Return the codes of a slab, scales unrounded. Only if `grid` is not None."""
        raise NotImplementedError

    def fits(self, grid: Grid, shape: tuple[int, ...]) -> Grade | str:
        """Return the worst grade at which this scheme holds codes of a grid, or why it cannot, as a clause.

        A scheme that is only read does not override `fits`, `pack` and `encode`.
        """
        return self._only_read()

    def may_fit(self, grid: Grid, shape: tuple[int, ...]) -> Grade | str:
        """Return the same as `fits` for scales and biases that suit this scheme; `pack` refuses others."""
        return self.fits(grid, shape)

    def with_scale_dtype(self, dtype: str) -> Scheme:
        """Return the scheme with scales of another dtype; itself if the format fixes their dtype."""
        return self

    @property
    def repacked_scale_dtype(self) -> str | None:
        """The dtype for scales of its codes in a scheme whose scale dtype users choose; None if it has no codes."""
        grid = self.grid()
        return None if grid is None else grid.scale_dtype

    @property
    def is_symmetric(self) -> bool:
        """Whether biases follow from scales, so that a grid with biases fits only if its biases do so too."""
        grid = self.grid()
        return grid is not None and grid.zero is not None

    def adapted(self, codes: Codes) -> Codes:
        """Return the same values as codes with this scheme's zero point, in the given groups, scales unrounded.

        They are what `pack` stores. Raises `DoesNotFit` if there are no such codes.
        """
        return codes

    def as_stored(self, codes: Codes) -> Codes:
        """Return `adapted` codes with the scales and biases that `pack` stores for them, in this scheme's groups.

        A scheme that overrides `may_fit` overrides `as_stored` too, and looks at scales and biases alone there: the
        planner calls it with codes that have no columns. Raises `DoesNotFit` as `pack` does.
        """
        return self.codes(self.pack(codes))

    def pack(self, codes: Codes) -> Parts:
        """Return the parts that hold these codes. Raises `DoesNotFit` (a scale out of range)."""
        raise NotImplementedError

    def parameters(self, parts: Parts) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
        """Return stored scales and biases, float32 (rows, groups), of `pack`'s codes; None: decode to compare."""
        return None

    def repack(self, codes: Codes) -> tuple[Parts, Error]:
        """Return `pack`'s parts, and how far their values are from those of the codes."""
        parts = self.pack(codes)
        stored = self.parameters(parts)
        if stored is not None and codes.biases is not None and codes.grid.exact_products:
            from quantcli.kernels import repack_error

            return parts, Error(*repack_error.between(codes.codes, (codes.scales, codes.biases), stored))
        return parts, self._decoded_error(codes, parts)

    def _decoded_error(self, codes: Codes, parts: Parts) -> Error:
        """Measure some rows at a time, so that temporaries stay small."""
        total, step = Error(), max(1, MEASURED_AT_ONCE // max(1, codes.codes.shape[1]))
        for start in range(0, len(codes.codes), step):
            some = {name: part[start : start + step] for name, part in parts.items()}
            total += Error.between(codes.rows(start, start + step).values(), self.decode(some))
        return total

    @property
    def looks(self) -> bool:
        """Whether `prepare` needs all of a weight's values, such as for a scale of the whole weight."""
        return False

    def prepare(self, shape: tuple[int, ...], slabs: Iterable[Array] = ()) -> Scheme:
        """Return the scheme that encodes or packs the slabs of one weight, with the parts that rows cannot cut.

        slabs: the weight's values in order, in the dtype that `encode` is given, for a scheme that `looks`; empty for
        a repack.
        """
        return self

    def encode(
        self,
        values: Array,
        device: Device = Device.CPU,
        importance: Importance | None = None,
        search: str = "ggml",
    ) -> tuple[Parts, Error]:
        """Round a slab onto this scheme; return its parts and the error.

        values: (rows, columns), any dtype of FLOATS, meant as float32.

        importance, search: for formats with several possible encodings (GGML's); the others ignore them.
        search: one of SEARCHES, whose encoding is written; `best` differs only if `better_search` is true.
        NaN or Inf among `values` gives a non-finite `Error.reference`. Raises `DoesNotFit` if a scale overflows.
        """
        raise TypeError(self._only_read())

    def _only_read(self) -> str:
        return f"{self.name} in {self.family}'s layout can be read but not written"

    def nonfinite(self, part: str, array: Array) -> bool:
        """Whether a range of a stored part holds NaN or Inf; a scheme that stores floats otherwise overrides this."""
        from quantcli.arrays import FLOATS, dtype_name

        return dtype_name(array.dtype) in FLOATS and nonfinite(array)

    def unit(self, part: str) -> int:
        """Return how many elements of a part `nonfinite` checks together: the bytes of a block, else one."""
        return 1

    def bits_per_weight(self, shape: tuple[int, ...]) -> float:
        """Return stored bits per element, scales and biases included."""
        bits = sum(DTYPES[spec.dtype].bits * math.prod(spec.shape) for spec in self.layout(shape).values())
        return bits / max(1, math.prod(shape))
