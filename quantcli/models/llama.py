"""The llama architecture: Llama, Mistral, InternLM 3 and what is published under their types (Yi, SmolLM ...).

Source: llama.cpp's conversion of LlamaForCausalLM, MistralForCausalLM and InternLM3ForCausalLM; transformers'
configuration defaults.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from quantcli.models.base import Architecture, Computed
from quantcli.models.decoder import INVERSE_FREQUENCIES, decoder
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


ROPE_FREQS = Computed("rope_freqs.weight", rope_factors)

LLAMA = Architecture(
    name="llama",
    gguf="llama",
    model_types={
        "llama": {"rms_norm_eps": 1e-6, "max_position_embeddings": 2048},
        "internlm3": {"rms_norm_eps": 1e-6, "max_position_embeddings": 32768},
        "mistral": {"rms_norm_eps": 1e-6, "max_position_embeddings": 131072, "num_key_value_heads": 8},
    },
    tensors=decoder(permute=True),
    computed=(ROPE_FREQS,),
    dropped=INVERSE_FREQUENCIES,
    keys=("vocab_size", "rope.dimension_count"),
    states_space_prefix=True,
)
