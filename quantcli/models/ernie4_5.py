"""The ernie4_5 architecture (dense).

Source: llama.cpp's conversion of Ernie4_5_ForCausalLM.
"""

from quantcli.models.base import Architecture
from quantcli.models.decoder import INVERSE_FREQUENCIES, decoder

ERNIE4_5 = Architecture(
    name="ernie4_5",
    gguf="ernie4_5",
    model_types={"ernie4_5": {}},
    tensors=decoder(),
    dropped=INVERSE_FREQUENCIES,
)
