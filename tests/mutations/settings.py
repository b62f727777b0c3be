"""Changes of single settings: of config.json's keys, nested ones too, and of a GGUF's keys.

A flag is flipped, a number doubled and one added, a text replaced, a list made longer; a key that a model lacks is set
to what another model has. Which keys are set is drawn from all baselines, and from EXTRA: keys that readers of either
dialect know and that no baseline has.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from quantcli.containers.gguf_values import CODES, ArrayValue, Value

#: Set where a config.json lacks them.
EXTRA_CONFIG: dict[str, Any] = {
    "is_causal": False,
    "use_qk_norm": True,
    "attn_logit_softcapping": 30.0,
    "final_logit_softcapping": 30.0,
    "scale_emb": 12.0,
    "logit_scale": 0.5,
    "attention_multiplier": 0.5,
    "residual_multiplier": 0.5,
    "rope_interleave": True,
    "expert_bias": True,
    "a_key_that_nobody_knows": 7,
}
#: Set where a GGUF lacks them, after the architecture's prefix.
EXTRA_GGUF: dict[str, Value] = {
    "attention.causal": Value("bool", False),
    "rope.scale_linear": Value("float32", 4.0),
    "rope.scaling.factor": Value("float32", 4.0),
    "rope.scaling.attn_factor": Value("float32", 1.5),
    "rope.scaling.finetuned": Value("bool", True),
    "pooling_type": Value("uint32", 1),
    "attention.clamp_kqv": Value("float32", 8.0),
    "attention.scale": Value("float32", 0.5),
    "attention.max_alibi_bias": Value("float32", 8.0),
    "attention.temperature_length": Value("uint32", 512),
    "attention.temperature_scale": Value("float32", 0.1),
    "expert_weights_scale": Value("float32", 2.5),
    "expert_gating_func": Value("uint32", 2),
    "logit_scale": Value("float32", 0.5),
    "residual_scale": Value("float32", 0.5),
    "embedding_scale": Value("float32", 12.0),
    "attn_logit_softcapping": Value("float32", 30.0),
    "final_logit_softcapping": Value("float32", 30.0),
    "use_parallel_residual": Value("bool", True),
    "interleave_moe_layer_step": Value("uint32", 2),
    "nextn_predict_layers": Value("uint32", 1),
    "dense_2_feat_out": Value("uint32", 64),
    "a_key_that_nobody_knows": Value("uint32", 7),
}
#: Long lists, the vocabulary's, whose elements are data.
VOCABULARY = ("tokenizer.ggml.tokens", "tokenizer.ggml.merges")


@dataclass(frozen=True)
class Change:
    """One change: what was done, to which key, and the settings with it.

    otherwise: the settings with another value of a key that was set: one of both may be what the model has anyway.
    """

    done: str
    key: str
    settings: Mapping[str, Any]
    otherwise: Mapping[str, Any] | None = None


def of_config(config: Mapping[str, Any], pool: Mapping[str, Any]) -> Iterator[Change]:
    """Every change of a config.json. pool: key -> a value that some model has, for keys that this one lacks."""
    for key, held in config.items():
        for path, other, done in _others(key, held):
            yield Change(done, path, {**config, key: other})
    for key, held in {**pool, **EXTRA_CONFIG}.items():
        if config.get(key) is None:
            other = next((value for _, value, _ in _others(key, held)), held)
            yield Change("set", key, {**config, key: held}, {**config, key: other})


def _others(key: str, held: Any) -> Iterator[tuple[str, Any, str]]:
    """Path of the key, what stands under the first of it, what was done."""
    if isinstance(held, Mapping):
        for inner, value in held.items():
            for path, other, done in _others(inner, value):
                yield f"{key}.{path}", {**held, inner: other}, done
    elif isinstance(held, bool):
        yield key, not held, "flip"
    elif isinstance(held, int | float):
        yield key, 2 * held + 1 + (held == -1), "double"
    elif isinstance(held, str):
        yield key, f"{held}x", "replace"
    elif isinstance(held, list) and held:
        yield key, [*held, held[-1]], "extend"
        for _, other, done in _others("", held[0]):
            yield key, [other, *held[1:]], f"{done} first"


def of_gguf(metadata: Mapping[str, Value], pool: Mapping[str, Value]) -> Iterator[Change]:
    """Every change of a GGUF's keys. pool: key after the architecture's prefix -> a value that some file has."""
    prefix = metadata["general.architecture"].value
    for key, held in metadata.items():
        if key.startswith("general.") or key in VOCABULARY:
            continue
        yield Change("change", key, {**metadata, key: _other(held)})
    for key, held in {**pool, **EXTRA_GGUF}.items():
        if f"{prefix}.{key}" not in metadata:
            name = f"{prefix}.{key}"
            yield Change("set", name, {**metadata, name: held}, {**metadata, name: _other(held)})


def _other(held: Value) -> Value:
    if isinstance(held.value, ArrayValue):
        return Value(held.type, _longer(held.value))
    if isinstance(held.value, bool):
        return Value(held.type, not held.value)
    if isinstance(held.value, int | float):
        return Value(held.type, 2 * held.value + 1)
    return Value(held.type, f"{held.value}x")


def _longer(array: ArrayValue) -> ArrayValue:
    """With its last element, or a zero, once more."""
    if array.element == "string":
        last = array.decode()[-1] if array.length else b"x"
        return ArrayValue("string", array.length + 1, array.payload + struct.pack("<Q", len(last)) + last)
    last = array.decode()[-1] if array.length else 0
    return ArrayValue(array.element, array.length + 1, array.payload + struct.pack("<" + CODES[array.element], last))
