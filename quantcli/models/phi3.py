"""The phi3 architecture (Phi-3, Phi-4): q, k, v in one matrix, gate and up in one, in both dialects.

Source: llama.cpp's conversion of Phi3ForCausalLM.
"""

import numpy as np
from numpy.typing import NDArray

from quantcli.models.base import Architecture, Computed
from quantcli.models.decoder import FUSED, INVERSE_FREQUENCIES, PRE_NORMS, ends, norm_rows, rows
from quantcli.models.hyperparameters import Hyperparameters

ATTENTION = {"self_attn.qkv_proj": "attn_qkv", "self_attn.o_proj": "attn_output"}


def long_factors(hyperparameters: Hyperparameters) -> NDArray[np.float32] | None:
    """longrope's divisor of each rotary frequency beyond the original context, float32 (rotary_dim / 2,)."""
    return _floats(hyperparameters.rope.long_factors)


def short_factors(hyperparameters: Hyperparameters) -> NDArray[np.float32] | None:
    """The same within the original context."""
    return _floats(hyperparameters.rope.short_factors)


def _floats(factors: tuple[float, ...] | None) -> NDArray[np.float32] | None:
    return None if factors is None else np.asarray(factors, np.float32)


PHI3 = Architecture(
    name="phi3",
    gguf="phi3",
    model_types={"phi3": {}},
    tensors=(*ends(), *norm_rows(PRE_NORMS), *rows(ATTENTION), *rows(FUSED)),
    computed=(
        Computed("rope_factors_long.weight", long_factors),
        Computed("rope_factors_short.weight", short_factors),
    ),
    dropped=INVERSE_FREQUENCIES,
)
