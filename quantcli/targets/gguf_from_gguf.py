"""Tensors and metadata of a GGUF file made from another one; all metadata is kept, known or not.

As llama-quantize does it: names stay, except that pruned layers go and the others move up; `general.file_type`,
`general.quantization_version` and what else changes stand at the end. Source: llama.cpp (src/llama-quant.cpp).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quantcli.arrays import FLOATS
from quantcli.checkpoint import Checkpoint, Part, Weight
from quantcli.containers.gguf_values import Value
from quantcli.errors import BadInput, NotPossible
from quantcli.models import by_gguf
from quantcli.models.translate import Arranged
from quantcli.recipes.base import Subject
from quantcli.recipes.llama_cpp import never
from quantcli.recipes.prune import Pruned, prune
from quantcli.recipes.prune_keys import cut
from quantcli.schemes.dense import Dense
from quantcli.targets.base import Left, Settings, WeightDraft
from quantcli.targets.gguf_general import Typed

#: Keys that describe how the source was cut into files.
SPLIT_KEYS = ("split.no", "split.count", "split.tensors.count")


#: Tensors outside the layers that hold something of each.
OF_ALL_LAYERS = ("per_layer_token_embd.weight", "per_layer_model_proj.weight")


def drafts(source: Checkpoint, settings: Settings) -> tuple[list[WeightDraft], list[Left], list[str]]:
    """Return the weights without those of pruned layers, what is left out, and a warning about a missing output matrix.

    In the order of the stored data, part by part, where parts are kept: so llama-quantize handles and writes them.
    """
    pruned = _pruned(source, settings)
    left = [Left(name, "its layer is pruned") for name in source.weights if name not in pruned.names]
    made = [
        _draft(weight, pruned.names[name], settings) for name, weight in source.weights.items() if name in pruned.names
    ]
    if settings.keep_split:
        places = _places(source)
        made.sort(key=lambda draft: _place(draft.source.weight, places))
    return made, left, _without_head(source)


def _without_head(source: Checkpoint) -> list[str]:
    """Return a warning for a tied model that llama.cpp loads only with a stored output matrix."""
    architecture = by_gguf(source.metadata)
    if architecture is None or "gguf" not in architecture.stores_head:
        return []
    if "output.weight" in source.weights or "token_embd.weight" not in source.weights:
        return []
    return [
        f"{source.root}: tensor output.weight is missing; llama.cpp requires it in every model of architecture "
        f"{architecture.gguf} and does not load the file. Convert to a folder and from there to GGUF: the embedding "
        "is then stored as output.weight too."
    ]


def keys(source: Checkpoint, settings: Settings, file_type: int) -> Typed:
    """Return the source's metadata with the keys that llama-quantize sets, those last."""
    kept: dict[str, tuple[str, Any]] = {k: v for k, v in source.metadata.items() if k not in SPLIT_KEYS}
    changed: dict[str, tuple[str, Any]] = {
        "general.quantization_version": ("uint32", 2),
        "general.file_type": ("uint32", file_type),
    }
    return {k: v for k, v in kept.items() if k not in changed} | changed


def layers_left(source: Checkpoint, settings: Settings) -> Typed:
    """Return the key that counts the layers; nothing unless layers are pruned."""
    if not settings.prune:
        return {}
    return {f"{_architecture(source, settings)}.block_count": ("uint32", _pruned(source, settings).layers)}


def without_layers(source: Checkpoint, settings: Settings, keys: Typed) -> tuple[Typed, list[str]]:
    """Return the metadata without pruned layers, and warnings about what no key can express."""
    if not settings.prune:
        return keys, []
    pruned = _pruned(source, settings)
    changed, warnings = cut(keys, _architecture(source, settings), settings.prune, pruned.moved, pruned.mtp)
    return {**keys, **changed}, warnings


def _architecture(source: Checkpoint, settings: Settings) -> str:
    """The architecture whose keys count layers."""
    stored = source.metadata.get("general.architecture", Value("string", ""))
    kind, named = settings.keys.get("general.architecture", stored)
    architecture = named if kind == "string" else stored.value
    if not isinstance(architecture, str):
        raise BadInput(
            f"{source.root}: general.architecture is not a string, so the key that counts the layers is unknown and "
            "no layer can be pruned."
        )
    return architecture


def partition(source: Checkpoint, settings: Settings) -> dict[str, int]:
    """Return output tensor -> the number, from 0, of the source's part that holds it."""
    places = _places(source)
    names = _pruned(source, settings).names
    return {names[name]: _place(weight, places)[0] for name, weight in source.weights.items() if name in names}


def _places(source: Checkpoint) -> dict[Path, int]:
    return {path: number for number, path in enumerate(source.files)}


def _place(weight: Weight, places: Mapping[Path, int]) -> tuple[int, int]:
    """The part that holds a weight, and its offset there."""
    ((_, part),) = weight.parts.items()
    assert isinstance(part, Part)
    return places[part.file], part.offset


def _pruned(source: Checkpoint, settings: Settings) -> Pruned:
    if settings.prune:
        whole = next((name for name in OF_ALL_LAYERS if name in source.weights), None)
        if whole is not None:
            raise NotPossible(
                f"{source.root}: tensor {whole} holds rows of every layer, which --prune-layers cannot remove."
            )
        return prune(source.weights, settings.prune)
    return Pruned({name: name for name in source.weights}, 0)


def _draft(weight: Weight, name: str, settings: Settings) -> WeightDraft:
    subject, source = Subject(name, name, None, weight.shape), Arranged.of(weight)
    held = never(name, weight.shape)
    if isinstance(weight.scheme, Dense):
        stored = weight.scheme.dtype
        fixed = held is not None or stored not in FLOATS
        dense = stored if fixed or settings.dtype is None else settings.dtype
        return WeightDraft(name, subject, source, dense, f"kept {dense}: {held}" if held else None, fixed)
    return WeightDraft(name, subject, source, settings.dtype or "f16", held)
