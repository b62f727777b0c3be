"""The olmo2 architecture (OLMo 2 and 3): norms after attention and MLP, and on the whole of q and k.

Source: llama.cpp's conversion of Olmo2ForCausalLM and Olmo3ForCausalLM.
"""

from quantcli.models.base import Architecture
from quantcli.models.decoder import INVERSE_FREQUENCIES, POST_NORMS, decoder

OLMO2 = Architecture(
    name="olmo2",
    gguf="olmo2",
    model_types={"olmo2": {}, "olmo3": {}},
    tensors=decoder(norms=POST_NORMS, qk_norm=True),
    dropped=INVERSE_FREQUENCIES,
)
