"""The gemma3 architecture (text): gemma2 with a norm per head on q and k.

Source: llama.cpp's conversion of Gemma3ForCausalLM.
"""

from quantcli.models.base import EVERY_KIND, Architecture
from quantcli.models.decoder import BOTH_NORMS, decoder
from quantcli.models.families.gemma import ACTIVATION, BIAS
from quantcli.models.families.gemma2 import SCORES, query_scalar
from quantcli.models.keys import HEAD_SIZES, LOCAL_FREQ_BASE, RMS_EPS, ROPE, SIZES, SLIDING_WINDOW, Key
from quantcli.models.layer_kinds import NEEDS_PERIOD, PERIOD, every, stated_period
from quantcli.models.limits import unset
from quantcli.models.multimodal import Multimodal
from quantcli.models.ops import AddOne
from quantcli.models.sixteen_bits import CLIPPED, REFUSED, bf16_only
from quantcli.models.sizes import ATTENTION_BIAS
from quantcli.models.stored import Setting, period_of_windows, unusual_kinds
from quantcli.tokenizers import conventions

MULTIMODAL = Multimodal(
    "gemma3",
    "Gemma3ForConditionalGeneration",
    "gemma3_text",
    mlx="language_model.",
    mlx_around=("vocab_size",),
)


GEMMA3 = Architecture(
    name="gemma3",
    gguf="gemma3",
    model_types={
        "gemma3_text": {
            "rms_norm_eps": 1e-6,
            "max_position_embeddings": 131072,
            "vocab_size": 262208,
            "hidden_size": 2304,
            "intermediate_size": 9216,
            "num_hidden_layers": 26,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 256,
            "tie_word_embeddings": True,
            "rope_theta": 1e6,
            "rope_local_base_freq": 1e4,
            "sliding_window": 4096,
        }
    },
    tensors=decoder(norms=BOTH_NORMS, qk_norm=True, norm_ops=(AddOne(),), bias=ATTENTION_BIAS),
    keys=(*SIZES, *ROPE, LOCAL_FREQ_BASE, RMS_EPS, *HEAD_SIZES),
    further=(Key("final_logit_softcapping", "float32", "final_logit_softcapping"), SLIDING_WINDOW),
    classes={"gemma3_text": "Gemma3ForCausalLM"},
    multimodal=(MULTIMODAL,),
    settings=(
        Setting("hidden_activation", ACTIVATION),
        Setting("query_pre_attn_scalar", query_scalar(layers=62)),
        Setting("layer_types", unusual_kinds(6, optional=True)),
        Setting("sliding_window_pattern", period_of_windows(6, optional=True)),
    ),
    expects=(BIAS, Setting("layer_types", every(6))),
    constants=SCORES,
    vocabulary=conventions.GEMMA2,
    # In float16 transformers' class generates only <pad>, and vLLM refuses it.
    sixteen_bits=bf16_only(REFUSED, CLIPPED),
    mlx_scaling=EVERY_KIND,
    limits=(*unset("gguf", "attention_bias"), *unset("mlx", "attention_bias"), NEEDS_PERIOD),
    mlx_keys=(
        "model_type",
        "head_dim",
        "hidden_size",
        "intermediate_size",
        "num_attention_heads",
        "num_hidden_layers",
        "num_key_value_heads",
        "rms_norm_eps",
        "rope_local_base_freq",
        "rope_scaling",
        "rope_theta",
        "sliding_window",
        PERIOD,
        "vocab_size",
    ),
    mlx_config=stated_period,
)
