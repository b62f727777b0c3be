"""The cohere architecture (Command R, Aya): one norm a layer, attention and MLP in parallel.

Source: llama.cpp's conversion of CohereForCausalLM.
"""

from quantcli.models.base import Architecture
from quantcli.models.decoder import INVERSE_FREQUENCIES, QK_NORMS, decoder, rows

COHERE = Architecture(
    name="cohere",
    gguf="command-r",
    model_types={"cohere": {}},
    tensors=(*decoder(norms={"input_layernorm": "attn_norm"}), *rows(QK_NORMS, optional=True)),
    dropped=INVERSE_FREQUENCIES,
)
