"""Tensors and metadata of a GGUF file made from a folder: llama.cpp's names and row order, all metadata.

Source: llama.cpp (convert_hf_to_gguf.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from quantcli import tokenizers
from quantcli.arrays import FLOATS
from quantcli.checkpoint import Checkpoint, Weight
from quantcli.errors import BadInput, NotPossible
from quantcli.models import Architecture, Hyperparameters, generation_keys, round_trip
from quantcli.recipes.llama_cpp import never
from quantcli.recipes.llama_cpp_scales import applies_scale
from quantcli.recipes.llama_cpp_tensors import WIDE
from quantcli.schemes.dense import Dense
from quantcli.targets.base import Constant, Draft, Left, Placed, Settings, WeightDraft, commonest_dtype
from quantcli.targets.gguf_general import Typed
from quantcli.targets.gguf_metadata import metadata
from quantcli.targets.gguf_overrides import replaced
from quantcli.targets.global_scales import (
    INPUT_SCALE,
    SCALE,
    WEIGHT,
    SeparateScales,
    apart,
    constants,
    input_scales,
    precisions,
)
from quantcli.targets.model import Model
from quantcli.targets.names import Named, name_weights
from quantcli.targets.pooling import pooling
from quantcli.tokenizers.files import Files
from quantcli.tokenizers.listed import GENERATION


def drafts(source: Checkpoint, settings: Settings) -> tuple[list[Draft], list[Left], list[str]]:
    """Return the weights under their GGUF names, those that GGUF does not need, and warnings."""
    model = Model.of(source)
    architecture, hyperparameters = model.known(), model.hyperparameters
    if hyperparameters.head_dim % 2:
        where = f"{source.root}/config.json"
        raise BadInput(
            f"{where}: head_dim: expected an even number (rotary embeddings), found {hyperparameters.head_dim}."
        )
    named, left, warnings = name_weights(model, "gguf")
    made = [draft for weight in named for draft in _drafts(weight, model, architecture, settings)]
    return [*made, *_computed(architecture, hyperparameters)], left, warnings


def keys(
    source: Checkpoint, placed: Sequence[Placed], file_type: int, overrides: Mapping[str, tuple[str, Any]]
) -> tuple[Typed, list[str]]:
    """Return the file's metadata, and warnings about what it cannot express. overrides: keys that replace these."""
    model = Model.of(source)
    hyperparameters = model.hyperparameters
    vocabulary = tokenizers.load(source.root, source.config, model.known().vocabulary, source.tokenizer)
    _check_vocabulary(placed, len(vocabulary.tokens), source)
    pooling_type, notes = pooling(Files(source.root))
    made = metadata(
        hyperparameters, vocabulary, source=source.root, config=source.config, file_type=file_type,
        shapes={w.name: w.shape for w in placed}, quantized=any(not isinstance(w.scheme, Dense) for w in placed),
        extras=precisions(source, placed), pooling_type=pooling_type,
    )  # fmt: skip
    plain, other = ({key: value for key, (_, value) in typed.items()} for typed in (made, replaced(made, overrides)[0]))
    shapes = {weight.name: weight.shape for weight in placed}
    lost = round_trip.check(source.config, model.known(), hyperparameters, plain, shapes, other)
    files = Files(source.root)
    generation = generation_keys.dropped(files.json(GENERATION), files.label(GENERATION))
    return made, [*vocabulary.warnings, *generation, *lost, *notes]


def _check_vocabulary(placed: Sequence[Placed], tokens: int, source: Checkpoint) -> None:
    rows = next((w.shape[0] for w in placed if w.name == "token_embd.weight"), None)
    if rows is None:
        raise BadInput(f"{source.root}: the token embedding is missing; a GGUF file requires it.")
    if rows != tokens:
        raise BadInput(
            f"{source.root}: the token embedding has {rows} rows, but vocab_size and the tokenizer have {tokens} "
            "tokens."
        )


def _drafts(named: Named, model: Model, architecture: Architecture, settings: Settings) -> list[Draft]:
    """A tensor, and its global scales if they are tensors of their own."""
    weight = named.source.weight
    held = never(named.name, named.source.shape, architecture.gguf)
    is_wide, stays = held is not None or named.name.endswith(WIDE), f"kept f32: {held}" if held else None
    dense = "f32" if is_wide else _dtype(weight, model.source, settings)
    draft = WeightDraft(named.name, named.subject, named.source, dense, stays, fixed=held is not None)
    parts = apart(named.source) if named.name.endswith(WEIGHT) else None
    if parts is None or held:
        return [draft]
    blocks, factors, grade = parts
    one = named.found
    is_applied = one is not None and applies_scale(architecture.gguf, one.row.role, one.layer in model.predicting)
    if not is_applied and (factors != 1).any():
        return [draft]
    inputs = input_scales(_stored(named, model), max(1, named.source.matrices)) if is_applied else None
    scales = [*constants(named.name, SCALE, factors), *constants(named.name, INPUT_SCALE, inputs)]
    return [replace(draft, layout=SeparateScales(blocks, grade, tuple(s.name for s in scales))), *scales]


def _stored(named: Named, model: Model) -> list[Weight]:
    """The source's weights that a tensor is made of: one, maybe a stack of experts, or an expert's each."""
    assert named.found is not None
    weights, count = model.source.weights, named.source.matrices
    found = [weights.get(named.found.name(model.dialect, e)) for e in range(count)]
    if all(found):
        return [weight for weight in found if weight is not None]
    stacked = weights.get(named.source.weight.name)
    return [] if stacked is None else [stacked]


def _dtype(weight: Weight, source: Checkpoint, settings: Settings) -> str:
    """Of a tensor that nothing quantizes: as asked, else as stored, f64 as f32."""
    if not isinstance(weight.scheme, Dense):
        return settings.dtype or commonest_dtype(source)
    stored = weight.scheme.dtype
    if stored not in FLOATS:
        raise NotPossible(f"{source.root}: tensor {weight.name} is {stored}, which llama.cpp models do not support.")
    return settings.dtype or ("f32" if stored == "f64" else stored)


def _computed(architecture: Architecture, hyperparameters: Hyperparameters) -> list[Constant]:
    """The tensors that llama.cpp needs and no source has."""
    found = ((row, row.values(hyperparameters)) for row in architecture.computed)
    return [Constant(row.gguf, values, row.role) for row, values in found if values is not None]
