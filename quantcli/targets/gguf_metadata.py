"""The metadata of a GGUF file: keys, their value types and their order, as llama.cpp's tools write them.

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
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from quantcli.checkpoint import Vocabulary
from quantcli.errors import NotPossible
from quantcli.models import ARCHITECTURES, Architecture, Hyperparameters
from quantcli.targets.gguf_general import Typed, front_matter, general
from quantcli.tokenizers.conventions import PLAIN, Conventions
from quantcli.tokenizers.files import Files

QUANTIZATION_VERSION = 2
CARD = "README.md"
#: Vocabulary.model -> tokenizer.ggml.model.
TOKENIZER_MODELS = {"bpe": "gpt2", "spm": "llama"}
#: Special tokens that GGUF has a key for.
TOKEN_IDS = ("bos", "eos", "unknown", "seperator", "padding", "mask", "eot", "eom")

Read = Callable[[Hyperparameters], Any]

#: Common keys, after the architecture's prefix, in order; a value of None is left out.
COMMON: tuple[tuple[str, str, Read], ...] = (
    ("block_count", "uint32", lambda h: h.layers),
    ("context_length", "uint32", lambda h: h.context_length),
    ("embedding_length", "uint32", lambda h: h.embedding_length),
    ("feed_forward_length", "uint32", lambda h: h.feed_forward_length),
    ("attention.head_count", "uint32", lambda h: h.heads),
    ("attention.head_count_kv", "uint32", lambda h: h.kv_heads),
    ("rope.scaling.type", "string", lambda h: h.rope.type if _scales(h) else None),
    ("rope.scaling.factor", "float32", lambda h: h.rope.factor if _scales(h) else None),
    ("rope.scaling.original_context_length", "uint32", lambda h: h.rope.original_context if _yarn(h) else None),
    ("rope.scaling.yarn_ext_factor", "float32", lambda h: h.rope.extrapolation_factor if _yarn(h) else None),
    ("rope.scaling.yarn_attn_factor", "float32", lambda h: h.rope.attention_factor if _yarn(h) else None),
    ("rope.scaling.yarn_beta_fast", "float32", lambda h: h.rope.beta_fast if _yarn(h) else None),
    ("rope.scaling.yarn_beta_slow", "float32", lambda h: h.rope.beta_slow if _yarn(h) else None),
    ("rope.freq_base", "float32", lambda h: h.rope.theta),
    ("attention.layer_norm_rms_epsilon", "float32", lambda h: h.rms_norm_eps),
)
#: Written where the config names them, or the architecture says that they always are.
HEAD_SIZES: tuple[tuple[str, str, Read], ...] = (
    ("attention.key_length", "uint32", lambda h: h.head_dim),
    ("attention.value_length", "uint32", lambda h: h.head_dim),
)
#: What an architecture can ask for in its `keys`.
FURTHER: dict[str, tuple[str, Read]] = {
    "vocab_size": ("uint32", lambda h: h.vocab_size),
    "rope.dimension_count": ("uint32", lambda h: h.head_dim),
}


def _scales(hyperparameters: Hyperparameters) -> bool:
    return hyperparameters.rope.type in ("linear", "yarn")


def _yarn(hyperparameters: Hyperparameters) -> bool:
    return hyperparameters.rope.type == "yarn"


def metadata(
    hyperparameters: Hyperparameters,
    vocabulary: Vocabulary | None,
    *,
    source: Path,
    config: Mapping[str, Any],
    file_type: int,
    shapes: Mapping[str, tuple[int, ...]],
    quantized: bool,
) -> Typed:
    """All metadata of the GGUF file made from the model folder `source`: key -> (type, value), in order.

    config: the object in the folder's config.json; generation_config.json and README.md are read where they are there.
    shapes: of every tensor of the file. The rest: see `keys`. Raises `BadInput`, `NotPossible`.
    """
    files = Files(source)
    card = front_matter(files.text(CARD)) if files.has(CARD) else {}
    parameters = sum(math.prod(shape) for shape in shapes.values())
    named = general(model_name(source), config, files.json("generation_config.json"), card, parameters)
    return keys(hyperparameters, vocabulary, named, file_type, quantized)


def model_name(folder: Path) -> str:
    """What a model folder's model is called: the folder's name, or the Hub id in whose cache it lies."""
    path = folder.resolve()
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
) -> Typed:
    """All metadata of a file from its parts.

    named: the `general.*` keys from `gguf_general.general`. file_type: llama.cpp's number of the mixture. quantized: in
    llama-quantize's order, else in the converter's. Without a vocabulary there are no tokenizer keys. Raises
    `NotPossible` for an architecture that is not in the table.
    """
    architecture = ARCHITECTURES.get(hyperparameters.architecture)
    if architecture is None:
        raise NotPossible(f"the architecture {hyperparameters.architecture} has no place in GGUF's tables here.")
    versions: Typed = {"general.quantization_version": ("uint32", QUANTIZATION_VERSION)}
    kind: Typed = {"general.file_type": ("uint32", file_type)}
    start: Typed = {"general.architecture": ("string", architecture.gguf), "general.type": ("string", "model")}
    common, further = _sizes(architecture, hyperparameters)
    tokens = (
        {} if vocabulary is None else tokenizer(vocabulary, architecture.states_space_prefix, architecture.vocabulary)
    )
    if quantized:
        return {**start, **named, **common, **further, **tokens, **versions, **kind}
    return {**start, **named, **common, **kind, **further, **versions, **tokens}


def _sizes(architecture: Architecture, hyperparameters: Hyperparameters) -> tuple[Typed, Typed]:
    """The architecture's own keys: those before and those after `general.file_type`."""
    rows = COMMON
    if architecture.states_head_dim or hyperparameters.states_head_dim:
        rows += HEAD_SIZES
    read = {key: (kind, value(hyperparameters)) for key, kind, value in rows}
    common = {f"{architecture.gguf}.{key}": pair for key, pair in read.items() if pair[1] is not None}
    further = {}
    for key in architecture.keys:
        kind, value = FURTHER[key]
        further[f"{architecture.gguf}.{key}"] = (kind, value(hyperparameters))
    return common, further


def tokenizer(vocabulary: Vocabulary, states_space_prefix: bool, conventions: Conventions = PLAIN) -> Typed:
    """The `tokenizer.*` keys of a vocabulary, in order."""
    ggml = "tokenizer.ggml."
    out: Typed = {}
    prefix = vocabulary.add_space_prefix if conventions.space_prefix is None else None
    if prefix is not None and (states_space_prefix or (vocabulary.model == "spm" and not prefix)):
        out[f"{ggml}add_space_prefix"] = ("bool", prefix)
    out[f"{ggml}model"] = ("string", TOKENIZER_MODELS[vocabulary.model])
    if vocabulary.pre is not None:
        out[f"{ggml}pre"] = ("string", vocabulary.pre)
    out[f"{ggml}tokens"] = ("array[string]", vocabulary.tokens)
    if vocabulary.scores is not None:
        out[f"{ggml}scores"] = ("array[float32]", vocabulary.scores)
    out[f"{ggml}token_type"] = ("array[int32]", vocabulary.types)
    if vocabulary.merges:
        out[f"{ggml}merges"] = ("array[string]", vocabulary.merges)
    for role, number in vocabulary.special.items():
        if role in TOKEN_IDS:
            out[f"{ggml}{role}_token_id"] = ("uint32", number)
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
    for role, number in conventions.ids.items():
        if number < len(vocabulary.tokens):
            out[f"{ggml}{role}_token_id"] = ("uint32", number)
    if conventions.space_prefix is not None and vocabulary.model == "spm":
        out[f"{ggml}add_space_prefix"] = ("bool", conventions.space_prefix)
    return out


def dropped(hyperparameters: Hyperparameters) -> tuple[str, ...]:
    """What GGUF can't say of this model: one sentence each, which names the key of config.json."""
    sentences = []
    rope = hyperparameters.rope
    if rope.type not in ("default", "linear", "yarn", "llama3"):
        sentences.append(f"rope_type {rope.type} has no keys in GGUF: llama.cpp runs the model without that scaling.")
    if hyperparameters.sliding_window is not None and hyperparameters.sliding_window < hyperparameters.context_length:
        sentences.append(
            f"sliding_window {hyperparameters.sliding_window} is not written: llama.cpp attends to the whole "
            f"context with the architecture {hyperparameters.architecture}."
        )
    return tuple(sentences)
