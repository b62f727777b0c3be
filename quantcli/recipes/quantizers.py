"""Whose settings a file's object holds: MLX's and hf2q's own, or another quantizer's that use the same words."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from quantcli.containers.hostile import shown

#: Tables of tensors in hf2q's files, by the key that they stand under.
TABLES = ("per_tensor", "per_layer_bits", "quantization_info", "component_overrides")

#: What hf2q and mlx-native call their methods.
METHODS = re.compile(
    r"(hf2q|mlx|mixed|dwq|dynamic|imatrix|k_quant|apex|passthrough)([-_].*)?|auto|none|b?f16|f32|q[2-8](_.*)?"
)

#: Methods of other quantizers, whatever else their files hold.
OTHERS = frozenset(
    {
        "aqlm", "auto-round", "awq", "bitnet", "bitsandbytes", "compressed-tensors", "eetq", "exl2", "exl3",
        "fbgemm_fp8", "fp8", "gptq", "higgs", "hqq", "modelopt", "mxfp4", "quanto", "quark", "spqr", "torchao", "vptq",
    }
)  # fmt: skip

#: Keys of other quantizers' files that do not name a method.
OTHERS_KEYS = frozenset(
    {"checkpoint_format", "config_groups", "desc_act", "global_quant_config", "q_group_size", "sym"}
)


#: What AutoRound's settings call the packing of an MLX folder that it wrote (its format `auto_round:mlx`).
MLX_PACKINGS = ("mlx", "auto_round:mlx")

#: Keys of config.json under which quantizers' settings stand, at the top and in the settings of a part of the model
#: (`text_config`); compression_config is what compressed-tensors first called its own.
STORED_UNDER = ("quantization", "quantization_config", "compression_config")

#: Keys that say how some weights are stored, at any depth: DeepSeek-V4's of its experts (fp4, fp8).
STORAGE_WORDS = ("expert_dtype",)

#: How deep the settings of a part of a model may stand (`thinker_config.text_config`).
DEEPEST = 3


def is_ours(data: Mapping[str, Any]) -> bool:
    """Whether nothing in the object says that another quantizer wrote it."""
    if is_auto_round_mlx(data):
        return True
    method = data.get("quant_method")
    has_tables = any(key in data for key in TABLES)
    if method is None:
        return has_tables or not OTHERS_KEYS & data.keys()
    name = method.lower() if isinstance(method, str) else ""
    return METHODS.fullmatch(name) is not None or (has_tables and name not in OTHERS)


def is_auto_round_mlx(data: object) -> bool:
    """Whether settings are AutoRound's of a folder that it packed as MLX does."""
    if not isinstance(data, Mapping) or data.get("quant_method") != "auto-round":
        return False
    return data.get("packing_format") in MLX_PACKINGS


def whose(data: object) -> str:
    """Whose another quantizer's settings are, as a clause."""
    method = data.get("quant_method") if isinstance(data, Mapping) else None
    return "another quantizer's" if method is None else f"quant_method {shown(method)}"


def leftovers(config: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """All settings of quantizers in a config.json but its `quantization`: dotted key, what stands there.

    >>> leftovers({"quantization": {}, "text_config": {"quantization_config": {"bits": 8}}, "compression_config": 0})
    [('text_config.quantization_config', {'bits': 8}), ('compression_config', 0)]
    """
    return [(key, value) for key, value in _settings(config, "", DEEPEST) if key != "quantization"]


def without_settings(config: Mapping[str, Any], depth: int = DEEPEST) -> dict[str, Any]:
    """A config.json's object without any quantizer's settings and words of storage, those of a model's parts included.

    >>> without_settings({"model_type": "x", "quantization": {}, "text_config": {"quantization_config": {}, "a": 1}})
    {'model_type': 'x', 'text_config': {'a': 1}}
    """
    return {
        key: without_settings(value, depth - 1) if isinstance(value, Mapping) and depth else value
        for key, value in config.items()
        if not _is_settings(key, value, depth) and key not in STORAGE_WORDS
    }


def _settings(config: Mapping[str, Any], path: str, depth: int) -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if _is_settings(key, value, depth):
            yield from () if value is None else [(f"{path}{key}", value)]
        elif isinstance(value, Mapping) and depth:
            yield from _settings(value, f"{path}{key}.", depth - 1)


def _is_settings(key: str, value: object, depth: int) -> bool:
    """Whether a key holds a quantizer's settings; in a part of the model, where the words may mean another thing,
    only an object does.
    """
    return key in STORED_UNDER and (depth == DEEPEST or isinstance(value, Mapping | None))
