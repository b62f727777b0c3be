"""Settings and mlx-lm: those of a config.json rebuilt from GGUF that it ignores, and those that it requires.

Source: mlx-lm's models (mlx_lm/models, rope_utils.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from quantcli.models.base import Architecture
from quantcli.models.harmless_gguf import is_close
from quantcli.models.layer_spellings import respelled
from quantcli.models.rope import mlx_rope_keys
from quantcli.models.rope_settings import ATTN_FACTOR
from quantcli.models.sixteen_bits import NESTED
from quantcli.models.stored import OMITTED, Stored
from quantcli.models.unsaid import Unsaid


def unread_by_mlx_lm(file: Stored, architecture: Architecture, config: Mapping[str, Any]) -> list[Unsaid]:
    """Return the GGUF keys that config.json has and mlx-lm does not read there."""
    scaling = config.get("rope_scaling") or {}
    names = []
    if config.get("is_causal") is False:
        names.append("attention.causal")
    if scaling and scaling["rope_type"] not in architecture.mlx_scaling:
        names.append(file.own.first("rope.scaling.factor", "rope.scale_linear"))
    if not _is_usual(scaling):
        names.append(file.own.first(ATTN_FACTOR, "rope.scaling.yarn_attn_factor"))
    names += [name for name, is_ignored in architecture.mlx_unread.items() if is_ignored(config)]
    values = ((name, file.own.values.get(name)) for name in names)
    return [Unsaid(f"{architecture.gguf}.{name}", value) for name, value in values if value is not None]


def spelled(config: Mapping[str, Any], architecture: Architecture | None) -> dict[str, Any]:
    """Return the keys that config.json needs in addition for mlx-lm's class to read the same settings.

    Keys that config.json has are left alone, unless the class reads another form of their value.
    """
    if architecture is None:
        return mlx_rope_keys(config)
    made = {} if _rotates_by_kind(config, architecture) else mlx_rope_keys(config, architecture.mlx_names)
    made |= respelled(config)
    made |= architecture.mlx_config(config) if architecture.mlx_config is not None else {}
    return made | {key: None for key in architecture.mlx_nulls if key not in {**config, **made}}


def _rotates_by_kind(config: Mapping[str, Any], architecture: Architecture) -> bool:
    """Return whether the classes read rotary settings only by kind of layer; transformers would prefer flat ones."""
    is_flat = all(setting.name != "rope_theta" or setting.value is not OMITTED for setting in architecture.settings)
    parameters = config.get("rope_parameters")
    return not is_flat and isinstance(parameters, Mapping) and "full_attention" in parameters


def nested_spelled(
    config: Mapping[str, Any], text: Mapping[str, Any], architecture: Architecture, around: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the settings that mlx-lm's class needs to read the same text model from a config.json with towers.

    These are the text model's block with what it lacks or states differently; in a flat config the settings themselves.

    text: the settings of the text model, with those around its block. architecture: the text model's.
    around: keys of its settings that the class reads outside the block.
    """
    blocks = {key: block for key in NESTED if isinstance(block := config.get(key), Mapping)}
    if not blocks:
        return _of_block(config, text, architecture)
    values = architecture.hyperparameters(text).settings.values if around else {}
    outer = {key: values[key] for key in around if config.get(key) is None}
    made = {key: _of_block(block, text, architecture) for key, block in blocks.items()}
    return outer | {key: {**blocks[key], **further} for key, further in made.items() if further}


def _of_block(block: Mapping[str, Any], text: Mapping[str, Any], architecture: Architecture) -> dict[str, Any]:
    lacking = [key for key in architecture.mlx_keys if block.get(key) is None]
    values = architecture.hyperparameters(text).settings.values if lacking else {}
    return {key: values[key] for key in lacking if values.get(key) is not None} | spelled(block, architecture)


def stated(config: Mapping[str, Any], architecture: Architecture | None) -> dict[str, Any]:
    """Return settings that mlx-lm's class does not assume, if config.json leaves them to transformers' defaults."""
    keys = () if architecture is None else [key for key in architecture.mlx_keys if config.get(key) is None]
    if not keys or architecture is None:
        return {}
    values = architecture.hyperparameters(config).settings.values
    return {key: values[key] for key in keys if key in values}


def _is_usual(scaling: Mapping[str, Any]) -> bool:
    """Return whether the attention factor is the one that mlx-lm computes from the other settings."""
    usual = 0.1 * math.log(max(scaling["factor"], 1.0)) + 1 if scaling.get("rope_type") == "yarn" else None
    return "attention_factor" not in scaling or is_close(scaling["attention_factor"], usual)
