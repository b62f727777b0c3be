"""The glm4_moe architecture (GLM-4.5, 4.6): routed and shared experts; GGUF keeps the layer for multi-token prediction.

Source: llama.cpp's conversion of Glm4MoeForCausalLM; mlx-lm's glm4_moe.
"""

from quantcli.models.base import Architecture, Tensor
from quantcli.models.decoder import (
    BLOCK,
    EXPERTS,
    GATED,
    INVERSE_FREQUENCIES,
    LAYER,
    QK_NORMS,
    attention,
    ends,
    experts,
    norm_rows,
    rows,
)
from quantcli.models.glm4 import NO_START
from quantcli.models.hyperparameters import Hyperparameters
from quantcli.models.keys import (
    DENSE_LAYERS,
    EXPERT_LENGTH,
    EXPERT_NORM,
    EXPERT_SCALE,
    FREQ_BASE,
    GATING,
    GROUPS,
    HEAD_SIZES,
    RMS_EPS,
    ROPE,
    ROPE_DIMENSIONS,
    SECTIONS,
    SHARED_EXPERTS,
    SIZES,
    Key,
    expert_keys,
)
from quantcli.models.rope_settings import scaling_with_sections
from quantcli.models.stored import Setting, Stored, has
from quantcli.tokenizers import conventions

SHARED = {
    "mlp.shared_experts.gate_proj": "ffn_gate_shexp",
    "mlp.shared_experts.up_proj": "ffn_up_shexp",
    "mlp.shared_experts.down_proj": "ffn_down_shexp",
}

#: What routes to the experts; the correction of the router's scores stays float32.
ROUTER = (
    *rows({"mlp.gate": "ffn_gate_inp"}, optional=True),
    Tensor(
        f"{LAYER}.mlp.gate.e_score_correction_bias",
        f"{BLOCK}.exp_probs_b.bias",
        suffixes=("",),
        optional=True,
        f32=True,
    ),
)

#: The layer for multi-token prediction has these beside its norms, attention and experts.
NEXT = {
    "eh_proj": "nextn.eh_proj",
    "embed_tokens": "nextn.embed_tokens",
    "enorm": "nextn.enorm",
    "hnorm": "nextn.hnorm",
    "shared_head.head": "nextn.shared_head_head",
    "shared_head.norm": "nextn.shared_head_norm",
}


def _next(hyperparameters: Hyperparameters) -> int:
    """Layers for multi-token prediction, which GGUF counts as blocks."""
    return hyperparameters.settings.integer("num_nextn_predict_layers", 0, least=0)


GLM4_MOE = Architecture(
    name="glm4_moe",
    gguf="glm4moe",
    model_types={
        "glm4_moe": {
            "rms_norm_eps": 1e-5,
            "max_position_embeddings": 131072,
            "num_key_value_heads": 8,
            "partial_rotary_factor": 0.5,
            "moe_intermediate_size": 1408,
            "n_routed_experts": 128,
            "n_shared_experts": 1,
            "num_experts_per_tok": 8,
            "n_group": 1,
            "topk_group": 1,
            "first_k_dense_replace": 1,
            "routed_scaling_factor": 1.0,
            "norm_topk_prob": True,
            "num_nextn_predict_layers": lambda config: config.integer("num_mtp_layers", 1, least=0),
        }
    },
    tensors=(
        *ends(),
        *norm_rows({"input_layernorm": "attn_norm", "post_attention_layernorm": "post_attention_norm"}),
        *attention(),
        *(
            Tensor(f"{LAYER}.{hf}", f"{BLOCK}.{gguf}", suffixes=("weight",), optional=True)
            for hf, gguf in QK_NORMS.items()
        ),
        *rows(GATED, optional=True),
        *ROUTER,
        *rows(SHARED, optional=True),
        *experts(EXPERTS),
        *rows(NEXT, optional=True),
    ),
    dropped=INVERSE_FREQUENCIES,
    mtp=("hf", "gguf"),
    mlx_schemes={"ffn_gate_inp": "dense"},
    keys=(
        Key("block_count", "uint32", lambda h: h.layers + _next(h)),
        *SIZES[1:],
        *ROPE[:-1],
        SECTIONS,
        FREQ_BASE,
        RMS_EPS,
        *expert_keys("n_routed_experts"),
        *GROUPS,
        *HEAD_SIZES,
    ),
    further=(
        ROPE_DIMENSIONS,
        EXPERT_LENGTH,
        SHARED_EXPERTS,
        DENSE_LAYERS,
        Key("expert_gating_func", "uint32", lambda h: GATING["sigmoid"]),
        EXPERT_SCALE,
        EXPERT_NORM,
        Key("nextn_predict_layers", "uint32", "num_nextn_predict_layers"),
    ),
    classes={"glm4_moe": "Glm4MoeForCausalLM"},
    settings=(
        *NO_START,
        Setting("hidden_act", "silu"),
        Setting("attention_bias", has("attn_q.bias")),
        Setting("num_nextn_predict_layers", lambda file: file.predicting),
        Setting("partial_rotary_factor", Stored.rotary_share),
        Setting("rope_scaling", scaling_with_sections),
        Setting("use_qk_norm", has("attn_q_norm.weight")),
    ),
    vocabulary=conventions.GLM4_MOE,
)
