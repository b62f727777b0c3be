"""DeepSeek V2 and V3, and Kimi K2: latent attention, routed and shared experts.

`kv_b_proj` has for each head the rows that make keys, then those that make values. GGUF, and MLX for V3, store them
separately, the keys' rows transposed for each head:

    kv_b_proj  (heads * (nope + v), kv_lora)   ->   attn_k_b  (heads, kv_lora, nope)
                                                    attn_v_b  (heads, v, kv_lora)

GGUF files from before llama.cpp supported latent attention store `kv_b_proj` unchanged, and the sizes of its heads
under the keys of plain attention.

Source: llama.cpp's conversion of DeepseekV2ForCausalLM and DeepseekV3ForCausalLM; mlx-lm's deepseek_v2, deepseek_v3.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from quantcli.containers.json_text import Reader
from quantcli.errors import BadInput
from quantcli.models.base import EVERY_KIND, Architecture, Tensor
from quantcli.models.decoder import BLOCK, EXPERTS, GATED, LAYER, PRE_NORMS, ends, experts, norm_rows, rows
from quantcli.models.families.glm4_moe import NEXT_ROWS, SHARED, SHARED_SHAPES, router
from quantcli.models.harmless import Harmless
from quantcli.models.hyperparameters import Hyperparameters
from quantcli.models.keys import (
    CAUSAL,
    DENSE_LAYERS,
    EXPERT_LENGTH,
    EXPERT_SCALE,
    GATING,
    GROUPS,
    RMS_EPS,
    ROPE,
    SHARED_EXPERTS,
    SIZES,
    VOCAB_SIZE,
    Key,
    Read,
    expert_keys,
    gating,
)
from quantcli.models.layouts import Unsplit
from quantcli.models.limits import Limit, unset
from quantcli.models.ops import PerHead, Take, Transpose
from quantcli.models.sixteen_bits import OVERFLOWS, bf16_only
from quantcli.models.sizes import ATTENTION_BIAS, HIDDEN, N_HEADS, Axes, Need, setting, without
from quantcli.models.stored import Setting, Stored, has
from quantcli.tokenizers import conventions

KEY_ROWS = (PerHead(), Take(stop="nope_head_dim"), Transpose())
VALUE_ROWS = (PerHead(), Take(start="nope_head_dim"))

#: The parts of a head, and the ranks of its projections.
ROTATED, VALUE = setting("qk_rope_head_dim"), setting("v_head_dim")
NOPE = setting("qk_nope_head_dim", gguf="attention.key_length_mla - qk_rope_head_dim")
Q_RANK, KV_RANK = setting("q_lora_rank"), setting("kv_lora_rank")
SHAPES: dict[str, Axes] = {
    "self_attn.kv_a_proj_with_mqa": (KV_RANK + ROTATED, HIDDEN),
    "self_attn.kv_a_layernorm": (KV_RANK,),
    "self_attn.o_proj": (HIDDEN, N_HEADS * VALUE),
    "self_attn.q_proj": (N_HEADS * (NOPE + ROTATED), HIDDEN),
    "self_attn.q_a_proj": (Q_RANK, HIDDEN),
    "self_attn.q_a_layernorm": (Q_RANK,),
    "self_attn.q_b_proj": (N_HEADS * (NOPE + ROTATED), Q_RANK),
}
LARGE = Need("q_lora_rank", lambda h, layer: h.settings.has("q_lora_rank"))

#: Small models have one projection for queries, large models two with a norm between them.
ATTENTION = (
    *rows(
        {"self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa", "self_attn.o_proj": "attn_output"},
        bias=ATTENTION_BIAS,
        shapes=SHAPES,
    ),
    *norm_rows({"self_attn.kv_a_layernorm": "attn_kv_a_norm"}, shapes=SHAPES),
    *rows({"self_attn.q_proj": "attn_q"}, needed=without(LARGE), shapes=SHAPES),
    *rows({"self_attn.q_a_proj": "attn_q_a"}, needed=LARGE, bias=ATTENTION_BIAS, shapes=SHAPES),
    *rows({"self_attn.q_a_layernorm": "attn_q_a_norm", "self_attn.q_b_proj": "attn_q_b"}, needed=LARGE, shapes=SHAPES),
)


KV_SHAPE: Axes = (N_HEADS * (NOPE + VALUE), KV_RANK)


def kv_b(*, split_in_mlx: bool) -> tuple[Tensor, ...]:
    """Return the rows that share `kv_b_proj`."""
    keys, values = (f"{LAYER}.self_attn.embed_q", f"{LAYER}.self_attn.unembed_out") if split_in_mlx else (None, None)
    halves = (("attn_k_b", KEY_ROWS, keys), ("attn_v_b", VALUE_ROWS, values))
    return tuple(
        Tensor(
            f"{LAYER}.self_attn.kv_b_proj", f"{BLOCK}.{gguf}", ops, ("weight",), mlx, ops if split_in_mlx else (),
            also=(Unsplit(f"{BLOCK}.attn_kv_b"),), shape=KV_SHAPE,
        )
        for gguf, ops, mlx in halves
    )  # fmt: skip


def _is_sparse(h: Hyperparameters, layer: int) -> bool:
    """Return whether a layer has experts: after the first dense ones, every `moe_layer_freq`-th layer."""
    first, step = h.settings.integer("first_k_dense_replace", 0, least=0), h.settings.integer("moe_layer_freq", 1)
    return h.experts > 0 and layer >= first and layer % step == 0


def _has_shared(h: Hyperparameters, layer: int) -> bool:
    return _is_sparse(h, layer) and h.settings.integer("n_shared_experts", 0, least=0) > 0


def _is_corrected(h: Hyperparameters, layer: int) -> bool:
    return _is_sparse(h, layer) and h.settings.text("topk_method", "noaux_tc") == "noaux_tc"


SPARSE = Need("n_routed_experts, first_k_dense_replace, moe_layer_freq", _is_sparse)
SPARSE_SHARED = Need("n_shared_experts, first_k_dense_replace, moe_layer_freq", _has_shared)
CORRECTED = Need("topk_method, first_k_dense_replace, moe_layer_freq", _is_corrected)


def layers(correction: Need | None) -> tuple[Tensor, ...]:
    """Return the rows that V2 and V3 share.

    correction: which layers correct the router's scores, None if that is up to the checkpoint.
    """
    return (
        *ends(),
        *norm_rows(PRE_NORMS),
        *ATTENTION,
        *rows(GATED, needed=without(SPARSE)),
        *router(SPARSE, correction),
        *rows(SHARED, needed=SPARSE_SHARED, shapes=SHARED_SHAPES),
        *experts(EXPERTS, needed=SPARSE),
    )


def _rotated(config: Reader) -> int:
    """Return the size of a head's rotated part, which is `head_dim` in the classes. Raises `BadInput`."""
    size = config.integer("qk_rope_head_dim")
    if size % 2:
        raise BadInput(f"{config.label}: qk_rope_head_dim: expected an even number (rotary embeddings), found {size}.")
    return size


def first_dense(usual: int) -> Callable[[Reader], int]:
    """Return a function that computes `first_k_dense_replace` from `mlp_layer_types`. usual: the class's default."""

    def count(config: Reader) -> int:
        kinds = config.texts("mlp_layer_types")
        return kinds.index("sparse") if "sparse" in kinds else len(kinds) or usual

    return count


def kinds_of_mlp(file: Stored) -> list[str]:
    """Return `mlp_layer_types`: layers without experts, then those with experts."""
    dense = min(file.own.integer("leading_dense_block_count", 0, least=0), file.trunk)
    return ["dense"] * dense + ["sparse"] * (file.trunk - dense)


#: Defaults of both configuration classes.
DEFAULTS: dict[str, Any] = {
    "rms_norm_eps": 1e-6,
    "kv_lora_rank": 512,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "head_dim": _rotated,
}


def sum_of(*keys: str) -> Read:
    """Return a function that adds the values of keys of config.json."""
    return lambda h: sum(h.settings.integer(key) for key in keys)


def _log_multiplier(hyperparameters: Hyperparameters) -> float | None:
    scale = hyperparameters.rope.mscale_all_dim
    return None if scale is None else 0.1 * scale


#: The size of the latent head. llama.cpp's converter writes it with the head's size if the class has `head_dim`, else
#: after the ranks.
LATENT = (
    Key("attention.key_length", "uint32", sum_of("kv_lora_rank", "qk_rope_head_dim")),
    Key("attention.value_length", "uint32", "kv_lora_rank"),
)


def latent(holds: Callable[[Hyperparameters], bool]) -> tuple[Key, ...]:
    """Return `LATENT`, written only for models that `holds` accepts, and not used to rebuild config.json."""

    def read(key: Key) -> Read:
        return lambda h: key.value(h) if holds(h) else None

    return tuple(replace(key, read=read(key)) for key in LATENT)


#: In GGUF one head of keys and values, the latent one, serves all heads.
KEYS = (
    *SIZES[:5],
    Key("attention.head_count_kv", "uint32", lambda h: 1),
    CAUSAL,
    *ROPE,
    RMS_EPS,
    *expert_keys("n_routed_experts"),
    *GROUPS,
    Key("expert_gating_func", "uint32", gating),
)
RANKS = (
    DENSE_LAYERS,
    VOCAB_SIZE,
    Key("attention.q_lora_rank", "uint32", "q_lora_rank"),
    Key("attention.kv_lora_rank", "uint32", "kv_lora_rank"),
)
FURTHER = (
    Key("attention.key_length_mla", "uint32", sum_of("qk_nope_head_dim", "qk_rope_head_dim")),
    Key("attention.value_length_mla", "uint32", "v_head_dim", otherwise="attention.value_length"),
    EXPERT_LENGTH,
    SHARED_EXPERTS,
    EXPERT_SCALE,
    Key("expert_weights_norm", "bool", lambda h: h.settings.flag("norm_topk_prob", False) or None),
    Key("rope.dimension_count", "uint32", "qk_rope_head_dim"),
    Key("rope.scaling.yarn_log_multiplier", "float32", _log_multiplier),
)


def _groups(file: Stored) -> int:
    return file.own.integer("expert_group_count", 1)


def _head(file: Stored) -> int:
    """Return the size of a head."""
    return file.own.integer(file.own.first("attention.key_length_mla", "attention.key_length"))


def _nope(file: Stored) -> int:
    """Return the number of elements of a head that are not rotated."""
    return _head(file) - file.own.integer("rope.dimension_count")


#: Sizes that transformers 5 writes and that follow from others.
FOLLOWING = (
    Setting("head_dim", lambda file: file.own.integer("rope.dimension_count")),
    Setting("qk_head_dim", _head),
)
#: For families whose config.json need not state these sizes.
HARMLESS = dict.fromkeys(("head_dim", "qk_head_dim"), Harmless("computed from qk_nope_head_dim and qk_rope_head_dim"))

SETTINGS = (
    Setting("hidden_act", "silu"),
    Setting("attention_bias", has("attn_kv_a_mqa.bias")),
    Setting("moe_layer_freq", 1),
    Setting("norm_topk_prob", lambda file: file.own.flag("expert_weights_norm", False)),
    Setting("num_key_value_heads", lambda file: file.heads),
    Setting("q_lora_rank", lambda file: file.own.optional_integer("attention.q_lora_rank")),
    Setting("qk_nope_head_dim", _nope),
)


def _is_known_by_its_layers(h: Hyperparameters) -> bool:
    """Return whether llama.cpp's guess from layers and tokens, that q_lora_rank is null or not, is right."""
    is_lite = h.layers in (26, 27) or (h.layers, h.vocab_size) == (48, 128256)
    return is_lite != h.settings.has("q_lora_rank")


#: Limits of both families.
LIMITS = (
    *unset("gguf", "attention_bias"),
    Limit(
        "gguf",
        _is_known_by_its_layers,
        ("q_lora_rank to be null if and only if the model has 26 or 27 layers, or 48 layers and 128256 tokens"),
    ),
)

DEEPSEEK_V2 = Architecture(
    name="deepseek_v2",
    gguf="deepseek2",
    model_types={
        "deepseek_v2": DEFAULTS
        | {
            "max_position_embeddings": 2048,
            "n_routed_experts": 64,
            "n_shared_experts": 2,
            "moe_intermediate_size": 1407,
            "routed_scaling_factor": 1.0,
            "first_k_dense_replace": 0,
            "norm_topk_prob": False,
            "scoring_func": "softmax",
            "topk_method": "greedy",
        }
    },
    tensors=(*layers(None), *kv_b(split_in_mlx=False)),
    mtp=(),
    mlx_schemes={"ffn_gate_inp": "dense"},
    keys=(*KEYS, *LATENT),
    further=(*RANKS, *FURTHER),
    classes={"deepseek_v2": "DeepseekV2ForCausalLM"},
    expects=(Setting("rope_interleave", True),),
    harmless=HARMLESS,
    constants={"expert_weights_norm": False},  # neither transformers nor mlx-lm normalizes V2's weights
    settings=(
        *SETTINGS,
        Setting("scoring_func", "softmax"),
        Setting("topk_method", lambda file: "greedy" if _groups(file) == 1 else "group_limited_greedy"),
    ),
    sixteen_bits=bf16_only(OVERFLOWS),  # vLLM scales hidden states down in float16 (vllm#13232); transformers does not
    stores_head=("mlx",),
    limits=(
        *LIMITS,
        Limit("mlx", lambda h: h.rope.type != "default", "rope_scaling in this architecture"),
    ),
    mlx_scaling=("yarn",),
)


def is_glm(metadata: Mapping[str, Any]) -> bool:
    """Return whether GGUF metadata of this architecture describe a GLM model, by its vocabulary."""
    return metadata.get("tokenizer.ggml.pre") in conventions.GLM4.pre


def _is_v3(metadata: Mapping[str, Any]) -> bool:
    """Return whether a file is V3's: its router uses a sigmoid; llama.cpp's default is softmax."""
    return metadata.get("expert_gating_func") == GATING["sigmoid"] and not is_glm(metadata)


#: Kimi K2 contains a copy of DeepSeek V3's class.
V3_DEFAULTS: dict[str, Any] = DEFAULTS | {
    "max_position_embeddings": 4096,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_experts_per_tok": 8,
    "n_group": 8,
    "topk_group": 4,
    "moe_intermediate_size": 2048,
    "routed_scaling_factor": 2.5,
    "first_k_dense_replace": 3,
    "norm_topk_prob": True,
    "scoring_func": "sigmoid",
}


def _is_kimi(h: Hyperparameters) -> bool:
    return h.settings.values.get("model_type") == "kimi_k2"


#: Settings whose defaults in mlx-lm's classes differ from transformers'.
MLX_KEYS = (
    "first_k_dense_replace", "max_position_embeddings", "moe_intermediate_size", "n_group", "n_routed_experts",
    "n_shared_experts", "num_experts_per_tok", "routed_scaling_factor", "topk_group",
)  # fmt: skip

DEEPSEEK_V3 = Architecture(
    name="deepseek_v3",
    gguf="deepseek2",
    when=_is_v3,
    model_types={"deepseek_v3": V3_DEFAULTS, "kimi_k2": V3_DEFAULTS},
    tensors=(*layers(CORRECTED), *kv_b(split_in_mlx=True), *NEXT_ROWS),
    mtp=("hf",),
    mlx_schemes={"ffn_gate_inp": "dense"},
    keys=(*KEYS, *latent(lambda h: not _is_kimi(h))),
    further=(*RANKS, *latent(_is_kimi), *FURTHER),
    classes={"deepseek_v3": "DeepseekV3ForCausalLM"},
    expects=(Setting("rope_interleave", True),),
    harmless=HARMLESS,
    settings=(
        *SETTINGS,
        Setting("num_nextn_predict_layers", lambda file: file.predicting),
        Setting("scoring_func", "sigmoid"),
        Setting("topk_method", "noaux_tc"),
    ),
    vocabulary=conventions.DEEPSEEK_V3,
    stores_head=("mlx",),
    limits=LIMITS,
    mlx_scaling=EVERY_KIND,
    mlx_keys=MLX_KEYS,
)
