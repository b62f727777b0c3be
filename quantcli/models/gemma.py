"""The gemma architecture: norms stored as their distance from 1.

Source: llama.cpp's conversion of GemmaForCausalLM.
"""

from quantcli.models.base import Architecture
from quantcli.models.decoder import INVERSE_FREQUENCIES, decoder
from quantcli.models.ops import AddOne

GEMMA = Architecture(
    name="gemma",
    gguf="gemma",
    model_types={"gemma": {}},
    tensors=decoder(norm_ops=(AddOne(),)),
    dropped=INVERSE_FREQUENCIES,
)
