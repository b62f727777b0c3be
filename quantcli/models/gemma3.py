"""The gemma3 architecture (text): gemma2 with a norm per head on q and k.

Source: llama.cpp's conversion of Gemma3ForCausalLM.
"""

from quantcli.models.base import Architecture
from quantcli.models.decoder import BOTH_NORMS, INVERSE_FREQUENCIES, decoder
from quantcli.models.ops import AddOne

GEMMA3 = Architecture(
    name="gemma3",
    gguf="gemma3",
    model_types={"gemma3_text": {}},
    tensors=decoder(norms=BOTH_NORMS, qk_norm=True, norm_ops=(AddOne(),)),
    dropped=INVERSE_FREQUENCIES,
)
