"""A model as a recipe: each weight gets the scheme that the weight of its role and layer has in another model.

    --recipe OTHER.gguf, --recipe OTHER_FOLDER      blk.0.attn_q.weight of OTHER is q5_k: so is the one of SOURCE

Weights are matched by their names in GGUF, which say role and layer in every dialect; without a table by their own.
What is a vector, or stays dense in every model (norms, routers), says nothing. Weights that OTHER lacks follow
--scheme.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantcli import recipes
from quantcli.checkpoint import Checkpoint
from quantcli.containers.hostile import shown
from quantcli.errors import NotPossible
from quantcli.recipes.base import WILDCARDS, Recipe, Rule, Subject, Way
from quantcli.recipes.llama_cpp import never
from quantcli.recipes.names import canonical
from quantcli.recipes.unmatched import unmatched
from quantcli.schemes.dense import Dense
from quantcli.sources.detect import open_source
from quantcli.sources.gguf import is_gguf
from quantcli.targets.model import Model

#: The number of a layer in a name in GGUF.
LAYER = re.compile(r"^blk\.([0-9]+)\.")

#: Warnings of what a recipe's entries and a model's weights do not have in common.
Doubts = Callable[[Sequence[Subject]], list[str]]


def load(path: Path) -> tuple[Recipe, Doubts]:
    """The recipe in a file, or that a model is, and what it says of the weights that it is applied to.

    Raises `BadInput`, `NotPossible`, `Surroundings`.
    """
    if is_model(path):
        found = Choices.of(open_source(path))
        return found.recipe(), found.doubts
    recipe = recipes.load(path)
    return recipe, lambda subjects: unmatched(recipe, subjects)


def is_model(path: Path) -> bool:
    """Whether a recipe is another model: a folder, a GGUF file, a safetensors file."""
    return path.is_dir() or (path.is_file() and (path.suffix == ".safetensors" or is_gguf(path)))


@dataclass(frozen=True)
class Choices:
    """What a model's weights are stored as. schemes, shapes: by `key`; shapes has those too that say nothing."""

    label: str
    schemes: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]
    mixed: tuple[str, ...] = ()

    @staticmethod
    def of(source: Checkpoint) -> Choices:
        """The choices of a model. Raises `NotPossible` for a scheme that no option can ask for."""
        model = Model.of(source)
        schemes: dict[str, str] = {}
        shapes: dict[str, tuple[int, ...]] = {}
        mixed: dict[str, None] = {}
        for name, weight in source.weights.items():
            known = model.architecture.to_gguf(name) if model.architecture and source.names == "hf" else None
            key = known[0] if known else name
            shapes.setdefault(key, weight.shape)
            if len(weight.shape) < 2 or not key.endswith(".weight"):
                continue
            if source.names == "gguf" and never(key, weight.shape) is not None:
                continue  # stays dense in every GGUF; an MLX folder may have its router quantized
            scheme = canonical(weight.scheme.name)
            if scheme is None:
                raise NotPossible(
                    f"{source.root}: {shown(name)} is {weight.scheme.name}, a scheme that is not written, so the model "
                    "is not a recipe."
                )
            # The dense dtype of a folder is the folder's; in a GGUF file it is one type among others.
            chosen = "dense" if isinstance(weight.scheme, Dense) and source.names == "hf" else scheme
            if schemes.setdefault(key, chosen) != chosen:
                mixed[key] = None
        return Choices(str(source.root), schemes, shapes, tuple(mixed))

    def recipe(self) -> Recipe:
        """An entry for each weight that has a scheme."""
        entries = {
            key: Rule(key, scheme, f"{self.label}: {key} is {scheme}", Way.EXACT)
            for key, scheme in self.schemes.items()
        }
        return Recipe(self.label, entries=entries, keys=keys_of, warnings=self._warnings())

    def _warnings(self) -> tuple[str, ...]:
        if not self.mixed:
            return ()
        several = self.mixed[0] if len(self.mixed) == 1 else f"{len(self.mixed)} weights, {self.mixed[0]} the first,"
        return (f"{self.label}: experts of {several} have different schemes; the first one's counts for all.",)

    def doubts(self, subjects: Sequence[Subject]) -> list[str]:
        """Warnings of other shapes, another number of layers, weights that only one of the two models has."""
        own = {_key(subject, self.shapes): subject for subject in subjects}
        matrices = {key: subject for key, subject in own.items() if len(subject.shape) >= 2}
        found = []
        ours, theirs = _layers(own), _layers(self.shapes)
        if ours != theirs:
            found.append(f"{self.label}: has {theirs} layers, the model that is converted has {ours}.")
        other = [k for k, s in matrices.items() if k in self.shapes and s.shape[-2:] != self.shapes[k][-2:]]
        if other:
            first = other[0]
            shapes = f"{list(self.shapes[first])} there, {list(own[first].shape)} here"
            found.append(f"{self.label}: {_counted(other)} another shape ({shapes}).")
        lacking = [key for key in matrices if key not in self.shapes]
        if lacking:
            found.append(f"{self.label}: {_counted(lacking)} no counterpart there: --scheme counts, or they stay.")
        idle = [key for key in self.schemes if key not in own]
        if idle:
            found.append(f"{self.label}: {_counted(idle)} no counterpart in the model that is converted.")
        return found

    def rules(self) -> list[dict[str, str]]:
        """The same as rules of ours, the last match counting: for each role its commonest scheme, then the others."""
        roles: dict[str, dict[str, str]] = {}
        for key, scheme in self.schemes.items():
            roles.setdefault(LAYER.sub("blk.*.", key), {})[key] = scheme
        found = []
        for pattern, members in roles.items():
            commonest = Counter(members.values()).most_common(1)[0][0]
            match = _literal(pattern, has_layers=True) if len(members) > 1 else _literal(next(iter(members)))
            found.append({"match": match, "scheme": commonest})
            found += [{"match": _literal(key), "scheme": own} for key, own in members.items() if own != commonest]
        return found


def keys_of(subject: Subject) -> tuple[str, ...]:
    """The names under which a weight is looked up."""
    return (*([subject.gguf] if subject.gguf is not None else []), subject.name, *subject.others)


def _key(subject: Subject, shapes: Mapping[str, Any]) -> str:
    return next((key for key in keys_of(subject) if key in shapes), subject.gguf or subject.name)


def _layers(names: Mapping[str, Any]) -> int:
    """How many layers the names have."""
    return len({found[1] for name in names if (found := LAYER.match(name))})


def _counted(names: Sequence[str]) -> str:
    """How many weights, as the subject of a sentence with its verb."""
    return f"{shown(names[0])} has" if len(names) == 1 else f"{len(names)} weights, {shown(names[0])} the first, have"


def _literal(name: str, has_layers: bool = False) -> str:
    """A pattern that means this name, or this role in every layer; `[*]` stands for a `*` of its own."""
    start = "blk.*." if has_layers else ""
    return start + "".join(f"[{c}]" if c in WILDCARDS else c for c in name.removeprefix(start))


def toml(rules: Sequence[Mapping[str, str]], label: str) -> str:
    """Rules as a TOML file."""
    lines = [f"# Schemes of {shown(label)}; the last rule that matches decides."]
    for rule in rules:
        lines += ["", "[[rule]]", *(f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in rule.items())]
    return "\n".join(lines)
