"""The phi3 architecture (Phi-3, Phi-4): q, k, v in one matrix, gate and up in one, in both dialects.

Source: llama.cpp's conversion of Phi3ForCausalLM.
"""

import math

import numpy as np
from numpy.typing import NDArray

from quantcli.errors import BadInput
from quantcli.models.base import Architecture, Computed, Tensor
from quantcli.models.decoder import BLOCK, FUSED, LAYER, PRE_NORMS, SHAPES, ends, norm_rows, rows
from quantcli.models.hyperparameters import Hyperparameters
from quantcli.models.keys import (
    BLOCKS,
    CONTEXT,
    EMBEDDING,
    FEED_FORWARD,
    FREQ_BASE,
    HEADS,
    KV_HEADS,
    RMS_EPS,
    ROPE_DIMENSIONS,
    Key,
)
from quantcli.models.layouts import ROWS_OF_QKV, Pieces
from quantcli.models.limits import square
from quantcli.models.rope import longrope_attention
from quantcli.models.sizes import PARTIAL_FREQUENCIES
from quantcli.models.stored import Setting, Stored
from quantcli.tokenizers import conventions

#: llama.cpp also reads separate q, k and v.
ATTENTION = (
    Tensor(
        f"{LAYER}.self_attn.qkv_proj",
        f"{BLOCK}.attn_qkv",
        also=(Pieces(tuple(f"{BLOCK}.{module}" for module in ROWS_OF_QKV)),),
        shape=SHAPES["self_attn.qkv_proj"],
    ),
    *rows({"self_attn.o_proj": "attn_output"}),
)


def long_factors(hyperparameters: Hyperparameters) -> NDArray[np.float32] | None:
    """Return longrope's divisor of each rotary frequency beyond the original context, float32 [rotary_dim / 2]."""
    return _floats(hyperparameters, "long_factor", hyperparameters.rope.long_factors)


def short_factors(hyperparameters: Hyperparameters) -> NDArray[np.float32] | None:
    """Return longrope's divisor of each rotary frequency within the original context, float32 [rotary_dim / 2]."""
    return _floats(hyperparameters, "short_factor", hyperparameters.rope.short_factors)


def _floats(
    hyperparameters: Hyperparameters, key: str, factors: tuple[float, ...] | None
) -> NDArray[np.float32] | None:
    if factors is None:
        return None
    rotated = hyperparameters.rotary_dimensions
    if 2 * len(factors) != rotated:
        raise BadInput(
            f"{hyperparameters.settings.label}: {key}: expected {rotated // 2} numbers (one for each pair of the "
            f"{rotated} rotated elements of a head; see partial_rotary_factor), found {len(factors)}."
        )
    return np.asarray(factors, np.float32)


def attention_factor(hyperparameters: Hyperparameters) -> float | None:
    """Return longrope's attention factor, for a context longer than the original one; None without longrope."""
    rope, context = hyperparameters.rope, hyperparameters.context_length
    if not rope.long_factors:
        return None
    original = rope.original_context or context
    if original < 2:
        raise BadInput(
            f"config.json: original_max_position_embeddings: expected a number above 1 (longrope), found {original}."
        )
    if context <= original:
        return 1.0
    if rope.type == "yarn":
        return 0.1 * math.log(context / original) + 1.0
    return longrope_attention(context, original)


PHI3 = Architecture(
    name="phi3",
    gguf="phi3",
    model_types={
        "phi3": {
            "rms_norm_eps": 1e-5,
            "max_position_embeddings": 4096,
            "original_max_position_embeddings": 4096,
        }
    },
    tensors=(*ends(), *norm_rows(PRE_NORMS), *ATTENTION, *rows(FUSED)),
    computed=(
        Computed("rope_factors_long.weight", long_factors, (PARTIAL_FREQUENCIES,)),
        Computed("rope_factors_short.weight", short_factors, (PARTIAL_FREQUENCIES,)),
    ),
    foremost=(Key("rope.scaling.attn_factor", "float32", attention_factor),),
    keys=(
        CONTEXT,
        Key(
            "rope.scaling.original_context_length",
            "uint32",
            lambda h: h.rope.original_context,
            "original_max_position_embeddings",
        ),
        EMBEDDING,
        FEED_FORWARD,
        BLOCKS,
        HEADS,
        KV_HEADS,
        RMS_EPS,
        ROPE_DIMENSIONS,
        FREQ_BASE,
    ),
    further=(Key("attention.sliding_window", "uint32", lambda h: h.sliding_window or 0),),
    classes={"phi3": "Phi3ForCausalLM"},
    settings=(
        Setting("hidden_act", "silu"),
        Setting("partial_rotary_factor", Stored.rotary_share),
        Setting("sliding_window", lambda file: file.own.integer("attention.sliding_window", 0, least=0) or None),
    ),
    vocabulary=conventions.PHI3,
    limits=square("gguf", "mlx"),
    mlx_scaling=("linear", "longrope"),
)
