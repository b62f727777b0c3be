"""Settings that a config.json made of a GGUF file has, and that mlx-lm does not compute with.

Source: mlx-lm's models (mlx_lm/models, rope_utils.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from quantcli.models.base import EVERY_KIND, Architecture
from quantcli.models.harmless_gguf import is_close
from quantcli.models.rope_settings import ATTN_FACTOR
from quantcli.models.stored import Stored
from quantcli.models.unsaid import Unsaid

#: Model type -> the kinds of rope scaling that mlx-lm computes for it; for the others none.
SCALING: Mapping[str, tuple[str, ...]] = {
    "deepseek_v2": ("yarn",),
    "deepseek_v3": EVERY_KIND,
    "exaone4": EVERY_KIND,
    "gemma3_text": EVERY_KIND,
    "gpt_oss": EVERY_KIND,
    "granite": EVERY_KIND,
    "llama": EVERY_KIND,
    "nemotron": ("linear",),
    "olmo2": EVERY_KIND,
    "olmo3": EVERY_KIND,
    "phi3": ("linear", "longrope"),
    "qwen2": EVERY_KIND,
    "qwen3": EVERY_KIND,
    "smollm3": EVERY_KIND,
}
#: Those for which it knows windows by their period only.
PERIODS = ("cohere2", "gemma3_text")
#: Those whose layers with a window have the rotary base of the others there.
ONE_BASE = ("olmo3",)


def unread_by_mlx_lm(file: Stored, architecture: Architecture, config: Mapping[str, Any]) -> list[Unsaid]:
    """The keys that config.json says and mlx-lm does not read there."""
    kind, scaling = config["model_type"], config.get("rope_scaling") or {}
    names = []
    if config.get("is_causal") is False:
        names.append("attention.causal")
    if scaling and scaling["rope_type"] not in SCALING.get(kind, architecture.mlx_scaling):
        names.append(file.own.first("rope.scaling.factor", "rope.scale_linear"))
    if not _is_usual(scaling):
        names.append(file.own.first(ATTN_FACTOR, "rope.scaling.yarn_attn_factor"))
    if kind in PERIODS and "sliding_window_pattern" not in config:
        names.append("attention.sliding_window_pattern")
    if kind in ONE_BASE and config.get("rope_local_base_freq", config["rope_theta"]) != config["rope_theta"]:
        names.append("rope.freq_base_swa")
    values = ((name, file.own.values.get(name)) for name in names)
    return [Unsaid(f"{architecture.gguf}.{name}", value) for name, value in values if value is not None]


def _is_usual(scaling: Mapping[str, Any]) -> bool:
    """Whether the factor of attention is the one that follows from the others, which mlx-lm computes."""
    usual = 0.1 * math.log(max(scaling["factor"], 1.0)) + 1 if scaling.get("rope_type") == "yarn" else None
    return "attention_factor" not in scaling or is_close(scaling["attention_factor"], usual)
