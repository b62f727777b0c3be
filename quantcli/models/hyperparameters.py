"""A model's sizes and settings under standard names, read from `config.json` (both spellings) or from GGUF metadata.

Source: the configuration classes of transformers 4 and 5. Transformers 5 writes `dtype` and nests the rope settings in
`rope_parameters`; before, they were `torch_dtype`, a top-level `rope_theta` and `rope_scaling` (with `type` or
`rope_type`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from quantcli.arrays import TORCH_DTYPES
from quantcli.containers.gguf_values import ArrayValue, Value
from quantcli.containers.hostile import shown
from quantcli.errors import BadInput

#: GGUF holds sizes as uint32.
LARGEST = 2**32 - 1


@dataclass(frozen=True)
class Rope:
    """Rotary position embedding. `type`: transformers' `rope_type`; what the config leaves out is None."""

    theta: float = 10000.0
    type: str = "default"
    factor: float | None = None
    original_context: int | None = None
    low_freq_factor: float | None = None
    high_freq_factor: float | None = None
    beta_fast: float | None = None
    beta_slow: float | None = None
    attention_factor: float | None = None
    extrapolation_factor: float | None = None
    long_factors: tuple[float, ...] | None = None
    short_factors: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Hyperparameters:
    """Standard names for what every dialect says about a model.

    architecture: the name of its `Architecture`. states_head_dim: the config itself names `head_dim` (else it follows
    from the others). sliding_window: tokens, None where every layer attends to all. dtype: our name, None where none
    is said.
    """

    architecture: str
    layers: int
    context_length: int
    embedding_length: int
    feed_forward_length: int
    heads: int
    kv_heads: int
    head_dim: int
    rms_norm_eps: float
    vocab_size: int
    rope: Rope
    tie_embeddings: bool = False
    states_head_dim: bool = False
    sliding_window: int | None = None
    dtype: str | None = None
    experts: int = 0
    nope_head_dim: int = 0


@dataclass(frozen=True)
class Reader:
    """Typed reads from a JSON object or metadata; errors name `where` and the key. null counts as absent."""

    values: Mapping[str, Any]
    where: str = "config.json"

    def has(self, key: str) -> bool:
        return self.values.get(key) is not None

    def integer(self, key: str, default: int | None = None) -> int:
        """A whole number from 1 to 2**32 - 1; `default` where the key is absent, an error without one."""
        value = self.values.get(key, default)
        value = default if value is None else value
        if value is None:
            raise BadInput(f"{self.where}: {key} is missing; it has to be a positive whole number.")
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= LARGEST:
            raise BadInput(f"{self.where}: {key} is {shown(value)}; it has to be a positive whole number below 2**32.")
        return value

    def optional_integer(self, key: str) -> int | None:
        return self.integer(key) if self.has(key) else None

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number; `default` where the key is absent, an error without one."""
        value = self.values.get(key, default)
        value = default if value is None else value
        if value is None:
            raise BadInput(f"{self.where}: {key} is missing; it has to be a number.")
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e38 or math.isnan(value):
            raise BadInput(f"{self.where}: {key} is {shown(value)}; it has to be a finite number.")
        return float(value)

    def optional_number(self, key: str) -> float | None:
        return self.number(key) if self.has(key) else None

    def flag(self, key: str, default: bool) -> bool:
        value = self.values.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise BadInput(f"{self.where}: {key} is {shown(value)}; it has to be true or false.")
        return value

    def text(self, key: str, default: str) -> str:
        value = self.values.get(key)
        if value is None:
            return default
        if not isinstance(value, str):
            raise BadInput(f"{self.where}: {key} is {shown(value)}; it has to be a string.")
        return value

    def part(self, key: str) -> Reader:
        """The object under `key`; empty where there is none."""
        value = self.values.get(key)
        if value is None:
            return Reader({}, f"{self.where}: {key}")
        if not isinstance(value, Mapping):
            raise BadInput(f"{self.where}: {key} is {shown(value)}; it has to be an object.")
        return Reader(value, f"{self.where}: {key}")


def from_config(
    config: Mapping[str, Any],
    architecture: str = "",
    defaults: Mapping[str, Any] | None = None,
    where: str = "config.json",
) -> Hyperparameters:
    """Hyperparameters of a `config.json` object.

    defaults: what the model's configuration class in transformers assumes for keys that the file leaves out.
    Raises `BadInput` for a key that is missing or of the wrong type, naming it.
    """
    read = Reader({**(defaults or {}), **{k: v for k, v in config.items() if v is not None}}, where)
    heads = read.integer("num_attention_heads")
    embedding = read.integer("hidden_size")
    if not read.has("head_dim") and embedding % heads:
        raise BadInput(
            f"{where}: head_dim is missing, and hidden_size {embedding} is no multiple of num_attention_heads {heads}."
        )
    head_dim = read.integer("head_dim", max(1, embedding // heads))
    kv_heads = read.integer("num_key_value_heads", heads)
    if heads % kv_heads:
        raise BadInput(f"{where}: num_attention_heads {heads} is no multiple of num_key_value_heads {kv_heads}.")
    context = read.integer("max_position_embeddings")
    slides = read.flag("use_sliding_window", True)
    dtype = read.text("torch_dtype", read.text("dtype", ""))
    return Hyperparameters(
        architecture=architecture,
        layers=read.integer("num_hidden_layers"),
        context_length=context,
        embedding_length=embedding,
        feed_forward_length=read.integer("intermediate_size"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        rms_norm_eps=read.number("rms_norm_eps"),
        vocab_size=read.integer("vocab_size"),
        rope=_rope(read, context),
        tie_embeddings=read.flag("tie_word_embeddings", False),
        states_head_dim=read.has("head_dim"),
        sliding_window=read.optional_integer("sliding_window") if slides else None,
        dtype=TORCH_DTYPES.get(dtype),
    )


def _rope(read: Reader, context: int) -> Rope:
    """Rope settings from `rope_parameters` (transformers 5), else from `rope_scaling` and `rope_theta`."""
    settings = read.part("rope_parameters" if read.has("rope_parameters") else "rope_scaling")
    if settings.has("full_attention"):
        settings = settings.part("full_attention")
    theta = settings.number("rope_theta", read.number("rope_theta", 10000.0))
    kind = settings.text("rope_type", settings.text("type", "default"))
    if theta <= 0:
        raise BadInput(f"{settings.where}: rope_theta is {theta}; it has to be above 0.")
    if kind in ("linear", "llama3", "yarn") and settings.number("factor") <= 0:
        raise BadInput(f"{settings.where}: factor is {settings.number('factor')}; it has to be above 0.")
    original = read.integer("original_max_position_embeddings", context)
    return Rope(
        theta=theta,
        type=kind,
        factor=settings.optional_number("factor"),
        original_context=settings.integer("original_max_position_embeddings", original),
        low_freq_factor=settings.optional_number("low_freq_factor"),
        high_freq_factor=settings.optional_number("high_freq_factor"),
        beta_fast=settings.optional_number("beta_fast"),
        beta_slow=settings.optional_number("beta_slow"),
        attention_factor=settings.optional_number(
            "attention_factor" if settings.has("attention_factor") else "attn_factor"
        ),
        extrapolation_factor=settings.optional_number("extrapolation_factor"),
    )


def mlx_rope_keys(config: Mapping[str, Any]) -> dict[str, Any]:
    """What an MLX folder's `config.json` needs beside its source's keys for mlx-lm to see the rope settings.

    mlx-lm's llama and qwen2 read top-level `rope_theta` and `rope_scaling` only, and run with their default theta,
    without a word, where transformers 5 wrote `rope_parameters`. Keys that the config has already are left alone;
    settings that differ by layer type are not touched.
    """
    settings = config.get("rope_parameters")
    if not isinstance(settings, Mapping) or any(isinstance(value, Mapping) for value in settings.values()):
        return {}
    added: dict[str, Any] = {}
    if config.get("rope_theta") is None and settings.get("rope_theta") is not None:
        added["rope_theta"] = settings["rope_theta"]
    kind = settings.get("rope_type", settings.get("type", "default"))
    if config.get("rope_scaling") is None and kind != "default":
        added["rope_scaling"] = {key: value for key, value in settings.items() if key != "rope_theta"}
    return added


def from_gguf(metadata: Mapping[str, Any], where: str = "GGUF metadata") -> Hyperparameters:
    """Hyperparameters of GGUF metadata (key -> value, or `Value`); `BadInput` names a missing or mistyped key."""
    metadata = {key: value.value if isinstance(value, Value) else value for key, value in metadata.items()}
    architecture = Reader(metadata, where).text("general.architecture", "")
    prefix = f"{architecture}."
    own = {key.removeprefix(prefix): value for key, value in metadata.items() if key.startswith(prefix)}
    read = Reader(own, f"{where}: {architecture}")
    heads = read.integer("attention.head_count")
    embedding = read.integer("embedding_length")
    context = read.integer("context_length")
    tokens = metadata.get("tokenizer.ggml.tokens")
    count = tokens.length if isinstance(tokens, ArrayValue) else len(tokens) if isinstance(tokens, list | tuple) else 0
    kind = read.text("rope.scaling.type", "default")
    return Hyperparameters(
        architecture=architecture,
        layers=read.integer("block_count"),
        context_length=context,
        embedding_length=embedding,
        feed_forward_length=read.integer("feed_forward_length"),
        heads=heads,
        kv_heads=read.integer("attention.head_count_kv", heads),
        head_dim=read.integer("attention.key_length", max(1, embedding // heads)),
        rms_norm_eps=read.number("attention.layer_norm_rms_epsilon"),
        vocab_size=read.integer("vocab_size", count or None),
        rope=Rope(
            theta=read.number("rope.freq_base", 10000.0),
            type="default" if kind == "none" else kind,
            factor=read.optional_number("rope.scaling.factor"),
            original_context=read.integer("rope.scaling.original_context_length", context),
            beta_fast=read.optional_number("rope.scaling.yarn_beta_fast"),
            beta_slow=read.optional_number("rope.scaling.yarn_beta_slow"),
            attention_factor=read.optional_number("rope.scaling.yarn_attn_factor"),
            extrapolation_factor=read.optional_number("rope.scaling.yarn_ext_factor"),
        ),
        states_head_dim=read.has("attention.key_length"),
        sliding_window=read.optional_integer("attention.sliding_window"),
    )
