"""Operations that convert a tensor's arrangement between dialects; each is small and reversible.

    row operations     gather rows of each matrix      PermuteRows  MropeRows  GroupQkv  Ungroup  Tile  Take  Share
    column operations  move blocks of columns          TileColumns
    shape operations   move no byte                    PerHead  SingleRow  DropAxis  MoveAxis
    value operations   change values or the last axis  AddOne  NegExp  Transpose

All of them act on each matrix of a tensor's last two axes, so that stacked experts need no special case; a vector's
elements are its rows. Row operations move packed rows unchanged, column operations move packed groups if blocks consist
of complete groups, value operations need floats.
Source: llama.cpp's converter (conversion/*.py), mlx-lm (sanitize of each model).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from quantcli.errors import BadInput
from quantcli.models.exponential import exp
from quantcli.models.hyperparameters import Hyperparameters
from quantcli.models.sizes import Size

Rows = NDArray[np.int64]
Floats = NDArray[np.float32]
Shape = tuple[int, ...]


@runtime_checkable
class RowOp(Protocol):
    """A gather of rows: row t of the result is row `index(rows, h)[t]` of a matrix with `rows` rows."""

    def index(self, rows: int, hyperparameters: Hyperparameters) -> Rows: ...


@runtime_checkable
class ColumnOp(Protocol):
    """A gather of blocks of columns: `blocks(h)` is their width, and the source block for each block of the result."""

    def blocks(self, hyperparameters: Hyperparameters) -> tuple[int, Rows]: ...


@runtime_checkable
class ShapeOp(Protocol):
    """A change of shape that keeps the bytes: `reshape` and its inverse `restore`."""

    def reshape(self, shape: Shape, hyperparameters: Hyperparameters) -> Shape: ...

    def restore(self, shape: Shape, hyperparameters: Hyperparameters) -> Shape: ...


@runtime_checkable
class ValueOp(Protocol):
    """A change of values, by row (`Transpose`: by matrix): `apply` and its inverse `undo`."""

    def apply(self, values: NDArray[np.generic]) -> NDArray[np.generic]: ...

    def undo(self, values: NDArray[np.generic]) -> NDArray[np.generic]: ...


Op = RowOp | ColumnOp | ShapeOp | ValueOp


@dataclass(frozen=True)
class PermuteRows:
    """Rotary rows of each head, from two halves (Hugging Face) to interleaved pairs (GGUF).

        Hugging Face   0 1 2 3 | 4 5 6 7      a head of 8 rows: pair n is (n, n + 4)
        GGUF           0 4 1 5 2 6 3 7

    `heads` names the field of Hyperparameters that counts the heads: `heads` or `kv_heads`.

    >>> PermuteRows.halves_to_pairs(8, 1).tolist()
    [0, 4, 1, 5, 2, 6, 3, 7]
    """

    heads: str

    @staticmethod
    def halves_to_pairs(rows: int, heads: int) -> Rows:
        """Return the row in Hugging Face's order for each row in GGUF's order."""
        return np.arange(rows, dtype=np.int64).reshape(heads, 2, -1).swapaxes(1, 2).reshape(-1)

    def index(self, rows: int, hyperparameters: Hyperparameters) -> Rows:
        heads: int = getattr(hyperparameters, self.heads)
        if rows % (2 * heads):
            raise BadInput(f"{rows} rows cannot be split into {heads} attention heads of two equal halves.")
        return self.halves_to_pairs(rows, heads)


@dataclass(frozen=True)
class MropeRows:
    """Rotary rows of each head, from interleaved pairs (Hugging Face) to two halves, if the model has M-RoPE.

        Hugging Face   0 1 2 3 4 5 | 6 7      a head of 8 rows, of which 6 are rotated: pair n is (2n, 2n + 1)
        GGUF           0 2 4 1 3 5 | 6 7

    In models without M-RoPE llama.cpp rotates pairs, and rows keep their order. `heads` as in `PermuteRows`.
    """

    heads: str

    def index(self, rows: int, hyperparameters: Hyperparameters) -> Rows:
        if not hyperparameters.rope.is_mrope:
            return np.arange(rows, dtype=np.int64)
        heads, rotated = getattr(hyperparameters, self.heads), hyperparameters.rotary_dimensions
        size = rows // heads
        if rows % heads or rotated % 2 or rotated > size:
            raise BadInput(
                f"{rows} rows cannot be split into {heads} attention heads with {rotated} rotated rows each."
            )
        head = np.arange(size, dtype=np.int64)
        head = np.concatenate([head[:rotated:2], head[1:rotated:2], head[rotated:]])
        rearranged: Rows = (np.arange(heads, dtype=np.int64)[:, None] * size + head).reshape(-1)
        return rearranged


@dataclass(frozen=True)
class GroupQkv:
    """Rows of a fused projection, from q, k and v of each group to all of q, all of k, all of v.

    Hugging Face   q0 q1 k0 v0 | q2 q3 k1 v1      two groups: two query heads that share a key and a value head
    GGUF           q0 q1 q2 q3 | k0 k1 | v0 v1
    """

    def index(self, rows: int, hyperparameters: Hyperparameters) -> Rows:
        heads, groups = hyperparameters.heads, hyperparameters.kv_heads
        if heads % groups or rows % (heads + 2 * groups):
            raise BadInput(f"{rows} rows cannot be split into {heads} query heads and {groups} key/value heads.")
        grouped = np.arange(rows, dtype=np.int64).reshape(groups, heads // groups + 2, -1)
        return np.concatenate([grouped[:, :-2].reshape(-1), grouped[:, -2].reshape(-1), grouped[:, -1].reshape(-1)])


@dataclass(frozen=True)
class Ungroup:
    """Rows of the parts of each group of heads, from group after group to part after part.

    Hugging Face   q0 k0 v0 v1 z0 z1 | q1 k1 v2 v3 z2 z3      two groups: a key head and its two value heads
    GGUF           q0 q1 | k0 k1 | v0 v1 v2 v3 | z0 z1 z2 z3

    `groups`: their number. `parts`: the rows of each part in all groups together.
    """

    groups: Size
    parts: tuple[Size, ...]

    def index(self, rows: int, hyperparameters: Hyperparameters) -> Rows:
        groups, parts = self.groups.of(hyperparameters), [part.of(hyperparameters) for part in self.parts]
        if not groups or rows != sum(parts) or any(part % groups for part in parts):
            raise BadInput(f"{rows} rows cannot be split into {groups} groups with parts of {parts} rows in all.")
        ends = np.cumsum(parts) // groups
        grouped = np.split(np.arange(rows, dtype=np.int64).reshape(groups, -1), ends[:-1], axis=1)
        return np.concatenate([part.reshape(-1) for part in grouped])


def tiled(groups: int, heads: int) -> Rows:
    """Return the order of value heads in GGUF: the first head of every group, the second of every group, and so on.

        Hugging Face   0 1 2 | 3 4 5      two key heads with three value heads each
        GGUF           0 3 1 4 2 5        value head n belongs to key head n % 2

    >>> tiled(2, 6).tolist()
    [0, 3, 1, 4, 2, 5]
    """
    if not groups or heads % groups:
        raise BadInput(f"{heads} value heads cannot be split among {groups} key heads.")
    return np.arange(heads, dtype=np.int64).reshape(groups, -1).T.reshape(-1)


@dataclass(frozen=True)
class Tile:
    """Rows of value heads, from groups to the order of `tiled`; rows before them keep their places.

    `groups`, `heads`: the numbers of key and value heads. `size`: rows of a value head. `before`: rows before the
    first.
    """

    groups: Size
    heads: Size
    size: Size
    before: Size | None = None

    def index(self, rows: int, hyperparameters: Hyperparameters) -> Rows:
        before = 0 if self.before is None else self.before.of(hyperparameters)
        heads, size = self.heads.of(hyperparameters), self.size.of(hyperparameters)
        if rows != before + heads * size:
            raise BadInput(f"expected {before} rows and {heads} value heads of {size} rows, found {rows} rows.")
        moved = np.arange(before, rows, dtype=np.int64).reshape(heads, size)
        order = tiled(self.groups.of(hyperparameters), heads)
        return np.concatenate([np.arange(before, dtype=np.int64), moved[order].reshape(-1)])


@dataclass(frozen=True)
class TileColumns:
    """Columns for value heads, from groups to the order of `tiled`: blocks of `size` columns, one per head."""

    groups: Size
    heads: Size
    size: Size

    def blocks(self, hyperparameters: Hyperparameters) -> tuple[int, Rows]:
        order = tiled(self.groups.of(hyperparameters), self.heads.of(hyperparameters))
        return self.size.of(hyperparameters), order


@dataclass(frozen=True)
class Take:
    """Some rows of each matrix: start, start + step ... below stop. Rows of the table that share a tensor take all.

    `start`, `stop`: numbers, sizes, or fields of Hyperparameters. `step`: 2 for interleaved gate and up.
    """

    start: int | str | Size = 0
    stop: str | Size | None = None
    step: int = 1

    def index(self, rows: int, hyperparameters: Hyperparameters) -> Rows:
        start = _number(self.start, hyperparameters)
        stop = rows if self.stop is None else _number(self.stop, hyperparameters)
        if not 0 <= start <= stop <= rows or rows % self.step:
            raise BadInput(f"{rows} rows cannot be split at {start} and {stop} in steps of {self.step}.")
        return np.arange(start, stop, self.step, dtype=np.int64)


def _number(value: int | str | Size, hyperparameters: Hyperparameters) -> int:
    if isinstance(value, Size):
        return value.of(hyperparameters)
    return value if isinstance(value, int) else int(getattr(hyperparameters, value))


@dataclass(frozen=True)
class Share:
    """Part number `at` (from 0) of `count` equal parts of each matrix's rows, such as gate before up.

    >>> Share(1, 2).index(6, None).tolist()
    [3, 4, 5]
    """

    at: int
    count: int

    def index(self, rows: int, hyperparameters: Hyperparameters | None) -> Rows:
        if rows % self.count:
            raise BadInput(f"{rows} rows cannot be split into {self.count} equal parts.")
        each = rows // self.count
        return np.arange(self.at * each, (self.at + 1) * each, dtype=np.int64)


@dataclass(frozen=True)
class PerHead:
    """(heads * rows, columns) as (heads, rows, columns)."""

    def reshape(self, shape: Shape, hyperparameters: Hyperparameters) -> Shape:
        heads = hyperparameters.heads
        if len(shape) != 2 or shape[0] % heads:
            raise BadInput(f"shape {shape} cannot be split into {heads} attention heads.")
        return heads, shape[0] // heads, shape[1]

    def restore(self, shape: Shape, hyperparameters: Hyperparameters) -> Shape:
        return shape[0] * shape[1], shape[2]


@dataclass(frozen=True)
class SingleRow:
    """A matrix with one row, which llama-quantize writes as a vector."""

    def reshape(self, shape: Shape, hyperparameters: Hyperparameters) -> Shape:
        return shape

    def restore(self, shape: Shape, hyperparameters: Hyperparameters) -> Shape:
        return (1, *shape) if len(shape) == 1 else shape


@dataclass(frozen=True)
class DropAxis:
    """Removal of an axis of size 1, such as the middle one of a convolution for each channel."""

    axis: int

    def reshape(self, shape: Shape, hyperparameters: Hyperparameters) -> Shape:
        if len(shape) <= self.axis or shape[self.axis] != 1:
            raise BadInput(f"shape {shape} has no axis {self.axis} of size 1.")
        return shape[: self.axis] + shape[self.axis + 1 :]

    def restore(self, shape: Shape, hyperparameters: Hyperparameters) -> Shape:
        return *shape[: self.axis], 1, *shape[self.axis :]


@dataclass(frozen=True)
class MoveAxis:
    """Move of the middle axis, of size 1, to the end: a convolution's kernel in MLX."""

    @staticmethod
    def is_done(shape: Shape) -> bool:
        """Return whether a tensor has MLX's shape, which its name does not show."""
        return len(shape) == 3 and shape[1] != 1 == shape[2]

    def reshape(self, shape: Shape, hyperparameters: Hyperparameters) -> Shape:
        return *DropAxis(1).reshape(shape, hyperparameters), 1

    def restore(self, shape: Shape, hyperparameters: Hyperparameters) -> Shape:
        return DropAxis(1).restore(DropAxis(2).reshape(shape, hyperparameters), hyperparameters)


@dataclass(frozen=True)
class AddOne:
    """A norm's weight, which Hugging Face stores as its difference from 1."""

    def apply(self, values: NDArray[np.generic]) -> Floats:
        return values.astype(np.float32) + np.float32(1)

    def undo(self, values: NDArray[np.generic]) -> Floats:
        return values.astype(np.float32) - np.float32(1)


@dataclass(frozen=True)
class NegExp:
    """Mamba's A from its logarithm: -exp(A_log), with PyTorch's float32 exponential."""

    def apply(self, values: NDArray[np.generic]) -> Floats:
        return -exp(values.astype(np.float32))

    def undo(self, values: NDArray[np.generic]) -> Floats:
        return np.log(-values.astype(np.float64)).astype(np.float32)


@dataclass(frozen=True)
class Transpose:
    """Each matrix transposed. unless: the scheme whose weights Hugging Face's dialect stores transposed."""

    unless: str | None = None

    def apply(self, values: NDArray[np.generic]) -> NDArray[np.generic]:
        return values.swapaxes(-1, -2)

    undo = apply
