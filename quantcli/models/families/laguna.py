"""The laguna architecture (Laguna): gated attention with different heads per layer, routed and shared experts.

llama.cpp has the pattern of windows built in (the first of four layers attends to all); any other is written as a list,
which its converter does not write and its loader reads. Source: llama.cpp's conversion of LagunaForCausalLM; mlx-lm's
laguna.
"""

from dataclasses import replace
from typing import Any

from quantcli.containers.json_text import LONGEST, Reader
from quantcli.errors import BadInput
from quantcli.models.base import EVERY_KIND, Architecture, Tensor
from quantcli.models.decoder import (
    BLOCK,
    EXPERTS,
    GATED,
    LAYER,
    PRE_NORMS,
    QK_NORMS,
    ends,
    experts,
    norm_rows,
    rows,
    shared_experts,
)
from quantcli.models.hyperparameters import Hyperparameters
from quantcli.models.keys import (
    EXPERT_LENGTH,
    GATING,
    HEAD_SIZES,
    HEADS,
    LOCAL_FREQ_BASE,
    RMS_EPS,
    ROPE,
    ROPE_DIMENSIONS,
    SIZES,
    SLIDING_WINDOW,
    VOCAB_SIZE,
    WINDOW_PATTERN,
    Key,
    expert_keys,
    pattern_of_windows,
)
from quantcli.models.limits import Limit
from quantcli.models.rope_settings import by_kind_of_layer
from quantcli.models.sizes import HEAD_DIM, HIDDEN, KEYS, N_EXPERTS, Axes, Need, Size, setting, without
from quantcli.models.stored import OMITTED, Setting, Stored
from quantcli.tokenizers import conventions

#: config.json's name of a gate with one number per element of a head; the other kind has one per head.
PER_ELEMENT = "per-element"
LOCAL_DIMENSIONS = "rope.dimension_count_swa"
SHARED = {f"mlp.shared_expert.{kind}_proj": f"ffn_{kind}_shexp" for kind in ("gate", "up", "down")}


def _kinds(config: Reader) -> list[str]:
    """Return the class's default of `mlp_layer_types`: the first layer is dense."""
    return ["dense", *["sparse"] * (config.integer("num_hidden_layers", most=LONGEST) - 1)]


def _heads(h: Hyperparameters, layer: int) -> int:
    counts = h.settings.integers("num_attention_heads_per_layer")
    if counts and len(counts) != h.layers:
        raise BadInput(
            f"{h.settings.label}: num_attention_heads_per_layer has {len(counts)} numbers, but num_hidden_layers is "
            f"{h.layers}. Fix one of them."
        )
    return counts[layer] if layer < len(counts) else h.heads


def _gates(h: Hyperparameters, layer: int) -> int:
    """Return the rows of a gate: one per head, or one per element of a head."""
    kind = h.settings.values.get("gating")
    return _heads(h, layer) * (h.head_dim if kind in (PER_ELEMENT, "per_element") else 1)


def _is_sparse(h: Hyperparameters, layer: int) -> bool:
    kinds = h.settings.texts("mlp_layer_types")
    return layer < len(kinds) and kinds[layer] == "sparse"


def _leading(h: Hyperparameters) -> int:
    """Return the number of layers before the first one with experts."""
    return next((layer for layer in range(h.layers) if _is_sparse(h, layer)), h.layers)


def _usual(layers: int) -> tuple[bool, ...]:
    return tuple(bool(layer % 4) for layer in range(layers))


def _windows(h: Hyperparameters) -> tuple[bool, ...] | None:
    windows = pattern_of_windows(h)
    return None if not h.sliding_window or windows == _usual(h.layers) else windows


def _local_dimensions(h: Hyperparameters) -> int | None:
    """Return the number of rotated elements of a head in layers with a window; None if config.json has no settings."""
    local = h.settings.part("rope_parameters").part("sliding_attention")
    return int(h.head_dim * local.number("partial_rotary_factor", 1.0)) if local.values else None


def _has_windows(file: Stored) -> bool:
    return bool(file.own.optional_integer(SLIDING_WINDOW.name, least=0))


def _layer_types(file: Stored) -> list[str]:
    pattern = (file.windows() or _usual(file.trunk)) if _has_windows(file) else (False,) * file.trunk
    return ["sliding_attention" if window else "full_attention" for window in pattern]


def _stored_kinds(file: Stored) -> list[str]:
    dense = file.integer("leading_dense_block_count", 0, least=0)
    return ["dense" if layer < dense else "sparse" for layer in range(file.trunk)]


def _gating(file: Stored) -> bool | str:
    gate = file.tensors.get("blk.0.attn_gate.weight")
    return PER_ELEMENT if gate is not None and gate[0] == file.heads * file.head_dim != file.heads else True


def _rotary(file: Stored) -> dict[str, Any]:
    """Return `rope_parameters` with the share of a head that is rotated in each kind of layer."""
    made, share = by_kind_of_layer(file), file.rotary_share()
    made["full_attention"]["partial_rotary_factor"] = share
    if not (file.own.has(LOCAL_FREQ_BASE.name) or file.own.has(LOCAL_DIMENSIONS)):
        return {"full_attention": made["full_attention"]}
    dimensions = file.own.integer(LOCAL_DIMENSIONS, file.own.integer(ROPE_DIMENSIONS.name, file.head_dim))
    made["sliding_attention"]["partial_rotary_factor"] = dimensions / file.head_dim
    return made


ROUTED = Need("mlp_layer_types", _is_sparse)
COUNTS = "num_attention_heads_per_layer"
N_HEADS = Size(COUNTS, lambda h: h.heads, HEADS.name, _heads)
GATES = Size(f"{COUNTS} (gating)", lambda h: h.heads, HEADS.name, _gates)
ATTENTION: dict[str, tuple[str, Axes]] = {
    "q_proj": ("attn_q", (N_HEADS * HEAD_DIM, HIDDEN)),
    "k_proj": ("attn_k", (KEYS, HIDDEN)),
    "v_proj": ("attn_v", (KEYS, HIDDEN)),
    "o_proj": ("attn_output", (HIDDEN, N_HEADS * HEAD_DIM)),
    "g_proj": ("attn_gate", (GATES, HIDDEN)),
}

LAGUNA = Architecture(
    name="laguna",
    gguf="laguna",
    model_types={
        "laguna": {
            "rms_norm_eps": 1e-6,
            "max_position_embeddings": 131072,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "sliding_window": 512,
            "moe_intermediate_size": 512,
            "shared_expert_intermediate_size": 512,
            "num_experts": 256,
            "num_experts_per_tok": 8,
            "moe_routed_scaling_factor": 1.0,
            "gating": True,
            "layer_types": lambda config: ["full_attention"] * config.integer("num_hidden_layers", most=LONGEST),
            "mlp_layer_types": _kinds,
            "rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": 5e5, "partial_rotary_factor": 0.5},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 1.0},
            },
        }
    },
    tensors=(
        *ends(),
        *norm_rows(PRE_NORMS | QK_NORMS),
        *(
            Tensor(f"{LAYER}.self_attn.{hf}", f"{BLOCK}.{gguf}", suffixes=("weight",), shape=shape)
            for hf, (gguf, shape) in ATTENTION.items()
        ),
        *rows(GATED, needed=without(ROUTED)),
        Tensor(
            f"{LAYER}.mlp.gate",
            f"{BLOCK}.ffn_gate_inp",
            suffixes=("weight",),
            mlx=f"{LAYER}.mlp.gate.proj",
            optional=True,
            shape=(N_EXPERTS, HIDDEN),
            needed=ROUTED,
        ),
        Tensor(
            f"{LAYER}.mlp.experts.e_score_correction_bias",
            f"{BLOCK}.exp_probs_b.bias",
            suffixes=("",),
            mlx=f"{LAYER}.mlp.gate.e_score_correction_bias",
            optional=True,
            f32=True,
            shape=(N_EXPERTS,),
            needed=ROUTED,
        ),
        *rows(
            SHARED,
            needed=ROUTED,
            shapes=shared_experts("mlp.shared_expert", setting("shared_expert_intermediate_size")),
        ),
        *experts(EXPERTS, needed=ROUTED),
    ),
    mlx_schemes={"ffn_gate_inp": "affine8-g64"},
    keys=(
        *SIZES[:4],
        Key(HEADS.name, "array[int32]", lambda h: tuple(_heads(h, layer) for layer in range(h.layers))),
        *SIZES[5:],
        *ROPE,
        replace(LOCAL_FREQ_BASE, config=None),
        RMS_EPS,
        *expert_keys("num_experts"),
        *HEAD_SIZES,
    ),
    further=(
        VOCAB_SIZE,
        Key(SLIDING_WINDOW.name, "uint32", lambda h: h.sliding_window, "sliding_window", absent=0),
        Key(WINDOW_PATTERN.name, WINDOW_PATTERN.type, _windows),
        EXPERT_LENGTH,
        Key("expert_shared_feed_forward_length", "uint32", "shared_expert_intermediate_size"),
        Key("expert_weights_norm", "bool", lambda h: True),
        Key("expert_weights_scale", "float32", "moe_routed_scaling_factor", absent=1.0),
        Key("expert_gating_func", "uint32", lambda h: GATING["sigmoid"]),
        Key("leading_dense_block_count", "uint32", _leading),
        ROPE_DIMENSIONS,
        Key(LOCAL_DIMENSIONS, "uint32", _local_dimensions),
    ),
    classes={"laguna": "LagunaForCausalLM"},
    settings=(
        Setting("hidden_act", "silu"),
        Setting("attention_bias", False),
        Setting("gating", _gating),
        Setting("layer_types", _layer_types),
        Setting("mlp_layer_types", _stored_kinds),
        Setting("num_attention_heads", lambda file: file.heads),
        Setting(COUNTS, lambda file: list(file.each(HEADS.name))),
        Setting("rope_parameters", _rotary),
        Setting("rope_scaling", OMITTED),
        Setting("rope_theta", OMITTED),
    ),
    expects=(
        Setting("gating", lambda file: (_gating(file), {True: "per-head"}.get(_gating(file) is True, PER_ELEMENT))),
        Setting("moe_apply_router_weight_on_input", False),
        Setting("moe_router_logit_softcapping", 0.0),
        Setting("moe_router_score_func", "sigmoid"),
        Setting("num_attention_heads", lambda file: (file.heads, *sorted(set(file.each(HEADS.name))))),
    ),
    constants={"expert_gating_func": GATING["sigmoid"], "expert_weights_norm": True},
    vocabulary=conventions.LAGUNA,
    limits=(Limit("mlx", lambda h: h.settings.values.get("gating") in (True, "per-head"), "one gate for each head"),),
    mlx_scaling=EVERY_KIND,
)
