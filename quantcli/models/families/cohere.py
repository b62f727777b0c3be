"""The cohere architecture (Command R, Aya): one norm per layer, attention and MLP in parallel.

Source: llama.cpp's conversion of CohereForCausalLM.
"""

from quantcli.models.base import Architecture
from quantcli.models.decoder import QK_NORMS, decoder, rows
from quantcli.models.harmless import Harmless
from quantcli.models.keys import HEAD_SIZES, ROPE, SIZES, Key, layer_norm_eps
from quantcli.models.limits import Limit, square, unset
from quantcli.models.sizes import ATTENTION_BIAS, HEAD_DIM, N_HEADS, N_KV_HEADS, Axes, flag
from quantcli.models.stored import Setting, has
from quantcli.tokenizers import conventions

#: The largest model has a norm for each head.
QK_SHAPES: dict[str, Axes] = {"self_attn.q_norm": (N_HEADS, HEAD_DIM), "self_attn.k_norm": (N_KV_HEADS, HEAD_DIM)}

LOGIT_SCALE = Key("logit_scale", "float32", "logit_scale", absent=1.0)
NO_SCALING = Key("rope.scaling.type", "string", lambda h: "none")

#: How llama.cpp recognizes Command R+.
QK_NORM_LAYERS = "at least 64 layers if and only if use_qk_norm is true"

COHERE = Architecture(
    name="cohere",
    gguf="command-r",
    model_types={
        "cohere": {
            "layer_norm_eps": 1e-5,
            "max_position_embeddings": 8192,
            "rope_theta": 5e5,
            "logit_scale": 0.0625,
            "tie_word_embeddings": True,
        }
    },
    tensors=(
        *decoder(norms={"input_layernorm": "attn_norm"}, bias=ATTENTION_BIAS),
        *rows(QK_NORMS, needed=flag("use_qk_norm"), shapes=QK_SHAPES),
    ),
    names={"context_length": ("model_max_length", "max_position_embeddings")},
    keys=(*SIZES, *ROPE, layer_norm_eps("layer_norm_eps"), *HEAD_SIZES),
    further=(LOGIT_SCALE, NO_SCALING),
    classes={"cohere": "CohereForCausalLM"},
    settings=(
        Setting("hidden_act", "silu"),
        Setting("attention_bias", has("attn_q.bias")),
        Setting("use_qk_norm", has("attn_q_norm.weight")),
    ),
    harmless={
        "max_position_embeddings": Harmless("model_max_length replaces it", lambda config: "model_max_length" in config)
    },
    vocabulary=conventions.COHERE,
    headless=("gguf", "mlx"),
    limits=(
        *square("gguf", "mlx"),
        *unset("gguf", "attention_bias"),
        Limit("gguf", lambda h: h.settings.flag("use_qk_norm", False) == (h.layers >= 64), QK_NORM_LAYERS),
    ),
)
