"""The mellum architecture (Mellum 2): routed experts, layers with a window and another rotary base.

Source: llama.cpp's conversion of MellumForCausalLM; mlx-lm's mellum.
"""

from dataclasses import replace
from typing import Any

from quantcli.models.base import EVERY_KIND, Architecture
from quantcli.models.decoder import EXPERTS, PRE_NORMS, QK_NORMS, attention, ends, experts, norm_rows, rows
from quantcli.models.hyperparameters import Hyperparameters
from quantcli.models.keys import (
    EXPERT_LENGTH,
    GATING,
    HEAD_SIZES,
    LOCAL_FREQ_BASE,
    RMS_EPS,
    ROPE,
    SIZES,
    SLIDING_WINDOW,
    WINDOW_PATTERN,
    Key,
    expert_keys,
    pattern_of_windows,
)
from quantcli.models.limits import MISCOMPUTED, Limit, unset
from quantcli.models.rope_settings import by_kind_of_layer
from quantcli.models.sizes import ATTENTION_BIAS
from quantcli.models.stored import OMITTED, Setting, Stored, has, kinds_of_layers
from quantcli.tokenizers import conventions


def _windows(h: Hyperparameters) -> tuple[bool, ...] | None:
    return pattern_of_windows(h) if h.sliding_window else None


def _layer_types(file: Stored) -> Any:
    """Return `layer_types`; without a window every layer attends to all, with one llama.cpp has a default pattern."""
    return kinds_of_layers(file, 4) if file.own.has(SLIDING_WINDOW.name) else ["full_attention"] * file.trunk


MELLUM = Architecture(
    name="mellum",
    gguf="mellum",
    model_types={
        "mellum": {
            "rms_norm_eps": 1e-6,
            "max_position_embeddings": 131072,
            "num_key_value_heads": 4,
            "head_dim": 128,
            "moe_intermediate_size": 896,
            "num_experts": lambda config: config.integer("num_local_experts", 64, least=0),
            "num_experts_per_tok": 8,
            "norm_topk_prob": True,
            "sliding_window": 1024,
            "use_sliding_window": True,
            "layer_types": lambda config: ["full_attention"] * config.integer("num_hidden_layers"),
            "rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": 5e5},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        }
    },
    tensors=(
        *ends(),
        *norm_rows(PRE_NORMS | QK_NORMS),
        *attention(bias=ATTENTION_BIAS),
        *rows({"mlp.gate": "ffn_gate_inp"}),
        *experts(EXPERTS),
    ),
    mlx_schemes={"ffn_gate_inp": "affine8-g64"},
    keys=(*SIZES, *ROPE, replace(LOCAL_FREQ_BASE, config=None), RMS_EPS, *expert_keys("num_experts"), *HEAD_SIZES),
    further=(
        EXPERT_LENGTH,
        Key(SLIDING_WINDOW.name, "uint32", lambda h: h.sliding_window, "sliding_window"),
        Key(WINDOW_PATTERN.name, WINDOW_PATTERN.type, _windows),
    ),
    classes={"mellum": "MellumForCausalLM"},
    settings=(
        Setting("hidden_act", "silu"),
        Setting("attention_bias", has("attn_q.bias")),
        Setting("layer_types", _layer_types),
        Setting("mlp_layer_types", lambda file: ["sparse"] * file.trunk),
        Setting("norm_topk_prob", True),
        Setting("rope_parameters", by_kind_of_layer),  # the class would use flat settings for both kinds of layers
        Setting("rope_scaling", OMITTED),
        Setting("rope_theta", OMITTED),
        Setting("sliding_window", lambda file: file.own.optional_integer(SLIDING_WINDOW.name)),
    ),
    expects=(Setting("use_sliding_window", lambda file: (file.own.has(SLIDING_WINDOW.name), True)),),
    constants={"expert_gating_func": GATING["softmax"], "expert_weights_norm": True},
    vocabulary=conventions.MELLUM,
    stores_head=("gguf",),
    mlx_keys=(
        "num_experts",
        "rms_norm_eps",
        "max_position_embeddings",
        "norm_topk_prob",
        "num_experts_per_tok",
        "moe_intermediate_size",
        "num_key_value_heads",
        "head_dim",
        "sliding_window",
        "layer_types",
    ),
    mlx_scaling=EVERY_KIND,
    limits=(
        *unset("gguf", "attention_bias"),
        *unset("mlx", "attention_bias"),
        Limit(
            "gguf",
            lambda h: not h.sliding_window or h.rope.local_theta in (None, h.rope.theta),
            "rope_theta to be the same in all layers",
            fault=MISCOMPUTED,
        ),
    ),
)
