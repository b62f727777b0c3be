"""The exaone_moe architecture (K-EXAONE): routed and shared experts, three layers of four with a window.

GGUF keeps the layer for multi-token prediction, `mtp.*`, which is dense. Source: llama.cpp's conversion of
ExaoneMoeForCausalLM; mlx-lm's exaone_moe.
"""

from typing import Any

from quantcli.containers.json_text import LONGEST, Reader
from quantcli.models.base import EVERY_KIND, Architecture, Tensor
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
from quantcli.models.families.cohere import NO_SCALING
from quantcli.models.families.glm4_moe import ALL_BLOCKS, IS_NEXT, NEXT, NEXT_SHAPES, OWN_ENDS, SHARED, next_layers
from quantcli.models.hyperparameters import Hyperparameters
from quantcli.models.keys import (
    DENSE_LAYERS,
    EXPERT_LENGTH,
    EXPERT_NORM,
    EXPERT_SCALE,
    GATING,
    GROUPS,
    HEAD_SIZES,
    RMS_EPS,
    ROPE,
    SIZES,
    SLIDING_WINDOW,
    VOCAB_SIZE,
    WINDOW_PATTERN,
    Key,
    every_fourth_full,
    expert_keys,
    gating,
)
from quantcli.models.sizes import EXPERT_INNER, N_EXPERTS, Need, setting, without
from quantcli.models.stored import Setting, Stored, kinds_of_layers

#: The layer for multi-token prediction uses the model's embedding and output matrix.
NEXT_MODULES = {hf: gguf for hf, gguf in NEXT.items() if hf not in OWN_ENDS}
WIDTH = setting("num_shared_experts") * EXPERT_INNER


def _kinds(config: Reader) -> list[str]:
    """Return `mlp_layer_types` for a config with a number of dense layers (first_k_dense_replace)."""
    dense = config.integer("first_k_dense_replace", 1, least=0)
    layers = config.integer("num_hidden_layers", most=LONGEST)
    return ["dense" if layer < dense else "sparse" for layer in range(layers)]


def _moe_layers(config: Reader) -> list[bool]:
    """Return `is_moe_layer`, mlx-lm's form of `mlp_layer_types`."""
    kinds = config.texts("mlp_layer_types") if config.has("mlp_layer_types") else _kinds(config)
    return [kind == "sparse" for kind in kinds]


def _is_sparse(h: Hyperparameters, layer: int) -> bool:
    kinds = h.settings.texts("mlp_layer_types")
    return layer < len(kinds) and kinds[layer] == "sparse"


def _is_moe(file: Stored) -> list[bool]:
    """Return `is_moe_layer`, which layers have experts."""
    return [layer >= file.integer(DENSE_LAYERS.name, 0, least=0) for layer in range(file.trunk)]


def _stored_kinds(file: Stored) -> list[str]:
    return ["sparse" if sparse else "dense" for sparse in _is_moe(file)]


def _period(file: Stored) -> Any:
    """Return `sliding_window_pattern` as letters, one for each layer."""
    return "".join("L" if window else "G" for window in file.windows(4))


SPARSE = Need("mlp_layer_types, first_k_dense_replace", _is_sparse)

EXAONE_MOE = Architecture(
    name="exaone_moe",
    gguf="exaone-moe",
    model_types={
        "exaone_moe": {
            "rms_norm_eps": 1e-5,
            "max_position_embeddings": 2048,
            "num_key_value_heads": 32,
            "moe_intermediate_size": 1024,
            "num_experts": 64,
            "num_experts_per_tok": 8,
            "num_shared_experts": 1,
            "n_group": 1,
            "topk_group": 1,
            "norm_topk_prob": True,
            "routed_scaling_factor": 2.5,
            "scoring_func": "sigmoid",
            "first_k_dense_replace": 1,
            "mlp_layer_types": _kinds,
            "is_moe_layer": _moe_layers,
            "sliding_window": 4096,
            "layer_types": every_fourth_full,
        }
    },
    tensors=(
        *ends(),
        *norm_rows(PRE_NORMS | QK_NORMS),
        *attention(),
        *rows(GATED, needed=without(SPARSE)),
        *rows({"mlp.gate": "ffn_gate_inp"}, needed=SPARSE),
        Tensor(
            f"{LAYER}.mlp.e_score_correction_bias",
            f"{BLOCK}.exp_probs_b.bias",
            suffixes=("",),
            mlx=f"{LAYER}.mlp.gate.e_score_correction_bias",
            optional=True,
            f32=True,
            shape=(N_EXPERTS,),
            needed=SPARSE,
        ),
        *rows(SHARED, needed=SPARSE, shapes=shared_experts("mlp.shared_experts", WIDTH)),
        *experts(EXPERTS, needed=SPARSE),
        *rows(NEXT_MODULES, needed=IS_NEXT, shapes=NEXT_SHAPES),
    ),
    mtp=("hf", "gguf"),
    mtp_module="mtp.",
    mlx_schemes={"ffn_gate_inp": "dense"},
    keys=(
        ALL_BLOCKS,
        *SIZES[1:],
        *ROPE,
        RMS_EPS,
        *expert_keys("num_experts"),
        *GROUPS,
        Key("expert_gating_func", "uint32", gating),
        *HEAD_SIZES,
    ),
    further=(
        VOCAB_SIZE,
        SLIDING_WINDOW,
        WINDOW_PATTERN,
        EXPERT_LENGTH,
        Key("expert_shared_count", "uint32", "num_shared_experts"),
        Key("expert_shared_feed_forward_length", "uint32", WIDTH.of),
        EXPERT_SCALE,
        EXPERT_NORM,
        DENSE_LAYERS,
        Key("nextn_predict_layers", "uint32", next_layers),
        NO_SCALING,
    ),
    classes={"exaone_moe": "ExaoneMoeForCausalLM"},
    aliases=("ExaoneMoEForCausalLM",),
    settings=(
        Setting("hidden_act", "silu"),
        Setting("is_moe_layer", _is_moe),
        Setting("layer_types", lambda file: kinds_of_layers(file, 4)),
        Setting("mlp_layer_types", _stored_kinds),
        Setting("num_nextn_predict_layers", lambda file: file.predicting),
        Setting("scoring_func", "sigmoid"),
        Setting("sliding_window_pattern", _period),
    ),
    expects=(Setting("topk_method", "noaux_tc"),),
    constants={"expert_gating_func": GATING["sigmoid"]},
    stores_head=("gguf",),
    mlx_keys=("is_moe_layer", "num_shared_experts", "rms_norm_eps"),
    mlx_scaling=EVERY_KIND,
)
