"""The qwen3_moe architecture (Qwen3 30B-A3B, 235B-A22B): qwen3 with routed experts.

Source: llama.cpp's conversion of Qwen3MoeForCausalLM; mlx-lm's qwen3_moe.
"""

from quantcli.models.base import Architecture
from quantcli.models.decoder import (
    EXPERTS,
    GATED,
    PRE_NORMS,
    QK_NORMS,
    attention,
    ends,
    experts,
    norm_rows,
    rows,
)
from quantcli.models.families.qwen2 import SETTINGS
from quantcli.models.families.qwen2_moe import DENSE, SPARSE
from quantcli.models.harmless import SWITCHED
from quantcli.models.keys import EXPERT_LENGTH, GATING, HEAD_SIZES, RMS_EPS, ROPE, SIZES, expert_keys
from quantcli.models.limits import unset
from quantcli.models.sizes import ATTENTION_BIAS
from quantcli.models.stored import Setting, has

QWEN3_MOE = Architecture(
    name="qwen3_moe",
    gguf="qwen3moe",
    model_types={
        "qwen3_moe": {
            "rms_norm_eps": 1e-6,
            "max_position_embeddings": 32768,
            "num_key_value_heads": 4,
            "use_sliding_window": False,
            "moe_intermediate_size": 768,
            "num_experts": 128,
            "num_experts_per_tok": 8,
            "norm_topk_prob": False,
        }
    },
    tensors=(
        *ends(),
        *norm_rows(PRE_NORMS | QK_NORMS),
        *attention(bias=ATTENTION_BIAS),
        *rows(GATED, needed=DENSE),
        *rows({"mlp.gate": "ffn_gate_inp"}, needed=SPARSE),
        *experts(EXPERTS, needed=SPARSE),
    ),
    mlx_schemes={"ffn_gate_inp": "affine8-g64"},
    keys=(*SIZES, *ROPE, RMS_EPS, *expert_keys("num_experts"), *HEAD_SIZES),
    further=(EXPERT_LENGTH,),
    classes={"qwen3_moe": "Qwen3MoeForCausalLM"},
    settings=(
        *SETTINGS,
        Setting("attention_bias", has("attn_q.bias")),
        Setting("decoder_sparse_step", 1),
        Setting("mlp_only_layers", []),
        Setting("norm_topk_prob", True),
    ),
    harmless=SWITCHED,
    constants={"expert_gating_func": GATING["softmax"], "expert_weights_norm": True},
    mlx_names={"num_experts": "num_local_experts"},
    limits=(*unset("gguf", "attention_bias"), *unset("mlx", "attention_bias")),
)
