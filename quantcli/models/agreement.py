"""Comparison of a checkpoint's tensors with its settings and its architecture's table: layers, shapes, presence.

Every runtime computes shapes from the settings and refuses tensors of other shapes, or splits heads at the wrong rows.
A contradiction is therefore an error when the checkpoint is read, whatever the output is.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain

from quantcli.checkpoint import Weight
from quantcli.errors import BadInput
from quantcli.models.base import Architecture, Found, Tensor
from quantcli.models.hyperparameters import EXPERTS, SIZES, Hyperparameters
from quantcli.models.keys import BLOCKS
from quantcli.models.ops import Op, Shape, ShapeOp, Share, SingleRow, Take, Transpose
from quantcli.models.prediction import in_module
from quantcli.models.sizes import HEAD_DIM, Axes, Need

#: A key within an expression of sizes.
KEY = re.compile(r"[a-z_][a-z_0-9.]*")
#: The key of config.json that counts the layers for multi-token prediction.
NEXT = "num_nextn_predict_layers"
#: Part of the name of a tensor that only such a layer has.
MARK = ".eh_proj."
#: Part of the GGUF names of all tensors that only such layers have.
NEXTN = ".nextn."


@dataclass(frozen=True)
class Agreement:
    """A checkpoint's tensors under a dialect's names, with the table and the settings that they are compared with.

    label: the checkpoint's name in errors. where: the file that has its settings, for errors. covered: names of tensors
    that other tensors, which are checked separately, replace. dropped: names of stored tensors that the user removes.
    """

    architecture: Architecture
    hyperparameters: Hyperparameters
    weights: Mapping[str, Weight]
    dialect: str
    label: str
    where: str
    covered: Collection[str] = ()
    dropped: Collection[str] = ()
    _shapes: dict[tuple[int, str, str, int | None], Shape] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def rows(self) -> dict[str, list[Found]]:
        """The table's rows for every tensor; an empty list for an unknown one."""
        return {name: self.architecture.find(name, self.dialect) for name in self.weights}

    @property
    def layers(self) -> Iterator[int]:
        """The layers that are checked: all that the settings count, then the stored ones with higher numbers."""
        layers = self.hyperparameters.layers
        return chain(range(layers), sorted(number for number in self._numbers if number >= layers))

    @cached_property
    def _numbers(self) -> set[int]:
        return {one.layer for rows in self.rows.values() for one in rows if one.layer is not None}

    @cached_property
    def _predicting(self) -> Collection[int]:
        """The layers for multi-token prediction: those with an `eh_proj`, and as many as the settings count.

        Counted layers need rows in the table that list their tensors; without such rows only `eh_proj` decides.
        """
        layers = self.hyperparameters.layers
        marked = {self.architecture.layer(name) for name in self.weights if MARK in name}
        has_rows = any(map(_is_mark, self.architecture.tensors))
        if not has_rows:
            return self._numbers & marked
        counted = range(layers, layers + self.hyperparameters.settings.integer(NEXT, 1, least=0))
        return {n for n in self._numbers if n in marked or n in counted}

    @cached_property
    def _shown(self) -> set[str]:
        """The conditions under which the stored tensors exist; names with two meanings are ignored."""
        needs = (rows[0].row.need(rows[0].suffix) for rows in self.rows.values() if len(rows) == 1)
        return {need.keys for need in needs if need is not None}

    def refuse(self) -> None:
        """Raise `BadInput`, naming tensor and key, if the settings and the tensors contradict each other."""
        if any(self.rows.values()):
            self._refuse_layers()
            self.refuse_shapes()
        self._refuse_computed()
        self._refuse_missing()
        for name, need in self._contrary.items():
            if need.keys and not need.by_presence:
                without = self._unmarked(self.rows[name][0]) if NEXTN in self.rows[name][0].row.gguf else ""
                problem = f"{self.label}: tensor {self._stored(name)} exists{without}"
                raise BadInput(f"{problem}, but {self.where} describes a model without it{self._why(need)}.")

    def refuse_shapes(self) -> None:
        """Raise `BadInput` for a tensor whose shape differs from the one that follows from the settings."""
        for name, rows in self.rows.items():
            self._refuse_shape(name, rows)

    def unneeded(self) -> dict[str, str]:
        """Return the stored tensors that the settings or the model's class rule out -> the keys that decide, or ""."""
        return {name: self._spelled(need.keys) for name, need in self._contrary.items()}

    def unmet(self) -> dict[str, Found]:
        """Return keys that say that the model has tensors of which there is none, each with the first of these."""
        h = self.hyperparameters
        made: dict[str, Found] = {}
        for row, suffix in ((one, end) for one in self.architecture.tensors for end in one.suffixes):
            need = row.need(suffix)
            if need is None or need.keys in self._shown or not (need.claim and h.settings.flag(need.claim, False)):
                continue
            layer = next((layer for layer in range(h.layers) if need.holds(h, layer)), None)
            made |= {} if layer is None else {need.claim: Found(row, suffix, layer)}
        return made

    @cached_property
    def _contrary(self) -> dict[str, Need]:
        """The stored tensors that the settings rule out -> the condition that decides."""
        needs = {name: rows[0].row.need(rows[0].suffix) for name, rows in self.rows.items() if rows}
        return {
            name: need
            for name, need in needs.items()
            if need is not None and not any(self._may_be(one) for one in self.rows[name])
        }

    def _may_be(self, one: Found) -> bool:
        """Return whether the settings require a tensor or leave it open."""
        need = one.row.need(one.suffix)
        return need is None or (need.holds(self.hyperparameters, one.layer or 0) and self._is_part(one.row, one.layer))

    def _is_part(self, row: Tensor, layer: int | None) -> bool:
        """Return whether a layer may have the module of a row; without it there is no bias either."""
        return row.needed is None or row.needed.holds(self.hyperparameters, layer or 0)

    def _holds(self, need: Need, layer: int | None) -> bool:
        """Return whether a layer must have the tensors that depend on a need."""
        if need.by_presence and self.dialect == "gguf" and need.keys in self._shown:
            return True
        return need.holds(self.hyperparameters, layer or 0) and (not need.all_or_none or need.keys in self._shown)

    def _refuse_layers(self) -> None:
        layers, key = self.hyperparameters.layers, self._spelled("num_hidden_layers")
        beyond = min((n for n in self._numbers if n >= layers and n not in self._predicting), default=None)
        if beyond is not None:
            name = next(n for n, rows in self.rows.items() if any(one.layer == beyond for one in rows))
            without = self._unmarked(self.rows[name][0])
            raise BadInput(
                f"{self.where}: {key} is {layers}, but there are tensors of layer {beyond}, such as "
                f"{self._stored(name)}{without}."
            )
        # Stops at the first gap, however many layers are claimed.
        missing = next((number for number in range(layers) if number not in self._numbers), None)
        if missing is not None:
            self._refuse_dropped(key, missing)
            raise BadInput(f"{self.where}: {key} is {layers}, but layer {missing} has no tensors.")

    def _refuse_dropped(self, key: str, missing: int) -> None:
        """Raise `BadInput` if a layer has no tensors because the user drops all of them."""
        numbers = {self.architecture.layer(name) for name in self.dropped}
        taken = sorted(n for n in numbers - self._numbers if n is not None and n < self.hyperparameters.layers)
        if missing not in taken:
            return
        problem = (
            f"{self.where}: {key} is {self.hyperparameters.layers}, but --drop removes all tensors of layer {missing}."
        )
        # --prune-layers requires a GGUF source and cannot remove every layer.
        if self.dialect != "gguf" or len(taken) == self.hyperparameters.layers:
            raise BadInput(f"{problem} Remove fewer tensors.")
        layers = ",".join(map(str, taken))
        raise BadInput(f"{problem} To remove layers, use --prune-layers {layers} with a GGUF output.")

    def _unmarked(self, one: Found) -> str:
        """Return a clause that names the missing tensor by which a layer for multi-token prediction is known, or ""."""
        marks = (
            Found(row, row.suffixes[0], one.layer).name(self.dialect)
            for row in self.architecture.tensors
            if _is_mark(row)
        )
        mark = next(marks, None)
        if mark is None or mark in self.weights:
            return ""
        return f" without {self._stored(mark)}, which layers for multi-token prediction have"

    def _stored(self, name: str) -> str:
        """Return a tensor's name in the folder, which may be in a module for multi-token prediction."""
        module = self.architecture.mtp_module if self.dialect == "hf" else ""
        return in_module(name, self.hyperparameters.layers, module) if module else name

    def _refuse_shape(self, name: str, rows: Sequence[Found]) -> None:
        if not rows:
            return
        one, weight = rows[0], self.weights[name]
        axes = one.row.axes(one.suffix)
        expected = self._expected(one, weight.scheme.name)
        if one.expert is not None and one.expert >= axes[0].of(self.hyperparameters):
            raise BadInput(f"{self.where}: {self._sizes(axes[:1])}, but tensor {name} exists.")
        is_row = any(isinstance(op, SingleRow) for op in one.row.ops_to(self.dialect))
        if weight.shape == expected or (is_row and (1, *weight.shape) == expected):
            return
        parts = [part.name for part in weight.parts.values()]
        stored = "" if name in parts or not parts else f" (stored as {parts[0]})"
        raise BadInput(
            f"{self.label}: tensor {name}{stored}: expected shape {list(expected)}, found {list(weight.shape)}: "
            f"{self._sizes(axes if one.expert is None else axes[1:], one.layer)} ({self.where})."
        )

    def _expected(self, one: Found, scheme: str) -> Shape:
        """Return `shape_of`, computed once for all experts, and for all layers if no axis differs between layers."""
        differ = any(axis.each is not None for axis in one.row.shape)
        key = (id(one.row), one.suffix, scheme, one.layer if differ else None)
        if key not in self._shapes:
            self._shapes[key] = shape_of(one, self.dialect, self.hyperparameters, scheme)
        return self._shapes[key]

    def _sizes(self, axes: Axes, layer: int | None = None) -> str:
        """Return the sizes with the keys that set them: `hidden_size is 64 and ...`. layer: the tensor's."""
        sizes = {
            self._spelled(axis.stored if self.dialect == "gguf" else axis.expression): axis.at(
                self.hyperparameters, layer
            )
            for axis in axes
        }
        return " and ".join(f"{key} is {value}" for key, value in sizes.items() if key)

    def _refuse_missing(self) -> None:
        for one in self._needed():
            name = one.name(self.dialect)
            if name in self.weights or name in self.covered:
                continue
            others = self._others(one)
            if any(other in self.weights for other in others):
                continue
            alternative = f" (as is {others[0]})" if others else ""
            need = one.row.need(one.suffix)
            why = self._why(need) if need is not None else ""
            raise BadInput(
                f"{self.label}: tensor {name} is missing{alternative}; a {self.architecture.name} model of "
                f"{self.hyperparameters.layers} layers requires it{why}. {self._remedy(name)}"
            )

    def _remedy(self, name: str) -> str:
        """Return a hint that says what to do about a missing tensor."""
        if name in self.dropped:
            return "The source has it; do not remove it with --drop."
        again = f"Download the checkpoint again, or fix {self.where}."
        return (
            f"Remove fewer tensors with --drop. If it is missing without --drop too: {again[0].lower()}{again[1:]}"
            if self.dropped
            else again
        )

    def _why(self, need: Need) -> str:
        """Return the keys that a tensor depends on, in brackets, or ""."""
        return f" ({self._spelled(need.keys)})" if need.keys else ""

    def _refuse_computed(self) -> None:
        """Raise `BadInput` if tensors that GGUF files compute from settings are incomplete or have other shapes."""
        computed = self.architecture.computed if self.dialect == "gguf" else ()
        stored = [row for row in computed if row.gguf in self.weights]
        for row in computed if stored else ():
            if row not in stored:
                raise BadInput(f"{self.label}: tensor {row.gguf} is missing; {stored[0].gguf} requires it.")
            shape, expected = self.weights[row.gguf].shape, tuple(axis.of(self.hyperparameters) for axis in row.shape)
            if shape != expected:
                raise BadInput(
                    f"{self.label}: tensor {row.gguf}: expected shape {list(expected)}, found {list(shape)}: "
                    f"{self._sizes(row.shape)} ({self.where})."
                )

    def _needed(self) -> Iterator[Found]:
        """Yield every tensor that the settings require, lazily: damaged settings may claim any number of layers."""
        for row in self.architecture.tensors:
            for suffix in row.suffixes:
                need = row.need(suffix)
                if need is None:
                    continue
                for layer in self.layers if "{i}" in row.pattern(self.dialect) else (None,):
                    if self._holds(need, layer) and (suffix != "bias" or self._is_part(row, layer)):
                        yield from self._each(row, suffix, layer)

    def _each(self, row: Tensor, suffix: str, layer: int | None) -> Iterator[Found]:
        if "{e}" not in row.pattern(self.dialect):
            yield Found(row, suffix, layer)
            return
        for expert in range(row.axes(suffix)[0].of(self.hyperparameters)):
            yield Found(row, suffix, layer, expert)

    def _others(self, one: Found) -> list[str]:
        """Return the names of the tensors in other rows that become the same GGUF tensor."""
        rows = [row for row in self.architecture.tensors if row.gguf == one.row.gguf and row is not one.row]
        return [Found(row, one.suffix, one.layer, 0).name(self.dialect) for row in rows]

    def _spelled(self, text: str) -> str:
        """Return an expression with the keys that this checkpoint uses for its sizes."""
        return KEY.sub(lambda match: self._key(match[0]), text)

    def _key(self, key: str) -> str:
        """Return the name that this checkpoint's config.json or GGUF metadata has for a key of sizes."""
        settings, architecture = self.hyperparameters.settings, self.architecture
        fields = {**SIZES, "experts": EXPERTS}
        size = next((size for size, keys in fields.items() if key in keys), "")
        names = {**fields, **architecture.names}.get(size) or (key,)
        if self.dialect == "gguf":
            rows = (BLOCKS, *architecture.keys, *architecture.further)
            keys = {row.back: row.name for row in rows if row.back}
            stored = next((keys[name] for name in names if name in keys), None)
            stored = key if "." in key else stored
            return f"{architecture.gguf}.{stored}" if stored else key
        if key == HEAD_DIM.expression and not settings.has(key):
            return f"({self._key('hidden_size')} / {self._key('num_attention_heads')})"
        return settings.first(*names)


def _is_mark(row: Tensor) -> bool:
    """Return whether a row is the tensor that identifies layers for multi-token prediction."""
    return MARK in f"{row.hf}."


def shape_of(one: Found, dialect: str, hyperparameters: Hyperparameters, scheme: str = "") -> Shape:
    """Return the shape of a tensor in a dialect, computed from its row's axes and the settings.

    scheme: its name; Hugging Face's dialect stores the weights of some schemes transposed.
    """
    row = one.row
    shape = tuple(axis.at(hyperparameters, one.layer) for axis in row.axes(one.suffix))
    is_vector = len(shape) == 1 or row.hf.endswith("bias")
    if dialect == "hf" and any(isinstance(op, Transpose) and op.unless == scheme for op in row.ops):
        shape = _after(Transpose(), shape, hyperparameters, is_vector=is_vector)
    for op in row.ops_to(dialect):
        shape = _after(op, shape, hyperparameters, is_vector=is_vector)
    return shape[1:] if "{e}" in row.pattern(dialect) else shape


def _after(op: Op, shape: Shape, hyperparameters: Hyperparameters, *, is_vector: bool) -> Shape:
    """Return the shape that an operation makes of a shape."""
    if isinstance(op, ShapeOp):
        return op.reshape(shape, hyperparameters)
    if isinstance(op, Transpose):
        return *shape[:-2], shape[-1], shape[-2]
    if isinstance(op, Take | Share):
        at = len(shape) - (1 if is_vector else 2)
        taken = len(op.index(shape[at], hyperparameters))
        return *shape[:at], taken, *shape[at + 1 :]
    return shape
