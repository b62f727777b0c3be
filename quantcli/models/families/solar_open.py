"""The solar_open architecture (Solar Open): in GGUF, a glm4moe that rotates complete heads, without norms of q and k.

Source: llama.cpp's conversion of SolarOpenForCausalLM; mlx-lm's solar_open.
"""

from quantcli.models.base import Architecture
from quantcli.models.decoder import EXPERTS, GATED, attention, ends, experts, norm_rows, rows
from quantcli.models.families.glm4_moe import SHARED, SHARED_SHAPES, SPARSE, SPARSE_SHARED, router
from quantcli.models.keys import (
    DENSE_LAYERS,
    EXPERT_LENGTH,
    EXPERT_NORM,
    EXPERT_SCALE,
    GATING,
    GROUPS,
    HEAD_SIZES,
    RMS_EPS,
    ROPE,
    ROPE_DIMENSIONS,
    SHARED_EXPERTS,
    SIZES,
    Key,
    expert_keys,
)
from quantcli.models.sizes import ATTENTION_BIAS, NEVER, without
from quantcli.models.stored import Setting, Stored, has
from quantcli.tokenizers import conventions

SOLAR_OPEN = Architecture(
    name="solar_open",
    gguf="glm4moe",
    # GLM 4.5 and 4.6 rotate half of each head.
    when=lambda metadata: metadata.get("rope.dimension_count") == metadata.get("attention.key_length"),
    model_types={
        "solar_open": {
            "rms_norm_eps": 1e-5,
            "max_position_embeddings": 131072,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "rope_theta": 1e6,
            "partial_rotary_factor": 1.0,
            "intermediate_size": 10240,
            "moe_intermediate_size": 1280,
            "n_routed_experts": 128,
            "n_shared_experts": 1,
            "num_experts_per_tok": 8,
            "n_group": 1,
            "topk_group": 1,
            "first_k_dense_replace": 0,
            "routed_scaling_factor": 1.0,
            "norm_topk_prob": True,
        }
    },
    tensors=(
        *ends(),
        *norm_rows({"input_layernorm": "attn_norm", "post_attention_layernorm": "post_attention_norm"}),
        *attention(bias=ATTENTION_BIAS, output_bias=NEVER),
        *rows(GATED, needed=without(SPARSE)),
        *router(SPARSE, SPARSE),
        *rows(SHARED, needed=SPARSE_SHARED, shapes=SHARED_SHAPES),
        *experts(EXPERTS, needed=SPARSE),
    ),
    mlx_schemes={"ffn_gate_inp": "dense"},
    keys=(*SIZES, *ROPE, RMS_EPS, *expert_keys("n_routed_experts"), *GROUPS, *HEAD_SIZES),
    further=(
        ROPE_DIMENSIONS,
        EXPERT_LENGTH,
        SHARED_EXPERTS,
        DENSE_LAYERS,
        Key("expert_gating_func", "uint32", lambda h: GATING["sigmoid"]),
        EXPERT_SCALE,
        EXPERT_NORM,
    ),
    classes={"solar_open": "SolarOpenForCausalLM"},
    settings=(
        Setting("hidden_act", "silu"),
        Setting("attention_bias", has("attn_q.bias")),
        Setting("partial_rotary_factor", Stored.rotary_share),
        Setting("use_qk_norm", False),
    ),
    vocabulary=conventions.SOLAR_OPEN,
    stores_head=("mlx",),
    mlx_keys=(
        "first_k_dense_replace",
        "partial_rotary_factor",
        "n_shared_experts",
        "routed_scaling_factor",
        "norm_topk_prob",
        "rms_norm_eps",
        "rope_theta",
    ),
)
