"""The starcoder2 architecture: biases everywhere, an MLP without gate.

Source: llama.cpp's conversion of Starcoder2ForCausalLM.
"""

from quantcli.models.base import Architecture
from quantcli.models.decoder import INVERSE_FREQUENCIES, decoder

STARCODER2 = Architecture(
    name="starcoder2",
    gguf="starcoder2",
    model_types={"starcoder2": {}},
    tensors=decoder(mlp={"mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down"}, norm_bias=True),
    dropped=INVERSE_FREQUENCIES,
)
