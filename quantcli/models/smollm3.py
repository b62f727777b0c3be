"""The smollm3 architecture: llama with layers that have no rotary embedding, their rows permuted all the same.

Source: llama.cpp's conversion of SmolLM3ForCausalLM.
"""

from quantcli.models.base import Architecture
from quantcli.models.decoder import INVERSE_FREQUENCIES, decoder

SMOLLM3 = Architecture(
    name="smollm3",
    gguf="smollm3",
    model_types={"smollm3": {}},
    tensors=decoder(permute=True),
    dropped=INVERSE_FREQUENCIES,
)
