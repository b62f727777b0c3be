"""The gemma architecture: norms stored as their difference from 1.

Source: llama.cpp's conversion of GemmaForCausalLM.
"""

from quantcli.models.base import Architecture
from quantcli.models.decoder import decoder
from quantcli.models.keys import BLOCKS, CONTEXT, EMBEDDING, FEED_FORWARD, HEAD_SIZES, HEADS, KV_HEADS, RMS_EPS
from quantcli.models.limits import unset
from quantcli.models.ops import AddOne
from quantcli.models.sizes import ATTENTION_BIAS
from quantcli.models.stored import Setting, has
from quantcli.tokenizers import conventions

#: Gemma and Gemma 2: llama.cpp's converter uses another order, and does not write the rotary base.
KEYS = (CONTEXT, EMBEDDING, BLOCKS, FEED_FORWARD, HEADS, KV_HEADS, RMS_EPS, *HEAD_SIZES)
ACTIVATION = "gelu_pytorch_tanh"
BIAS = Setting("attention_bias", has("attn_q.bias"))

GEMMA = Architecture(
    name="gemma",
    gguf="gemma",
    model_types={
        "gemma": {
            "rms_norm_eps": 1e-6,
            "max_position_embeddings": 8192,
            "num_key_value_heads": 16,
            "head_dim": 256,
            "tie_word_embeddings": True,
        }
    },
    tensors=decoder(norm_ops=(AddOne(),), bias=ATTENTION_BIAS),
    keys=KEYS,
    classes={"gemma": "GemmaForCausalLM"},
    settings=(Setting("hidden_act", ACTIVATION), Setting("hidden_activation", ACTIVATION)),
    expects=(BIAS, Setting("hidden_act", ("gelu", ACTIVATION))),
    vocabulary=conventions.GEMMA,
    headless=("gguf", "mlx"),
    limits=(*unset("gguf", "attention_bias"), *unset("mlx", "attention_bias")),
)
