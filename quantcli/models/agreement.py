"""Whether a checkpoint has the tensors that its settings and its architecture's table say: layers, shapes, presence.

Everybody computes shapes from the settings and refuses tensors of other ones, or cuts heads apart in the wrong places;
so the contradiction is an error where the checkpoint is read, whatever it is to become.
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
#: The key of config.json that counts layers for multi-token prediction.
NEXT = "num_nextn_predict_layers"
#: What the name of a tensor has that only such a layer has.
MARK = ".eh_proj."
#: What is in GGUF's names of tensors that such layers alone have.
NEXTN = ".nextn."


@dataclass(frozen=True)
class Agreement:
    """A checkpoint's tensors, under a dialect's names, against its table and its settings.

    label: how errors call the checkpoint; where: and the place of its settings. covered: names of tensors that others,
    which are looked at apart, stand for. dropped: names of stored tensors that are left out as asked.
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
    def found(self) -> dict[str, list[Found]]:
        """Every tensor with what it is in the table; an empty list for an unknown one."""
        return {name: self.architecture.find(name, self.dialect) for name in self.weights}

    @property
    def layers(self) -> Iterator[int]:
        """The layers that are looked at: all that the settings count, then those beyond that are there."""
        layers = self.hyperparameters.layers
        return chain(range(layers), sorted(number for number in self._numbers if number >= layers))

    @cached_property
    def _numbers(self) -> set[int]:
        return {one.layer for found in self.found.values() for one in found if one.layer is not None}

    @cached_property
    def _predicting(self) -> Collection[int]:
        """The layers for multi-token prediction: those known by their `eh_proj`, and as many as are counted.

        Of the latter rows of the table say what they need; a table without such rows goes by the first sign alone.
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
        """What needs hang on whose tensors are there; names with two meanings show nothing."""
        needs = (found[0].row.need(found[0].suffix) for found in self.found.values() if len(found) == 1)
        return {need.said for need in needs if need is not None}

    def refuse(self) -> None:
        """Raise `BadInput`, naming tensor and key, for what the settings and the tensors disagree on."""
        if any(self.found.values()):
            self._refuse_layers()
            self.refuse_shapes()
        self._refuse_computed()
        self._refuse_missing()
        for name, need in self._contrary.items():
            if need.said and not need.by_presence:
                nor = self._unmarked(self.found[name][0]) if NEXTN in self.found[name][0].row.gguf else ""
                has = f"{self.label}: tensor {self._stored(name)} exists{nor}"
                raise BadInput(f"{has}, but {self.where} describes a model without it{self._why(need)}.")

    def refuse_shapes(self) -> None:
        """Raise `BadInput` for a tensor of another shape than the settings say."""
        for name, found in self.found.items():
            self._refuse_shape(name, found)

    def unneeded(self) -> dict[str, str]:
        """Tensors that a flag, or the model's class, says are not there; and that flag, which may be none."""
        return {name: self._spelled(need.said) for name, need in self._contrary.items()}

    def unmet(self) -> dict[str, Found]:
        """Return keys that say that the model has tensors of which there is none, each with the first of these."""
        h = self.hyperparameters
        made: dict[str, Found] = {}
        for row, suffix in ((one, end) for one in self.architecture.tensors for end in one.suffixes):
            need = row.need(suffix)
            if need is None or need.said in self._shown or not (need.claim and h.settings.flag(need.claim, False)):
                continue
            layer = next((layer for layer in range(h.layers) if need.holds(h, layer)), None)
            made |= {} if layer is None else {need.claim: Found(row, suffix, layer)}
        return made

    @cached_property
    def _contrary(self) -> dict[str, Need]:
        """Tensors that are there although the settings say that there are none, and what these hang on."""
        found = {name: rows[0].row.need(rows[0].suffix) for name, rows in self.found.items() if rows}
        return {
            name: need
            for name, need in found.items()
            if need is not None and not any(self._may_be(one) for one in self.found[name])
        }

    def _may_be(self, one: Found) -> bool:
        """Whether the settings say that there is a tensor, or leave it open."""
        need = one.row.need(one.suffix)
        return need is None or (need.holds(self.hyperparameters, one.layer or 0) and self._is_part(one.row, one.layer))

    def _is_part(self, row: Tensor, layer: int | None) -> bool:
        """Whether a layer may have the module of a row: without it there is no bias either."""
        return row.needed is None or row.needed.holds(self.hyperparameters, layer or 0)

    def _holds(self, need: Need, layer: int | None) -> bool:
        """Whether a layer has to have what hangs on a need."""
        if need.by_presence and self.dialect == "gguf" and need.said in self._shown:
            return True
        return need.holds(self.hyperparameters, layer or 0) and (not need.all_or_none or need.said in self._shown)

    def _refuse_layers(self) -> None:
        layers, key = self.hyperparameters.layers, self._spelled("num_hidden_layers")
        beyond = min((n for n in self._numbers if n >= layers and n not in self._predicting), default=None)
        if beyond is not None:
            name = next(n for n, found in self.found.items() if any(one.layer == beyond for one in found))
            nor = self._unmarked(self.found[name][0])
            raise BadInput(
                f"{self.where}: {key} is {layers}, but there are tensors of layer {beyond}, such as "
                f"{self._stored(name)}{nor}."
            )
        # Stops at the first gap, however many layers are claimed.
        missing = next((number for number in range(layers) if number not in self._numbers), None)
        if missing is not None:
            self._refuse_dropped(key, missing)
            raise BadInput(f"{self.where}: {key} is {layers}, but layer {missing} has no tensors.")

    def _refuse_dropped(self, key: str, missing: int) -> None:
        """Raise `BadInput` where a layer has no tensors because all of them are left out."""
        numbers = {self.architecture.layer(name) for name in self.dropped}
        taken = sorted(n for n in numbers - self._numbers if n is not None and n < self.hyperparameters.layers)
        if missing not in taken:
            return
        said = (
            f"{self.where}: {key} is {self.hyperparameters.layers}, but --drop removes all tensors of layer {missing}."
        )
        # Of other sources no layer can be pruned, of none all of them.
        if self.dialect != "gguf" or len(taken) == self.hyperparameters.layers:
            raise BadInput(f"{said} Remove fewer tensors.")
        layers = ",".join(map(str, taken))
        raise BadInput(f"{said} To remove whole layers, use --prune-layers {layers} with a GGUF output.")

    def _unmarked(self, one: Found) -> str:
        """What the layer of a tensor lacks to be one for multi-token prediction, where the table has such layers."""
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
        """The name that a folder has, of some families in a module of layers for multi-token prediction."""
        module = self.architecture.mtp_module if self.dialect == "hf" else ""
        return in_module(name, self.hyperparameters.layers, module) if module else name

    def _refuse_shape(self, name: str, found: Sequence[Found]) -> None:
        if not found:
            return
        one, weight = found[0], self.weights[name]
        axes = one.row.axes(one.suffix)
        expected = self._expected(one, weight.scheme.name)
        if one.expert is not None and one.expert >= axes[0].of(self.hyperparameters):
            raise BadInput(f"{self.where}: {self._said(axes[:1])}, but tensor {name} exists.")
        is_row = any(isinstance(op, SingleRow) for op in one.row.ops_to(self.dialect))
        if weight.shape == expected or (is_row and (1, *weight.shape) == expected):
            return
        parts = [part.name for part in weight.parts.values()]
        stored = "" if name in parts or not parts else f" (stored as {parts[0]})"
        raise BadInput(
            f"{self.label}: tensor {name}{stored}: expected shape {list(expected)}, found {list(weight.shape)}: "
            f"{self._said(axes if one.expert is None else axes[1:], one.layer)} ({self.where})."
        )

    def _expected(self, one: Found, scheme: str) -> Shape:
        """`shape_of`; experts repeat each other, and layers of which no axis differs."""
        differ = any(axis.each is not None for axis in one.row.shape)
        key = (id(one.row), one.suffix, scheme, one.layer if differ else None)
        if key not in self._shapes:
            self._shapes[key] = shape_of(one, self.dialect, self.hyperparameters, scheme)
        return self._shapes[key]

    def _said(self, axes: Axes, layer: int | None = None) -> str:
        """Sizes under the keys that say them. layer: the one that the axes are of."""
        said = {
            self._spelled(axis.stored if self.dialect == "gguf" else axis.said): axis.at(self.hyperparameters, layer)
            for axis in axes
        }
        return " and ".join(f"{text} is {value}" for text, value in said.items() if text)

    def _refuse_missing(self) -> None:
        for one in self._needed():
            name = one.name(self.dialect)
            if name in self.weights or name in self.covered:
                continue
            others = self._others(one)
            if any(other in self.weights for other in others):
                continue
            nor = f" (as is {others[0]})" if others else ""
            need = one.row.need(one.suffix)
            why = self._why(need) if need is not None else ""
            raise BadInput(
                f"{self.label}: tensor {name} is missing{nor}; a {self.architecture.name} model of "
                f"{self.hyperparameters.layers} layers requires it{why}. {self._remedy(name)}"
            )

    def _remedy(self, name: str) -> str:
        """What to do about a tensor that is missing."""
        if name in self.dropped:
            return "The source has it; do not remove it with --drop."
        again = f"Download the checkpoint again, or fix {self.where}."
        return (
            f"Remove fewer tensors with --drop. If it is missing without --drop too: {again[0].lower()}{again[1:]}"
            if self.dropped
            else again
        )

    def _why(self, need: Need) -> str:
        """The keys that a tensor hangs on, in brackets."""
        return f" ({self._spelled(need.said)})" if need.said else ""

    def _refuse_computed(self) -> None:
        """What a GGUF stores of the settings' consequences is of their size, and all there or not at all."""
        computed = self.architecture.computed if self.dialect == "gguf" else ()
        stored = [row for row in computed if row.gguf in self.weights]
        for row in computed if stored else ():
            if row not in stored:
                raise BadInput(f"{self.label}: tensor {row.gguf} is missing; {stored[0].gguf} requires it.")
            shape, expected = self.weights[row.gguf].shape, tuple(axis.of(self.hyperparameters) for axis in row.shape)
            if shape != expected:
                raise BadInput(
                    f"{self.label}: tensor {row.gguf}: expected shape {list(expected)}, found {list(shape)}: "
                    f"{self._said(row.shape)} ({self.where})."
                )

    def _needed(self) -> Iterator[Found]:
        """Every tensor that the settings call for, one after another, however many they claim."""
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
        """The names of other rows' tensors that make the same one in GGUF."""
        rows = [row for row in self.architecture.tensors if row.gguf == one.row.gguf and row is not one.row]
        return [Found(row, one.suffix, one.layer, 0).name(self.dialect) for row in rows]

    def _spelled(self, text: str) -> str:
        """An expression with the keys that this checkpoint has for its sizes."""
        return KEY.sub(lambda match: self._key(match[0]), text)

    def _key(self, key: str) -> str:
        """A key of sizes as this checkpoint, or its GGUF metadata, calls it."""
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
        if key == HEAD_DIM.said and not settings.has(key):
            return f"({self._key('hidden_size')} / {self._key('num_attention_heads')})"
        return settings.first(*names)


def _is_mark(row: Tensor) -> bool:
    """Whether a row is what layers for multi-token prediction are known by."""
    return MARK in f"{row.hf}."


def shape_of(one: Found, dialect: str, hyperparameters: Hyperparameters, scheme: str = "") -> Shape:
    """The shape that a tensor has in a dialect, of a table's row with its axes.

    scheme: its name; some layouts of Hugging Face's store a tensor transposed already.
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
    """The shape that an operation leaves."""
    if isinstance(op, ShapeOp):
        return op.reshape(shape, hyperparameters)
    if isinstance(op, Transpose):
        return *shape[:-2], shape[-1], shape[-2]
    if isinstance(op, Take | Share):
        at = len(shape) - (1 if is_vector else 2)
        taken = len(op.index(shape[at], hyperparameters))
        return *shape[:at], taken, *shape[at + 1 :]
    return shape
