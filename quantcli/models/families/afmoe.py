"""The afmoe architecture (Trinity): gated attention, norms around attention and MLP, windows in three layers of four.

Source: llama.cpp's conversion of AfmoeForCausalLM; mlx-lm's afmoe.
"""

from quantcli.models.base import EVERY_KIND, Architecture, Tensor
from quantcli.models.decoder import (
    BLOCK,
    EXPERTS,
    GATED,
    LAYER,
    QK_NORMS,
    attention,
    ends,
    experts,
    norm_rows,
    rows,
    shared_experts,
)
from quantcli.models.families.glm4_moe import SHARED
from quantcli.models.hyperparameters import Hyperparameters
from quantcli.models.keys import (
    EXPERT_LENGTH,
    GATING,
    GROUPS,
    HEAD_SIZES,
    RMS_EPS,
    ROPE,
    ROPE_DIMENSIONS,
    SIZES,
    SLIDING_WINDOW,
    VOCAB_SIZE,
    Key,
    every_fourth_full,
    expert_keys,
    gating,
)
from quantcli.models.layer_kinds import every
from quantcli.models.sizes import EXPERT_INNER, HIDDEN, N_EXPERTS, QUERIES, Need, setting, without
from quantcli.models.stored import Setting

NORMS = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "post_attention_norm",
    "pre_mlp_layernorm": "ffn_norm",
    "post_mlp_layernorm": "post_ffw_norm",
}
GATES = {"self_attn.gate_proj": "attn_gate"}


def _is_sparse(h: Hyperparameters, layer: int) -> bool:
    return layer >= h.settings.integer("num_dense_layers", 0, least=0)


def _has_shared(h: Hyperparameters, layer: int) -> bool:
    return _is_sparse(h, layer) and h.settings.integer("num_shared_experts", 0, least=0) > 0


SPARSE = Need("num_dense_layers", _is_sparse)
SPARSE_SHARED = Need("num_dense_layers, num_shared_experts", _has_shared)

AFMOE = Architecture(
    name="afmoe",
    gguf="afmoe",
    model_types={
        "afmoe": {
            "rms_norm_eps": 1e-5,
            "max_position_embeddings": 16384,
            "head_dim": 128,
            "moe_intermediate_size": 1408,
            "num_dense_layers": 1,
            "num_experts": 64,
            "num_experts_per_tok": 6,
            "num_shared_experts": 2,
            "n_group": 1,
            "topk_group": 1,
            "score_func": "sigmoid",
            "route_norm": True,
            "route_scale": 1.0,
            "sliding_window": 1024,
            "layer_types": every_fourth_full,
            "mup_enabled": False,
        }
    },
    tensors=(
        *ends(),
        *norm_rows(NORMS | QK_NORMS),
        *attention(),
        *rows(GATES, shapes={"self_attn.gate_proj": (QUERIES, HIDDEN)}),
        *rows(GATED, needed=without(SPARSE)),
        *rows({"mlp.router.gate": "ffn_gate_inp"}, needed=SPARSE, shapes={"mlp.router.gate": (N_EXPERTS, HIDDEN)}),
        Tensor(
            f"{LAYER}.mlp.expert_bias",
            f"{BLOCK}.exp_probs_b.bias",
            suffixes=("",),
            optional=True,
            shape=(N_EXPERTS,),
            needed=SPARSE,
        ),
        *rows(
            SHARED,
            needed=SPARSE_SHARED,
            shapes=shared_experts("mlp.shared_experts", setting("num_shared_experts") * EXPERT_INNER),
        ),
        *experts(EXPERTS, mlx="mlp.experts", needed=SPARSE),
    ),
    mlx_schemes={"ffn_gate_inp": "affine8-g64"},
    states_space_prefix=True,
    keys=(
        *SIZES,
        *ROPE,
        RMS_EPS,
        *expert_keys("num_experts"),
        *GROUPS,
        Key("expert_gating_func", "uint32", lambda h: gating(h, "score_func")),
        *HEAD_SIZES,
    ),
    further=(
        VOCAB_SIZE,
        ROPE_DIMENSIONS,
        Key("expert_shared_count", "uint32", "num_shared_experts"),
        EXPERT_LENGTH,
        Key("leading_dense_block_count", "uint32", "num_dense_layers", absent=0),
        Key("expert_weights_norm", "bool", "route_norm", absent=False),
        Key("expert_weights_scale", "float32", "route_scale", absent=1.0),
        SLIDING_WINDOW,
    ),
    classes={"afmoe": "AfmoeForCausalLM"},
    settings=(
        Setting("hidden_act", "silu"),
        Setting("attention_bias", False),
        Setting("global_attn_every_n_layers", 4),
        Setting("layer_types", every(4)),
        Setting("mup_enabled", True),
        Setting("score_func", "sigmoid"),
    ),
    constants={"expert_gating_func": GATING["sigmoid"]},
    mlx_scaling=EVERY_KIND,
    mlx_keys=(
        "layer_types",
        "moe_intermediate_size",
        "head_dim",
        "num_experts",
        "num_experts_per_tok",
        "num_shared_experts",
        "num_dense_layers",
        "route_scale",
        "sliding_window",
        "mup_enabled",
    ),
)
