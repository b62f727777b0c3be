"""Which tool wrote the settings in a file: MLX or hf2q, or another quantizer that uses the same words."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from quantcli.containers.hostile import shown

#: The keys of tables of tensors in hf2q's files.
TABLES = ("per_tensor", "per_layer_bits", "quantization_info", "component_overrides")

#: The names of hf2q's and mlx-native's methods.
METHODS = re.compile(
    r"(hf2q|mlx|mixed|dwq|dynamic|imatrix|k_quant|apex|passthrough)([-_].*)?|auto|none|b?f16|f32|q[2-8](_.*)?"
)

#: Methods of other quantizers, whatever else their files contain.
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


#: `packing_format` in AutoRound's settings of an MLX folder that it wrote (its format `auto_round:mlx`).
MLX_PACKINGS = ("mlx", "auto_round:mlx")

#: Keys of quantizers' settings in config.json, at the top level and in the settings of a part of the model
#: (`text_config`); compression_config is compressed-tensors' first name for them.
STORED_UNDER = ("quantization", "quantization_config", "compression_config")

#: Keys at any depth that describe how some weights are stored: DeepSeek-V4's experts (fp4, fp8).
STORAGE_WORDS = ("expert_dtype",)

#: How many levels deep the settings of a part of a model may be nested (`thinker_config.text_config`).
DEEPEST = 3


def is_ours(data: Mapping[str, Any]) -> bool:
    """Return whether nothing in the object shows that another quantizer wrote it."""
    if is_auto_round_mlx(data):
        return True
    method = data.get("quant_method")
    has_tables = any(key in data for key in TABLES)
    if method is None:
        return has_tables or not OTHERS_KEYS & data.keys()
    name = method.lower() if isinstance(method, str) else ""
    return METHODS.fullmatch(name) is not None or (has_tables and name not in OTHERS)


def is_auto_round_mlx(data: object) -> bool:
    """Return whether settings are AutoRound's, of a folder in MLX's layout."""
    if not isinstance(data, Mapping) or data.get("quant_method") != "auto-round":
        return False
    return data.get("packing_format") in MLX_PACKINGS


def whose(data: object) -> str:
    """Return the owner of another quantizer's settings, in words."""
    method = data.get("quant_method") if isinstance(data, Mapping) else None
    return "another quantizer's" if method is None else f"quant_method {shown(method)}"


def leftovers(config: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return all quantizers' settings in config.json except `quantization`: (dotted key, value).

    >>> leftovers({"quantization": {}, "text_config": {"quantization_config": {"bits": 8}}, "compression_config": 0})
    [('text_config.quantization_config', {'bits': 8}), ('compression_config', 0)]
    """
    return [(key, value) for key, value in _settings(config, "", DEEPEST) if key != "quantization"]


def without_settings(config: Mapping[str, Any], depth: int = DEEPEST) -> dict[str, Any]:
    """Return config.json's object without quantizers' settings and STORAGE_WORDS, also in the settings of parts.

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
    """Return whether a key holds a quantizer's settings.

    In a part of the model, where these words may mean something else, the value must be an object.
    """
    return key in STORED_UNDER and (depth == DEEPEST or isinstance(value, Mapping | None))
