"""Metadata of a GGUF file: keys, value types and order, as llama.cpp's tools write them.

    general.architecture, general.type, the other general.*       what the file is
    <architecture>.*                                               sizes, rope, norms
    general.file_type, more of <architecture>.*                    which of these, its architecture says
    general.quantization_version
    tokenizer.*                                                    the vocabulary

llama-quantize moves `general.quantization_version` and `general.file_type` to the end. Source: llama.cpp's conversion
(gguf-py's keys and types) and llama-quantize; types are spelled as in `containers.gguf`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from quantcli.checkpoint import Vocabulary
from quantcli.containers.entries import real_path
from quantcli.errors import NotPossible
from quantcli.models import ARCHITECTURES, Architecture, Hyperparameters, Key
from quantcli.targets.gguf_general import Typed, front_matter, general, label_of
from quantcli.tokenizers.conventions import PLAIN, Conventions
from quantcli.tokenizers.files import Files
from quantcli.tokenizers.special import FURTHER

QUANTIZATION_VERSION = 2
CARD = "README.md"
#: Vocabulary.model -> tokenizer.ggml.model.
TOKENIZER_MODELS = {"bpe": "gpt2", "spm": "llama"}
#: Special tokens that GGUF has a key for.
TOKEN_IDS = ("bos", "eos", "unknown", "seperator", "padding", "mask", *FURTHER)


def metadata(
    hyperparameters: Hyperparameters,
    vocabulary: Vocabulary | None,
    *,
    source: Path,
    config: Mapping[str, Any],
    file_type: int,
    shapes: Mapping[str, tuple[int, ...]],
    quantized: bool,
    extras: Typed | None = None,
    pooling_type: int | None = None,
) -> Typed:
    """Return all metadata of the GGUF file made from the model folder `source`: key -> (type, value), in order.

    config: the object in the folder's config.json; generation_config.json and README.md are read where they are there.
    shapes: of every tensor of the file, rows first. The rest: see `keys`. Raises `BadInput`, `NotPossible`.
    """
    files = Files(source)
    card = front_matter(files.text(CARD)) if files.has(CARD) else {}
    parameters = sum(math.prod(shape) for shape in shapes.values())
    named = general(
        model_name(source), config, files.json("generation_config.json"), card, parameters, label_of(shapes)
    )
    return keys(hyperparameters, vocabulary, named, file_type, quantized, extras, pooling_type)


def model_name(folder: Path) -> str:
    """Return the model's name: the folder's, or the Hub id if the folder is a snapshot in the Hub cache."""
    path = real_path(folder)
    cached = path.parent.parent.name.split("--")
    if path.parent.name == "snapshots" and cached[0] == "models" and len(cached) == 3:
        return f"{cached[1]}/{cached[2]}"
    return path.name


def keys(
    hyperparameters: Hyperparameters,
    vocabulary: Vocabulary | None,
    named: Mapping[str, tuple[str, Any]],
    file_type: int,
    quantized: bool,
    extras: Typed | None = None,
    pooling_type: int | None = None,
) -> Typed:
    """Return all metadata of a file, in order.

    named: the `general.*` keys from `gguf_general.general`. file_type: llama.cpp's number of the mixture. quantized: in
    llama-quantize's order, else in the converter's. extras: what is said of single tensors. pooling_type: llama.cpp's
    number, of a model that makes embeddings. Without a vocabulary there are no tokenizer keys. Raises
    `NotPossible` for an architecture that is not in the table.
    """
    architecture = ARCHITECTURES.get(hyperparameters.architecture)
    if architecture is None:
        raise NotPossible(f"quant cannot write architecture {hyperparameters.architecture} to GGUF.")
    versions: Typed = {"general.quantization_version": ("uint32", QUANTIZATION_VERSION)}
    kind: Typed = {"general.file_type": ("uint32", file_type)} if quantized or architecture.states_file_type else {}
    places = (architecture.foremost, architecture.keys, architecture.further)
    foremost, common, further = (_own(architecture, rows, hyperparameters) for rows in places)
    if pooling_type is not None:
        further |= {f"{architecture.gguf}.pooling_type": ("uint32", pooling_type)}
    start: Typed = {"general.architecture": ("string", architecture.gguf)} | foremost
    start |= {"general.type": ("string", "model")}
    tokens = (
        {} if vocabulary is None else tokenizer(vocabulary, architecture.states_space_prefix, architecture.vocabulary)
    )
    if quantized:
        return {**start, **named, **common, **further, **(extras or {}), **tokens, **versions, **kind}
    return {**start, **named, **common, **kind, **further, **versions, **(extras or {}), **tokens}


def _own(architecture: Architecture, rows: Sequence[Key], hyperparameters: Hyperparameters) -> Typed:
    """The architecture's own keys that this model has."""
    pairs = ((row, row.value(hyperparameters)) for row in rows)
    return {f"{architecture.gguf}.{row.name}": (row.type, value) for row, value in pairs if value is not None}


def tokenizer(vocabulary: Vocabulary, states_space_prefix: bool, conventions: Conventions = PLAIN) -> Typed:
    """Return the `tokenizer.*` keys of a vocabulary, in order."""
    ggml = "tokenizer.ggml."
    out: Typed = {}
    prefix = vocabulary.add_space_prefix if conventions.space_prefix is None else None
    if prefix is not None and (states_space_prefix or (vocabulary.model == "spm" and not prefix)):
        out[f"{ggml}add_space_prefix"] = ("bool", prefix)
    out[f"{ggml}model"] = ("string", TOKENIZER_MODELS[vocabulary.model])
    if vocabulary.pre is not None:
        out[f"{ggml}pre"] = ("string", vocabulary.pre)
    # Byte-level BPE with scores is Mistral's: the converter writes zeros as whole numbers, and the tokens last.
    is_tekken = vocabulary.model == "bpe" and vocabulary.scores is not None
    lists: Typed = {f"{ggml}tokens": ("array[string]", vocabulary.tokens)}
    if vocabulary.scores is not None:
        lists[f"{ggml}scores"] = ("array[int32]" if is_tekken else "array[float32]", vocabulary.scores)
    lists[f"{ggml}token_type"] = ("array[int32]", vocabulary.types)
    named: Typed = {f"{ggml}merges": ("array[string]", vocabulary.merges)} if vocabulary.merges else {}
    for role, number in vocabulary.special.items():
        if role in TOKEN_IDS:
            named[f"{ggml}{role}_token_id"] = ("uint32", number)
    out |= {**named, **lists} if is_tekken else {**lists, **named}
    for role, added in vocabulary.add.items():
        out[f"{ggml}add_{role}_token"] = ("bool", added)
    for name, template in vocabulary.chat_templates.items():
        out[f"tokenizer.chat_template.{name}"] = ("string", template)
    if vocabulary.chat_templates:
        out["tokenizer.chat_templates"] = ("array[string]", sorted(vocabulary.chat_templates))
    if vocabulary.chat_template is not None:
        out["tokenizer.chat_template"] = ("string", vocabulary.chat_template)
    for step, on in vocabulary.normalizer.items():
        out[f"{ggml}normalizer.{step}"] = ("bool", on)
    if vocabulary.suppressed:
        out[f"{ggml}suppress_tokens"] = ("array[int32]", vocabulary.suppressed)
    for role, number in conventions.ids.items():
        if number < len(vocabulary.tokens):
            out[f"{ggml}{role}_token_id"] = ("uint32", number)
    if conventions.space_prefix is not None and vocabulary.model == "spm":
        out[f"{ggml}add_space_prefix"] = ("bool", conventions.space_prefix)
    return out
