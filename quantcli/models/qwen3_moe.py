"""The qwen3_moe architecture (Qwen3 30B-A3B, 235B-A22B): qwen3 with routed experts.

Source: llama.cpp's conversion of Qwen3MoeForCausalLM; mlx-lm's qwen3_moe.
"""

from quantcli.models.base import Architecture
from quantcli.models.decoder import (
    EXPERTS,
    GATED,
    INVERSE_FREQUENCIES,
    PRE_NORMS,
    QK_NORMS,
    attention,
    ends,
    experts,
    norm_rows,
    rows,
)

QWEN3_MOE = Architecture(
    name="qwen3_moe",
    gguf="qwen3moe",
    model_types={"qwen3_moe": {}},
    tensors=(
        *ends(),
        *norm_rows(PRE_NORMS | QK_NORMS),
        *attention(),
        *rows(GATED, optional=True),
        *rows({"mlp.gate": "ffn_gate_inp"}, optional=True),
        *experts(EXPERTS),
    ),
    dropped=INVERSE_FREQUENCIES,
)
