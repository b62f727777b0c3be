"""The nemotron architecture: an MLP without a gate; norms with biases, their weights stored as the difference from 1.

Source: llama.cpp's conversion of NemotronForCausalLM.
"""

from quantcli.models.base import Architecture
from quantcli.models.decoder import PLAIN, decoder
from quantcli.models.hyperparameters import even_share
from quantcli.models.keys import HEAD_SIZES, RMS_EPS, ROPE, ROPE_DIMENSIONS, SIZES, VOCAB_SIZE, Key, layer_norm_eps
from quantcli.models.limits import square
from quantcli.models.ops import AddOne
from quantcli.models.sizes import ATTENTION_BIAS, MLP_BIAS
from quantcli.models.stored import Setting, Stored, has
from quantcli.tokenizers import conventions

NEMOTRON = Architecture(
    name="nemotron",
    gguf="nemotron",
    model_types={
        "nemotron": {
            "norm_eps": 1e-5,
            "max_position_embeddings": 4096,
            "head_dim": even_share,
            "partial_rotary_factor": 0.5,
        }
    },
    tensors=decoder(mlp=PLAIN, norm_ops=(AddOne(),), norm_bias=True, bias=ATTENTION_BIAS, mlp_bias=MLP_BIAS),
    keys=(*SIZES, *ROPE, Key(RMS_EPS.name, RMS_EPS.type, lambda h: h.norm_eps), *HEAD_SIZES),
    further=(
        VOCAB_SIZE,
        layer_norm_eps("norm_eps"),
        ROPE_DIMENSIONS,
        Key("rope.scaling.type", "string", lambda h: "none" if h.rope.factor is None else "linear"),
        Key("rope.scaling.factor", "float32", lambda h: h.rope.factor),
    ),
    classes={"nemotron": "NemotronForCausalLM"},
    settings=(
        Setting("hidden_act", "relu2"),
        Setting("attention_bias", has("attn_q.bias")),
        Setting("mlp_bias", has("ffn_up.bias")),
        Setting("partial_rotary_factor", Stored.rotary_share),
    ),
    vocabulary=conventions.NEMOTRON,
    stores_head=("gguf",),
    limits=square("gguf"),
    mlx_reads_activation=True,
    mlx_scaling=("linear",),
)
