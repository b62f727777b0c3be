"""The qwen3_next architecture (Qwen3-Next 80B-A3B): three layers with a gated delta net to one with attention, experts.

A projection of the delta net has the queries, keys, values and gates of each key head in turn; GGUF separates the gates
from the others, and each part for all heads:

    in_proj_qkvz   q0 k0 v0 v1 z0 z1 | q1 k1 v2 v3 z2 z3   ->   attn_qkv    q0 q1 | k0 k1 | v0 v1 v2 v3
                                                               attn_gate   z0 z1 z2 z3

Norms are stored as their difference from 1, except the delta net's. `q_proj` has the rows of a gate next to each head's
rows. GGUF keeps the layer for multi-token prediction, which has attention.

Source: llama.cpp's conversion of Qwen3NextForCausalLM; mlx-lm's qwen3_next; transformers' Qwen3NextConfig.
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
    QK_NORMS,
    SHAPES,
    attention,
    ends,
    experts,
    norm,
    rows,
)
from quantcli.models.families.glm4_moe import ALL_BLOCKS, IS_NEXT, next_layers
from quantcli.models.families.qwen2_moe import DENSE, SHARED, SHARED_GATE, SHARED_SHAPES, SPARSE
from quantcli.models.hyperparameters import Hyperparameters
from quantcli.models.keys import (
    EXPERT_LENGTH,
    GATING,
    HEAD_SIZES,
    RECURRENT,
    RMS_EPS,
    ROPE,
    ROPE_DIMENSIONS,
    SIZES,
    Key,
    expert_keys,
)
from quantcli.models.limits import Limit
from quantcli.models.ops import AddOne, DropAxis, MoveAxis, NegExp, Take, Ungroup
from quantcli.models.sizes import HEAD_DIM, HIDDEN, N_HEADS, ONE, Axes, Need, setting, without
from quantcli.models.stored import Setting, Stored

LINEAR, FULL = "linear_attention", "full_attention"
INTERVAL = "full_attention_interval"

K_HEADS, V_HEADS = setting("linear_num_key_heads"), setting("linear_num_value_heads")
K_SIZE, V_SIZE = setting("linear_key_head_dim"), setting("linear_value_head_dim")
#: Rows of all heads: queries or keys; values or gates; the input of the convolution.
KEYS, VALUES = K_HEADS * K_SIZE, V_HEADS * V_SIZE
CONVOLVED = 2 * KEYS + VALUES


def _types(config: Reader) -> list[str]:
    """Return `layer_types` for a config with the interval of layers with attention."""
    step, layers = config.integer(INTERVAL, 4), config.integer("num_hidden_layers", most=LONGEST)
    return [LINEAR if (layer + 1) % step else FULL for layer in range(layers)]


def _interval(config: Reader) -> int:
    """Return the interval of layers with attention, from the position of the first one."""
    kinds = config.texts("layer_types")
    return kinds.index(FULL) + 1 if FULL in kinds else 4


def _is_linear(h: Hyperparameters, layer: int) -> bool:
    kinds = h.settings.texts("layer_types")
    return layer < len(kinds) and kinds[layer] == LINEAR


def _is_even(h: Hyperparameters) -> bool:
    step = h.settings.integer(INTERVAL, 4)
    return all(_is_linear(h, layer) == bool((layer + 1) % step) for layer in range(h.layers))


IS_LINEAR = Need(f"layer_types, {INTERVAL}", _is_linear)
IS_FULL = without(IS_LINEAR)
ONE_MORE = (AddOne(),)


def norms(
    modules: dict[str, str], needed: Need | None = None, shapes: dict[str, Axes] | None = None
) -> tuple[Tensor, ...]:
    """Return the rows for norms that are stored as their difference from 1. needed: which layers have them."""
    plain = (
        norm(f"{LAYER}.{hf}", f"{BLOCK}.{gguf}", ONE_MORE, shape=(shapes or {}).get(hf, (HIDDEN,)))[0]
        for hf, gguf in modules.items()
    )
    return tuple(replace(row, mlx_ops=ONE_MORE, optional=needed is not None, needed=needed) for row in plain)


def linear(hf: str, gguf: str, shape: Axes, ops: Any = (), suffix: str = "weight", mlx_ops: Any = ()) -> Tensor:
    """Return a row for a tensor of the delta net."""
    return Tensor(
        f"{LAYER}.linear_attn.{hf}", f"{BLOCK}.{gguf}", ops, (suffix,), mlx_ops=mlx_ops, optional=True, shape=shape,
        needed=IS_LINEAR,
    )  # fmt: skip


#: The rows of every layer, without its MLP, and those outside the layers.
COMMON = (
    *(replace(row, mlx_ops=row.ops) for row in ends(ONE_MORE)),
    *norms({"input_layernorm": "attn_norm", "post_attention_layernorm": "post_attention_norm"}),
    *(
        replace(row, optional=True, needed=IS_FULL, also=(), shape=shape)
        for row, shape in zip(
            attention(), ((2 * N_HEADS * HEAD_DIM, HIDDEN), *(row.shape for row in attention()[1:])), strict=True
        )
    ),
    *norms(QK_NORMS, IS_FULL, {module: SHAPES[module] for module in QK_NORMS}),
)
#: The rows for the layer for multi-token prediction.
NEXT = (
    *rows({"eh_proj": "nextn.eh_proj"}, needed=IS_NEXT, shapes={"eh_proj": (HIDDEN, 2 * HIDDEN)}),
    *norms({"enorm": "nextn.enorm", "hnorm": "nextn.hnorm", "shared_head.norm": "nextn.shared_head_norm"}, IS_NEXT),
)
QKVZ = Ungroup(K_HEADS, (KEYS, KEYS, VALUES, VALUES))


def delta_net(tile: Any = ()) -> tuple[Tensor, ...]:
    """Return the rows that both layouts share. tile: operations on values, on the convolution's input, on columns."""
    single, convolved, columns = tile or ((), (), ())
    return (
        linear("A_log", "ssm_a", (V_HEADS,), (*single, NegExp()), ""),
        linear("dt_bias", "ssm_dt.bias", (V_HEADS,), single, ""),
        linear(
            "conv1d", "ssm_conv1d", (CONVOLVED, ONE, setting("linear_conv_kernel_dim")), (DropAxis(1), *convolved),
            mlx_ops=(MoveAxis(),),
        ),
        linear("norm", "ssm_norm", (V_SIZE,)),
        linear("out_proj", "ssm_out", (HIDDEN, VALUES), columns),
    )  # fmt: skip


def _recurrent(h: Hyperparameters) -> tuple[bool, ...]:
    return tuple(_is_linear(h, layer) for layer in range(h.layers + next_layers(h)))


def _stored_types(file: Stored) -> list[str]:
    """Return `layer_types` from a file; if it has none, llama.cpp's default. Raises `BadInput`."""
    flags, step = file.own.flags(RECURRENT), file.own.integer(INTERVAL, 4)
    if flags and len(flags) not in (file.trunk, file.layers):
        raise BadInput(
            f"{file.own.label}: {RECURRENT}: expected {file.layers} values (block_count), found {len(flags)}."
        )
    usual = [bool((layer + 1) % step) for layer in range(file.trunk)]
    return [LINEAR if is_linear else FULL for is_linear in (flags or usual)[: file.trunk]]


#: Keys of a delta net; other keys come before and after them.
NEXTN = Key("nextn_predict_layers", "uint32", lambda h: next_layers(h) or None)
DELTA_KEYS = (
    Key("ssm.conv_kernel", "uint32", "linear_conv_kernel_dim"),
    Key("ssm.state_size", "uint32", "linear_key_head_dim"),
    Key("ssm.group_count", "uint32", "linear_num_key_heads"),
    Key("ssm.time_step_rank", "uint32", "linear_num_value_heads"),
    Key("ssm.inner_size", "uint32", VALUES.of),
    Key(RECURRENT, "array[bool]", _recurrent),
    Key(INTERVAL, "uint32", INTERVAL),
    ROPE_DIMENSIONS,
)
DELTA_DEFAULTS: dict[str, Any] = {
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 32768,
    "head_dim": 256,
    "partial_rotary_factor": 0.25,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "layer_types": _types,
    INTERVAL: _interval,
}
DELTA_SETTINGS = (
    Setting("attention_bias", False),
    Setting("hidden_act", "silu"),
    Setting("layer_types", _stored_types),
    Setting(
        "linear_value_head_dim",
        lambda file: file.own.integer("ssm.inner_size") // file.own.integer("ssm.time_step_rank"),
    ),
    Setting("num_nextn_predict_layers", lambda file: file.predicting),
    Setting("partial_rotary_factor", Stored.rotary_share),
)
#: llama.cpp supports one size of heads; mlx-lm computes the layers with attention from their interval.
DELTA_LIMITS = (
    Limit("gguf", lambda h: K_SIZE.of(h) == V_SIZE.of(h), "linear_key_head_dim to be linear_value_head_dim"),
    Limit("mlx", _is_even, "layer_types to follow full_attention_interval"),
)

QWEN3_NEXT = Architecture(
    name="qwen3_next",
    gguf="qwen3next",
    model_types={
        "qwen3_next": DELTA_DEFAULTS
        | {
            "num_key_value_heads": 2,
            "decoder_sparse_step": 1,
            "moe_intermediate_size": 512,
            "shared_expert_intermediate_size": 512,
            "num_experts": 512,
            "num_experts_per_tok": 10,
            "norm_topk_prob": True,
            "mlp_only_layers": lambda config: [],
        }
    },
    tensors=(
        *COMMON,
        linear("in_proj_qkvz", "attn_qkv", (2 * KEYS + 2 * VALUES, HIDDEN), (QKVZ, Take(stop=CONVOLVED))),
        linear("in_proj_qkvz", "attn_gate", (2 * KEYS + 2 * VALUES, HIDDEN), (QKVZ, Take(start=CONVOLVED))),
        linear("in_proj_ba", "ssm_ba", (2 * V_HEADS, HIDDEN)),
        *delta_net(),
        *rows(GATED, needed=DENSE),
        *rows({"mlp.gate": "ffn_gate_inp"} | SHARED, needed=SPARSE, shapes={**SHAPES, **SHARED_SHAPES}),
        SHARED_GATE,
        *experts(EXPERTS, needed=SPARSE),
        *NEXT,
    ),
    mtp=("hf", "gguf"),
    mtp_module="mtp.",
    mlx_schemes={"ffn_gate_inp": "affine8-g64", "ffn_gate_inp_shexp": "affine8-g64"},
    keys=(ALL_BLOCKS, *SIZES[1:], *ROPE, RMS_EPS, *expert_keys("num_experts"), *HEAD_SIZES),
    further=(
        EXPERT_LENGTH,
        Key("expert_shared_feed_forward_length", "uint32", "shared_expert_intermediate_size"),
        NEXTN,
        *DELTA_KEYS,
    ),
    classes={"qwen3_next": "Qwen3NextForCausalLM"},
    settings=(
        *DELTA_SETTINGS,
        Setting("decoder_sparse_step", 1),
        Setting("mlp_only_layers", []),
        Setting("norm_topk_prob", True),
    ),
    constants={"expert_gating_func": GATING["softmax"], "expert_weights_norm": True},
    limits=DELTA_LIMITS,
    mlx_scaling=EVERY_KIND,
    mlx_keys=(
        INTERVAL,
        "decoder_sparse_step",
        "linear_conv_kernel_dim",
        "mlp_only_layers",
        "norm_topk_prob",
        "num_key_value_heads",
        "partial_rotary_factor",
        "rms_norm_eps",
    ),
)
