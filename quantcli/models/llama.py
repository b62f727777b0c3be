"""The llama architecture: Llama, Mistral and every model published under their model types (Yi, SmolLM, TinyLlama ...).

Source: llama.cpp's conversion of LlamaForCausalLM and MistralForCausalLM; transformers' configuration defaults.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from quantcli.models.base import Architecture, Computed, PermuteRows, Tensor
from quantcli.models.hyperparameters import Hyperparameters


def rope_factors(hyperparameters: Hyperparameters) -> NDArray[np.float32] | None:
    """Llama 3.1's divisor of each rotary frequency, float32 (head_dim / 2,); None for other rope types.

    1 for wavelengths below original_context / high_freq_factor, `factor` for those above original_context /
    low_freq_factor, between them a blend of the two, all in float32. Constants that a config leaves out are
    llama.cpp's.
    """
    rope = hyperparameters.rope
    if rope.type != "llama3":
        return None
    low = 1.0 if rope.low_freq_factor is None else rope.low_freq_factor
    high = 4.0 if rope.high_freq_factor is None else rope.high_freq_factor
    factor = np.float32(rope.factor or 8.0)
    context = float(rope.original_context or 8192)
    one = np.float32(1)
    exponents = np.arange(0, hyperparameters.head_dim, 2, dtype=np.float32) / np.float32(hyperparameters.head_dim)
    frequencies = one / np.power(np.float64(rope.theta), exponents.astype(np.float64)).astype(np.float32)
    wavelengths = (one / frequencies) * np.float32(2 * math.pi)
    with np.errstate(divide="ignore", invalid="ignore"):
        smooth = ((one / wavelengths) * np.float32(context) - np.float32(low)) / np.float32(high - low)
        blended = one / ((one - smooth) / factor + smooth)
    return np.select(
        [wavelengths < np.float32(context / high), wavelengths > np.float32(context / low)],
        [one, factor],
        default=blended,
    ).astype(np.float32)


def decoder(permute: bool, qk_norm: bool = False) -> tuple[Tensor, ...]:
    """The tensors of a plain pre-norm decoder with gated MLP, which llama, qwen2 and qwen3 share."""
    layer, block = "model.layers.{i}", "blk.{i}"
    query = (PermuteRows("heads"),) if permute else ()
    key = (PermuteRows("kv_heads"),) if permute else ()
    norm = ("weight",)
    norms = (
        Tensor(f"{layer}.self_attn.q_norm", f"{block}.attn_q_norm", "attn_q_norm", suffixes=norm),
        Tensor(f"{layer}.self_attn.k_norm", f"{block}.attn_k_norm", "attn_k_norm", suffixes=norm),
    )
    return (
        Tensor("model.embed_tokens", "token_embd", "token_embd", suffixes=norm),
        Tensor("model.norm", "output_norm", "output_norm", suffixes=norm),
        Tensor("lm_head", "output", "output", optional=True),
        Tensor(f"{layer}.input_layernorm", f"{block}.attn_norm", "attn_norm", suffixes=norm),
        Tensor(f"{layer}.self_attn.q_proj", f"{block}.attn_q", "attn_q", query),
        Tensor(f"{layer}.self_attn.k_proj", f"{block}.attn_k", "attn_k", key),
        Tensor(f"{layer}.self_attn.v_proj", f"{block}.attn_v", "attn_v"),
        Tensor(f"{layer}.self_attn.o_proj", f"{block}.attn_output", "attn_output"),
        *(norms if qk_norm else ()),
        Tensor(f"{layer}.post_attention_layernorm", f"{block}.ffn_norm", "ffn_norm", suffixes=norm),
        Tensor(f"{layer}.mlp.gate_proj", f"{block}.ffn_gate", "ffn_gate"),
        Tensor(f"{layer}.mlp.up_proj", f"{block}.ffn_up", "ffn_up"),
        Tensor(f"{layer}.mlp.down_proj", f"{block}.ffn_down", "ffn_down"),
    )


#: Old checkpoints store each layer's inverse frequencies; everybody computes them.
INVERSE_FREQUENCIES = ("model.layers.{i}.self_attn.rotary_emb.inv_freq",)

LLAMA = Architecture(
    name="llama",
    gguf="llama",
    model_types={
        "llama": {"rms_norm_eps": 1e-6, "max_position_embeddings": 2048},
        "mistral": {"rms_norm_eps": 1e-6, "max_position_embeddings": 131072, "num_key_value_heads": 8},
    },
    tensors=decoder(permute=True),
    computed=(Computed("rope_freqs.weight", "rope_freqs", rope_factors),),
    dropped=INVERSE_FREQUENCIES,
    keys=("vocab_size", "rope.dimension_count"),
    states_space_prefix=True,
)
