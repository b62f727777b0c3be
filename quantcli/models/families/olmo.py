"""The olmo architecture (OLMo 1): norms without weights, q, k and v clamped; mlx-lm supports only another layout.

Source: llama.cpp's conversion of OlmoForCausalLM.
"""

from quantcli.models.base import Architecture, Tensor
from quantcli.models.decoder import GATED, PERMUTED, attention, rows
from quantcli.models.keys import HEAD_SIZES, ROPE, SIZES, Key
from quantcli.models.limits import Limit, square
from quantcli.models.sizes import ATTENTION_BIAS, HIDDEN, VOCAB
from quantcli.models.stored import Setting
from quantcli.tokenizers import conventions

#: transformers' class has this epsilon built in, and config.json no key for it.
EPSILON = 1e-5

OLMO = Architecture(
    name="olmo",
    gguf="olmo",
    model_types={"olmo": {"layer_norm_eps": EPSILON, "max_position_embeddings": 2048}},
    tensors=(
        Tensor("model.embed_tokens", "token_embd", suffixes=("weight",), shape=(VOCAB, HIDDEN)),
        Tensor("lm_head", "output", optional=True, shape=(VOCAB, HIDDEN)),
        *attention(PERMUTED, bias=ATTENTION_BIAS),
        *rows(GATED),
    ),
    keys=(*SIZES, *ROPE, *HEAD_SIZES),
    further=(
        Key("attention.layer_norm_epsilon", "float32", lambda h: EPSILON, required=True),
        Key("attention.clamp_kqv", "float32", "clip_qkv"),
    ),
    classes={"olmo": "OlmoForCausalLM"},
    aliases=("OLMoForCausalLM",),
    settings=(Setting("hidden_act", "silu"), Setting("attention_bias", False)),
    constants={"attention.layer_norm_epsilon": EPSILON},
    vocabulary=conventions.OLMO,
    limits=(
        *square("gguf"),
        Limit(
            "mlx",
            lambda h: False,
            "the settings and tensors of OLMo's first releases, before transformers supported them",
            excludes=("olmo",),
        ),
    ),
)
