"""`inspect --rules`: which rule decides each weight, and which patterns match nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from quantcli import models
from quantcli.checkpoint import Checkpoint, Weight
from quantcli.convert.planning import model_recipe
from quantcli.dtypes import DENSE_DTYPES
from quantcli.recipes import mlx_config, overrides
from quantcli.recipes.base import Decision, Origin, Recipe, Subject, resolve
from quantcli.recipes.names import WORDS
from quantcli.sources.folder import LocalFolder
from quantcli.sources.mlx_settings import read_settings


def explain(source: Checkpoint, recipe: Path | None, override: list[str]) -> dict[str, Any]:
    """Return the decision for every weight by a recipe and overrides or, without both, by the source's settings.

    Raises `BadInput`, `NotPossible`, `Surroundings` and `WrongUsage`.
    """
    given = [overrides.parse(override)] if override else []
    given += [model_recipe.load(recipe)[0]] if recipe else []
    layers = given or _own(source)
    subjects = [_subject(source, name) for name in source.weights]
    decided = {s.name: resolve(s, (r.decide for r in given)) for s in subjects}
    return {
        "rules_version": 1,
        "source": str(source.root),
        "weights": [
            {
                "name": name,
                **_shown(decided[name] or Decision(weight.scheme.name, weight.reason, Origin.SOURCE), weight),
            }
            for name, weight in source.weights.items()
        ],
        "unmatched": [f"{r.label}: {pattern}" for r in layers for pattern in r.unmatched(subjects)],
        "warnings": [warning for r in layers for warning in r.warnings],
    }


def _own(source: Checkpoint) -> list[Recipe]:
    """Return the overrides in the source's settings."""
    if source.kind != "mlx":
        return []
    config, names = source.config_json, [source.naming.stored(name) for name in source.weights]
    if source.root.is_dir():
        settings = read_settings(LocalFolder(source.root), config, names)
        stored = [settings.config, settings.beside]
    else:
        stored = [mlx_config.parse(config, f"{source.root}/config.json", names)]
    return [stated.recipe() for stated in stored if stated is not None]


def _subject(source: Checkpoint, name: str) -> Subject:
    weight = source.weights[name]
    if source.names == "gguf":
        return Subject(name, name, None, weight.shape)
    architecture = models.find(source.config)
    known = architecture.to_gguf(name) if architecture else None
    stored = source.naming.stored(name)
    others = (stored,) if stored != name else ()
    return Subject(name, known[0] if known else None, known[1].role if known else None, weight.shape, others)


def _shown(decision: Decision, weight: Weight) -> dict[str, str]:
    """Return a decision as JSON; rules match vectors too, but no target quantizes them."""
    if len(weight.shape) < 2 and decision.scheme not in (*DENSE_DTYPES, *WORDS):
        return {
            "scheme": "dense",
            "reason": f"kept dense: a {len(weight.shape)}-D tensor is not quantized ({decision.reason})",
        }
    return {"scheme": decision.scheme, "reason": decision.reason}
