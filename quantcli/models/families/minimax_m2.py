"""The minimax_m2 architecture (MiniMax M2): routed experts in every layer, norms over all heads of q and of k.

Source: llama.cpp's conversion of MiniMaxM2ForCausalLM; mlx-lm's minimax.
"""

from quantcli.containers.json_text import Reader
from quantcli.models.base import Architecture, Tensor
from quantcli.models.decoder import (
    BLOCK,
    LAYER,
    PRE_NORMS,
    QK_NORMS,
    WHOLE_QK_NORMS,
    attention,
    ends,
    experts,
    fused_experts,
    norm_rows,
    rows,
)
from quantcli.models.families.mixtral import MOE
from quantcli.models.keys import GATING, HEAD_SIZES, RMS_EPS, ROPE, ROPE_DIMENSIONS, SIZES, Key, expert_keys, gating
from quantcli.models.sizes import HIDDEN, INNER, N_EXPERTS
from quantcli.models.stored import Setting, Stored
from quantcli.tokenizers import conventions


def _share(config: Reader) -> float:
    """Return the share of a head that is rotated; releases have its size, transformers 5 writes the share."""
    size = config.integer("head_dim")
    rotated = config.integer("rotary_dim", size)
    if rotated % 2 and config.has("rotary_dim"):
        raise config.refuse("rotary_dim", "expected an even number")
    return rotated / size


def _size(config: Reader) -> int:
    """Return the number of rotated elements, which mlx-lm requires instead of the share."""
    rope = config.part("rope_parameters") if config.has("rope_parameters") else config
    return round(config.integer("head_dim") * rope.number("partial_rotary_factor", 1.0))


MINIMAX_M2 = Architecture(
    name="minimax_m2",
    gguf="minimax-m2",
    model_types={
        "minimax_m2": {
            "rms_norm_eps": 1e-6,
            "max_position_embeddings": 196608,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "rope_theta": 5e6,
            "partial_rotary_factor": _share,
            "num_local_experts": 256,
            "num_experts_per_tok": 8,
            "scoring_func": "sigmoid",
            "use_qk_norm": True,
            "use_routing_bias": True,
            "rotary_dim": _size,
            "shared_intermediate_size": lambda config: 0,
        }
    },
    tensors=(
        *ends(),
        *norm_rows(PRE_NORMS),
        *norm_rows(QK_NORMS, shapes=WHOLE_QK_NORMS),
        *attention(),
        *rows({f"{MOE}.gate": "ffn_gate_inp"}, shapes={f"{MOE}.gate": (N_EXPERTS, HIDDEN)}),
        Tensor(
            f"{LAYER}.{MOE}.e_score_correction_bias",
            f"{BLOCK}.exp_probs_b.bias",
            suffixes=("",),
            shape=(N_EXPERTS,),
        ),
        *experts({"w1": "gate", "w3": "up", "w2": "down"}, hf=f"{MOE}.experts", mlx=f"{MOE}.switch_mlp", width=INNER),
        # transformers 5 renamed the module; folders that it saves may have that name.
        *fused_experts("mlp.experts", width=INNER),
        *(
            Tensor(f"{LAYER}.mlp.{hf}", f"{BLOCK}.{gguf}", suffixes=(suffix,), read_only=True, shape=shape)
            for hf, gguf, suffix, shape in (
                ("gate.weight", "ffn_gate_inp", "weight", (N_EXPERTS, HIDDEN)),
                ("e_score_correction_bias", "exp_probs_b.bias", "", (N_EXPERTS,)),
            )
        ),
    ),
    mlx_schemes={"ffn_gate_inp": "affine8-g64"},
    keys=(
        *SIZES,
        *ROPE,
        RMS_EPS,
        *expert_keys("num_local_experts"),
        Key("expert_gating_func", "uint32", gating),
        *HEAD_SIZES,
    ),
    further=(
        Key("expert_feed_forward_length", "uint32", lambda h: h.feed_forward_length),
        ROPE_DIMENSIONS,
    ),
    classes={"minimax_m2": "MiniMaxM2ForCausalLM"},
    settings=(
        Setting("hidden_act", "silu"),
        Setting("partial_rotary_factor", Stored.rotary_share),
        Setting("rotary_dim", lambda file: file.integer("rope.dimension_count", file.head_dim)),
        Setting("use_qk_norm", True),
        Setting("use_routing_bias", True),
    ),
    expects=(
        Setting("attn_type_list", lambda file: [1] * file.trunk),
        Setting("layernorm_full_attention_beta", 1.0),
        Setting("layernorm_linear_attention_beta", 1.0),
        Setting("layernorm_mlp_beta", 1.0),
        Setting("qk_norm_type", "per_layer"),
        Setting("scoring_func", "sigmoid"),
        Setting("shared_intermediate_size", 0),
    ),
    constants={"expert_gating_func": GATING["sigmoid"], "expert_weights_norm": True},
    vocabulary=conventions.MINIMAX_M2,
    stores_head=("gguf",),
    mlx_keys=("rotary_dim", "shared_intermediate_size", "rms_norm_eps", "rope_theta"),
)
