"""The glm4 architecture (GLM-4-0414): norms before and after attention and MLP, gate and up in one matrix.

Source: llama.cpp's conversion of Glm4ForCausalLM.
"""

from quantcli.models.base import Architecture
from quantcli.models.decoder import FUSED, INVERSE_FREQUENCIES, PRE_NORMS, decoder

NORMS = PRE_NORMS | {"post_self_attn_layernorm": "post_attention_norm", "post_mlp_layernorm": "post_ffw_norm"}

GLM4 = Architecture(
    name="glm4",
    gguf="glm4",
    model_types={"glm4": {}},
    tensors=decoder(norms=NORMS, mlp=FUSED),
    dropped=INVERSE_FREQUENCIES,
)
