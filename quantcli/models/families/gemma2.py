"""The gemma2 architecture: norms before and after attention and MLP, stored as their difference from 1.

Source: llama.cpp's conversion of Gemma2ForCausalLM.
"""

from collections.abc import Callable

from quantcli.models.base import Architecture
from quantcli.models.decoder import BOTH_NORMS, decoder
from quantcli.models.families.gemma import ACTIVATION, BIAS, KEYS
from quantcli.models.keys import SLIDING_WINDOW, Key
from quantcli.models.layer_kinds import every
from quantcli.models.limits import unset
from quantcli.models.ops import AddOne
from quantcli.models.sixteen_bits import REFUSED, bf16_only
from quantcli.models.sizes import ATTENTION_BIAS
from quantcli.models.stored import Setting, Stored, unusual_kinds
from quantcli.tokenizers import conventions


def query_scalar(layers: int) -> Callable[[Stored], int]:
    """Return a function for `query_pre_attn_scalar` as llama.cpp has it built in: the size of a head.

    Queries are divided by its root. The 27B model has its hidden size divided by its number of heads instead. layers:
    the 27B model's, by which llama.cpp recognizes it.
    """

    def scalar(file: Stored) -> int:
        largest = file.own.integer("block_count") == layers
        return file.own.integer("embedding_length") // file.heads if largest else file.head_dim

    return scalar


#: The same scale as llama.cpp's model saver writes it.
SCORES = {"attention.scale": lambda h: h.settings.number("query_pre_attn_scalar") ** -0.5}
#: llama.cpp's defaults; it always caps these models' logits.
CAPS = {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}


def _cap(name: str, usual: float) -> Callable[[Stored], float]:
    return lambda file: file.number(name) or usual


GEMMA2 = Architecture(
    name="gemma2",
    gguf="gemma2",
    model_types={
        "gemma2": {
            "rms_norm_eps": 1e-6,
            "max_position_embeddings": 8192,
            "num_key_value_heads": 4,
            "head_dim": 256,
            "tie_word_embeddings": True,
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
            "sliding_window": 4096,
        }
    },
    tensors=decoder(norms=BOTH_NORMS, norm_ops=(AddOne(),), bias=ATTENTION_BIAS),
    keys=KEYS,
    further=(
        Key("attn_logit_softcapping", "float32", "attn_logit_softcapping"),
        Key("final_logit_softcapping", "float32", "final_logit_softcapping"),
        SLIDING_WINDOW,
    ),
    classes={"gemma2": "Gemma2ForCausalLM"},
    settings=(
        Setting("hidden_act", ACTIVATION),
        Setting("hidden_activation", ACTIVATION),
        Setting("layer_types", unusual_kinds(2)),
        Setting("query_pre_attn_scalar", query_scalar(layers=46)),
    ),
    expects=(
        BIAS,
        *(Setting(name, _cap(name, usual)) for name, usual in CAPS.items()),
        Setting("layer_types", every(2)),
        Setting("sliding_window_size", lambda file: file.own.optional_integer(SLIDING_WINDOW.name)),
    ),
    constants=SCORES,
    vocabulary=conventions.GEMMA2,
    headless=("gguf", "mlx"),
    sixteen_bits=bf16_only(REFUSED),  # vLLM; onnxruntime-genai warns about it too
    limits=(*unset("gguf", "attention_bias"), *unset("mlx", "attention_bias")),
)
