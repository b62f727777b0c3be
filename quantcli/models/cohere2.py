"""The cohere2 architecture (Command R7B, Command A): cohere with sliding windows.

Source: llama.cpp's conversion of Cohere2ForCausalLM.
"""

from quantcli.models.base import Architecture
from quantcli.models.decoder import INVERSE_FREQUENCIES, decoder

COHERE2 = Architecture(
    name="cohere2",
    gguf="cohere2",
    model_types={"cohere2": {}},
    tensors=decoder(norms={"input_layernorm": "attn_norm"}),
    dropped=INVERSE_FREQUENCIES,
)
