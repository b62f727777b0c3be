"""The qwen2_moe architecture (Qwen 1.5 MoE, Qwen 2 57B-A14B): routed experts and a shared expert with a gate.

Source: llama.cpp's conversion of Qwen2MoeForCausalLM; mlx-lm's qwen2_moe.
"""

from quantcli.models.base import Architecture, Tensor
from quantcli.models.decoder import (
    BLOCK,
    EXPERTS,
    GATED,
    LAYER,
    PRE_NORMS,
    SHAPES,
    attention,
    ends,
    experts,
    norm_rows,
    rows,
    shared_experts,
)
from quantcli.models.families.qwen2 import SETTINGS, WINDOW_LAYERS
from quantcli.models.harmless import SWITCHED
from quantcli.models.hyperparameters import Hyperparameters
from quantcli.models.keys import EXPERT_LENGTH, GATING, HEAD_SIZES, RMS_EPS, ROPE, SIZES, Key, expert_keys
from quantcli.models.limits import square
from quantcli.models.ops import SingleRow
from quantcli.models.sizes import HIDDEN, NEVER, ONE, Need, flag, setting, without
from quantcli.models.stored import Setting, has

SHARED = {
    "mlp.shared_expert.gate_proj": "ffn_gate_shexp",
    "mlp.shared_expert.up_proj": "ffn_up_shexp",
    "mlp.shared_expert.down_proj": "ffn_down_shexp",
}

SHARED_SHAPES = shared_experts("mlp.shared_expert", setting("shared_expert_intermediate_size"))


def _is_sparse(h: Hyperparameters, layer: int) -> bool:
    """Return whether a layer has experts: every `decoder_sparse_step`-th, except those in mlp_only_layers."""
    step, dense = h.settings.integer("decoder_sparse_step", 1), h.settings.values.get("mlp_only_layers") or ()
    return h.experts > 0 and (layer + 1) % step == 0 and not (isinstance(dense, list) and layer in dense)


SPARSE = Need("num_experts, decoder_sparse_step, mlp_only_layers", _is_sparse)
DENSE = without(SPARSE)

#: A matrix with one row: one value per token.
SHARED_GATE = Tensor(
    f"{LAYER}.mlp.shared_expert_gate", f"{BLOCK}.ffn_gate_inp_shexp", (SingleRow(),), ("weight",), optional=True,
    shape=(ONE, HIDDEN), needed=SPARSE,
)  # fmt: skip

QWEN2_MOE = Architecture(
    name="qwen2_moe",
    gguf="qwen2moe",
    model_types={
        "qwen2_moe": {
            "rms_norm_eps": 1e-6,
            "max_position_embeddings": 32768,
            "num_key_value_heads": 16,
            "use_sliding_window": False,
            "moe_intermediate_size": 1408,
            "shared_expert_intermediate_size": 5632,
            "num_experts": 60,
            "num_experts_per_tok": 4,
            "qkv_bias": True,
        }
    },
    tensors=(
        *ends(),
        *norm_rows(PRE_NORMS),
        *attention(bias=flag("qkv_bias", True), output_bias=NEVER),
        *rows(GATED, needed=DENSE),
        *rows({"mlp.gate": "ffn_gate_inp"} | SHARED, needed=SPARSE, shapes={**SHAPES, **SHARED_SHAPES}),
        SHARED_GATE,
        *experts(EXPERTS, needed=SPARSE),
    ),
    keys=(*SIZES, *ROPE, RMS_EPS, *expert_keys("num_experts"), *HEAD_SIZES),
    further=(
        EXPERT_LENGTH,
        Key("expert_shared_feed_forward_length", "uint32", "shared_expert_intermediate_size"),
    ),
    classes={"qwen2_moe": "Qwen2MoeForCausalLM"},
    settings=(
        *SETTINGS,
        WINDOW_LAYERS,
        Setting("decoder_sparse_step", 1),
        Setting("mlp_only_layers", []),
        Setting("norm_topk_prob", False),
    ),
    harmless=SWITCHED,
    expects=(Setting("qkv_bias", has("attn_q.bias")),),
    constants={"expert_gating_func": GATING["softmax"], "expert_weights_norm": False},
    stores_head=("gguf", "mlx"),
    limits=square("gguf", "mlx"),
)
