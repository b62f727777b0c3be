"""The granite architecture: llama with multipliers in its metadata.

Source: llama.cpp's conversion of GraniteForCausalLM.
"""

from quantcli.models.base import Architecture
from quantcli.models.decoder import INVERSE_FREQUENCIES, decoder

GRANITE = Architecture(
    name="granite",
    gguf="granite",
    model_types={"granite": {}},
    tensors=decoder(permute=True),
    dropped=INVERSE_FREQUENCIES,
)
