"""Checkpoints whose tensors have another prefix than a text model's: saved without the head, or next to towers.

    model.layers.0.mlp.up_proj.weight                   Qwen3ForCausalLM
    layers.0.mlp.up_proj.weight                         Qwen3Model, as embedding models are saved
    model.language_model.layers.0.mlp.up_proj.weight    Qwen3VLForConditionalGeneration
    language_model.model.layers.0.mlp.up_proj.weight    Mistral3ForConditionalGeneration, MLX folders

Their weights get the names in the architecture's table, and the checkpoint gets the settings of its text model. Stored
tensors keep their names, also in a Hugging Face folder that is written from them. Source: transformers
(base_model_prefix; the classes' _checkpoint_conversion_mapping), llama.cpp (conversion/base.py: `filter_tensors`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from quantcli import models
from quantcli.checkpoint import Checkpoint, Naming
from quantcli.models import Architecture
from quantcli.models.base import NUMBER
from quantcli.models.towers import is_tower
from quantcli.sources.spellings import NESTED

#: Prefixes of names that do not have the table's prefix, such as the head's.
AROUND = ("language_model.", "model.language_model.", "model.", "text_model.")


def seen_as_text_model(source: Checkpoint) -> Checkpoint:
    """Return the checkpoint with the names and settings of its text model, if its architecture is known."""
    architecture = models.find(source.config)
    if architecture is None:
        return source
    settings = models.text_settings(source.config)
    if settings is not source.config:
        source = replace(source, config=settings, whole=source.config)
    named = _renamed(source, naming_of(architecture, source.weights))
    if models.multimodal(source.config_json) is None:
        return named
    towers = (name for name in named.weights if is_tower(name) and not _knows(architecture, name))
    return replace(named, towers=frozenset(towers))


def _renamed(source: Checkpoint, naming: Naming) -> Checkpoint:
    """Return the checkpoint with its weights under the table's names."""
    if not naming.starts:
        return source
    names = {name: naming.weight(name) for name in source.weights}
    kept = frozenset(new for old, new in names.items() if naming.stored(new) != old)
    named = {new: replace(source.weights[old], name=new) for old, new in names.items()}
    return replace(source, weights=dict(sorted(named.items())), naming=replace(naming, kept=kept))


def naming_of(architecture: Architecture, names: Iterable[str]) -> Naming:
    """Return how stored tensors are named, judging by those of layers and of the embedding."""
    prefix = _prefix(architecture)
    names = list(names)
    if not prefix or any(_is_decisive(architecture, name) for name in names):
        return Naming()
    for start in NESTED:
        moved = [prefix + name.removeprefix(start) for name in names if name.startswith(start)]
        if any(_is_decisive(architecture, name) for name in moved):
            return Naming(((prefix, start), *_others(architecture, prefix, names)))
    if any(name.startswith(prefix) and not is_tower(name) for name in names):
        return Naming()
    return _without_prefix(architecture, prefix, names)


def _others(architecture: Architecture, prefix: str, names: Iterable[str]) -> list[tuple[str, str]]:
    """Return the prefixes of nested tensors outside the layers, such as the head: (the table's, the stored one)."""
    tops = {row.hf.partition(".")[0] + "." for row in architecture.tensors if not row.hf.startswith(prefix)}
    names = tuple(names)
    return [
        (top, around + top)
        for top in sorted(tops)
        for around in AROUND
        if any(name.startswith(around + top) for name in names)
    ]


def _without_prefix(architecture: Architecture, prefix: str, names: Iterable[str]) -> Naming:
    """Return the naming of a model that was saved without its head, so that its tensors lack the prefix."""
    short = [name for name in names if not _knows(architecture, name) and _knows(architecture, prefix + name)]
    # A single norm is not enough: it has the same name in many models.
    if not any(_is_decisive(architecture, prefix + name) for name in short):
        return Naming()
    tops = sorted({name.partition(".")[0] + "." for name in short})
    return Naming(tuple((prefix + top, top) for top in tops))


def _prefix(architecture: Architecture) -> str:
    """Return the prefix of the table's names, except the head's: that of the embedding; empty without one."""
    name = next((row.hf for row in architecture.tensors if row.role == "token_embd"), "")
    first, dot, _ = name.partition(".")
    return first + dot if dot else ""


def _is_decisive(architecture: Architecture, name: str) -> bool:
    """Return whether a name shows that the table's names are used: a layer's tensor in it, or the embedding."""
    return _knows(architecture, name) and (NUMBER.search(name) is not None or architecture.role(name) == "token_embd")


def _knows(architecture: Architecture, name: str) -> bool:
    return any(architecture.find(name, dialect) for dialect in ("hf", "mlx"))
