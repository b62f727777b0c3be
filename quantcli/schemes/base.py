"""The centre: a stored weight seen as parts, as codes, as values.

    parts   the arrays as stored              {"weight": u32 (rows, words), "scales": ..., "biases": ...}
    codes   small integers on a grid          value = scales[g] * code + biases[g]   or   scales[g] * table[code]
    values  float32                           (rows, columns)

A `Scheme` is a number format with its parameters. All of its functions are pure and work on a *slab*: a range of a
weight's rows, seen as a matrix (leading axes flattened), so that no weight has to be in memory whole.
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
    packs 8 rows into one word along axis 1: rows=8, indices=1). None: no row range cuts this part, it is then whole.
    A vector is a matrix of one row, so axis 1 runs along it. With axis 0 the part's leading axes (all but its last)
    are flattened as the weight's are. `block`: rows of one index where the last of the `indices` stands for fewer; 0
    where all stand for as many.
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
    each code where they are not evenly spaced, else None. `zero`: the code that means 0 in every group (symmetric
    grids), else None. `zero_points`: biases are -zero * scale of an integer zero of each group, unrounded; else they
    are floats of their own. `scale_dtype`: the dtype that holds scales (and biases of their own) without rounding.
    `scale_bits`: significant bits that a scale has at most, where they are fewer than that dtype's.
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
        """float32 (rows, columns)."""
        group = self.grid.group
        scales = np.repeat(self.scales, group, axis=1)
        if self.grid.table is not None:
            return np.asarray(self.grid.table, np.float32)[self.codes] * scales
        if self.grid.zero is not None:
            return scales * (self.codes.astype(np.float32) - np.float32(self.grid.zero))
        assert self.biases is not None
        return scales * self.codes.astype(np.float32) + np.repeat(self.biases, group, axis=1)

    def rows(self, start: int, stop: int) -> Codes:
        """Rows start..stop, not copied."""
        biases = None if self.biases is None else self.biases[start:stop]
        return Codes(self.grid, self.codes[start:stop], self.scales[start:stop], biases)

    def regrouped(self, group: int) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Scales and biases of groups of another size: repeated, or merged where neighbours have the same ones.

        Raises `DoesNotFit` where they have not.
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
    """How far encoded values are from what was to be encoded: sums over a slab, to be added up.

    saturated: values beyond the largest of a format without scales, which became that.
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
        """Of `decoded` against `values`, in float64, a block at a time: temporaries stay small, and in the cache."""
        total = Error()
        ours, theirs = values.reshape(-1), decoded.reshape(-1)
        for start in range(0, ours.size, MEASURED_AT_ONCE):
            wanted = ours[start : start + MEASURED_AT_ONCE].astype(np.float64)
            off = theirs[start : start + MEASURED_AT_ONCE].astype(np.float64) - wanted
            squared, reference = float(np.square(off).sum()), float(np.square(wanted).sum())
            total += Error(squared, reference, float(np.abs(off).max()))
        return total


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """(rows, columns) of a weight of any rank: leading axes flattened, a vector is one row, a scalar 1 x 1."""
    if not shape:
        return 1, 1
    return math.prod(shape[:-1]), shape[-1]


def stacked_rows(rows: NDArray[np.int64], each: int, shared: int) -> NDArray[np.int64]:
    """The block of rows that each row lies in, in a stack of matrices of `each` rows; a block has `shared` at most.

    >>> stacked_rows(np.arange(10), 5, 2).tolist()
    [0, 0, 1, 1, 2, 3, 3, 4, 4, 5]
    """
    return rows // each * -(-each // shared) + rows % each // shared


@dataclass(frozen=True)
class GlobalScale:
    """A second scale of a weight, which all of its scales are multiplied with.

    part: the part that holds it. without: the scheme of the weight that lacks it. divides: it divides scales. unit: the
    stored number that leaves scales as they are. each_row: there is an entry for each row.
    """

    part: str
    without: Scheme
    divides: bool = False
    unit: float = 1.0
    each_row: bool = False


class Scheme(Facts):
    """A number format with its parameters; subclasses are frozen dataclasses, equal only with equal families.

    Its arithmetic is here, what else there is to know of it in `Facts`.

    name      as users spell it (`affine4-g64`);  family  whose storage layout it has (`mlx`, `ggml`, `awq`, `dense`)
    rounding  relative RMSE of encoding a Gaussian in it; 0.0 where nothing is rounded beyond a dtype
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
        """Why no weight of this shape is stored so; a tool's files may hold shapes that nobody writes anew."""
        return self.unfit(shape)

    def layout(self, shape: tuple[int, ...]) -> dict[str, PartSpec]:
        """The parts of a weight of this shape, in a fixed order."""
        raise NotImplementedError

    def is_stored_as(self, found: Scheme, shape: tuple[int, ...]) -> bool:
        """Whether a weight of this shape that was written in this scheme may be read back as `found`."""
        return found.layout(shape) == self.layout(shape)

    def goes_with(self, other: Scheme) -> bool:
        """Whether one output may hold weights in both: it has the layouts of one family next to dense tensors."""
        return self.family == other.family

    def bare(self) -> Scheme:
        """The scheme without parts that have no say in the values; itself where there are none."""
        return self

    def by_row(self, *, always: bool = False) -> Scheme | None:
        """The scheme whose parts that no row range cuts have an entry (rows, 1) for each row; None where none has.

        always: those too that only ranges of whole blocks of rows cut.
        """
        return None

    def decode(self, parts: Parts, device: Device = Device.CPU) -> NDArray[np.float32]:
        """float32 (rows, columns): the reference meaning of the format."""
        raise NotImplementedError

    def grid(self) -> Grid | None:
        """The grid that this scheme's codes are on; None where it has none (dense)."""
        return None

    @property
    def code_bits(self) -> int | None:
        """Bits of a code; None where values have no codes of their own."""
        grid = self.grid()
        return None if grid is None else grid.bits

    @property
    def group_size(self) -> int | None:
        """Values of a row that share a scale, all of a row where it has one; None where codes follow no groups."""
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
        """The scale for all of a weight, or of each expert, which GGUF keeps in a tensor of its own; None without."""
        return None

    @property
    def is_ungrouped(self) -> bool:
        """Whether it has no grid because its scales follow no groups along rows (act-order, runs across rows)."""
        return False

    def codes(self, parts: Parts) -> Codes:
        """The grid view of a slab, scales unrounded. Only where `grid` is not None."""
        raise NotImplementedError

    def fits(self, grid: Grid, shape: tuple[int, ...]) -> Grade | str:
        """Can this scheme hold codes of that grid: the worst grade its formats allow, or the reason why not.

        A scheme that is only read has no `fits`, `pack` and `encode` of its own.
        """
        return self._only_read()

    def may_fit(self, grid: Grid, shape: tuple[int, ...]) -> Grade | str:
        """As `fits`, where it hangs on the scales and biases themselves: whether they fit is seen by `pack`."""
        return self.fits(grid, shape)

    def with_scale_dtype(self, dtype: str) -> Scheme:
        """The same with scales of another dtype; itself where the format fixes it."""
        return self

    @property
    def repacked_scale_dtype(self) -> str | None:
        """The dtype for scales of its codes in a scheme where users choose it; None where it has no codes."""
        grid = self.grid()
        return None if grid is None else grid.scale_dtype

    @property
    def is_symmetric(self) -> bool:
        """Whether biases follow from scales: such a scheme holds a grid with other biases where they happen to."""
        grid = self.grid()
        return grid is not None and grid.zero is not None

    def adapted(self, codes: Codes) -> Codes:
        """The codes, scales and biases that `pack` stores for these, unrounded and in the given groups: the same
        values, counted from this scheme's zero. Raises `DoesNotFit` where there are none.
        """
        return codes

    def as_stored(self, codes: Codes) -> Codes:
        """`adapted` codes with the scales and biases that `pack` stores for them, in this scheme's groups.

        A scheme that has a `may_fit` of its own has an `as_stored` of its own too, which looks at scales and biases
        alone: planning asks it with codes that have no columns. Raises `DoesNotFit` as `pack` does.
        """
        return self.codes(self.pack(codes))

    def pack(self, codes: Codes) -> Parts:
        """The parts that hold these codes; raises `DoesNotFit` (a scale out of range)."""
        raise NotImplementedError

    def parameters(self, parts: Parts) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
        """Scales and biases as stored, float32 (rows, groups), for `value = scale * code + bias` with the codes that
        `pack` was given; None where they are not at hand, and values have to be decoded to compare them.
        """
        return None

    def repack(self, codes: Codes) -> tuple[Parts, Error]:
        """`pack`, and how far the values that come out are from those of the codes."""
        parts = self.pack(codes)
        stored = self.parameters(parts)
        if stored is not None and codes.biases is not None and codes.grid.exact_products:
            from quantcli.kernels import repack_error

            return parts, Error(*repack_error.between(codes.codes, (codes.scales, codes.biases), stored))
        return parts, self._decoded_error(codes, parts)

    def _decoded_error(self, codes: Codes, parts: Parts) -> Error:
        """Some rows at a time, so that temporaries stay small."""
        total, step = Error(), max(1, MEASURED_AT_ONCE // max(1, codes.codes.shape[1]))
        for start in range(0, len(codes.codes), step):
            some = {name: part[start : start + step] for name, part in parts.items()}
            total += Error.between(codes.rows(start, start + step).values(), self.decode(some))
        return total

    @property
    def looks(self) -> bool:
        """Whether `prepare` has to see all of a weight's values: it has a scale for the whole of it, or the like."""
        return False

    def prepare(self, shape: tuple[int, ...], slabs: Iterable[Array] = ()) -> Scheme:
        """The scheme that encodes or packs the slabs of one weight, with the parts that no row range cuts.

        slabs: the weight's values in order, in the dtype that `encode` is given, of a scheme that `looks`; of a repack
        there are none.
        """
        return self

    def encode(
        self,
        values: Array,
        device: Device = Device.CPU,
        importance: Importance | None = None,
        search: str = "ggml",
    ) -> tuple[Parts, Error]:
        """Round a slab onto this scheme. `values`: (rows, columns), any dtype of FLOATS, meant as float32.

        importance, search: for formats with several possible encodings (GGML's); the others have no use for them.
        search: one of SEARCHES, whose encoding is written; `best` differs only where `better_search` is true.
        A NaN or Inf among `values` shows as a non-finite `Error.reference`; raises `DoesNotFit` where a scale
        overflows.
        """
        raise TypeError(self._only_read())

    def _only_read(self) -> str:
        return f"{self.name} in {self.family}'s layout can be read but not written"

    def nonfinite(self, part: str, array: Array) -> bool:
        """Whether some range of a stored part holds NaN or Inf; a scheme with floats of its own overrides this."""
        from quantcli.arrays import FLOATS, dtype_name

        return dtype_name(array.dtype) in FLOATS and nonfinite(array)

    def unit(self, part: str) -> int:
        """Elements of a stored part that `nonfinite` looks at together: the bytes of a block, else one."""
        return 1

    def bits_per_weight(self, shape: tuple[int, ...]) -> float:
        """Stored bits over elements, scales and biases included."""
        bits = sum(DTYPES[spec.dtype].bits * math.prod(spec.shape) for spec in self.layout(shape).values())
        return bits / max(1, math.prod(shape))
