"""The qwen3_5 architectures (Qwen3.5, dense and with experts): qwen3_next with other projections in its delta nets.

Each projection is a separate tensor. Value heads that share a key head are adjacent; GGUF has the first value head of
every key head, then the second of every key head, and so on (`ops.tiled`), in the rows that make value heads and in the
columns that read them.

Source: llama.cpp's conversion of Qwen3_5ForCausalLM and Qwen3_5MoeForCausalLM (_LinearAttentionVReorderBase);
transformers' Qwen3_5TextConfig, Qwen3_5MoeTextConfig.
"""

from typing import Any

from quantcli.models.base import EVERY_KIND, Architecture
from quantcli.models.decoder import GATED, SHAPES, experts_apart, rows, stacked_experts
from quantcli.models.families.glm4_moe import ALL_BLOCKS
from quantcli.models.families.qwen2_moe import SHARED, SHARED_GATE, SHARED_SHAPES
from quantcli.models.families.qwen2_vl import MLX
from quantcli.models.families.qwen3_next import (
    COMMON,
    CONVOLVED,
    DELTA_DEFAULTS,
    DELTA_KEYS,
    DELTA_LIMITS,
    DELTA_SETTINGS,
    K_HEADS,
    KEYS,
    NEXT,
    NEXTN,
    QWEN3_NEXT,
    V_HEADS,
    V_SIZE,
    VALUES,
    delta_net,
    linear,
)
from quantcli.models.families.qwen3_vl import NESTED
from quantcli.models.keys import (
    EXPERT_LENGTH,
    FREQ_BASE,
    HEAD_SIZES,
    RMS_EPS,
    ROPE,
    SECTIONS,
    SIZES,
    Key,
    expert_keys,
)
from quantcli.models.limits import Limit
from quantcli.models.multimodal import Multimodal
from quantcli.models.ops import Tile, TileColumns
from quantcli.models.rope_settings import parameters
from quantcli.models.sizes import ALWAYS, HIDDEN, ONE
from quantcli.models.stored import OMITTED, Setting, Stored

SINGLE = (Tile(K_HEADS, V_HEADS, ONE),)
LATTER = (Tile(K_HEADS, V_HEADS, V_SIZE, before=2 * KEYS),)

DELTA_NET = (
    linear("in_proj_qkv", "attn_qkv", (CONVOLVED, HIDDEN), LATTER),
    linear("in_proj_z", "attn_gate", (VALUES, HIDDEN), (Tile(K_HEADS, V_HEADS, V_SIZE),)),
    linear("in_proj_b", "ssm_beta", (V_HEADS, HIDDEN), SINGLE),
    linear("in_proj_a", "ssm_alpha", (V_HEADS, HIDDEN), SINGLE),
    *delta_net((SINGLE, LATTER, (TileColumns(K_HEADS, V_HEADS, V_SIZE),))),
)


EXPERTS = (*stacked_experts("mlp.experts"), *experts_apart("mlp.experts"))

#: llama.cpp requires sections of M-RoPE; these are the class's default.
USUAL_SECTIONS = (11, 11, 10, 0)
USUAL = Key(SECTIONS.name, SECTIONS.type, lambda h: None if h.rope.sections else USUAL_SECTIONS)


def _rotary(file: Stored) -> dict[str, Any]:
    """Return `rope_parameters`; sections of M-RoPE are interleaved in all of these models."""
    return parameters(share=True)(file) | {"mrope_interleaved": True}


ROTARY = (*ROPE[:-1], SECTIONS, FREQ_BASE)
SETTINGS = (
    *(setting for setting in DELTA_SETTINGS if setting.name != "partial_rotary_factor"),
    Setting("mtp_num_hidden_layers", lambda file: file.predicting),
    Setting("rope_parameters", _rotary),
    Setting("rope_scaling", OMITTED),
    Setting("rope_theta", OMITTED),
)
EXPECTS = (
    Setting("attn_output_gate", True),
    Setting("mamba_ssm_dtype", "float32"),
    Setting("mtp_use_dedicated_embeddings", False),
)
#: Types that mlx-lm loads only in a model with towers.
TEXTS = ("qwen3_5_text", "qwen3_5_moe_text")
LIMITS = (*DELTA_LIMITS, Limit("mlx", lambda h: False, "a text_config in config.json", nested=True, excludes=TEXTS))

#: Settings whose defaults in mlx-lm's class differ from transformers'.
MLX_KEYS = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "rms_norm_eps", "vocab_size", "head_dim", "max_position_embeddings", "linear_num_value_heads",
    "linear_num_key_heads", "linear_key_head_dim", "linear_value_head_dim", "linear_conv_kernel_dim",
    "full_attention_interval",
)  # fmt: skip

QWEN3_5 = Architecture(
    name="qwen3_5",
    gguf="qwen35",
    model_types={"qwen3_5_text": DELTA_DEFAULTS | {"num_key_value_heads": 4}},
    tensors=(*COMMON, *DELTA_NET, *rows(GATED), *NEXT),
    mtp=("hf", "gguf"),
    mtp_module="mtp.",
    keys=(ALL_BLOCKS, *SIZES[1:], *ROTARY, RMS_EPS, *HEAD_SIZES),
    further=(NEXTN, *DELTA_KEYS, USUAL),
    classes={"qwen3_5_text": "Qwen3_5ForCausalLM"},
    settings=SETTINGS,
    expects=EXPECTS,
    limits=LIMITS,
    mlx_scaling=EVERY_KIND,
    mlx_keys=MLX_KEYS,
    multimodal=(Multimodal("qwen3_5", "Qwen3_5ForConditionalGeneration", "qwen3_5_text", MLX, spelling=NESTED),),
)

QWEN3_5_MOE = Architecture(
    name="qwen3_5_moe",
    gguf="qwen35moe",
    model_types={
        "qwen3_5_moe_text": DELTA_DEFAULTS
        | {
            "num_key_value_heads": 2,
            "moe_intermediate_size": 512,
            "shared_expert_intermediate_size": 512,
            "num_experts": 256,
            "num_experts_per_tok": 8,
        }
    },
    tensors=(
        *COMMON,
        *DELTA_NET,
        *rows({"mlp.gate": "ffn_gate_inp"} | SHARED, needed=ALWAYS, shapes={**SHAPES, **SHARED_SHAPES}),
        SHARED_GATE,
        *EXPERTS,
        *NEXT,
    ),
    mtp=("hf", "gguf"),
    mtp_module="mtp.",
    mlx_schemes=QWEN3_NEXT.mlx_schemes,
    names={"feed_forward_length": ()},
    keys=(
        ALL_BLOCKS,
        *SIZES[1:3],
        Key("feed_forward_length", "uint32", "intermediate_size"),
        *SIZES[4:],
        *ROTARY,
        RMS_EPS,
        *expert_keys("num_experts"),
        *HEAD_SIZES,
    ),
    further=(
        EXPERT_LENGTH,
        Key("expert_shared_feed_forward_length", "uint32", "shared_expert_intermediate_size"),
        NEXTN,
        *DELTA_KEYS,
        USUAL,
    ),
    classes={"qwen3_5_moe_text": "Qwen3_5MoeForCausalLM"},
    settings=SETTINGS,
    expects=(*EXPECTS, Setting("norm_topk_prob", True)),
    constants=QWEN3_NEXT.constants,
    limits=LIMITS,
    mlx_scaling=EVERY_KIND,
    mlx_keys=(
        *MLX_KEYS,
        "num_experts",
        "num_experts_per_tok",
        "moe_intermediate_size",
        "shared_expert_intermediate_size",
    ),
    multimodal=(
        Multimodal("qwen3_5_moe", "Qwen3_5MoeForConditionalGeneration", "qwen3_5_moe_text", MLX, spelling=NESTED),
    ),
)
