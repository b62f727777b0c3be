"""The granitemoe architecture (Granite 3 MoE): granite with routed experts; granitemoeshared adds a shared expert.

Gate and up of all experts are in one tensor. Source: llama.cpp's conversion of GraniteMoeForCausalLM and
GraniteMoeSharedForCausalLM; mlx-lm's granitemoe, which does not support granitemoeshared.
"""

from quantcli.models.base import EVERY_KIND, Architecture, Tensor
from quantcli.models.decoder import (
    BLOCK,
    LAYER,
    PERMUTED,
    PRE_NORMS,
    also_experts,
    attention,
    ends,
    norm_rows,
    rows,
)
from quantcli.models.families.granite import MULTIPLIER_KEYS
from quantcli.models.families.mixtral import MOE
from quantcli.models.hyperparameters import Hyperparameters
from quantcli.models.keys import GATING, RMS_EPS, ROPE, ROPE_DIMENSIONS, SIZES, VOCAB_SIZE, Key, expert_keys
from quantcli.models.limits import square, unknown_to_mlx
from quantcli.models.ops import Op, Share
from quantcli.models.sizes import ATTENTION_BIAS, HIDDEN, INNER, N_EXPERTS, Axes, Need, setting
from quantcli.models.stored import Setting, has
from quantcli.tokenizers import conventions

SHARED_LENGTH = "expert_shared_feed_forward_length"
SHARED = setting("shared_intermediate_size")
#: Module, the matrix in it, and the operations that take it.
PARTS: tuple[tuple[str, str, tuple[Op, ...]], ...] = (
    ("input_linear", "gate", (Share(0, 2),)),
    ("input_linear", "up", (Share(1, 2),)),
    ("output_linear", "down", ()),
)


def _shared(h: Hyperparameters) -> int | None:
    return h.settings.integer("shared_intermediate_size", 0, least=0) or None


HAS_SHARED = Need("shared_intermediate_size", lambda h, layer: _shared(h) is not None)


def _expert(module: str, kind: str, ops: tuple[Op, ...]) -> Tensor:
    """Return the row for the experts' gate, up or down, stacked; only Hugging Face's dialect joins gate and up."""
    shape: Axes = (N_EXPERTS, HIDDEN, INNER) if kind == "down" else (N_EXPERTS, 2 * INNER, HIDDEN)
    return Tensor(
        f"{LAYER}.{MOE}.{module}", f"{BLOCK}.ffn_{kind}_exps", ops, ("weight",),
        mlx=f"{LAYER}.{MOE}.switch_mlp.{kind}_proj", mlx_ops=ops, also=also_experts(kind), shape=shape,
    )  # fmt: skip


def _shared_expert(module: str, kind: str, ops: tuple[Op, ...]) -> Tensor:
    """Return the row for the shared expert's gate, up or down; only Hugging Face's dialect joins gate and up."""
    shape: Axes = (HIDDEN, SHARED) if kind == "down" else (2 * SHARED, HIDDEN)
    return Tensor(
        f"{LAYER}.shared_mlp.{module}", f"{BLOCK}.ffn_{kind}_shexp", ops, ("weight",), optional=True, shape=shape,
        mlx=f"{LAYER}.shared_mlp.{kind}_proj", mlx_ops=ops, needed=HAS_SHARED,
    )  # fmt: skip


DEFAULTS = {
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 2048,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "shared_intermediate_size": 0,
    "num_key_value_heads": lambda config: config.integer("num_attention_heads"),
    "attention_bias": False,
    "rope_theta": 1e4,
}

GRANITEMOE = Architecture(
    name="granitemoe",
    gguf="granitemoe",
    model_types={"granitemoe": DEFAULTS, "granitemoeshared": DEFAULTS},
    tensors=(
        *ends(),
        *norm_rows(PRE_NORMS),
        *attention(PERMUTED, bias=ATTENTION_BIAS),
        *rows({f"{MOE}.router.layer": "ffn_gate_inp"}, shapes={f"{MOE}.router.layer": (N_EXPERTS, HIDDEN)}),
        *(_expert(*part) for part in PARTS),
        *(_shared_expert(*part) for part in PARTS),
    ),
    mlx_schemes=dict.fromkeys(("ffn_gate_inp", "attn_output", "ffn_down_exps", "output"), "affine8-g64"),
    states_space_prefix=True,
    keys=(*SIZES, *ROPE, RMS_EPS, *expert_keys("num_local_experts")),
    further=(
        VOCAB_SIZE,
        ROPE_DIMENSIONS,
        *MULTIPLIER_KEYS,
        Key(SHARED_LENGTH, "uint32", _shared, "shared_intermediate_size"),
    ),
    classes={"granitemoe": "GraniteMoeForCausalLM", "granitemoeshared": "GraniteMoeSharedForCausalLM"},
    kind=lambda file: "granitemoeshared" if file.own.has(SHARED_LENGTH) else "granitemoe",
    settings=(Setting("hidden_act", "silu"), Setting("attention_bias", has("attn_q.bias"))),
    constants={"expert_gating_func": GATING["softmax"], "expert_weights_norm": True},
    vocabulary=conventions.GRANITE,
    limits=(*square("mlx"), unknown_to_mlx("granitemoe", "granitemoeshared")),
    mlx_scaling=EVERY_KIND,
    mlx_ties=("granitemoe",),
    mlx_keys=(
        "attention_bias",
        "max_position_embeddings",
        "num_experts_per_tok",
        "num_key_value_heads",
        "num_local_experts",
        "rms_norm_eps",
        "rope_theta",
    ),
)
