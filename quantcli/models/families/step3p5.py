"""The step3p5 architecture (Step 3.5): other numbers of heads in layers with a window, clamped MLPs.

Hugging Face folders store norms as their difference from 1, MLX and GGUF the sum. The layers for multi-token prediction
follow the others, in the lists of config.json too. transformers has no class. Source: llama.cpp's conversion of
Step3p5ForCausalLM; mlx-lm's step3p5.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantcli.models.base import EVERY_KIND, Architecture, Computed, Tensor
from quantcli.models.decoder import BLOCK, GATED, LAYER, QK_NORMS, also_experts, ends, norm_rows, rows, shared_experts
from quantcli.models.families.glm4_moe import ALL_BLOCKS, IS_NEXT, NEXT, NEXT_SHAPES, next_layers
from quantcli.models.families.qwen3_next import FULL, ONE_MORE
from quantcli.models.harmless import Harmless
from quantcli.models.hyperparameters import Hyperparameters
from quantcli.models.keys import (
    EXPERT_LENGTH,
    GATING,
    HEAD_SIZES,
    HEADS,
    KV_HEADS,
    LOCAL_FREQ_BASE,
    RMS_EPS,
    ROPE,
    SIZES,
    SLIDING_WINDOW,
    WINDOW_PATTERN,
    Key,
    gating,
)
from quantcli.models.rope_settings import rope_scaling, theta_of
from quantcli.models.sizes import FREQUENCIES, HEAD_DIM, HIDDEN, Axes, Need, Size, flag, setting, without
from quantcli.models.stored import OMITTED, PerLayer, Setting, Stored, decimal, has
from quantcli.models.torch_pow import powers

OTHER = "attention_other_setting"
SLIDING = "sliding_attention"
NORMS = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
SHARED = {f"share_expert.{kind}_proj": f"ffn_{kind}_shexp" for kind in ("gate", "up", "down")}
#: Norms of a layer for multi-token prediction, the last of which is in another module, and its other tensors.
NEXT_NORMS = {"enorm": NEXT["enorm"], "hnorm": NEXT["hnorm"], "transformer.shared_head.norm": NEXT["shared_head.norm"]}
NEXT_MODULES = {"eh_proj": NEXT["eh_proj"], "transformer.shared_head.output": NEXT["shared_head.head"]}
CLAMPS = {"swiglu_limits": "swiglu_clamp_exp", "swiglu_limits_shared": "swiglu_clamp_shexp"}


def _slides(h: Hyperparameters, layer: int) -> bool:
    kinds = h.settings.texts("layer_types")
    return layer < len(kinds) and kinds[layer] == SLIDING


def _other(h: Hyperparameters, layer: int, key: str) -> int:
    """Return a number of heads in a layer; config.json has separate numbers for layers with a window."""
    usual = h.settings.integer(key)
    return h.settings.part(OTHER).integer(key, usual) if _slides(h, layer) else usual


def _heads(h: Hyperparameters, layer: int) -> int:
    return _other(h, layer, "num_attention_heads")


def _kv_heads(h: Hyperparameters, layer: int) -> int:
    return _other(h, layer, "num_attention_groups")


def _mixtures(h: Hyperparameters) -> list[int]:
    """Return the layers with experts, which config.json lists in a string. Raises `BadInput`."""
    texts = [one.strip() for one in h.settings.text("moe_layers_enum", "").split(",") if one.strip()]
    if not all(text.isascii() and text.isdecimal() and len(text) < 10 for text in texts):
        raise h.settings.refuse("moe_layers_enum", "expected numbers of layers, separated by commas")
    return sorted(map(int, texts))


def _is_sparse(h: Hyperparameters, layer: int) -> bool:
    return layer in _mixtures(h)


def _has_bias(h: Hyperparameters, layer: int) -> bool:
    return _is_sparse(h, layer) and h.settings.flag("use_moe_router_bias", True)


def _blocks(h: Hyperparameters) -> range:
    return range(h.layers + next_layers(h))


def _limits(key: str) -> Key:
    """Return the row for the bounds of an activation, one per layer; 0 means none."""

    def read(h: Hyperparameters) -> tuple[float, ...] | None:
        if not h.settings.has(key):
            return None
        plain = replace(h.settings, values={key: [one or 0.0 for one in h.settings.elements(key)]})
        given = plain.numbers(key)
        return tuple(given[layer] if layer < len(given) else 0.0 for layer in _blocks(h))

    return Key(CLAMPS[key], "array[float32]", read)


def _factors(h: Hyperparameters) -> NDArray[np.float32] | None:
    """Return Llama 3's divisors for the rotated half of a head, then ones, float32 [head_dim / 2], from float64."""
    rope, rotated = h.rope, h.head_dim // 2
    if rope.type != "llama3":
        return None
    exponents = np.arange(0, rotated, 2, dtype=np.float32) / np.float32(rotated)
    waves = 2 * math.pi / (np.float32(1) / powers(rope.theta, exponents)).astype(np.float64)
    low, high = rope.low_freq_factor or 1.0, rope.high_freq_factor or 4.0
    factor, context = rope.factor or 8.0, rope.original_context or 8192
    smooth = (context / waves - low) / (high - low)
    blended = 1.0 / ((1.0 - smooth) / factor + smooth)
    factors = np.select([waves < context / high, waves > context / low], [1.0, factor], blended)
    return np.concatenate([factors, np.ones(h.head_dim // 2 - len(factors))]).astype(np.float32)


def _kinds(file: Stored) -> tuple[bool, ...]:
    """Return which layers attend to a window, with those for multi-token prediction."""
    return file.own.flags(WINDOW_PATTERN.name)


def _of_kind(file: Stored, key: str, *, slides: bool) -> int:
    pairs = zip(file.each(key), file.windows(), strict=False)
    return next((count for count, window in pairs if window is slides), file.each(key)[0])


def _others(file: Stored) -> dict[str, Any]:
    heads, groups = (_of_kind(file, key, slides=True) for key in (HEADS.name, KV_HEADS.name))
    size = file.head_dim
    return {
        "attention_type": SLIDING,
        "num_attention_heads": heads,
        "num_attention_groups": groups,
        "head_dim": size,
        "true_head_dim": size,
    }


def _thetas(file: Stored) -> PerLayer:
    theta = theta_of(file)
    local = file.number(LOCAL_FREQ_BASE.name)
    return PerLayer(theta if local is None or not window else local for window in _kinds(file))


def _scaling(file: Stored) -> dict[str, Any] | None:
    """Return `rope_scaling`: Llama 3's, from the factors for the half of a head that is rotated."""
    return rope_scaling(replace(file, values=lambda name: file.values(name)[: file.head_dim // 4]))


def _stored_limits(key: str) -> Setting:
    def stored_limits(file: Stored) -> Any:
        values: Sequence[float] = file.own.numbers(CLAMPS[key])
        return PerLayer(map(decimal, values)) if values else OMITTED

    return Setting(key, stored_limits)


def _enumerated(file: Stored) -> str:
    first = file.integer("leading_dense_block_count", 0, least=0)
    return ",".join(map(str, range(first, file.trunk)))


SPARSE_LAYERS = Need("moe_layers_enum", _is_sparse)
N_EXPERTS = setting("moe_num_experts", gguf="expert_count")
N_HEADS = Size(f"num_attention_heads (or its value in {OTHER})", lambda h: h.heads, HEADS.name, _heads)
N_GROUPS = Size(f"num_attention_groups (or its value in {OTHER})", lambda h: h.kv_heads, KV_HEADS.name, _kv_heads)
INNER = setting("moe_intermediate_size", gguf=EXPERT_LENGTH.name)
ATTENTION: dict[str, tuple[str, Axes]] = {
    "q_proj": ("attn_q", (N_HEADS * HEAD_DIM, HIDDEN)),
    "k_proj": ("attn_k", (N_GROUPS * HEAD_DIM, HIDDEN)),
    "v_proj": ("attn_v", (N_GROUPS * HEAD_DIM, HIDDEN)),
    "o_proj": ("attn_output", (HIDDEN, N_HEADS * HEAD_DIM)),
}


def _expert(kind: str) -> Tensor:
    """Return the row for one kind of the experts' matrices, stacked in every dialect."""
    shape = (HIDDEN, INNER) if kind == "down" else (INNER, HIDDEN)
    return Tensor(
        f"{LAYER}.moe.{kind}_proj", f"{BLOCK}.ffn_{kind}_exps", suffixes=("weight",), optional=True,
        mlx=f"{LAYER}.mlp.switch_mlp.{kind}_proj", also=also_experts(kind), shape=(N_EXPERTS, *shape),
        needed=SPARSE_LAYERS,
    )  # fmt: skip


def _with_ops(norms: tuple[Tensor, ...], needed: Need | None = None) -> tuple[Tensor, ...]:
    """Return rows for norms that are stored as their difference from 1; both other dialects have the sum."""
    return tuple(
        replace(row, ops=ONE_MORE, mlx_ops=ONE_MORE, suffixes=("weight",), optional=needed is not None, needed=needed)
        for row in norms
    )


STEP3P5 = Architecture(
    name="step3p5",
    gguf="step35",
    names={"kv_heads": ("num_attention_groups",)},
    model_types={
        "step3p5": {
            "rms_norm_eps": 1e-5,
            "max_position_embeddings": 262144,
            "moe_router_activation": "sigmoid",
            "use_head_wise_attn_gate": True,
            "use_moe_router_bias": True,
        }
    },
    tensors=(
        *(replace(row, mlx_ops=row.ops) for row in ends(ONE_MORE)),
        *_with_ops(norm_rows(NORMS | QK_NORMS)),
        *(
            Tensor(f"{LAYER}.self_attn.{hf}", f"{BLOCK}.{gguf}", suffixes=("weight",), shape=shape)
            for hf, (gguf, shape) in ATTENTION.items()
        ),
        *rows(
            {"self_attn.g_proj": "attn_gate"},
            needed=flag("use_head_wise_attn_gate", True),
            shapes={"self_attn.g_proj": (N_HEADS, HIDDEN)},
        ),
        *rows(GATED, needed=without(SPARSE_LAYERS)),
        Tensor(
            f"{LAYER}.moe.gate",
            f"{BLOCK}.ffn_gate_inp",
            suffixes=("weight",),
            mlx=f"{LAYER}.mlp.gate.gate",
            optional=True,
            shape=(N_EXPERTS, HIDDEN),
            needed=SPARSE_LAYERS,
        ),
        Tensor(
            f"{LAYER}.moe.router_bias",
            f"{BLOCK}.exp_probs_b.bias",
            suffixes=("",),
            mlx=f"{LAYER}.mlp.gate.router_bias",
            optional=True,
            f32=True,
            shape=(N_EXPERTS,),
            needed=Need("moe_layers_enum, use_moe_router_bias", _has_bias),
        ),
        *(
            replace(row, mlx=row.hf.replace("share_expert", "mlp.share_expert"))
            for row in rows(
                SHARED, needed=SPARSE_LAYERS, shapes=shared_experts("share_expert", setting("share_expert_dim"))
            )
        ),
        *map(_expert, ("gate", "up", "down")),
        *_with_ops(rows(NEXT_NORMS), IS_NEXT),
        *rows(
            NEXT_MODULES,
            needed=IS_NEXT,
            shapes={**NEXT_SHAPES, "transformer.shared_head.output": NEXT_SHAPES["shared_head.head"]},
        ),
    ),
    computed=(Computed("rope_freqs.weight", _factors, (FREQUENCIES,)),),
    mtp=("hf", "gguf"),
    mlx_schemes={"ffn_gate_inp": "affine8-g64"},
    keys=(
        ALL_BLOCKS,
        *SIZES[1:4],
        Key(HEADS.name, "array[int32]", lambda h: tuple(_heads(h, layer) for layer in _blocks(h))),
        *ROPE,
        replace(LOCAL_FREQ_BASE, config=None),
        RMS_EPS,
        Key("expert_gating_func", "uint32", lambda h: gating(h, "moe_router_activation")),
        *HEAD_SIZES,
    ),
    further=(
        Key(KV_HEADS.name, "array[int32]", lambda h: tuple(_kv_heads(h, layer) for layer in _blocks(h))),
        SLIDING_WINDOW,
        Key(WINDOW_PATTERN.name, "array[bool]", lambda h: tuple(_slides(h, layer) for layer in _blocks(h))),
        Key("expert_count", "uint32", "moe_num_experts"),
        Key("expert_used_count", "uint32", "moe_top_k"),
        EXPERT_LENGTH,
        Key("expert_shared_feed_forward_length", "uint32", "share_expert_dim"),
        Key("expert_weights_scale", "float32", "moe_router_scaling_factor", absent=1.0),
        Key("expert_weights_norm", "bool", "norm_expert_weight", absent=False),
        Key("leading_dense_block_count", "uint32", lambda h: (_mixtures(h) or [0])[0]),
        Key("moe_every_n_layers", "uint32", lambda h: h.settings.integer("moe_every_n_layer", 1)),
        *map(_limits, CLAMPS),
        Key("nextn_predict_layers", "uint32", lambda h: next_layers(h) or None),
    ),
    classes={"step3p5": "Step3p5ForCausalLM"},
    settings=(
        Setting(OTHER, _others),
        Setting("head_dim", lambda file: file.head_dim),
        Setting("layer_types", lambda file: PerLayer(SLIDING if window else FULL for window in _kinds(file))),
        Setting("max_seq_len", lambda file: file.integer("context_length")),
        Setting("moe_every_n_layer", 1),
        Setting("moe_layer_offset", 0),
        Setting("moe_layers_enum", _enumerated),
        Setting("moe_router_activation", "sigmoid"),
        Setting("need_fp32_gate", True),
        Setting("num_attention_groups", lambda file: _of_kind(file, KV_HEADS.name, slides=False)),
        Setting("num_attention_heads", lambda file: _of_kind(file, HEADS.name, slides=False)),
        Setting("num_nextn_predict_layers", lambda file: file.predicting),
        Setting("partial_rotary_factors", lambda file: PerLayer(1.0 if window else 0.5 for window in _kinds(file))),
        Setting("rope_scaling", _scaling),
        Setting("rope_theta", _thetas),
        Setting("sink", False),
        *map(_stored_limits, CLAMPS),
        Setting("use_head_wise_attn_gate", has("attn_gate.weight")),
        Setting("use_moe_router_bias", lambda file: any(name.endswith(".exp_probs_b.bias") for name in file.tensors)),
        Setting("use_moe", True),
        Setting("use_qk_norm", True),
        Setting("yarn_only_types", [FULL]),
        Setting("zero_centered", True),
    ),
    harmless={"need_fp32_gate": Harmless("the dtype in which the router's scores are computed")},
    expects=(Setting("att_impl_type", "GQA"),),
    constants={"expert_gating_func": GATING["sigmoid"]},
    stores_head=("gguf", "mlx"),
    mlx_scaling=EVERY_KIND,
)
