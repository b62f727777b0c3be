"""The cohere2_moe architecture (North): cohere2 with routed experts instead of most MLPs; mlx-lm does not support it.

intermediate_size in config.json is the width of an expert. Source: llama.cpp's conversion of Cohere2MoeForCausalLM.
"""

from quantcli.containers.json_text import LONGEST, Reader
from quantcli.models.base import Architecture
from quantcli.models.decoder import EXPERTS, GATED, SHAPES, attention, ends, experts, norm_rows, rows, shared_experts
from quantcli.models.families.cohere import LOGIT_SCALE, NO_SCALING
from quantcli.models.families.glm4_moe import SHARED
from quantcli.models.hyperparameters import Hyperparameters
from quantcli.models.keys import (
    GATING,
    HEAD_SIZES,
    ROPE,
    ROPE_DIMENSIONS,
    SIZES,
    SLIDING_WINDOW,
    VOCAB_SIZE,
    WINDOW_PATTERN,
    Key,
    every_fourth_full,
    expert_keys,
    gating,
    layer_norm_eps,
)
from quantcli.models.limits import unknown_to_mlx
from quantcli.models.sizes import INNER, Need, setting, without
from quantcli.models.stored import Setting, Stored, kinds_of_layers
from quantcli.tokenizers import conventions

DENSE_INNER = setting("prefix_dense_intermediate_size")


def _kinds(config: Reader) -> list[str]:
    """Return `mlp_layer_types` for a config with a number of dense layers (first_k_dense_replace)."""
    layers, dense = (
        config.integer("num_hidden_layers", most=LONGEST),
        config.integer("first_k_dense_replace", 0, least=0),
    )
    return ["dense" if layer < dense else "sparse" for layer in range(layers)]


def _dense(h: Hyperparameters) -> int:
    """Return the number of layers before the first one with experts."""
    kinds = h.settings.texts("mlp_layer_types")
    return next((layer for layer, kind in enumerate(kinds) if kind != "dense"), len(kinds))


def _stored_kinds(file: Stored) -> list[str]:
    dense = file.integer("leading_dense_block_count", 0, least=0)
    return ["dense" if layer < dense else "sparse" for layer in range(file.trunk)]


def _gating(file: Stored) -> str:
    """Return the name of the router's function; llama.cpp's default is the sigmoid. Raises `BadInput`."""
    names = {number: name for name, number in GATING.items()}
    number = file.integer("expert_gating_func", GATING["sigmoid"])
    if number not in names:
        raise file.own.refuse("expert_gating_func", f"expected one of {', '.join(map(str, names))}")
    return names[number]


def _shared(h: Hyperparameters) -> int | None:
    return h.settings.integer("num_shared_experts", 0, least=0) or None


def _shared_length(h: Hyperparameters) -> int | None:
    count = _shared(h)
    return None if count is None else count * h.feed_forward_length


SPARSE = Need("mlp_layer_types", lambda h, layer: layer >= _dense(h))
SPARSE_SHARED = Need("mlp_layer_types, num_shared_experts", lambda h, layer: layer >= _dense(h) and bool(_shared(h)))
DENSE_SHAPES = {**SHAPES, **shared_experts("mlp", DENSE_INNER)}

COHERE2_MOE = Architecture(
    name="cohere2_moe",
    gguf="cohere2moe",
    model_types={
        "cohere2_moe": {
            "layer_norm_eps": 1e-5,
            "max_position_embeddings": 8192,
            "head_dim": 128,
            "logit_scale": 0.0625,
            "sliding_window": 4096,
            "layer_types": every_fourth_full,
            "mlp_layer_types": _kinds,
            "num_experts": 8,
            "num_experts_per_tok": 2,
            "num_shared_experts": 0,
            "norm_topk_prob": True,
            "expert_selection_fn": "softmax",
            "tie_word_embeddings": True,
        }
    },
    tensors=(
        *ends(),
        *norm_rows({"input_layernorm": "attn_norm"}),
        *attention(),
        *rows(GATED, needed=without(SPARSE), shapes=DENSE_SHAPES),
        *rows({"mlp.gate": "ffn_gate_inp"}, needed=SPARSE),
        *rows(
            SHARED,
            needed=SPARSE_SHARED,
            shapes=shared_experts("mlp.shared_experts", setting("num_shared_experts") * INNER),
        ),
        *experts(EXPERTS, width=INNER, needed=SPARSE),
    ),
    keys=(
        *SIZES[:3],
        Key("feed_forward_length", "uint32", "prefix_dense_intermediate_size"),
        *SIZES[4:],
        *ROPE,
        layer_norm_eps("layer_norm_eps"),
        *expert_keys("num_experts"),
        Key("expert_gating_func", "uint32", lambda h: gating(h, "expert_selection_fn")),
        *HEAD_SIZES,
    ),
    further=(
        LOGIT_SCALE,
        SLIDING_WINDOW,
        WINDOW_PATTERN,
        VOCAB_SIZE,
        Key("expert_feed_forward_length", "uint32", lambda h: h.feed_forward_length, "intermediate_size"),
        Key("leading_dense_block_count", "uint32", _dense),
        Key("expert_weights_norm", "bool", "norm_topk_prob", absent=False),
        Key("expert_shared_count", "uint32", _shared, "num_shared_experts"),
        Key("expert_shared_feed_forward_length", "uint32", _shared_length),
        ROPE_DIMENSIONS,
        NO_SCALING,
    ),
    constants={"rope.dimension_count": lambda h: h.head_dim},
    classes={"cohere2_moe": "Cohere2MoeForCausalLM"},
    settings=(
        Setting("hidden_act", "silu"),
        Setting("attention_bias", False),
        Setting("expert_selection_fn", _gating),
        Setting("layer_types", kinds_of_layers),
        Setting("mlp_layer_types", _stored_kinds),
    ),
    expects=(
        Setting("first_k_dense_replace", lambda file: file.integer("leading_dense_block_count", 0, least=0)),
        Setting("num_shared_experts", lambda file: file.integer("expert_shared_count", 0, least=0)),
        Setting("prefix_dense_sliding_window_pattern", 1),
        Setting("shared_expert_combination_strategy", "average"),
    ),
    vocabulary=conventions.COHERE,
    limits=(unknown_to_mlx("cohere2_moe"),),
)
