"""A model as a recipe: each weight gets the scheme of the weight with its role and layer in another model.

    --recipe OTHER.gguf, --recipe OTHER_FOLDER      if blk.0.attn_q.weight of OTHER is q5_k, that of SOURCE becomes q5_k

Weights are matched by their names in GGUF, which contain role and layer; without a table, by their stored names.
Vectors, and weights that are dense in every model (norms, routers), are ignored. Weights that OTHER lacks follow
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

#: Returns warnings of recipe entries without weights, and of weights without entries.
Doubts = Callable[[Sequence[Subject]], list[str]]


def load(path: Path) -> tuple[Recipe, Doubts]:
    """Return the recipe in a file, or of a model, and a function that checks it against the weights.

    Raises `BadInput`, `NotPossible`, `Surroundings`.
    """
    if is_model(path):
        choices = Choices.of(open_source(path))
        return choices.recipe(), choices.doubts
    recipe = recipes.load(path)
    return recipe, lambda subjects: unmatched(recipe, subjects)


def is_model(path: Path) -> bool:
    """Return whether a recipe is another model: a folder, a GGUF file or a safetensors file."""
    return path.is_dir() or (path.is_file() and (path.suffix == ".safetensors" or is_gguf(path)))


@dataclass(frozen=True)
class Choices:
    """The schemes of a model's weights. schemes, shapes: by `key`; shapes has the ignored weights too."""

    label: str
    schemes: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]
    mixed: tuple[str, ...] = ()

    @staticmethod
    def of(source: Checkpoint) -> Choices:
        """Return the choices of a model. Raises `NotPossible` for a scheme that no option can request."""
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
                    f"{source.root}: {shown(name)} has the scheme {weight.scheme.name}, which quant cannot write, so "
                    "the model cannot be used as a recipe."
                )
            # In a folder, a dense dtype is that of the folder; in a GGUF file, it is one type among others.
            chosen = "dense" if isinstance(weight.scheme, Dense) and source.names == "hf" else scheme
            if schemes.setdefault(key, chosen) != chosen:
                mixed[key] = None
        return Choices(str(source.root), schemes, shapes, tuple(mixed))

    def recipe(self) -> Recipe:
        """Return a recipe with an entry for each weight that has a scheme."""
        entries = {
            key: Rule(key, scheme, f"{self.label}: {key} is {scheme}", Way.EXACT)
            for key, scheme in self.schemes.items()
        }
        return Recipe(self.label, entries=entries, keys=keys_of, warnings=self._warnings())

    def _warnings(self) -> tuple[str, ...]:
        if not self.mixed:
            return ()
        several = self.mixed[0] if len(self.mixed) == 1 else f"{len(self.mixed)} weights (first: {self.mixed[0]})"
        return (f"{self.label}: the experts of {several} have different schemes; that of the first expert is used.",)

    def doubts(self, subjects: Sequence[Subject]) -> list[str]:
        """Return warnings of different shapes or numbers of layers, and of weights that only one model has."""
        own = {_key(subject, self.shapes): subject for subject in subjects}
        matrices = {key: subject for key, subject in own.items() if len(subject.shape) >= 2}
        doubts = []
        ours, theirs = _layers(own), _layers(self.shapes)
        if ours != theirs:
            doubts.append(f"{self.label}: has {theirs} layers, but the converted model has {ours}.")
        other = [k for k, s in matrices.items() if k in self.shapes and s.shape[-2:] != self.shapes[k][-2:]]
        if other:
            first = other[0]
            shapes = f"{list(self.shapes[first])} in the recipe, {list(own[first].shape)} in the source"
            doubts.append(f"{self.label}: {_counted(other)} another shape ({shapes}).")
        lacking = [key for key in matrices if key not in self.shapes]
        if lacking:
            doubts.append(
                f"{self.label}: {_counted(lacking)} no counterpart in the recipe; --scheme applies (default: keep)."
            )
        idle = [key for key in self.schemes if key not in own]
        if idle:
            doubts.append(f"{self.label}: {_counted(idle)} no counterpart in the converted model.")
        return doubts

    def rules(self) -> list[dict[str, str]]:
        """Return the same as rules of a TOML recipe: for each role its most common scheme, then the exceptions."""
        roles: dict[str, dict[str, str]] = {}
        for key, scheme in self.schemes.items():
            roles.setdefault(LAYER.sub("blk.*.", key), {})[key] = scheme
        rules = []
        for pattern, members in roles.items():
            commonest = Counter(members.values()).most_common(1)[0][0]
            match = _literal(pattern, has_layers=True) if len(members) > 1 else _literal(next(iter(members)))
            rules.append({"match": match, "scheme": commonest})
            rules += [{"match": _literal(key), "scheme": own} for key, own in members.items() if own != commonest]
        return rules


def keys_of(subject: Subject) -> tuple[str, ...]:
    """Return the names under which a weight is looked up, the first first."""
    return (*([subject.gguf] if subject.gguf is not None else []), subject.name, *subject.others)


def _key(subject: Subject, shapes: Mapping[str, Any]) -> str:
    return next((key for key in keys_of(subject) if key in shapes), subject.gguf or subject.name)


def _layers(names: Mapping[str, Any]) -> int:
    """Return the number of layers in the names."""
    return len({match[1] for name in names if (match := LAYER.match(name))})


def _counted(names: Sequence[str]) -> str:
    """Return the number of weights as the subject of a sentence, with its verb."""
    return f"{shown(names[0])} has" if len(names) == 1 else f"{len(names)} weights (first: {shown(names[0])}) have"


def _literal(name: str, has_layers: bool = False) -> str:
    """Return a pattern for this name, or for this role in every layer; `[*]` is a literal `*`."""
    start = "blk.*." if has_layers else ""
    return start + "".join(f"[{c}]" if c in WILDCARDS else c for c in name.removeprefix(start))


def toml(rules: Sequence[Mapping[str, str]], label: str) -> str:
    """Return rules as a TOML file."""
    lines = [f"# Schemes of {shown(label)}; the last rule that matches decides."]
    for rule in rules:
        lines += ["", "[[rule]]", *(f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in rule.items())]
    return "\n".join(lines)
