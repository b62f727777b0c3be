"""The exaone4 architecture: norms after attention and MLP, and per head on q and k.

Source: llama.cpp's conversion of Exaone4ForCausalLM.
"""

from quantcli.models.base import Architecture
from quantcli.models.decoder import INVERSE_FREQUENCIES, POST_NORMS, decoder
from quantcli.models.llama import ROPE_FREQS

EXAONE4 = Architecture(
    name="exaone4",
    gguf="exaone4",
    model_types={"exaone4": {}},
    tensors=decoder(norms=POST_NORMS, qk_norm=True),
    dropped=INVERSE_FREQUENCIES,
    computed=(ROPE_FREQS,),
)
