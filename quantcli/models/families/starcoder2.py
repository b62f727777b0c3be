"""The starcoder2 architecture: biases everywhere, an MLP without a gate.

Source: llama.cpp's conversion of Starcoder2ForCausalLM.
"""

from quantcli.models.base import Architecture
from quantcli.models.decoder import decoder
from quantcli.models.keys import HEAD_SIZES, ROPE, SIZES, layer_norm_eps
from quantcli.models.limits import square
from quantcli.models.sizes import HIDDEN, INNER, flag
from quantcli.models.stored import Setting, has
from quantcli.tokenizers import conventions

BIAS = flag("use_bias", True)

STARCODER2 = Architecture(
    name="starcoder2",
    gguf="starcoder2",
    model_types={
        "starcoder2": {
            "norm_epsilon": 1e-5,
            "max_position_embeddings": 4096,
            "num_key_value_heads": 2,
            "tie_word_embeddings": True,
            "use_bias": True,
        }
    },
    tensors=decoder(
        mlp={"mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down"},
        norm_bias=True,
        bias=BIAS,
        mlp_bias=BIAS,
        shapes={"mlp.c_fc": (INNER, HIDDEN), "mlp.c_proj": (HIDDEN, INNER)},
    ),
    keys=(*SIZES, *ROPE, layer_norm_eps("norm_epsilon"), *HEAD_SIZES),
    classes={"starcoder2": "Starcoder2ForCausalLM"},
    settings=(
        Setting("hidden_act", "gelu_pytorch_tanh"),
        Setting("sliding_window", None),
        Setting("use_bias", has("attn_q.bias")),
    ),
    expects=(
        Setting("activation_function", ("gelu_pytorch_tanh", "gelu")),
        Setting("mlp_type", "default"),
        Setting("norm_type", "layer_norm"),
        Setting("scale_attn_weights", True),
    ),
    vocabulary=conventions.STARCODER2,
    limits=square("gguf", "mlx"),
)
