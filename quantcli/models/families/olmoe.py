"""The olmoe architecture (OLMoE): routed experts in every layer, norms over all heads of q and of k.

Source: llama.cpp's conversion of OlmoeForCausalLM; mlx-lm's olmoe.
"""

from quantcli.models.base import EVERY_KIND, Architecture
from quantcli.models.decoder import (
    EXPERTS,
    PRE_NORMS,
    QK_NORMS,
    WHOLE_QK_NORMS,
    attention,
    ends,
    experts,
    norm_rows,
    rows,
)
from quantcli.models.families.olmo import EPSILON
from quantcli.models.keys import GATING, HEAD_SIZES, RMS_EPS, ROPE, SIZES, Key, expert_keys
from quantcli.models.limits import Limit, square, unset
from quantcli.models.sizes import ATTENTION_BIAS, INNER
from quantcli.models.stored import Setting, has
from quantcli.tokenizers import conventions

OLMOE = Architecture(
    name="olmoe",
    gguf="olmoe",
    model_types={
        "olmoe": {
            "rms_norm_eps": EPSILON,
            "max_position_embeddings": 4096,
            "num_experts": 64,
            "num_experts_per_tok": 8,
            "norm_topk_prob": False,
        }
    },
    tensors=(
        *ends(),
        *norm_rows(PRE_NORMS),
        *norm_rows(QK_NORMS, shapes=WHOLE_QK_NORMS),
        *attention(bias=ATTENTION_BIAS),
        *rows({"mlp.gate": "ffn_gate_inp"}),
        *experts(EXPERTS, width=INNER),
    ),
    # llama.cpp's converter always writes this epsilon.
    keys=(
        *SIZES,
        *ROPE,
        Key(RMS_EPS.name, "float32", lambda h: EPSILON, RMS_EPS.config, required=True),
        *expert_keys("num_experts"),
        *HEAD_SIZES,
    ),
    classes={"olmoe": "OlmoeForCausalLM"},
    settings=(
        Setting("hidden_act", "silu"),
        Setting("attention_bias", has("attn_q.bias")),
        Setting("norm_topk_prob", False),
    ),
    expects=(Setting("clip_qkv", None),),
    constants={"expert_gating_func": GATING["softmax"], "expert_weights_norm": False},
    vocabulary=conventions.OLMO,
    stores_head=("gguf",),
    limits=(
        *square("gguf"),
        *unset("gguf", "attention_bias"),
        Limit(
            "gguf",
            lambda h: h.heads == h.kv_heads,
            "num_key_value_heads to be num_attention_heads in this architecture",
        ),
    ),
    mlx_scaling=EVERY_KIND,
    mlx_ties=("olmoe",),
    mlx_keys=("rms_norm_eps",),
)
