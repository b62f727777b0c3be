"""Weights made from other weights: some of their rows, several concatenated, or computed values.

    Joined    concatenated parts of several weights: stacked experts
    Spread    numbers that many rows share, repeated for each row: global scales of stacked experts
    Made      values computed block by block from rows of a weight: transposed, shifted, of another shape
    Moved     blocks of columns in another order, in their stored layout
    section   a range of rows as a separate weight: one of stacked experts

All of them are read like stored parts, a range of rows at a time. Data is read only when it is requested, and only the
requested rows and the blocks that contain them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quantcli.arrays import DTYPES, Array, numpy_dtype
from quantcli.checkpoint import Part, Readable, Weight
from quantcli.moved import Moved
from quantcli.schemes.base import Parts, PartSpec, matrix_shape, stacked_rows
from quantcli.schemes.dense import Dense

Rows = NDArray[np.int64]

#: Computes the values of a block of rows from those of another.
Compute = Callable[[NDArray[np.generic]], NDArray[np.generic]]

#: Rows whose distance is at most this are read together, with the rows between them.
NEAR = 8


@dataclass(frozen=True)
class Joined:
    """Parts concatenated along `axis` (0: their leading axes flattened)."""

    pieces: tuple[Readable, ...]
    shape: tuple[int, ...]
    axis: int = 0

    @property
    def name(self) -> str:
        return self.pieces[0].name

    @property
    def dtype(self) -> str:
        return self.pieces[0].dtype

    @property
    def file(self) -> Path:
        return self.pieces[0].file

    @property
    def nbytes(self) -> int:
        return sum(piece.nbytes for piece in self.pieces)

    @property
    def block(self) -> int:
        return max(piece.block for piece in self.pieces)

    @property
    def stored(self) -> bool:
        return self.axis == 0 and all(piece.stored for piece in self.pieces)

    def read(self, start: int = 0, stop: int | None = None, axis: int = 0) -> Array:
        lengths = [matrix_shape(piece.shape)[self.axis] for piece in self.pieces]
        if axis != self.axis:
            return np.concatenate([piece.read(start, stop, axis) for piece in self.pieces], axis=self.axis)
        end = sum(lengths) if stop is None else stop
        parts = [piece.read(low, high, axis) for piece, low, high in _overlaps(self.pieces, lengths, start, end)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=axis)

    def read_bytes(self, start: int, stop: int) -> Array:
        lengths = [piece.nbytes for piece in self.pieces]
        return np.concatenate(
            [p.read_bytes(low, high) for p, low, high in _overlaps(self.pieces, lengths, start, stop)]
        )

    def section(self, start: int, stop: int) -> Readable:
        lengths = [matrix_shape(piece.shape)[0] for piece in self.pieces]
        parts = [piece.section(low, high) for piece, low, high in _overlaps(self.pieces, lengths, start, stop)]
        return parts[0] if len(parts) == 1 else Joined(tuple(parts), (stop - start, self.shape[-1]))


def _overlaps(
    pieces: Sequence[Readable], lengths: Sequence[int], start: int, stop: int
) -> list[tuple[Readable, int, int]]:
    """Return the pieces that a range covers, each with the covered range in it; at least one."""
    overlaps, begin = [], 0
    for piece, length in zip(pieces, lengths, strict=True):
        low, high = max(start - begin, 0), min(stop - begin, length)
        if low < high:
            overlaps.append((piece, low, high))
        begin += length
    return overlaps or [(pieces[0], 0, 0)]


@dataclass(frozen=True)
class Spread:
    """The rows of `piece`, each repeated `times` times: a part of shape (rows, columns).

    each: rows of each stacked matrix, whose last row may be repeated fewer times; 0: not stacked. offset: the first row
    of this part, if it is a section.
    """

    piece: Readable
    times: int
    shape: tuple[int, ...]
    offset: int = 0
    each: int = 0
    stored = False
    block = 1

    @property
    def name(self) -> str:
        return self.piece.name

    @property
    def dtype(self) -> str:
        return self.piece.dtype

    @property
    def file(self) -> Path:
        return self.piece.file

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * DTYPES[self.dtype].bits // 8

    def read(self, start: int = 0, stop: int | None = None, axis: int = 0) -> Array:
        if axis == 1:
            return self.read()[:, start:stop]
        rows = np.arange(start, self.shape[0] if stop is None else stop) + self.offset
        return self.piece.read().reshape(-1, self.shape[1])[stacked_rows(rows, self.each or self.times, self.times)]

    def read_bytes(self, start: int, stop: int) -> Array:
        return np.ascontiguousarray(self.read()).view(np.uint8).reshape(-1)[start:stop]

    def section(self, start: int, stop: int) -> Readable:
        return replace(self, shape=(stop - start, self.shape[1]), offset=self.offset + start)


@dataclass(frozen=True)
class Made:
    """Values in `dtype` computed from `rows` (None: all, in order) of a weight, block by block.

    per_block: that many of those rows give `block` rows of this part. compute: (per_block, columns) -> (block, columns
    of this part); None: the block is transposed, so that a range of rows needs only those columns. offset: the first
    row of this part, if it is a section.
    """

    weight: Weight
    rows: Rows | None
    shape: tuple[int, ...]
    dtype: str
    per_block: int
    block: int
    compute: Compute | None
    offset: int = 0
    stored = False

    @property
    def name(self) -> str:
        return self.weight.name

    @property
    def file(self) -> Path:
        return next(iter(self.weight.parts.values())).file

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * DTYPES[self.dtype].bits // 8

    def read(self, start: int = 0, stop: int | None = None, axis: int = 0) -> Array:
        rows, columns = matrix_shape(self.shape)
        if axis == 1:
            return self.read()[:, start:stop]
        start, stop = start + self.offset, (rows if stop is None else stop) + self.offset
        out = np.empty((stop - start, columns), numpy_dtype(self.dtype))
        for low, high in self._pieces(start, stop):
            out[low - start : high - start] = self._piece(low, high)
        return out

    def _pieces(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Return the range split at the edges of blocks; not split if rows are computed one by one."""
        if self.block == 1:
            return [(start, stop)] if start < stop else []
        edges = [start, *range((start // self.block + 1) * self.block, stop, self.block), stop]
        return [(low, high) for low, high in pairwise(edges) if low < high]

    def _piece(self, low: int, high: int) -> Array:
        """Compute a range of rows in one block, or of rows that are computed one by one."""
        if self.block == self.per_block == 1 and self.compute is not None:
            return self.compute(values_of(self.weight, self.rows, low, high))
        first = low // self.block
        values = values_of(self.weight, self.rows, first * self.per_block, (first + 1) * self.per_block)
        low, high = low - first * self.block, high - first * self.block
        return values[:, low:high].T if self.compute is None else self.compute(values)[low:high]

    def read_bytes(self, start: int, stop: int) -> Array:
        width = matrix_shape(self.shape)[1] * DTYPES[self.dtype].bits // 8
        first = start // width
        rows = np.ascontiguousarray(self.read(first, -(-stop // width)))
        return rows.view(np.uint8).reshape(-1)[start - first * width : stop - first * width]

    def section(self, start: int, stop: int) -> Readable:
        return replace(self, shape=(stop - start, self.shape[-1]), offset=self.offset + start)


def stored_parts(weight: Weight) -> Iterator[Part]:
    """Yield all stored arrays that a weight is read from."""
    pending: list[Readable] = list(weight.parts.values())
    while pending:
        part = pending.pop(0)
        if isinstance(part, Joined):
            pending += part.pieces
        elif isinstance(part, Spread | Moved):
            pending.append(part.piece)
        elif isinstance(part, Made):
            pending += part.weight.parts.values()
        elif isinstance(part, Part):
            yield part


def read_rows(
    weight: Weight, specs: dict[str, PartSpec], start: int, stop: int, only: Iterable[str] | None = None
) -> Parts:
    """Read rows start..stop of a weight's parts (of those in `only`); parts without rows are read completely."""
    names = weight.parts if only is None else only
    return {name: _read_part(weight.parts[name], specs[name], start, stop) for name in names}


def _read_part(part: Readable, spec: PartSpec, start: int, stop: int) -> NDArray[np.generic]:
    if spec.axis is None:
        return part.read()
    first = start // spec.rows * spec.indices
    last = -(-stop // spec.rows) * spec.indices
    length = matrix_shape(part.shape)[spec.axis]
    return part.read(first, min(last, length), spec.axis)


def take(weight: Weight, wanted: Rows, only: Iterable[str] | None = None) -> tuple[Parts, Rows]:
    """Read the parts that hold some rows of a weight; return them and the index in them of each wanted row.

    Rows near each other are read together; in a layout with strided rows (AWQ), all are.
    """
    specs = weight.scheme.layout(weight.shape)
    align = math.lcm(*(spec.rows for spec in specs.values()))
    total = matrix_shape(weight.shape)[0]
    runs = _runs(wanted, align, total) if all(spec.axis == 0 for spec in specs.values()) else []
    if not runs:
        runs = [(int(wanted.min()) // align * align, min(-(-(int(wanted.max()) + 1) // align) * align, total))]
    read = [read_rows(weight, specs, low, high, only) for low, high in runs]
    if len(runs) == 1:
        return read[0], wanted - runs[0][0]
    lows = np.array([low for low, _ in runs])
    begins = np.concatenate([[0], np.cumsum([high - low for low, high in runs])[:-1]])
    which = np.searchsorted(lows, wanted, side="right") - 1
    return {name: np.concatenate([parts[name] for parts in read]) for name in read[0]}, wanted - lows[which] + begins[
        which
    ]


def _runs(wanted: Rows, align: int, total: int) -> list[tuple[int, int]]:
    """Return ranges of rows, aligned to `align`, that hold the wanted rows and few others."""
    blocks = np.unique(wanted // align)
    ends = np.flatnonzero(np.diff(blocks) > NEAR)
    firsts, lasts = blocks[np.concatenate([[0], ends + 1])], blocks[np.concatenate([ends, [len(blocks) - 1]])]
    return [
        (first * align, min((last + 1) * align, total))
        for first, last in zip(firsts.tolist(), lasts.tolist(), strict=True)
    ]


def values_of(weight: Weight, rows: Rows | None, start: int, stop: int) -> Array:
    """Return the values of rows start..stop of `rows` (None: all); of dense weights as stored, otherwise float32."""
    specs = weight.scheme.layout(weight.shape)
    wanted = np.arange(start, stop) if rows is None else rows[start:stop]
    plain = rows is None and all(spec.rows == 1 for spec in specs.values())
    parts, local = (read_rows(weight, specs, start, stop), None) if plain else take(weight, wanted)
    values: Array = parts["weight"] if isinstance(weight.scheme, Dense) else weight.scheme.decode(parts)
    return values if local is None else values[local]


def join(weights: Sequence[Weight]) -> Weight:
    """Concatenate matrices with the same number of columns.

    Weights of one layout keep it; if schemes differ, or scales span several rows of both, the result is dense.
    """
    if len(weights) == 1:
        return weights[0]
    weights = [by_row(bare(weight)) for weight in weights]
    first = weights[0]
    columns = matrix_shape(first.shape)[1]
    shape = (sum(matrix_shape(weight.shape)[0] for weight in weights), columns)
    axis = _joining_axis(weights)
    if axis is None:
        weights = [by_row(weight, always=True) for weight in weights]
        first, axis = weights[0], _joining_axis(weights)
    if axis is None:
        dtypes = {weight.scheme.values_dtype for weight in weights}
        return join([decoded(weight, min(dtypes) if len(dtypes) == 1 else "f32") for weight in weights])
    specs = first.scheme.layout(shape)
    parts = {
        name: Joined(tuple(weight.parts[name] for weight in weights), spec.shape, axis) for name, spec in specs.items()
    }
    origin = next((weight.made_of for weight in weights if weight.made_of is not None), None)
    return Weight(first.name, shape, first.scheme, parts, first.reason, origin)


def bare(weight: Weight) -> Weight:
    """Return the weight without parts that are only copied with it."""
    scheme = weight.scheme.bare()
    return replace(weight, scheme=scheme, parts={name: weight.parts[name] for name in scheme.layout(weight.shape)})


def by_row(weight: Weight, *, always: bool = False) -> Weight:
    """Return the weight with shared scales repeated for each row, if its scheme supports such a layout.

    always: whatever number of rows share them.
    """
    scheme, rows = weight.scheme.by_row(always=always), matrix_shape(weight.shape)[0]
    if scheme is None:
        return weight
    old, new = weight.scheme.layout(weight.shape), scheme.layout(weight.shape)
    parts = {
        name: part if old[name] == new[name] else _spread(part, old[name], new[name].shape, rows)
        for name, part in weight.parts.items()
    }
    return replace(weight, scheme=scheme, parts=parts)


def _spread(part: Readable, spec: PartSpec, shape: tuple[int, ...], rows: int) -> Spread:
    """Return a part with an entry for each of `rows` rows. spec: how it is stored."""
    if spec.axis is None:
        return Spread(part, rows, shape)
    return Spread(part, spec.block or spec.rows // spec.indices, shape, each=spec.rows)


def _joining_axis(weights: Sequence[Weight]) -> int | None:
    """Return the axis along which all parts of weights can be concatenated, None if there is none."""
    scheme = weights[0].scheme
    if any(weight.scheme != scheme for weight in weights):
        return None
    layouts = [(scheme.layout(weight.shape), matrix_shape(weight.shape)[0]) for weight in weights]
    axes = {spec.axis for layout, rows in layouts for spec in layout.values()}
    is_divided = all(rows % spec.rows == 0 for layout, rows in layouts for spec in layout.values())
    return axes.pop() if is_divided and len(axes) == 1 else None


def decoded(weight: Weight, dtype: str) -> Weight:
    """Return the weight's values as a dense weight of `dtype`."""
    return made(weight, None, matrix_shape(weight.shape), dtype, 1, 1, lambda block: block)


def section(weight: Weight, start: int, stop: int) -> Weight | None:
    """Return rows start..stop as a separate matrix; None if stored parts cannot be split there."""
    specs = weight.scheme.layout(weight.shape)
    if any(spec.axis != 0 or start % spec.rows or stop % spec.rows for spec in specs.values()):
        return None
    parts = {
        name: weight.parts[name].section(start // spec.rows * spec.indices, stop // spec.rows * spec.indices)
        for name, spec in specs.items()
    }
    return replace(weight, shape=(stop - start, weight.shape[-1]), parts=parts)


def with_columns_moved(weight: Weight, order: Rows, width: int) -> Weight:
    """Return the weight with blocks of `width` columns in another order: block t comes from block order[t].

    It keeps its layout unless blocks share codes or scales; then it becomes dense.
    """
    weight = bare(weight)
    axes = _axes_of_columns(weight, matrix_shape(weight.shape)[1], width)
    if axes is None:
        dense = decoded(weight, weight.scheme.values_dtype)
        return with_columns_moved(replace(dense, shape=weight.shape), order, width)
    moved = {name: Moved(weight.parts[name], order, axis) for name, axis in axes.items() if axis is not None}
    return replace(weight, parts={**weight.parts, **moved})


def _axes_of_columns(weight: Weight, columns: int, width: int) -> dict[str, int | None] | None:
    """Return part -> its axis of columns (None: all columns share it); None if blocks share codes or scales."""
    scheme = weight.scheme
    group = scheme.group_size or 1
    if scheme.is_ungrouped or (group < columns and width % group):
        return None
    axes: dict[str, int | None] = {}
    for name, spec in scheme.layout(weight.shape).items():
        axis = 0 if spec.axis == 1 else 1
        length = matrix_shape(spec.shape)[axis]
        count = math.prod(spec.shape) if spec.axis is None else length
        is_shared = count == 1 and name not in ("weight", scheme.codes_part)
        if not is_shared and (spec.axis is None or length * width % (columns * scheme.unit(name))):
            return None
        axes[name] = None if is_shared else axis
    return axes


def reshaped(weight: Weight, shape: tuple[int, ...]) -> Weight:
    """Return a dense weight with its values in another shape."""
    assert isinstance(weight.scheme, Dense)
    part = weight.parts["weight"]
    if isinstance(part, Part):
        return replace(weight, shape=shape, parts={"weight": replace(part, shape=shape)})
    return flattened(weight, None, shape)


def flattened(weight: Weight, rows: Rows | None, shape: tuple[int, ...]) -> Weight:
    """Return rows of a weight with their values in another shape; computed as one block, so for small weights."""
    count = matrix_shape(weight.shape)[0] if rows is None else len(rows)
    height, width = matrix_shape(shape)
    dtype = weight.scheme.values_dtype
    return made(weight, rows, shape, dtype, count, height, lambda block: block.reshape(height, width))


def transposed(weight: Weight, rows: Rows | None, shape: tuple[int, ...]) -> Weight:
    """Return matrices of `shape` made from rows of a weight, each transposed; dense, in the dtype of its values."""
    *leading, height, width = shape
    return made(weight, rows, (*leading, width, height), weight.scheme.values_dtype, height, width, None)


def channels_first(weight: Weight) -> Weight:
    """Return a convolution's kernels (out, ..., in) as (out, in, ...), dense, in the dtype that holds its values."""
    count, *sizes, channels = weight.shape
    shape, points = (count, channels, *sizes), math.prod(sizes)

    def moved(block: NDArray[np.generic]) -> NDArray[np.generic]:
        return np.ascontiguousarray(block.reshape(points, channels).T).reshape(-1, sizes[-1])

    return made(weight, None, shape, weight.scheme.values_dtype, points, channels * points // sizes[-1], moved)


def made(
    weight: Weight, rows: Rows | None, shape: tuple[int, ...], dtype: str, per_block: int, block: int,
    compute: Compute | None,
) -> Weight:  # fmt: skip
    """Return a dense weight whose values are computed; see `Made`."""
    part = Made(weight, rows, shape, dtype, per_block, block, compute)
    origin = weight.made_of if isinstance(weight.scheme, Dense) else weight.scheme
    return Weight(weight.name, shape, Dense(dtype), {"weight": part}, weight.reason, origin)
