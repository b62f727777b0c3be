"""A model's weights from one dialect to another: names, experts, and each tensor's arrangement.

    source tensors --(of the experts one, or all stacked)--> source's arrangement
        --(operations from Hugging Face's arrangement, undone)--> what both dialects share
        --(operations to the target's arrangement)--> target tensor

Row and shape operations become rows of a (joined) weight and touch no value, so that packed weights keep their codes;
column operations move them, too; value operations make dense values of it. Operations that both arrangements begin
with are neither undone nor done.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

import numpy as np

from quantcli.checkpoint import Weight
from quantcli.errors import BadInput
from quantcli.models.base import Architecture, Found, Tensor
from quantcli.models.hyperparameters import Hyperparameters
from quantcli.models.ops import ColumnOp, Op, RowOp, Rows, Shape, ShapeOp, Share, Take, Transpose, ValueOp
from quantcli.schemes.base import matrix_shape
from quantcli.schemes.dense import Dense
from quantcli.virtual import Compute, by_row, flattened, join, made, reshaped, section, transposed, with_columns_moved


@dataclass(frozen=True)
class Arranged:
    """Rows of a weight (None: all, in order), seen as a tensor of `shape`."""

    weight: Weight
    rows: Rows | None
    shape: Shape

    @property
    def matrices(self) -> int:
        """How many matrices the last two axes make."""
        return math.prod(self.shape[:-2])

    @staticmethod
    def of(weight: Weight) -> Arranged:
        return Arranged(weight, None, weight.shape)


@dataclass(frozen=True)
class Translated:
    """A tensor of the target: its name, what it is in the table, and where its rows come from."""

    name: str
    found: Found
    source: Arranged


@dataclass(frozen=True)
class _Source:
    """One source tensor of a target tensor; expert: which of the stacked ones it is, where it is one of them."""

    found: Found
    weight: Weight
    expert: int | None


class Translation:
    """From one dialect's names and arrangement to another's, for one model."""

    def __init__(
        self, architecture: Architecture, hyperparameters: Hyperparameters, source: str, target: str, label: str
    ) -> None:
        self.architecture, self.hyperparameters = architecture, hyperparameters
        self.source, self.target, self.label = source, target, label
        #: Layers repeat each other: one array of rows for all tensors of one row and shape.
        self._known: dict[tuple[object, ...], Rows] = {}

    def of(self, weights: Mapping[str, Weight]) -> tuple[list[Translated], list[str]]:
        """Every tensor of the target, and the names that the table does not know. Raises `BadInput`."""
        wanted: dict[str, list[_Source]] = {}
        unknown = []
        for name, weight in weights.items():
            found = _meant(self.architecture.find(name, self.source), weights)
            if not found:
                unknown.append(name)
            for one in found:
                for target, source in self._targets(one, weight):
                    wanted.setdefault(target, []).append(source)
        return [self._translated(name, sources) for name, sources in wanted.items()], unknown

    def _targets(self, found: Found, weight: Weight) -> list[tuple[str, _Source]]:
        """The target tensors that a source tensor is, or is part of."""
        made = self._made(found)
        stacked, apart = "{e}" not in found.row.pattern(self.source), "{e}" not in made.row.pattern(self.target)
        if apart or not stacked:
            return [(made.name(self.target), _Source(found, weight, None))]
        return [(made.name(self.target, e), _Source(found, weight, e)) for e in range(weight.shape[0])]

    def _made(self, found: Found) -> Found:
        """What a source tensor becomes: of another way to store it the row of the table that is written."""
        return replace(found, row=self.architecture.written(found.row))

    def _translated(self, name: str, sources: list[_Source]) -> Translated:
        rows = {source.found.row: None for source in sources}
        if len({row.hf for row in rows}) > 1:
            both = " and ".join(source.weight.name for source in sources[:2])
            raise BadInput(f"{self.label}: {both} would both become {name}. Remove one of them.")
        try:
            gathered = {row: self._gathered([s for s in sources if s.found.row is row]) for row in rows}
            arranged = self._arranged(gathered)
        except BadInput as error:
            raise BadInput(f"{self.label}: tensor {sources[0].weight.name}: {error}") from None
        return Translated(name, self._made(sources[0].found), arranged)

    def _gathered(self, sources: Sequence[_Source]) -> Arranged:
        """The experts of one row of the table: one of them, or all stacked."""
        first = sources[0]
        if first.expert is not None:
            rows = math.prod(first.weight.shape[1:-1])
            start = first.expert * rows
            weight, shape = by_row(first.weight), first.weight.shape[1:]
            cut = section(weight, start, start + rows)
            return Arranged(cut, None, shape) if cut else Arranged(weight, np.arange(start, start + rows), shape)
        if first.found.expert is None or "{e}" in self._made(first.found).row.pattern(self.target):
            return Arranged.of(first.weight)
        weights = self._all_experts(sources)
        return Arranged(join(weights), None, (len(weights), *first.weight.shape))

    def _all_experts(self, sources: Sequence[_Source]) -> list[Weight]:
        """One after another, none missing, all of one shape."""
        numbered = {source.found.expert: source.weight for source in sources}
        count = self.hyperparameters.experts if "_exps" in sources[0].found.row.gguf else 0
        missing = next((e for e in range(count or len(numbered)) if e not in numbered), None)
        if missing is not None:
            raise BadInput(f"expert {sources[0].found.name(self.source, missing)} is missing.")
        odd = next((w for w in numbered.values() if w.shape != sources[0].weight.shape), None)
        if odd is not None or len(numbered) > (count or len(numbered)):
            raise BadInput(
                f"its experts have different shapes ({odd.name})."
                if odd
                else (f"expected {count} experts, found {len(numbered)}.")
            )
        return [numbered[expert] for expert in range(len(numbered))]

    def _arranged(self, gathered: dict[Tensor, Arranged]) -> Arranged:
        """From the source's arrangement to the target's."""
        ops = {row: self._ops(row) for row in gathered}
        shared = {row: _shared(*both) for row, both in ops.items()}
        undo = {row: ops[row][0][shared[row] :] for row in gathered}
        row = next(iter(gathered))
        do = ops[row][1][shared[row] :]
        vector = _is_vector(row, gathered[row].shape) and any(isinstance(op, RowOp) for op in (*do, *undo[row]))
        if vector:
            gathered = {r: _columns(tensor) for r, tensor in gathered.items()}
        arranged = self._undone({r: (gathered[r], undo[r]) for r in gathered})
        for op in do:
            arranged = self._done(op, arranged)
        return _settled(replace(arranged, shape=arranged.shape[:-1]) if vector else arranged)

    def _ops(self, row: Tensor) -> tuple[tuple[Op, ...], tuple[Op, ...]]:
        """The operations from what Hugging Face's dialect writes to the source's and to the target's arrangement."""
        if row.read_only:
            return (), (*row.ops, *_behind_share(self.architecture.written(row).ops_to(self.target)))
        return row.ops_to(self.source), row.ops_to(self.target)

    def _undone(self, members: dict[Tensor, tuple[Arranged, tuple[Op, ...]]]) -> Arranged:
        """Undo each row's operations; those that split a tensor are undone together."""
        (tensor, ops) = next(iter(members.values()))
        at = next((i for i, op in enumerate(ops) if isinstance(op, Take | Share)), None)
        if at is not None:
            tensor = self._combined(members, at)
            ops = ops[:at]
        for op in reversed(ops):
            tensor = self._undo(op, tensor)
        return tensor

    def _combined(self, members: dict[Tensor, tuple[Arranged, tuple[Op, ...]]], at: int) -> Arranged:
        """What rows of the table took from one tensor, put together again."""
        hf = next(iter(members)).hf
        missing = next(
            (
                r
                for r in self.architecture.tensors
                if r.hf == hf and r.suffixes == next(iter(members)).suffixes and r not in members
            ),
            None,
        )
        if missing is not None:
            raise BadInput(f"{missing.pattern(self.source)} is missing; {hf} is built from both.")
        tensors = []
        for tensor, ops in members.values():
            for op in reversed(ops[at + 1 :]):
                tensor = self._undo(op, tensor)
            tensors.append(_settled(tensor, rows=True))
        total = sum(tensor.shape[-2] for tensor in tensors)
        shape = (*tensors[0].shape[:-2], total, tensors[0].shape[-1])

        def order() -> Rows:
            taken = [ops[at].index(total, self.hyperparameters) for _, ops in members.values()]  # type: ignore[union-attr]
            return np.argsort(
                np.concatenate([_each(index, total, tensors[0].matrices) for index in taken]), kind="stable"
            )

        rows = self._rows(("combined", next(iter(members)).hf, shape), order)
        if len(rows) != math.prod(shape[:-1]):
            raise BadInput(f"the rows of {', '.join(r.gguf for r in members)} cannot be joined into one tensor.")
        return Arranged(join([tensor.weight for tensor in tensors]), rows, shape)

    def _done(self, op: Op, tensor: Arranged) -> Arranged:
        if isinstance(op, ShapeOp):
            return replace(tensor, shape=op.reshape(tensor.shape, self.hyperparameters))
        if isinstance(op, ColumnOp):
            return _moved(tensor, *op.blocks(self.hyperparameters))
        if is_transposed(op, tensor.weight):
            return tensor
        if isinstance(op, ValueOp):
            return _valued(op, op.apply, tensor)
        return self._picked(tensor, ("do", op), lambda rows: op.index(rows, self.hyperparameters))

    def _undo(self, op: Op, tensor: Arranged) -> Arranged:
        if isinstance(op, ShapeOp):
            return replace(tensor, shape=op.restore(tensor.shape, self.hyperparameters))
        if isinstance(op, ColumnOp):
            width, order = op.blocks(self.hyperparameters)
            return _moved(tensor, width, np.argsort(order, kind="stable"))
        if is_transposed(op, tensor.weight):
            return tensor
        if isinstance(op, ValueOp):
            return _valued(op, op.undo, tensor)
        return self._picked(
            tensor, ("undo", op), lambda rows: np.argsort(op.index(rows, self.hyperparameters), kind="stable")
        )

    def _picked(self, tensor: Arranged, key: tuple[object, ...], index: Callable[[int], Rows]) -> Arranged:
        """The tensor with rows of each of its matrices gathered."""
        tensor = _settled(tensor)
        count, matrices = tensor.shape[-2], tensor.matrices
        rows = self._rows((*key, count, matrices), lambda: _each(index(count), count, matrices))
        shape = (*tensor.shape[:-2], len(rows) // matrices, tensor.shape[-1])
        return Arranged(tensor.weight, rows if tensor.rows is None else tensor.rows[rows], shape)

    def _rows(self, key: tuple[object, ...], make: Callable[[], Rows]) -> Rows:
        if key not in self._known:
            self._known[key] = make()
        return self._known[key]


def _meant(found: Sequence[Found], names: Collection[str]) -> Sequence[Found]:
    """Of rows that stand for different tensors under one name those that are meant, by what is there beside it."""
    if len({one.row.hf for one in found}) < 2:
        return found
    beside = [
        one for one in found if one.row.beside and f"{one.row.beside.replace('{i}', str(one.layer))}.weight" in names
    ]
    return beside or [one for one in found if one.row.beside is None]


def _each(index: Rows, rows: int, matrices: int) -> Rows:
    """An index into one matrix's rows as one into those of several matrices."""
    return (np.arange(matrices, dtype=np.int64)[:, None] * rows + index[None, :]).reshape(-1)


def _behind_share(ops: Sequence[Op]) -> Sequence[Op]:
    """What is done with the rows that are taken of a shared tensor; all of it where none is shared."""
    at = next((i + 1 for i, op in enumerate(ops) if isinstance(op, Take | Share)), 0)
    return ops[at:]


def _shared(source: Sequence[Op], target: Sequence[Op]) -> int:
    """How many operations two arrangements begin with in common."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(source, target, strict=False)))


def is_transposed(op: Op, weight: Weight) -> bool:
    """Whether a weight that is to be transposed is stored the other way round already."""
    return isinstance(op, Transpose) and op.unless == weight.scheme.name


def _is_vector(row: Tensor, shape: Shape) -> bool:
    """Whether the last axis is what a layer's outputs are along: a bias, of stacked experts a row for each."""
    return len(shape) == 1 or row.hf.endswith("bias")


def _columns(tensor: Arranged) -> Arranged:
    """A vector as a matrix of one column."""
    if not isinstance(tensor.weight.scheme, Dense):
        raise BadInput("a quantized vector is not supported.")
    shape = (*tensor.shape, 1)
    return Arranged(reshaped(tensor.weight, shape), None, shape)


def _valued(op: ValueOp, compute: Compute, tensor: Arranged) -> Arranged:
    """The tensor with its values changed, in float32; transposed ones keep their dtype."""
    if isinstance(op, Transpose):
        weight = transposed(tensor.weight, tensor.rows, tensor.shape)
    else:
        weight = made(tensor.weight, tensor.rows, tensor.shape, "f32", 1, 1, compute)
    return Arranged(weight, None, weight.shape)


def _moved(tensor: Arranged, width: int, order: Rows) -> Arranged:
    """The tensor with blocks of columns in another order."""
    columns = tensor.shape[-1]
    if columns != width * len(order):
        raise BadInput(f"expected {len(order)} value heads of {width} columns, found {columns} columns.")
    if np.array_equal(order, np.arange(len(order))):
        return tensor
    tensor = _settled(tensor)
    return replace(tensor, weight=with_columns_moved(tensor.weight, order, width))


def _settled(tensor: Arranged, rows: bool = False) -> Arranged:
    """The tensor such that its matrix is that of its rows; with `rows`, such that it is all rows of its weight."""
    same_columns = matrix_shape(tensor.shape)[1] == matrix_shape(tensor.weight.shape)[1]
    if same_columns and not (rows and tensor.rows is not None):
        return tensor
    if tensor.rows is None and isinstance(tensor.weight.scheme, Dense):
        return Arranged(reshaped(tensor.weight, tensor.shape), None, tensor.shape)
    return Arranged(flattened(tensor.weight, tensor.rows, tensor.shape), None, tensor.shape)
