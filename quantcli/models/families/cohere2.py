"""The cohere2 architecture (Command R7B, Command A): cohere with sliding windows.

Source: llama.cpp's conversion of Cohere2ForCausalLM.
"""

from dataclasses import replace

from quantcli.models.base import Architecture
from quantcli.models.decoder import decoder
from quantcli.models.families.cohere import LOGIT_SCALE, NO_SCALING
from quantcli.models.hyperparameters import even_share
from quantcli.models.keys import HEAD_SIZES, ROPE, ROPE_DIMENSIONS, SIZES, SLIDING_WINDOW, VOCAB_SIZE, layer_norm_eps
from quantcli.models.layer_kinds import NEEDS_PERIOD, every, stated_period
from quantcli.models.limits import square, unset
from quantcli.models.sizes import ATTENTION_BIAS
from quantcli.models.stored import Setting, Stored, has, period_of_windows, unusual_kinds
from quantcli.tokenizers import conventions

COHERE2 = Architecture(
    name="cohere2",
    gguf="cohere2",
    model_types={
        "cohere2": {
            "layer_norm_eps": 1e-5,
            "max_position_embeddings": 8192,
            "head_dim": even_share,
            "logit_scale": 0.0625,
            "sliding_window": 4096,
            "tie_word_embeddings": True,
        }
    },
    tensors=decoder(norms={"input_layernorm": "attn_norm"}, bias=ATTENTION_BIAS),
    names={"partial": ("rotary_pct", "partial_rotary_factor")},
    keys=(*SIZES, *ROPE, layer_norm_eps("layer_norm_eps"), *HEAD_SIZES),
    further=(LOGIT_SCALE, replace(SLIDING_WINDOW, required=True), VOCAB_SIZE, ROPE_DIMENSIONS, NO_SCALING),
    constants={"rope.dimension_count": lambda h: h.head_dim},  # no reader supports rotary_pct
    classes={"cohere2": "Cohere2ForCausalLM"},
    settings=(
        Setting("hidden_act", "silu"),
        Setting("attention_bias", has("attn_q.bias")),
        Setting("rotary_pct", Stored.rotary_share),
        Setting("layer_types", unusual_kinds(4)),
        Setting("sliding_window_pattern", period_of_windows(4)),
    ),
    expects=(
        Setting("layer_switch", 4),
        Setting("layer_types", every(4)),
        Setting("order_of_interleaved_layers", "local_attn_first"),
        Setting("position_embedding_type", "rope_gptj"),
        Setting("use_gated_activation", True),
        Setting("use_parallel_block", True),
    ),
    vocabulary=conventions.COHERE,
    headless=("gguf", "mlx"),
    limits=(*square("gguf", "mlx"), *unset("gguf", "attention_bias"), NEEDS_PERIOD),
    mlx_keys=("head_dim",),
    mlx_config=stated_period,
)
