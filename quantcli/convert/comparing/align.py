"""The weights of two checkpoints, side by side: names, rows, tied heads.

Two checkpoints of one dialect are taken as they are named. A GGUF file beside a folder is taken under Hugging Face's
names, its permuted rows in Hugging Face's order; tensors that only GGUF stores, since they follow from the model's
settings, are compared with what the folder's settings give.
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

#: Roles of the output matrix and of the embedding that stands for it where the two are tied.
HEAD, EMBEDDING = "output", "token_embd"


@dataclass(frozen=True)
class Side:
    """One of the two: its tensors under the common names.

    scales: those of what is quantized while a model runs, which not every output has -> why.
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
        """The name of the matrix that has a role."""
        found = (n for n, t in self.tensors.items() if t.subject.role == role and n.endswith(".weight"))
        return next(found, None)


@dataclass(frozen=True)
class Aligned:
    """The pairs in A's order; weights that one side lacks; notes on what stands for another; what was left aside."""

    pairs: tuple[tuple[Tensor, Tensor], ...]
    only_a: tuple[Tensor, ...]
    only_b: tuple[Tensor, ...]
    notes: tuple[str, ...]
    left: tuple[NotCompared, ...]


def align(a: Checkpoint, b: Checkpoint) -> Aligned:
    """The pairs of two checkpoints. Raises `NotPossible` where names can't be brought together, `BadInput`."""
    models = Model.of(a), Model.of(b)
    mixed = models[0].dialect != models[1].dialect or models[0].layout != models[1].layout
    first, second = _side("A", models[0], mixed), _side("B", models[1], mixed)
    first, second = _with_head(first, second), _with_head(second, first)
    both = [name for name in first.tensors if name in second.tensors]
    notes = (*first.notes, *second.notes)
    if mixed and models[0].dialect == models[1].dialect:
        notes = ("A and B store some tensors otherwise: they are compared under Hugging Face's names.", *notes)
    (only_a, lone_a), (only_b, lone_b) = _alone(first, second), _alone(second, first)
    pairs = tuple((first.tensors[name], second.tensors[name]) for name in both)
    return Aligned(pairs, only_a, only_b, notes, (*first.left, *lone_a, *second.left, *lone_b))


def _alone(side: Side, other: Side) -> tuple[tuple[Tensor, ...], list[NotCompared]]:
    """What the other side lacks, and of it by reason what it may lack."""
    names = [name for name in side.tensors if name not in other.tensors]
    reasons: dict[str, list[str]] = {}
    for name in names:
        if name in side.scales:
            reasons.setdefault(side.scales[name], []).append(name)
    alone = tuple(side.tensors[name] for name in names if name not in side.scales)
    return alone, [NotCompared(side.label, "tensors", tuple(names), reason) for reason, names in reasons.items()]


def _side(label: str, model: Model, mixed: bool) -> Side:
    """One side, under Hugging Face's names where the two have different ones."""
    source, architecture = model.source, model.architecture
    if mixed and architecture is None:
        raise NotPossible(f"{unknown(source)} Two folders or two GGUF files need no table.")
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
    """The weights of a side without those of a folder that models have no use for, and these, by reason."""
    if mixed:
        found = model.gather()
        weights, left = found.weights, found.left
    else:
        weights, left = combined(model.source, strict=False)
        weights, left = {**weights, **{tensor.name: model.source.weights[tensor.name] for tensor in left}}, []
        found = Gathered(weights, {}, left)
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
    aside = [NotCompared(label, "tensors", tuple(names), reason) for reason, names in reasons.items()]
    return replace(found, weights=kept), aside


def _arranged(kept: Gathered, model: Model, mixed: bool) -> list[StoredTensor]:
    """A side's weights; of two that are mixed under Hugging Face's names and in its arrangement."""
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
    """A weight under its own name."""
    found = model.architecture.find(weight.name, model.dialect) if model.architecture else []
    role = model.architecture.role(weight.name) if model.architecture else None
    gguf = found[0].name("gguf") if found else weight.name if model.dialect == "gguf" else None
    name = found[0].name("hf") if found else weight.name
    return StoredTensor(weight.name, Subject(name, gguf, role, weight.shape), Arranged.of(weight))


def _computed(architecture: Architecture, settings: Hyperparameters) -> list[ComputedTensor]:
    """What only GGUF stores, since it follows from the model's settings."""
    found = [(row, values) for row in architecture.computed if (values := row.values(settings)) is not None]
    return [
        ComputedTensor(row.gguf, Subject(row.gguf, row.gguf, row.role, values.shape), values) for row, values in found
    ]


def _with_head(side: Side, other: Side) -> Side:
    """The side with its embedding as its head, where it is tied and the other one has a head of its own."""
    head, embedding = other.find(HEAD), side.find(EMBEDDING)
    if not side.tied or head is None or embedding is None or head in side.tensors:
        return side
    note = f"{side.label}: {embedding} stands for {head}, which it is tied to."
    tensors = {**side.tensors, head: replace(side.tensors[embedding], name=head)}
    return replace(side, tensors=tensors, notes=(*side.notes, note))
