"""The glm4 architecture (GLM-4-0414): norms before and after attention and MLP, gate and up in one matrix.

Source: llama.cpp's conversion of Glm4ForCausalLM.
"""

from quantcli.models.base import Architecture
from quantcli.models.decoder import FUSED, INVERSE_FREQUENCIES, PRE_NORMS, decoder
from quantcli.models.keys import ROPE_DIMENSIONS
from quantcli.models.sizes import NEVER, flag
from quantcli.models.stored import Setting, Stored, has
from quantcli.tokenizers import conventions

NORMS = PRE_NORMS | {"post_self_attn_layernorm": "post_attention_norm", "post_mlp_layernorm": "post_ffw_norm"}


#: GLM's text starts with tokens of the chat template; the one that GGUF names is the converter's.
NO_START = (Setting("bos_token_id", None),)

GLM4 = Architecture(
    name="glm4",
    gguf="glm4",
    model_types={
        "glm4": {
            "rms_norm_eps": 1.5625e-7,
            "max_position_embeddings": 131072,
            "num_key_value_heads": 2,
            "head_dim": 128,
            "partial_rotary_factor": 0.5,
            "attention_bias": True,
        }
    },
    tensors=decoder(norms=NORMS, mlp=FUSED, bias=flag("attention_bias", True), output_bias=NEVER),
    dropped=INVERSE_FREQUENCIES,
    further=(ROPE_DIMENSIONS,),
    classes={"glm4": "Glm4ForCausalLM"},
    settings=(
        *NO_START,
        Setting("hidden_act", "silu"),
        Setting("attention_bias", has("attn_q.bias")),
        Setting("partial_rotary_factor", Stored.rotary_share),
    ),
    vocabulary=conventions.GLM4,
)
