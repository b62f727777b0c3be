"""Pairing the weights of two checkpoints: names, rows, tied output matrices.

Two checkpoints of one dialect are paired by their names. A GGUF file and a folder are paired by Hugging Face's names,
with the file's permuted rows in Hugging Face's order; tensors that only GGUF stores, because they follow from the
model's settings, are compared with values computed from the folder's settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from quantcli.checkpoint import Checkpoint, Weight
from quantcli.convert.comparing.tensor import ComputedTensor, StoredTensor, Tensor
from quantcli.convert.comparing.values import NotCompared
from quantcli.errors import NotPossible
from quantcli.models import Architecture, Hyperparameters
from quantcli.models.leftovers import SCALES
from quantcli.models.translate import Arranged
from quantcli.recipes.base import Subject
from quantcli.targets.global_scales import combined
from quantcli.targets.model import Gathered, Model, unknown
from quantcli.targets.names import translate

#: Roles of the output matrix and of the embedding, which is used as the output matrix if the two are tied.
HEAD, EMBEDDING = "output", "token_embd"


@dataclass(frozen=True)
class Side:
    """One of the two checkpoints: its tensors under the common names.

    scales: names of scales that are used only while a model runs, which an output may lack, with the reason. left: the
    tensors that are not compared.
    """

    label: str
    source: Checkpoint
    architecture: Architecture | None
    tensors: dict[str, Tensor]
    tied: bool
    notes: tuple[str, ...]
    left: tuple[NotCompared, ...]
    scales: Mapping[str, str]

    def find(self, role: str) -> str | None:
        """Return the name of the matrix with a role, None if there is none."""
        names = (n for n, t in self.tensors.items() if t.subject.role == role and n.endswith(".weight"))
        return next(names, None)


@dataclass(frozen=True)
class Aligned:
    """The pairs in A's order; weights that one side lacks; notes; tensors that are not compared."""

    pairs: tuple[tuple[Tensor, Tensor], ...]
    only_a: tuple[Tensor, ...]
    only_b: tuple[Tensor, ...]
    notes: tuple[str, ...]
    left: tuple[NotCompared, ...]


def align(a: Checkpoint, b: Checkpoint) -> Aligned:
    """Pair the weights of two checkpoints. Raises `NotPossible` if names cannot be translated, `BadInput`."""
    models = Model.of(a), Model.of(b)
    mixed = models[0].dialect != models[1].dialect or models[0].layout != models[1].layout
    first, second = _side("A", models[0], mixed), _side("B", models[1], mixed)
    first, second = _with_head(first, second), _with_head(second, first)
    both = [name for name in first.tensors if name in second.tensors]
    notes = (*first.notes, *second.notes)
    if mixed and models[0].dialect == models[1].dialect:
        notes = (
            "A and B name or arrange some tensors differently. These are compared under their Hugging Face names.",
            *notes,
        )
    (only_a, lone_a), (only_b, lone_b) = _alone(first, second), _alone(second, first)
    pairs = tuple((first.tensors[name], second.tensors[name]) for name in both)
    return Aligned(pairs, only_a, only_b, notes, (*first.left, *lone_a, *second.left, *lone_b))


def _alone(side: Side, other: Side) -> tuple[tuple[Tensor, ...], list[NotCompared]]:
    """Return the tensors that the other side lacks, and by reason those that it may lack."""
    names = [name for name in side.tensors if name not in other.tensors]
    reasons: dict[str, list[str]] = {}
    for name in names:
        if name in side.scales:
            reasons.setdefault(side.scales[name], []).append(name)
    alone = tuple(side.tensors[name] for name in names if name not in side.scales)
    return alone, [NotCompared(side.label, "tensors", tuple(names), reason) for reason, names in reasons.items()]


def _side(label: str, model: Model, mixed: bool) -> Side:
    """Return one side; if mixed, under Hugging Face's names."""
    source, architecture = model.source, model.architecture
    if mixed and architecture is None:
        raise NotPossible(
            f"{unknown(source)} Such models can be compared only if both are folders or both are GGUF files."
        )
    settings = model.hyperparameters if architecture and mixed else None
    kept, left = _set_aside(label, model, mixed)
    notes: list[str] = []
    tensors: list[Tensor] = [*_arranged(kept, model, mixed)]
    if mixed and source.names == "hf" and architecture and settings:
        computed = _computed(architecture, settings)
        tensors += computed
        notes += [f"{label}: {tensor.name} is computed from config.json." for tensor in computed]
    tied = model.head is not None and (model.head.is_tied is True or model.head.is_tied_after_all)
    scales = {name: why for name in kept.weights if (why := model.leftover(name)) is not None}
    side = Side(label, source, architecture, {t.name: t for t in tensors}, tied, tuple(notes), tuple(left), scales)
    return replace(side, tied=side.find(HEAD) is None) if source.names == "gguf" else side


def _set_aside(label: str, model: Model, mixed: bool) -> tuple[Gathered, list[NotCompared]]:
    """Return the weights of a side without those that models do not use, and the latter by reason."""
    if mixed:
        gathered = model.gather()
        weights, left = gathered.weights, gathered.left
    else:
        weights, left = combined(model.source, strict=False)
        weights, left = {**weights, **{tensor.name: model.source.weights[tensor.name] for tensor in left}}, []
        gathered = Gathered(weights, {}, left)
    reasons: dict[str, list[str]] = {}
    for tensor in left:
        reasons.setdefault(tensor.reason, []).append(tensor.name)
    kept = {}
    for name, weight in weights.items():
        why = model.leftover(name)
        if why is not None and why not in SCALES:
            reasons.setdefault(why, []).append(name)
        else:
            kept[name] = weight
    not_compared = [NotCompared(label, "tensors", tuple(names), reason) for reason, names in reasons.items()]
    return replace(gathered, weights=kept), not_compared


def _arranged(kept: Gathered, model: Model, mixed: bool) -> list[StoredTensor]:
    """Return a side's weights; if mixed, under Hugging Face's names and in its row order."""
    if not mixed:
        return [_stored(weight, model) for weight in kept.weights.values()]
    tensors = []
    for named in translate(model, kept, "hf"):
        if named.found is None:
            tensors.append(_stored(named.source.weight, model))
            continue
        subject = Subject(named.name, named.found.name("gguf"), named.found.row.role, named.source.shape)
        tensors.append(StoredTensor(named.name, subject, named.source))
    return tensors


def _stored(weight: Weight, model: Model) -> StoredTensor:
    """Return a weight under its stored name."""
    rows = model.architecture.find(weight.name, model.dialect) if model.architecture else []
    role = model.architecture.role(weight.name) if model.architecture else None
    gguf = rows[0].name("gguf") if rows else weight.name if model.dialect == "gguf" else None
    name = rows[0].name("hf") if rows else weight.name
    return StoredTensor(weight.name, Subject(name, gguf, role, weight.shape), Arranged.of(weight))


def _computed(architecture: Architecture, settings: Hyperparameters) -> list[ComputedTensor]:
    """Return the tensors that only GGUF stores, because they follow from the model's settings."""
    computed = [(row, values) for row in architecture.computed if (values := row.values(settings)) is not None]
    return [
        ComputedTensor(row.gguf, Subject(row.gguf, row.gguf, row.role, values.shape), values)
        for row, values in computed
    ]


def _with_head(side: Side, other: Side) -> Side:
    """Return the side with its embedding as output matrix, if it is tied and the other side stores an output matrix."""
    head, embedding = other.find(HEAD), side.find(EMBEDDING)
    if not side.tied or head is None or embedding is None or head in side.tensors:
        return side
    note = f"{side.label}: {embedding} is also compared as {head}, to which it is tied."
    tensors = {**side.tensors, head: replace(side.tensors[embedding], name=head)}
    return replace(side, tensors=tensors, notes=(*side.notes, note))
