"""The mimo_v2_flash architecture (MiMo-V2-Flash): windows with sinks and other k and v heads, routed experts.

Logits differ from those of transformers 5.23: it ignores `partial_rotary_factor`, `rope_theta` and
`hybrid_layer_pattern` in a published config.json and uses built-in values (those of the release), and its windows have
one token more than `sliding_window_size`, as in the model's custom code. llama.cpp and mlx-lm agree. transformers 5's
keys are read too. Source: llama.cpp's conversion of MiMoV2FlashForCausalLM; mlx-lm's mimo_v2_flash.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from quantcli.containers.json_text import LONGEST, Reader
from quantcli.models.base import Architecture, Tensor
from quantcli.models.decoder import BLOCK, EXPERTS, GATED, LAYER, ends, experts, norm_rows, rows
from quantcli.models.families.glm4_moe import ALL_BLOCKS, IS_NEXT, NEXT, NEXT_SHAPES, next_layers, router
from quantcli.models.hyperparameters import Hyperparameters
from quantcli.models.keys import (
    EXPERT_LENGTH,
    FREQ_BASE,
    GATING,
    GROUPS,
    HEAD_SIZES,
    KV_HEADS,
    LOCAL_FREQ_BASE,
    RMS_EPS,
    ROPE,
    ROPE_DIMENSIONS,
    SIZES,
    SLIDING_WINDOW,
    WINDOW_PATTERN,
    Key,
    expert_keys,
    gating,
)
from quantcli.models.rope_settings import rope_scaling, theta_of
from quantcli.models.sizes import HEAD_DIM, HIDDEN, N_HEADS, QUERIES, Axes, Need, Size, setting, without
from quantcli.models.stored import OMITTED, Setting, Stored

#: The class's share of a head that is rotated, and its rotary bases in layers that attend to all and to a window.
SHARE, THETA, LOCAL_THETA = 0.334, 5e6, 1e4
#: Modules of a layer for multi-token prediction in addition to attention and a dense MLP.
OF_NEXT = {name: NEXT[name] for name in ("eh_proj", "enorm", "hnorm")} | {"final_layernorm": "layer_output_norm"}


def _layers(config: Reader) -> range:
    return range(config.integer("num_hidden_layers", most=LONGEST))


def _windows(config: Reader) -> list[int]:
    """Return `hybrid_layer_pattern` from `layer_types`, else the class's default."""
    usual = ["full_attention" if layer == 0 or layer % 6 == 5 else "sliding_attention" for layer in _layers(config)]
    return [int(kind == "sliding_attention") for kind in config.texts("layer_types") or usual]


def _mixtures(config: Reader) -> list[int]:
    """Return `moe_layer_freq` from `mlp_layer_types`, else the class's default."""
    usual = ["dense" if layer == 0 else "sparse" for layer in _layers(config)]
    return [int(kind == "sparse") for kind in config.texts("mlp_layer_types") or usual]


def _slides(h: Hyperparameters, layer: int) -> bool:
    """Return whether a layer attends to a window, as those for multi-token prediction do."""
    pattern = h.settings.integers("hybrid_layer_pattern")
    return layer >= len(pattern) or pattern[layer] == 1


def _is_sparse(h: Hyperparameters, layer: int) -> bool:
    pattern = h.settings.integers("moe_layer_freq")
    return layer < len(pattern) and pattern[layer] == 1


def _kv_heads(h: Hyperparameters, layer: int) -> int:
    return h.settings.integer("swa_num_key_value_heads") if _slides(h, layer) else h.kv_heads


def _has_sinks(h: Hyperparameters, layer: int) -> bool:
    return h.settings.flag(f"add_{'swa' if _slides(h, layer) else 'full'}_attention_sink_bias", False)


def _blocks(h: Hyperparameters) -> range:
    return range(h.layers + next_layers(h))


def _eps(is_early: bool) -> Key:
    """Return the row for the epsilon, whose place depends on config.json's keys.

    is_early: for the place among the other keys, with rms_norm_eps; else for the place after them.
    """

    def has_both(h: Hyperparameters) -> bool:
        return h.settings.has("rms_norm_eps") and h.settings.has("swa_head_dim")

    return replace(RMS_EPS, read=lambda h: h.norm_eps if has_both(h) is is_early else None)


def _of_kind(file: Stored, *, slides: bool) -> int:
    """Return the number of k and v heads in layers with a window, or in the others."""
    pairs = zip(file.each(KV_HEADS.name) or (file.heads,) * file.trunk, file.windows(), strict=False)
    return next((heads for heads, window in pairs if window is slides), file.kv_heads)


def _sinks(file: Stored, *, slides: bool) -> bool:
    layers = [layer for layer, window in enumerate(file.windows()) if window is slides]
    return any(file.holds(f"blk.{layer}.attn_sinks.weight") for layer in layers) if file.tensors else slides


def _pattern(file: Stored) -> list[int]:
    return [int(window) for window in file.windows()]


def _stored_mixtures(file: Stored) -> list[int]:
    """Return `moe_layer_freq`: the layers that have a router; without tensors, the class's default."""
    return [int(file.holds(f"blk.{n}.ffn_gate_inp.weight") if file.tensors else n > 0) for n in range(file.trunk)]


def _share(file: Stored) -> float:
    """Return the share of a head that is rotated: the published one if it gives the same number of elements."""
    return SHARE if int(file.head_dim * SHARE) == file.integer(ROPE_DIMENSIONS.name) else file.rotary_share()


def _rotary(file: Stored) -> Any:
    """Return `rope_parameters`, the only key from which transformers reads other values than its class's defaults."""
    share, theta, local = _share(file), theta_of(file), file.number(LOCAL_FREQ_BASE.name) or theta_of(file)
    if (share, theta, local) == (SHARE, THETA, LOCAL_THETA):
        return OMITTED
    kinds = {"full_attention": theta, "sliding_attention": local}
    return {
        k: {"rope_type": "default", "rope_theta": base, "partial_rotary_factor": share} for k, base in kinds.items()
    }


def _window(h: Hyperparameters) -> int:
    return h.settings.integer("sliding_window_size", h.settings.integer("sliding_window", least=0), least=0)


def _mlx_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """What mlx-lm's class asks for and transformers 5 saves under other keys, or not at all."""
    h = MIMO_V2_FLASH.hyperparameters(config)
    made = {
        "partial_rotary_factor": h.rope.partial,
        "rope_theta": h.rope.theta,
        "sliding_window_size": _window(h),
        "swa_head_dim": h.head_dim,
        "swa_num_attention_heads": h.heads,
        "swa_rope_theta": h.rope.local_theta,
        "swa_v_head_dim": h.settings.integer("v_head_dim"),
    }
    return {key: value for key, value in made.items() if config.get(key) is None}


SPARSE = Need("moe_layer_freq", _is_sparse)
V_SIZE = setting("v_head_dim", gguf="attention.value_length")
N_KV = Size(
    "(num_key_value_heads or swa_num_key_value_heads)", lambda h: h.kv_heads, "attention.head_count_kv", _kv_heads
)
ATTENTION: dict[str, tuple[str, Axes]] = {
    "q_proj": ("attn_q", (QUERIES, HIDDEN)),
    "k_proj": ("attn_k", (N_KV * HEAD_DIM, HIDDEN)),
    "v_proj": ("attn_v", (N_KV * V_SIZE, HIDDEN)),
    "o_proj": ("attn_output", (HIDDEN, N_HEADS * V_SIZE)),
}

MIMO_V2_FLASH = Architecture(
    name="mimo_v2_flash",
    gguf="mimo2",
    model_types={
        "mimo_v2_flash": {
            "max_position_embeddings": 131072,
            "num_key_value_heads": 4,
            "head_dim": 192,
            "v_head_dim": 128,
            "layernorm_epsilon": lambda config: config.number("rms_norm_eps", 1e-5),
            "rope_theta": THETA,
            "partial_rotary_factor": SHARE,
            "rope_local_base_freq": lambda config: config.number("swa_rope_theta", LOCAL_THETA),
            "sliding_window": lambda config: config.integer("sliding_window_size", 128, least=0) + 1,
            "hybrid_layer_pattern": _windows,
            "moe_layer_freq": _mixtures,
            "swa_num_key_value_heads": lambda config: 2 * config.integer("num_key_value_heads"),
            "add_swa_attention_sink_bias": True,
            "add_full_attention_sink_bias": False,
            "attention_value_scale": 0.707,
            "moe_intermediate_size": 2048,
            "n_routed_experts": 256,
            "num_experts_per_tok": 8,
            "n_group": 1,
            "topk_group": 1,
            "norm_topk_prob": True,
            "scoring_func": "sigmoid",
            "topk_method": "noaux_tc",
            "num_nextn_predict_layers": 3,  # the release's number, which its config.json lacks
        }
    },
    tensors=(
        *ends(),
        *norm_rows({"input_layernorm": "attn_norm"}),
        *rows({"post_attention_layernorm": "ffn_norm"}, needed=without(IS_NEXT)),
        *(
            replace(row, companion=f"{BLOCK}.{NEXT['eh_proj']}")
            for row in rows({"pre_mlp_layernorm": "ffn_norm"}, needed=IS_NEXT)
        ),
        *(
            Tensor(f"{LAYER}.self_attn.{hf}", f"{BLOCK}.{gguf}", suffixes=("weight",), shape=shape)
            for hf, (gguf, shape) in ATTENTION.items()
        ),
        Tensor(
            f"{LAYER}.self_attn.attention_sink_bias",
            f"{BLOCK}.attn_sinks.weight",
            suffixes=("",),
            optional=True,
            shape=(N_HEADS,),
            needed=Need("add_swa_attention_sink_bias, add_full_attention_sink_bias", _has_sinks),
        ),
        *rows(GATED, needed=without(SPARSE)),
        *router(SPARSE, SPARSE),
        *experts(EXPERTS, needed=SPARSE),
        *rows(OF_NEXT, needed=IS_NEXT, shapes=NEXT_SHAPES),
    ),
    mtp=("hf", "gguf"),
    mtp_module="model.mtp.",
    mlx_schemes={"ffn_gate_inp": "dense"},
    keys=(
        ALL_BLOCKS,
        *SIZES[1:5],
        Key(KV_HEADS.name, "array[int32]", lambda h: tuple(_kv_heads(h, layer) for layer in _blocks(h))),
        *ROPE[:-1],
        FREQ_BASE,
        replace(LOCAL_FREQ_BASE, config="swa_rope_theta"),
        _eps(is_early=True),
        *expert_keys("n_routed_experts"),
        *GROUPS,
        Key("expert_gating_func", "uint32", gating),
        HEAD_SIZES[0],
        Key("attention.value_length", "uint32", "v_head_dim"),
    ),
    further=(
        Key(SLIDING_WINDOW.name, "uint32", _window, "sliding_window"),
        Key(WINDOW_PATTERN.name, "array[int32]", lambda h: tuple(int(_slides(h, layer)) for layer in _blocks(h))),
        EXPERT_LENGTH,
        ROPE_DIMENSIONS,
        _eps(is_early=False),
        Key("attention.value_scale", "float32", "attention_value_scale"),
        Key("nextn_predict_layers", "uint32", lambda h: next_layers(h) or None),
    ),
    classes={"mimo_v2_flash": "MiMoV2FlashForCausalLM"},
    settings=(
        Setting("add_full_attention_sink_bias", lambda file: _sinks(file, slides=False)),
        Setting("add_swa_attention_sink_bias", lambda file: _sinks(file, slides=True)),
        Setting("attention_bias", False),
        Setting("attention_chunk_size", lambda file: file.integer(SLIDING_WINDOW.name)),
        Setting("attention_value_scale", lambda file: file.number("attention.value_scale")),
        Setting("hidden_act", "silu"),
        Setting("hybrid_layer_pattern", _pattern),
        Setting("layer_types", lambda file: [("full", "sliding")[one] + "_attention" for one in _pattern(file)]),
        Setting("layernorm_epsilon", lambda file: file.number(RMS_EPS.name)),
        Setting("mlp_layer_types", lambda file: [("dense", "sparse")[one] for one in _stored_mixtures(file)]),
        Setting("moe_layer_freq", _stored_mixtures),
        Setting("n_shared_experts", None),
        Setting("norm_topk_prob", True),
        Setting("num_key_value_heads", lambda file: _of_kind(file, slides=False)),
        Setting("num_nextn_predict_layers", lambda file: file.predicting),
        Setting("partial_rotary_factor", _share),
        Setting("rope_parameters", _rotary),
        Setting("rope_scaling", lambda file: rope_scaling(file) or OMITTED),  # a null would override rope_parameters
        Setting("routed_scaling_factor", 1.0),
        Setting("scoring_func", "sigmoid"),
        Setting("sliding_window_size", lambda file: file.integer(SLIDING_WINDOW.name)),
        Setting("swa_head_dim", lambda file: file.head_dim),
        Setting("swa_num_attention_heads", lambda file: file.heads),
        Setting("swa_num_key_value_heads", lambda file: _of_kind(file, slides=True)),
        Setting("swa_v_head_dim", lambda file: file.integer("attention.value_length")),
        Setting("topk_method", "noaux_tc"),
    ),
    expects=(
        Setting("routed_scaling_factor", (1.0, None)),
        Setting("sliding_window", lambda file: tuple(file.integer(SLIDING_WINDOW.name) + n for n in (0, 1))),
    ),
    constants={"expert_gating_func": GATING["sigmoid"], "expert_weights_norm": True},
    stores_head=("gguf", "mlx"),
    mlx_keys=(
        "add_full_attention_sink_bias",
        "add_swa_attention_sink_bias",
        "attention_value_scale",
        "head_dim",
        "hybrid_layer_pattern",
        "layernorm_epsilon",
        "max_position_embeddings",
        "moe_intermediate_size",
        "moe_layer_freq",
        "n_group",
        "n_routed_experts",
        "norm_topk_prob",
        "num_experts_per_tok",
        "num_key_value_heads",
        "scoring_func",
        "swa_num_key_value_heads",
        "topk_group",
        "topk_method",
        "v_head_dim",
    ),
    mlx_nulls=("n_shared_experts", "routed_scaling_factor"),
    mlx_config=_mlx_config,
)
