"""`config.json` rebuilt from GGUF metadata, with the keys of published checkpoints, which every runtime loads.

Each family's rows (`Key.config`, `Setting`) translate GGUF's keys; settings without a key are left to the defaults of
the model's class, or are what llama.cpp has built in. Numbers are float32 in GGUF and become the shortest decimal that
rounds to them. Source: llama.cpp (src/llama-model.cpp and src/models), transformers' configuration classes, mlx-lm's
ModelArgs.
"""

from __future__ import annotations

from typing import Any

from quantcli.arrays import TORCH_DTYPES
from quantcli.containers.json_text import Reader
from quantcli.errors import BadInput
from quantcli.models.base import Architecture
from quantcli.models.keys import CAUSAL, Key
from quantcli.models.rope_settings import rope_scaling, theta_of
from quantcli.models.stored import OMITTED, Stored

#: Our names of dtypes -> config.json's.
SPELLED = {ours: theirs for theirs, ours in reversed(TORCH_DTYPES.items()) if not theirs.startswith("torch.")}


def config(file: Stored, architecture: Architecture, model_type: str, dtype: str | None) -> dict[str, Any]:
    """Rebuild the config.json object without token ids, keys sorted.

    dtype: our name of the weights' dtype; None omits `torch_dtype`. Raises `BadInput`.
    """
    _check_heads(file)
    made: dict[str, Any] = {
        "model_type": model_type,
        "architectures": [architecture.classes[model_type]],
        "vocab_size": file.vocab_size(),
        "tie_word_embeddings": not file.holds("output.weight") if file.tensors else OMITTED,
        "torch_dtype": OMITTED if dtype is None else SPELLED[dtype],
    }
    made["is_causal"] = _is_causal(file)
    made["rope_theta"] = theta_of(file)
    if not any(setting.name == "rope_scaling" and callable(setting.value) for setting in architecture.settings):
        made["rope_scaling"] = rope_scaling(file)
    if isinstance(architecture.model_types[model_type].get("head_dim"), int):
        made["head_dim"] = file.head_dim
    for key in (*architecture.keys, *architecture.further):
        if key.back is not None and (key.required or file.own.has(key.name)):
            made[key.back] = _value(key, file)
        elif key.back is not None and key.otherwise is not None:
            made[key.back] = file.own.integer(key.otherwise)
        elif key.back is not None and key.absent is not None:
            made[key.back] = key.absent(file) if callable(key.absent) else key.absent
    made["num_hidden_layers"] = file.trunk
    made |= {setting.name: setting.of(file) for setting in architecture.settings}
    return {key: made[key] for key in sorted(made) if made[key] is not OMITTED}


def _is_causal(file: Stored) -> Any:
    """Return false if tokens also attend to later ones, else `OMITTED`.

    Omitted for models with windows: transformers would limit them on both sides.
    """
    own = Reader(file.own.values, file.own.label)  # what is compared here is not thereby in config.json
    context = own.integer("context_length")
    if own.integer("attention.sliding_window", context, least=0) < context:
        return OMITTED
    return OMITTED if file.own.flag(CAUSAL.name, True) else False


def _check_heads(file: Stored) -> None:
    """Raise `BadInput`, naming the file's keys, if the numbers of heads or of experts contradict each other."""
    own = Reader(file.own.values, file.own.label)  # what is compared here is not thereby in config.json
    heads, rotated = _counts(own, "attention.head_count", 0), own.integer("rope.dimension_count", 0, least=0)
    if rotated % 2:
        raise BadInput(
            f"{own.label}: rope.dimension_count: expected an even number (rotary embeddings), found {rotated}."
        )
    if own.integer("expert_count", 0, least=0) and not own.integer("expert_used_count", 0, least=0):
        raise BadInput(
            f"{own.label}: expert_used_count is missing, but expert_count is not 0. Download the file again."
        )
    if not any(heads):
        return
    width = own.integer("embedding_length")
    for count, kv_count in _pairs(heads, _counts(own, "attention.head_count_kv")):
        if not kv_count or count % kv_count:
            raise BadInput(
                f"{own.label}: attention.head_count {count} is not a multiple of attention.head_count_kv {kv_count}."
            )
        if own.optional_integer("attention.key_length") is None and (not count or width % count):
            raise BadInput(f"{own.label}: embedding_length {width} is not a multiple of attention.head_count {count}.")


def _counts(own: Reader, key: str, default: int | None = None) -> tuple[int, ...]:
    """Return a key's value, or its values for each layer; () if the key is missing and there is no default."""
    if isinstance(own.values.get(key), list):
        return own.integers(key)
    return (own.integer(key, default, least=0),) if default is not None or own.has(key) else ()


def _pairs(heads: tuple[int, ...], kv_heads: tuple[int, ...]) -> set[tuple[int, int]]:
    """Return the distinct pairs of head counts of a layer; a single number applies to all layers."""
    layers = max(len(heads), len(kv_heads))
    every, every_kv = (counts * layers if len(counts) == 1 else counts for counts in (heads, kv_heads or heads))
    return set(zip(every, every_kv, strict=False))


def _value(key: Key, file: Stored) -> Any:
    if key.required and not file.own.has(key.name):
        raise BadInput(f"{file.own.label}: {key.name} is missing; every reader requires it. Download the file again.")
    if key.type == "float32":
        return file.number(key.name)
    if key.type == "bool":
        return file.own.flag(key.name, False)
    return file.own.integer(key.name, least=0)
