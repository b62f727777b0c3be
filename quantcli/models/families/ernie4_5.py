"""The ernie4_5 architecture (dense).

Source: llama.cpp's conversion of Ernie4_5_ForCausalLM.
"""

from quantcli.models.base import Architecture
from quantcli.models.decoder import decoder
from quantcli.models.limits import unset
from quantcli.models.sizes import flag
from quantcli.models.stored import Setting, has

BIAS = flag("use_bias")

ERNIE4_5 = Architecture(
    name="ernie4_5",
    gguf="ernie4_5",
    model_types={
        "ernie4_5": {
            "rms_norm_eps": 1e-5,
            "max_position_embeddings": 131072,
            "num_key_value_heads": 2,
            "head_dim": 128,
            "rope_theta": 5e5,
            "tie_word_embeddings": True,
        }
    },
    tensors=decoder(bias=BIAS, mlp_bias=BIAS),
    classes={"ernie4_5": "Ernie4_5ForCausalLM"},
    aliases=("Ernie4_5_ForCausalLM",),
    settings=(Setting("hidden_act", "silu"), Setting("use_bias", has("attn_q.bias"))),
    limits=unset("gguf", "use_bias"),
)
