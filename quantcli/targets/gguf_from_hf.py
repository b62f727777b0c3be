"""What a GGUF file made from a folder of Hugging Face names holds: llama.cpp's names and row order, all its metadata.

Source: llama.cpp (convert_hf_to_gguf.py).
"""

from __future__ import annotations

from collections.abc import Sequence

from quantcli import tokenizers
from quantcli.arrays import FLOATS
from quantcli.checkpoint import Checkpoint, Weight
from quantcli.errors import BadInput, NotPossible
from quantcli.models import Architecture, Hyperparameters
from quantcli.recipes.base import Subject
from quantcli.recipes.llama_cpp import never
from quantcli.schemes.dense import Dense
from quantcli.targets import gguf_sizes
from quantcli.targets.base import Draft, Left, Placed, Settings, commonest_dtype
from quantcli.targets.gguf_general import Typed
from quantcli.targets.gguf_metadata import dropped, metadata
from quantcli.targets.names import Model, Named


def drafts(source: Checkpoint, settings: Settings) -> tuple[list[Draft], list[Left]]:
    """The weights under their GGUF names, and those that GGUF has no use for."""
    model = Model.of(source)
    architecture, hyperparameters = model.known(), model.hyperparameters
    named, left = model.named("gguf")
    gguf_sizes.check(named, architecture, hyperparameters, f"{source.root}/config.json")
    made = [_draft(weight, source, architecture, settings) for weight in named]
    return made + _computed(architecture, hyperparameters), left


def keys(source: Checkpoint, placed: Sequence[Placed], file_type: int) -> tuple[Typed, list[str]]:
    """The file's metadata, and warnings of what it cannot say."""
    model = Model.of(source)
    hyperparameters = model.hyperparameters
    vocabulary = tokenizers.load(source.root, source.config, model.known().vocabulary)
    _check_vocabulary(placed, len(vocabulary.tokens), source)
    made = metadata(
        hyperparameters, vocabulary, source=source.root, config=source.config, file_type=file_type,
        shapes={w.name: w.shape for w in placed}, quantized=any(not isinstance(w.scheme, Dense) for w in placed),
    )  # fmt: skip
    return made, [*vocabulary.warnings, *dropped(hyperparameters)]


def _check_vocabulary(placed: Sequence[Placed], tokens: int, source: Checkpoint) -> None:
    rows = next((w.shape[0] for w in placed if w.name == "token_embd.weight"), None)
    if rows is None:
        raise BadInput(f"{source.root}: has no token embedding, which a GGUF needs.")
    if rows != tokens:
        raise BadInput(
            f"{source.root}: the token embedding has {rows} rows, vocab_size and tokenizer say {tokens} tokens."
        )


def _draft(named: Named, source: Checkpoint, architecture: Architecture, settings: Settings) -> Draft:
    shape, weight, rows = named.source.shape, named.source.weight, named.source.rows
    held = never(named.name, shape, architecture.gguf)
    dense, stays = ("f32", f"stays f32: {held}") if held else (_dtype(weight, source, settings), None)
    return Draft(named.name, shape, named.subject, dense, weight, rows, stays=stays, fixed=held is not None)


def _dtype(weight: Weight, source: Checkpoint, settings: Settings) -> str:
    """Of a tensor that nothing quantizes: as asked, else as stored, f64 as f32."""
    if not isinstance(weight.scheme, Dense):
        return settings.dtype or commonest_dtype(source)
    stored = weight.scheme.dtype
    if stored not in FLOATS:
        raise NotPossible(f"{source.root}: tensor {weight.name} is {stored}, which has no place in a GGUF model.")
    return settings.dtype or ("f32" if stored == "f64" else stored)


def _computed(architecture: Architecture, hyperparameters: Hyperparameters) -> list[Draft]:
    """The tensors that llama.cpp needs and no source has."""
    drafts = []
    for row in architecture.computed:
        values = row.values(hyperparameters)
        if values is not None:
            subject = Subject(row.gguf, row.gguf, row.role, values.shape)
            drafts.append(
                Draft(row.gguf, values.shape, subject, "f32", constant=values, stays="is computed", fixed=True)
            )
    return drafts
