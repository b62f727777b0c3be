"""The qwen2_moe architecture (Qwen 1.5 MoE, Qwen 2 57B-A14B): routed experts and a shared one with a gate of its own.

Source: llama.cpp's conversion of Qwen2MoeForCausalLM; mlx-lm's qwen2_moe.
"""

from quantcli.models.base import Architecture
from quantcli.models.decoder import (
    EXPERTS,
    GATED,
    INVERSE_FREQUENCIES,
    PRE_NORMS,
    attention,
    ends,
    experts,
    norm_rows,
    rows,
)

SHARED = {
    "mlp.shared_expert.gate_proj": "ffn_gate_shexp",
    "mlp.shared_expert.up_proj": "ffn_up_shexp",
    "mlp.shared_expert.down_proj": "ffn_down_shexp",
    "mlp.shared_expert_gate": "ffn_gate_inp_shexp",
}

QWEN2_MOE = Architecture(
    name="qwen2_moe",
    gguf="qwen2moe",
    model_types={"qwen2_moe": {}},
    tensors=(
        *ends(),
        *norm_rows(PRE_NORMS),
        *attention(),
        *rows(GATED, optional=True),
        *rows({"mlp.gate": "ffn_gate_inp"} | SHARED, optional=True),
        *experts(EXPERTS),
    ),
    dropped=INVERSE_FREQUENCIES,
    states_head_dim=False,
)
