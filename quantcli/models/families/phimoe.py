"""The phimoe architecture (Phi-3.5-MoE, Phi-mini-MoE): Mixtral's experts, LayerNorm and biases, longrope.

Logits differ between runtimes. llama.cpp runs the graph of phi3: it divides by the root mean square, although the model
has LayerNorm; computes the softmax over all experts, although the model computes one for each expert and its rivals
(SparseMixer); and multiplies rotary embeddings by 1 or longrope's default factor instead of `short_mscale`. mlx-lm uses
`long_mscale` and `long_factor` at every length. Source: llama.cpp's conversion of PhiMoEForCausalLM; mlx-lm's phimoe.
"""

from dataclasses import replace
from typing import Any

from quantcli.models.base import Architecture, Computed, Tensor
from quantcli.models.decoder import PRE_NORMS, attention, norm, norm_rows
from quantcli.models.families.mixtral import mixture
from quantcli.models.families.phi3 import attention_factor, long_factors, short_factors
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
    expert_keys,
)
from quantcli.models.limits import needs_set, square, windowless
from quantcli.models.rope_settings import ATTN_FACTOR, rope_scaling
from quantcli.models.sizes import ATTENTION_BIAS, HIDDEN, PARTIAL_FREQUENCIES, VOCAB, flag
from quantcli.models.stored import Setting, Stored, has
from quantcli.tokenizers import conventions


def _original(h: Hyperparameters) -> int | None:
    """Return the context before longrope, which the class reads only from the scaling's settings."""
    settings = h.settings
    scaling = settings.part("rope_scaling" if settings.values.get("rope_scaling") else "rope_parameters")
    if h.rope.type == "default":
        return h.rope.original_context
    return scaling.integer("original_max_position_embeddings", h.context_length, least=0)


def _attention_factor(h: Hyperparameters) -> float | None:
    return attention_factor(replace(h, rope=replace(h.rope, original_context=_original(h))))


def _scaling(file: Stored) -> dict[str, Any] | None:
    """Return `rope_scaling` with both attention factors that the class requires; llama.cpp has one for both."""
    made = rope_scaling(file)
    if made is None:
        return None
    factor = file.number(ATTN_FACTOR)
    original = file.own.integer("rope.scaling.original_context_length", file.own.integer("context_length"))
    mscales = dict.fromkeys(("short_mscale", "long_mscale"), 1.0 if factor is None else factor)
    kept = {key: value for key, value in made.items() if key != "attention_factor"}
    return {**kept, "original_max_position_embeddings": original, **mscales}


PHIMOE = Architecture(
    name="phimoe",
    gguf="phimoe",
    model_types={
        "phimoe": {
            "rms_norm_eps": 1e-5,
            "max_position_embeddings": 131072,
            "num_key_value_heads": 8,
            "rope_theta": 1e6,
            "num_local_experts": 16,
            "num_experts_per_tok": 2,
        }
    },
    tensors=(
        Tensor("model.embed_tokens", "token_embd", suffixes=("weight",), shape=(VOCAB, HIDDEN)),
        *norm("model.norm", "output_norm", bias=True),
        Tensor("lm_head", "output", optional=True, shape=(VOCAB, HIDDEN), bias=flag("lm_head_bias")),
        *norm_rows(PRE_NORMS, bias=True),
        *attention(bias=ATTENTION_BIAS),
        *mixture("mlp.router"),
    ),
    computed=(
        Computed("rope_factors_long.weight", long_factors, (PARTIAL_FREQUENCIES,)),
        Computed("rope_factors_short.weight", short_factors, (PARTIAL_FREQUENCIES,)),
    ),
    foremost=(Key(ATTN_FACTOR, "float32", _attention_factor),),
    keys=(
        CONTEXT,
        Key("rope.scaling.original_context_length", "uint32", _original, "original_max_position_embeddings"),
        EMBEDDING,
        FEED_FORWARD,
        BLOCKS,
        HEADS,
        KV_HEADS,
        RMS_EPS,
        ROPE_DIMENSIONS,
        FREQ_BASE,
    ),
    further=(
        Key("attention.sliding_window", "uint32", lambda h: h.sliding_window or 0),
        *reversed(expert_keys("num_local_experts")),
    ),
    classes={"phimoe": "PhimoeForCausalLM"},
    aliases=("PhiMoEForCausalLM",),
    settings=(
        Setting("hidden_act", "silu"),
        Setting("attention_bias", has("attn_q.bias")),
        Setting("lm_head_bias", lambda file: file.holds("output.bias")),
        Setting("rope_scaling", _scaling),
        Setting("sliding_window", lambda file: file.own.integer("attention.sliding_window", 0, least=0) or None),
    ),
    vocabulary=conventions.PHI3,
    stores_head=("gguf", "mlx"),
    limits=(
        *square("gguf", "mlx"),
        *needs_set(("gguf", "mlx"), "attention_bias", "lm_head_bias"),
        *windowless("gguf", "mlx"),
    ),
    mlx_keys=("rms_norm_eps", "rope_theta"),
    mlx_scaling=("longrope",),
)
