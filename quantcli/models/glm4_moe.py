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

GLM4_MOE = Architecture(
    name="glm4_moe",
    gguf="glm4moe",
    model_types={"glm4_moe": {}},
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
    mtp=("gguf",),
)
