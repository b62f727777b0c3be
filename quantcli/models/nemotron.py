"""The nemotron architecture: an MLP without gate; norms with biases, their weights stored as their distance from 1.

Source: llama.cpp's conversion of NemotronForCausalLM.
"""

from quantcli.models.base import Architecture
from quantcli.models.decoder import INVERSE_FREQUENCIES, PLAIN, decoder
from quantcli.models.ops import AddOne

NEMOTRON = Architecture(
    name="nemotron",
    gguf="nemotron",
    model_types={"nemotron": {}},
    tensors=decoder(mlp=PLAIN, norm_ops=(AddOne(),), norm_bias=True),
    dropped=INVERSE_FREQUENCIES,
)
