"""The weights of two checkpoints, side by side: names, rows, tied heads.

Two checkpoints of one dialect are taken as they are named. A GGUF file beside a folder is taken under Hugging Face's
names, its permuted rows in Hugging Face's order; tensors that only GGUF stores, since they follow from the model's
settings, are compared with what the folder's settings give.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from quantcli import models
from quantcli.checkpoint import Checkpoint, Weight
from quantcli.convert.survey import model_of
from quantcli.errors import BadInput, NotPossible
from quantcli.models import Architecture, Hyperparameters
from quantcli.recipes.base import Subject
from quantcli.targets.base import Draft

#: Roles of the output matrix and of the embedding that stands for it where the two are tied.
HEAD, EMBEDDING = "output", "token_embd"


@dataclass(frozen=True)
class Side:
    """One of the two: its weights under the common names (a draft's rows: the stored row of each row)."""

    label: str
    source: Checkpoint
    architecture: Architecture | None
    drafts: dict[str, Draft]
    tied: bool
    notes: tuple[str, ...]

    def find(self, role: str) -> str | None:
        """The name of the matrix that has a role."""
        found = (n for n, d in self.drafts.items() if d.subject.role == role and n.endswith(".weight"))
        return next(found, None)


@dataclass(frozen=True)
class Aligned:
    """The pairs in A's order; weights that one side lacks; notes on what was set aside or stands for another."""

    pairs: tuple[tuple[Draft, Draft], ...]
    only_a: tuple[Draft, ...]
    only_b: tuple[Draft, ...]
    notes: tuple[str, ...]


def architecture_of(source: Checkpoint) -> Architecture | None:
    """The architecture that a checkpoint names, None for one without a table."""
    if source.names == "hf":
        return models.find(source.config)
    return models.by_gguf(source.metadata)


def hyperparameters_of(source: Checkpoint, architecture: Architecture) -> Hyperparameters:
    """The settings of either dialect; raises `BadInput`."""
    if source.names == "hf":
        return architecture.hyperparameters(source.config, f"{source.root}/config.json")
    return models.from_gguf(source.metadata, str(source.root))


def align(a: Checkpoint, b: Checkpoint) -> Aligned:
    """The pairs of two checkpoints. Raises `NotPossible` where names can't be brought together, `BadInput`."""
    mixed = a.names != b.names
    first, second = _side("A", a, mixed), _side("B", b, mixed)
    first, second = _with_head(first, second), _with_head(second, first)
    both = [name for name in first.drafts if name in second.drafts]
    return Aligned(
        tuple((first.drafts[name], second.drafts[name]) for name in both),
        tuple(draft for name, draft in first.drafts.items() if name not in second.drafts),
        tuple(draft for name, draft in second.drafts.items() if name not in first.drafts),
        (*first.notes, *second.notes),
    )


def _side(label: str, source: Checkpoint, mixed: bool) -> Side:
    architecture = architecture_of(source)
    if mixed and architecture is None:
        raise NotPossible(
            f"{source.root}: the architecture {model_of(source)!r} has no table of names, so its tensors have none in "
            f"the other dialect; known are {', '.join(models.ARCHITECTURES)}. Two folders or two GGUF files need none."
        )
    if source.names == "hf":
        return _folder(label, source, architecture, mixed)
    settings = hyperparameters_of(source, architecture) if mixed and architecture else None
    drafts = [_stored(weight, source, architecture, settings) for weight in source.weights.values()]
    side = Side(label, source, architecture, {d.name: d for d in drafts}, False, ())
    return replace(side, tied=side.find(HEAD) is None)


def _folder(label: str, source: Checkpoint, architecture: Architecture | None, mixed: bool) -> Side:
    if architecture is None:
        plain = {w.name: _draft(w, Subject(w.name, shape=w.shape)) for w in source.weights.values()}
        return Side(label, source, None, plain, False, ())
    settings = hyperparameters_of(source, architecture)
    drafts, notes = {}, []
    for weight in source.weights.values():
        found = architecture.to_gguf(weight.name)
        gguf, role = (found[0], found[1].role) if found else (None, None)
        if architecture.drops(weight.name):
            notes.append(f"{label}: {weight.name} is set aside: the model computes it.")
        elif settings.tie_embeddings and role == HEAD:
            notes.append(f"{label}: {weight.name} is set aside: the embedding is used for it (tie_word_embeddings).")
        else:
            drafts[weight.name] = _draft(weight, Subject(weight.name, gguf, role, weight.shape))
    for row in architecture.computed if mixed else ():
        values = row.values(settings)
        if values is not None:
            subject = Subject(row.gguf, row.gguf, row.role, values.shape)
            drafts[row.gguf] = Draft(row.gguf, values.shape, subject, "f32", constant=values)
            notes.append(f"{label}: {row.gguf} is computed from config.json.")
    return Side(label, source, architecture, drafts, settings.tie_embeddings, tuple(notes))


def _stored(
    weight: Weight, source: Checkpoint, architecture: Architecture | None, settings: Hyperparameters | None
) -> Draft:
    """A GGUF tensor, under its Hugging Face name where `settings` are given and the table knows it."""
    found = architecture.to_hf(weight.name) if architecture else None
    if found is None:
        role = architecture.role(weight.name) if architecture else None
        return _draft(weight, Subject(weight.name, weight.name, role, weight.shape))
    name, row = found
    draft = _draft(weight, Subject(name, weight.name, row.role, weight.shape))
    if settings is None:
        return draft
    try:
        return replace(draft, name=name, rows=row.hf_rows(weight.shape, settings))
    except BadInput as error:
        raise BadInput(f"{source.root}: tensor {weight.name}: {error}") from None


def _draft(weight: Weight, subject: Subject) -> Draft:
    return Draft(weight.name, weight.shape, subject, weight.scheme.values_dtype, weight)


def _with_head(side: Side, other: Side) -> Side:
    """The side with its embedding as its head, where it is tied and the other one has a head of its own."""
    head, embedding = other.find(HEAD), side.find(EMBEDDING)
    if not side.tied or head is None or embedding is None or head in side.drafts:
        return side
    note = f"{side.label}: {embedding} stands for {head}, which it is tied to."
    drafts = {**side.drafts, head: replace(side.drafts[embedding], name=head)}
    return replace(side, drafts=drafts, notes=(*side.notes, note))
