"""The dots1 architecture (dots.llm1): routed and shared experts after some dense layers, norms per head of q and k.

Source: llama.cpp's conversion of Dots1ForCausalLM; mlx-lm's dots1.
"""

from quantcli.models.base import EVERY_KIND, Architecture
from quantcli.models.decoder import EXPERTS, GATED, PRE_NORMS, QK_NORMS, attention, ends, experts, norm_rows, rows
from quantcli.models.families.glm4_moe import SHARED, SHARED_SHAPES, SPARSE, SPARSE_SHARED, router
from quantcli.models.families.qwen2 import WINDOW_LAYERS
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
    SHARED_EXPERTS,
    SIZES,
    Key,
    expert_keys,
    gating,
)
from quantcli.models.limits import Limit, unset
from quantcli.models.sizes import ATTENTION_BIAS, without
from quantcli.models.stored import Setting, has

DOTS1 = Architecture(
    name="dots1",
    gguf="dots1",
    model_types={
        "dots1": {
            "rms_norm_eps": 1e-6,
            "max_position_embeddings": 2048,
            "num_key_value_heads": 32,
            "n_group": 1,
            "topk_group": 1,
            "first_k_dense_replace": 0,
            "norm_topk_prob": False,
            "routed_scaling_factor": 1.0,
            "scoring_func": "sigmoid",
        }
    },
    tensors=(
        *ends(),
        *norm_rows(PRE_NORMS | QK_NORMS),
        *attention(bias=ATTENTION_BIAS),
        *rows(GATED, needed=without(SPARSE)),
        *router(SPARSE, SPARSE, mlx_casts=True),
        *rows(SHARED, needed=SPARSE_SHARED, shapes=SHARED_SHAPES),
        *experts(EXPERTS, mlx="mlp.experts", needed=SPARSE),
    ),
    mlx_schemes={"ffn_gate_inp": "dense"},
    keys=(
        *SIZES,
        *ROPE,
        RMS_EPS,
        *expert_keys("n_routed_experts"),
        *GROUPS,
        Key("expert_gating_func", "uint32", gating),
        *HEAD_SIZES,
    ),
    further=(EXPERT_LENGTH, DENSE_LAYERS, SHARED_EXPERTS, EXPERT_SCALE, EXPERT_NORM),
    classes={"dots1": "Dots1ForCausalLM"},
    settings=(
        Setting("hidden_act", "silu"),
        Setting("attention_bias", has("attn_q.bias")),
        Setting("scoring_func", "sigmoid"),
        WINDOW_LAYERS,
    ),
    expects=(Setting("topk_method", "noaux_tc"),),
    constants={"expert_gating_func": GATING["sigmoid"]},
    stores_head=("gguf",),
    limits=(
        *unset("gguf", "attention_bias"),
        *unset("mlx", "attention_bias"),
        Limit(
            "gguf",
            lambda h: h.heads == h.kv_heads,
            "num_key_value_heads to be num_attention_heads in this architecture",
        ),
    ),
    mlx_scaling=EVERY_KIND,
    mlx_keys=(
        "rms_norm_eps",
        "max_position_embeddings",
        "num_key_value_heads",
        "first_k_dense_replace",
        "norm_topk_prob",
        "routed_scaling_factor",
        "scoring_func",
    ),
)
