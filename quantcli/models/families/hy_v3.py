"""The hy_v3 architecture (Hy3): routed and shared experts after a dense layer; mlx-lm does not support it.

GGUF keeps the layers for multi-token prediction; only the tensors in a file show which layers are dense. Source:
llama.cpp's conversion of HYV3ForCausalLM.
"""

from quantcli.containers.json_text import LONGEST, Reader
from quantcli.models.base import Architecture, Tensor
from quantcli.models.decoder import (
    BLOCK,
    EXPERTS,
    GATED,
    LAYER,
    PRE_NORMS,
    QK_NORMS,
    attention,
    ends,
    experts,
    norm_rows,
    rows,
    shared_experts,
)
from quantcli.models.families.glm4_moe import ALL_BLOCKS, HAS_ENDS, IS_NEXT, NEXT, NEXT_SHAPES, OWN_ENDS, next_layers
from quantcli.models.harmless import Harmless
from quantcli.models.hyperparameters import Hyperparameters
from quantcli.models.keys import EXPERT_LENGTH, GATING, HEAD_SIZES, RMS_EPS, ROPE, SIZES, Key, expert_keys
from quantcli.models.limits import unknown_to_mlx, unset
from quantcli.models.sizes import ATTENTION_BIAS, EXPERT_INNER, HIDDEN, MLP_BIAS, N_EXPERTS, Need, setting, without
from quantcli.models.stored import Setting, Stored, has

SHARED = {
    "mlp.shared_mlp.gate_proj": "ffn_gate_shexp",
    "mlp.shared_mlp.up_proj": "ffn_up_shexp",
    "mlp.shared_mlp.down_proj": "ffn_down_shexp",
}
SHARED_SHAPES = shared_experts("mlp.shared_mlp", setting("num_shared_experts") * EXPERT_INNER)
#: In this family the last norm of a layer for multi-token prediction has the name of a layer's norm.
NEXT_MODULES = {hf: gguf for hf, gguf in NEXT.items() if hf not in (*OWN_ENDS, "shared_head.norm")}
NEXT_MODULES |= {"final_layernorm": NEXT["shared_head.norm"]}


def _kinds(config: Reader) -> list[str]:
    """Return the class's default of `mlp_layer_types`: the first layer is dense."""
    return ["dense", *["sparse"] * (config.integer("num_hidden_layers", most=LONGEST) - 1)]


def _stored_kinds(file: Stored) -> list[str]:
    is_dense = [file.holds(f"blk.{layer}.ffn_gate.weight") for layer in range(file.trunk)]
    if not file.tensors:
        is_dense[0] = True
    return ["dense" if dense else "sparse" for dense in is_dense]


def _dense(file: Stored) -> int:
    return _stored_kinds(file).count("dense")


def _is_sparse(h: Hyperparameters, layer: int) -> bool:
    kinds = h.settings.texts("mlp_layer_types")
    return layer >= len(kinds) or kinds[layer] != "dense"


def _shared_length(h: Hyperparameters) -> int:
    """Return the width of the shared experts, which are stored as one MLP."""
    return h.settings.integer("moe_intermediate_size") * h.settings.integer("num_shared_experts", 1, least=0)


def _shared(file: Stored) -> int:
    width = file.integer("expert_feed_forward_length")
    return file.integer("expert_shared_feed_forward_length", width, least=0) // width


SPARSE = Need("mlp_layer_types", _is_sparse)
SPARSE_SHARED = Need("mlp_layer_types", lambda h, layer: _is_sparse(h, layer) and _shared_length(h) > 0)

HY_V3 = Architecture(
    name="hy_v3",
    gguf="hy_v3",
    model_types={
        "hy_v3": {
            "rms_norm_eps": 1e-5,
            "max_position_embeddings": 131072,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "rope_theta": 11158840.0,
            "moe_intermediate_size": 1536,
            "num_experts": 192,
            "num_experts_per_tok": 8,
            "num_shared_experts": 1,
            "num_nextn_predict_layers": 0,
            "router_scaling_factor": 2.826,
            "route_norm": True,
            "mlp_layer_types": _kinds,
        }
    },
    tensors=(
        *ends(),
        *norm_rows(PRE_NORMS | QK_NORMS),
        *attention(bias=ATTENTION_BIAS),
        *rows(GATED, needed=without(SPARSE), bias=MLP_BIAS),
        *rows({"mlp.router.gate": "ffn_gate_inp"}, needed=SPARSE, shapes={"mlp.router.gate": (N_EXPERTS, HIDDEN)}),
        Tensor(
            f"{LAYER}.mlp.expert_bias",
            f"{BLOCK}.exp_probs_b",
            suffixes=("",),
            optional=True,
            shape=(N_EXPERTS,),
            needed=SPARSE,
        ),
        *rows(SHARED, needed=SPARSE_SHARED, shapes=SHARED_SHAPES, bias=MLP_BIAS),
        *experts(EXPERTS, needed=SPARSE),
        *rows(NEXT_MODULES, needed=IS_NEXT, shapes=NEXT_SHAPES),
        *rows({hf: NEXT[hf] for hf in OWN_ENDS}, needed=HAS_ENDS, shapes=NEXT_SHAPES),
    ),
    mtp=("hf", "gguf"),
    keys=(ALL_BLOCKS, *SIZES[1:], *ROPE, RMS_EPS, *expert_keys("num_experts"), *HEAD_SIZES),
    further=(
        EXPERT_LENGTH,
        Key("expert_shared_feed_forward_length", "uint32", _shared_length),
        Key("expert_weights_norm", "bool", "route_norm", absent=False),
        Key("expert_weights_scale", "float32", "router_scaling_factor", absent=1.0),
        Key("expert_gating_func", "uint32", lambda h: GATING["sigmoid"]),
        Key("nextn_predict_layers", "uint32", lambda h: next_layers(h) or None),
    ),
    classes={"hy_v3": "HYV3ForCausalLM"},
    settings=(
        Setting("hidden_act", "silu"),
        Setting("attention_bias", has("attn_q.bias")),
        Setting("mlp_bias", has("ffn_up.bias")),
        Setting("mlp_layer_types", _stored_kinds),
        Setting("num_nextn_predict_layers", lambda file: file.predicting),
        Setting("num_shared_experts", _shared),
    ),
    harmless={"enable_moe_fp32_combine": Harmless("the dtype in which the experts' outputs are summed")},
    expects=(
        Setting("first_k_dense_replace", _dense),
        Setting("moe_router_enable_expert_bias", True),
    ),
    constants={"expert_gating_func": GATING["sigmoid"]},
    limits=(*unset("gguf", "attention_bias", "mlp_bias"), unknown_to_mlx("hy_v3")),
)
