"""The gemma2 architecture: norms before and after attention and MLP, stored as their distance from 1.

Source: llama.cpp's conversion of Gemma2ForCausalLM.
"""

from quantcli.models.base import Architecture
from quantcli.models.decoder import BOTH_NORMS, INVERSE_FREQUENCIES, decoder
from quantcli.models.ops import AddOne

GEMMA2 = Architecture(
    name="gemma2",
    gguf="gemma2",
    model_types={"gemma2": {}},
    tensors=decoder(norms=BOTH_NORMS, norm_ops=(AddOne(),)),
    dropped=INVERSE_FREQUENCIES,
)
