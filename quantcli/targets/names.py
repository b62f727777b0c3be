"""Renaming and rearranging of a source's weights for the dialect of a target.

A model that has no table keeps its names where source and target are both folders.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from quantcli.containers.hostile import shown
from quantcli.errors import NotPossible
from quantcli.models import Found
from quantcli.models.base import NUMBER
from quantcli.models.built_in import of_folder
from quantcli.models.limits import of_towers, unloadable
from quantcli.models.translate import Arranged, Translation
from quantcli.recipes.base import Subject
from quantcli.schemes.dense import Dense
from quantcli.targets.base import Left
from quantcli.targets.disagreements import disagreements
from quantcli.targets.model import SAID, Gathered, Model

#: Names that a shell takes as they are written, in single quotes.
PLAIN = re.compile(r"[A-Za-z0-9_.*/-]{1,200}")
#: At most so many globs are advised.
MOST_GLOBS = 3

#: Why a tower's matrix is not quantized.
KEPT_TOWER = "kept dense: part of a vision or audio tower"

#: Why a dialect has no place for tensors that a table does not know.
REFUSALS = {"mlx": ", and mlx-lm does not load a folder with one"}


@dataclass(frozen=True)
class Named:
    """A weight of the target: what it is in the table (None: the table does not know it), where its rows come from.

    is_tower: of no text model. called: further names of a tensor in folders of this model, whose prefixes differ.
    """

    name: str
    found: Found | None
    source: Arranged
    is_tower: bool = False
    called: Callable[[str], tuple[str, ...]] = field(default=lambda name: (), repr=False)

    def is_kept(self, dialect: str) -> bool:
        """Return whether a dense tensor keeps its stored dtype in a dialect, whatever dtype is requested."""
        is_wide = self.found is not None and self.found.row.stays_f32(dialect)
        return (is_wide or self.is_tower) and isinstance(self.source.weight.scheme, Dense)

    @property
    def subject(self) -> Subject:
        """What recipes see of it: its name in this target, in GGUF, and where those differ in the other folders.

        Of stacked experts they see the first's name where a dialect names each.
        """
        shape = self.source.shape
        if self.found is None:
            return Subject(self.name, shape=shape)
        first = None if self.name == self.found.name("hf") else 0
        hf, gguf, mlx = (self.found.name(dialect, first) for dialect in ("hf", "gguf", "mlx"))
        name = hf if self.name == gguf else self.name
        spelled = (further for one in (hf, mlx) for further in (one, *self.called(one)))
        others = tuple(other for other in dict.fromkeys(spelled) if other != name)
        return Subject(name, gguf, self.found.row.role, shape, others)


def name_weights(model: Model, target: str) -> tuple[list[Named], list[Left], list[str]]:
    """Return the weights of a target under its names, those left out, and warnings.

    Raises `NotPossible` for one that has no name there, `BadInput`.
    """
    if model.head is not None:
        model.head.check(target)
    kept = model.sort_out(target)
    warnings = [*(model.head.warnings if model.head else []), *disagreements(model, target, kept)]
    architecture = model.architecture
    limits = () if architecture is None else (*architecture.limits, *of_towers(model.multimodal))
    if architecture is not None and model.dialect != "gguf":
        limits += of_folder(architecture)
    if limits and target != "hf":
        warnings += unloadable(limits, target, model.hyperparameters, is_nested=bool(model.source.whole))
    if model.architecture is None or model.architecture.agrees(model.dialect, target):
        named = [Named(name, model.find(name), Arranged.of(weight)) for name, weight in kept.weights.items()]
    else:
        named = translate(model, kept, target)
    towers = model.source.towers
    _refuse_unknown(model, [one.name for one in named if one.found is None and one.name not in towers], target)
    named = [replace(one, is_tower=one.name in towers, called=model.called) for one in named]
    return named, kept.left, warnings


def translate(model: Model, kept: Gathered, target: str) -> list[Named]:
    """Translate weights to a dialect's names and arrangement; those that the table lacks come last, unchanged."""
    args = model.known(), model.hyperparameters
    label = str(model.source.root)
    made, rest = Translation(*args, model.dialect, target, label).of(kept.weights)
    made += Translation(*args, "hf", target, label).of(kept.unsplit)[0]
    known = [Named(tensor.name, tensor.found, tensor.source) for tensor in made]
    return known + [Named(name, None, Arranged.of(kept.weights[name])) for name in rest]


def _refuse_unknown(model: Model, names: Sequence[str], target: str) -> None:
    """Raise `NotPossible` for tensors that a known architecture does not have, unless a folder is to copy them."""
    if model.architecture is None or (target == "hf" and model.dialect != "gguf"):
        return
    names = [name for name in names if model.dialect != target or not model.is_predicting(name)]
    if not names:
        return
    first = shown(names[0])
    which, them = (f"tensor {first}", "it") if len(names) == 1 else (f"{len(names)} tensors (first: {first})", "them")
    holder = "another GGUF file" if model.dialect == "gguf" else "a Hugging Face folder (--to hf)"
    raise NotPossible(
        f"{model.source.root}: {which} cannot be stored in {SAID[target]}: {model.architecture.name} models have no "
        f"such tensor{REFUSALS.get(target, '')}. Leave {them} out with {_globs(names)} if the model does not use "
        f"{them}, or convert to {holder}."
    )


def _globs(names: Sequence[str]) -> str:
    """`--drop` with what takes the tensors, layers and experts folded, as far as a shell can be told."""
    globs = list(dict.fromkeys(NUMBER.sub("*", name) for name in names))
    if not all(PLAIN.fullmatch(glob) for glob in globs[:MOST_GLOBS]):
        return "--drop GLOB"
    more = " ..." if len(globs) > MOST_GLOBS else ""
    return " ".join(f"--drop '{glob}'" for glob in globs[:MOST_GLOBS]) + more
