"""Translation of a model's weights from one dialect to another: names, experts, and each tensor's arrangement.

    source tensors --(one expert, or all experts stacked)--> source's arrangement
        --(inverse of the operations from Hugging Face's arrangement)--> what both dialects share
        --(operations to the target's arrangement)--> target tensor

Row and shape operations select rows of a (joined) weight and change no value, so that packed weights keep their codes;
so do column operations; value operations decode the weight. Operations that both arrangements begin with are skipped.
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
    """Rows of a weight (None: all, in order) as a tensor of `shape`."""

    weight: Weight
    rows: Rows | None
    shape: Shape

    @property
    def matrices(self) -> int:
        """The number of matrices of the last two axes."""
        return math.prod(self.shape[:-2])

    @staticmethod
    def of(weight: Weight) -> Arranged:
        """Return all rows of a weight, in its shape."""
        return Arranged(weight, None, weight.shape)


@dataclass(frozen=True)
class Translated:
    """A tensor of the target: its name, its row of the table, and its rows in the source."""

    name: str
    found: Found
    source: Arranged


@dataclass(frozen=True)
class _Source:
    """One source tensor of a target tensor. expert: the number of the expert to take, if it stacks experts."""

    found: Found
    weight: Weight
    expert: int | None


class Translation:
    """Translation of one model from one dialect's names and arrangement to another's."""

    def __init__(
        self, architecture: Architecture, hyperparameters: Hyperparameters, source: str, target: str, label: str
    ) -> None:
        self.architecture, self.hyperparameters = architecture, hyperparameters
        self.source, self.target, self.label = source, target, label
        #: Layers repeat: tensors with one row of the table and one shape share an array of rows.
        self._known: dict[tuple[object, ...], Rows] = {}

    def of(self, weights: Mapping[str, Weight]) -> tuple[list[Translated], list[str]]:
        """Return every tensor of the target, and the names that the table does not know. Raises `BadInput`."""
        wanted: dict[str, list[_Source]] = {}
        unknown = []
        for name, weight in weights.items():
            rows = _meant(self.architecture.find(name, self.source), weights)
            if not rows:
                unknown.append(name)
            for one in rows:
                for target, source in self._targets(one, weight):
                    wanted.setdefault(target, []).append(source)
        return [self._translated(name, sources) for name, sources in wanted.items()], unknown

    def _targets(self, found: Found, weight: Weight) -> list[tuple[str, _Source]]:
        """Return the target tensors that a source tensor becomes, or becomes a part of, by name."""
        made = self._made(found)
        from_stack, to_stack = (
            "{e}" not in pattern for pattern in (found.row.pattern(self.source), made.row.pattern(self.target))
        )
        if to_stack or not from_stack:
            return [(made.name(self.target), _Source(found, weight, None))]
        return [(made.name(self.target, e), _Source(found, weight, e)) for e in range(weight.shape[0])]

    def _made(self, found: Found) -> Found:
        """Return what a source tensor becomes: for a read-only row, the row that is written."""
        return replace(found, row=self.architecture.written(found.row))

    def _translated(self, name: str, sources: list[_Source]) -> Translated:
        rows = {source.found.row: None for source in sources}
        patterns = [*dict.fromkeys(row.hf for row in rows)]
        if len(patterns) > 1:
            one, other = (next(s.weight.name for s in sources if s.found.row.hf == p) for p in patterns[:2])
            raise BadInput(f"{self.label}: {one} and {other} would both become {name}. Remove one of them.")
        try:
            gathered = {row: self._gathered([s for s in sources if s.found.row is row]) for row in rows}
            arranged = self._arranged(gathered)
        except BadInput as error:
            raise BadInput(f"{self.label}: tensor {sources[0].weight.name}: {error}") from None
        return Translated(name, self._made(sources[0].found), arranged)

    def _gathered(self, sources: Sequence[_Source]) -> Arranged:
        """Return the source of one row of the table: one expert of a stack, all experts stacked, or one tensor."""
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
        """Return the experts in order. Raises `BadInput` if one is missing or has another shape."""
        numbered = {source.found.expert: source.weight for source in sources}
        count = self.hyperparameters.experts if "_exps" in sources[0].found.row.gguf else 0
        missing = next((e for e in range(count or len(numbered)) if e not in numbered), None)
        if missing is not None:
            raise BadInput(f"expert {sources[0].found.name(self.source, missing)} is missing.")
        shape = sources[0].weight.shape
        odd = next((w for w in numbered.values() if w.shape != shape), None)
        if odd is not None:
            raise BadInput(f"its experts have different shapes: {odd.name} has {list(odd.shape)}, not {list(shape)}.")
        if len(numbered) > (count or len(numbered)):
            raise BadInput(f"expected {count} experts, found {len(numbered)}.")
        return [numbered[expert] for expert in range(len(numbered))]

    def _arranged(self, gathered: dict[Tensor, Arranged]) -> Arranged:
        """Convert a tensor from the source's arrangement to the target's."""
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
        """Return the operations from Hugging Face's arrangement to the source's and to the target's."""
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
        """Join what several rows of the table take from one tensor."""
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
        """Gather rows of each of a tensor's matrices."""
        tensor = _settled(tensor)
        count, matrices = tensor.shape[-2], tensor.matrices
        rows = self._rows((*key, count, matrices), lambda: _each(index(count), count, matrices))
        shape = (*tensor.shape[:-2], len(rows) // matrices, tensor.shape[-1])
        return Arranged(tensor.weight, rows if tensor.rows is None else tensor.rows[rows], shape)

    def _rows(self, key: tuple[object, ...], make: Callable[[], Rows]) -> Rows:
        if key not in self._known:
            self._known[key] = make()
        return self._known[key]


def _meant(rows: Sequence[Found], names: Collection[str]) -> Sequence[Found]:
    """Return the rows that apply to a name: if they describe different tensors, those whose companion exists."""
    if len({one.row.hf for one in rows}) < 2:
        return rows
    accompanied = [
        one
        for one in rows
        if one.row.companion and f"{one.row.companion.replace('{i}', str(one.layer))}.weight" in names
    ]
    return accompanied or [one for one in rows if one.row.companion is None]


def _each(index: Rows, rows: int, matrices: int) -> Rows:
    """Return an index into the rows of several matrices that applies an index of rows to each."""
    return (np.arange(matrices, dtype=np.int64)[:, None] * rows + index[None, :]).reshape(-1)


def _behind_share(ops: Sequence[Op]) -> Sequence[Op]:
    """Return the operations after the one that takes rows from a shared tensor; all if there is none."""
    at = next((i + 1 for i, op in enumerate(ops) if isinstance(op, Take | Share)), 0)
    return ops[at:]


def _shared(source: Sequence[Op], target: Sequence[Op]) -> int:
    """Return the number of operations that two arrangements begin with in common."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(source, target, strict=False)))


def is_transposed(op: Op, weight: Weight) -> bool:
    """Return whether an operation would transpose a weight whose scheme stores it transposed."""
    return isinstance(op, Transpose) and op.unless == weight.scheme.name


def _is_vector(row: Tensor, shape: Shape) -> bool:
    """Return whether the last axis counts a layer's outputs: a bias; for stacked experts, one row per expert."""
    return len(shape) == 1 or row.hf.endswith("bias")


def _columns(tensor: Arranged) -> Arranged:
    """Return a vector as a matrix of one column. Raises `BadInput` for a quantized one."""
    if not isinstance(tensor.weight.scheme, Dense):
        raise BadInput("a quantized vector is not supported.")
    shape = (*tensor.shape, 1)
    return Arranged(reshaped(tensor.weight, shape), None, shape)


def _valued(op: ValueOp, compute: Compute, tensor: Arranged) -> Arranged:
    """Return the tensor with its values changed, in float32; a transposed tensor keeps its dtype."""
    if isinstance(op, Transpose):
        weight = transposed(tensor.weight, tensor.rows, tensor.shape)
    else:
        weight = made(tensor.weight, tensor.rows, tensor.shape, "f32", 1, 1, compute)
    return Arranged(weight, None, weight.shape)


def _moved(tensor: Arranged, width: int, order: Rows) -> Arranged:
    """Return the tensor with blocks of columns in another order."""
    columns = tensor.shape[-1]
    if columns != width * len(order):
        raise BadInput(f"expected {len(order)} value heads of {width} columns, found {columns} columns.")
    if np.array_equal(order, np.arange(len(order))):
        return tensor
    tensor = _settled(tensor)
    return replace(tensor, weight=with_columns_moved(tensor.weight, order, width))


def _settled(tensor: Arranged, rows: bool = False) -> Arranged:
    """Return the tensor with a weight that has its columns; with `rows`, with a weight that has just its rows."""
    same_columns = matrix_shape(tensor.shape)[1] == matrix_shape(tensor.weight.shape)[1]
    if same_columns and not (rows and tensor.rows is not None):
        return tensor
    if tensor.rows is None and isinstance(tensor.weight.scheme, Dense):
        return Arranged(reshaped(tensor.weight, tensor.shape), None, tensor.shape)
    return Arranged(flattened(tensor.weight, tensor.rows, tensor.shape), None, tensor.shape)
