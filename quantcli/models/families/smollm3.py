"""The smollm3 architecture: llama with some layers that have no rotary embedding but permuted rows.

Source: llama.cpp's conversion of SmolLM3ForCausalLM.
"""

from quantcli.models.base import EVERY_KIND, Architecture
from quantcli.models.decoder import PERMUTED, decoder
from quantcli.models.families.qwen2 import SETTINGS
from quantcli.models.harmless import SWITCHED
from quantcli.models.keys import ROPE_DIMENSIONS, VOCAB_SIZE
from quantcli.models.limits import unset
from quantcli.models.sizes import ATTENTION_BIAS, MLP_BIAS
from quantcli.models.stored import Setting, Stored, has

#: Every fourth layer has no rotary embedding, which llama.cpp has built in.
INTERVAL = 4


def layers_with_rope(file: Stored) -> list[int]:
    """Return `no_rope_layers`, which despite its name is 1 for layers with rotary embedding."""
    return [int((layer + 1) % INTERVAL != 0) for layer in range(file.trunk)]


SMOLLM3 = Architecture(
    name="smollm3",
    gguf="smollm3",
    model_types={
        "smollm3": {
            "rms_norm_eps": 1e-6,
            "max_position_embeddings": 32768,
            "num_key_value_heads": 4,
            "rope_theta": 2e6,
            "tie_word_embeddings": True,
            "use_sliding_window": False,
        }
    },
    tensors=decoder(rotary=PERMUTED, bias=ATTENTION_BIAS, mlp_bias=MLP_BIAS),
    states_space_prefix=True,
    further=(VOCAB_SIZE, ROPE_DIMENSIONS),
    classes={"smollm3": "SmolLM3ForCausalLM"},
    settings=(
        *SETTINGS,
        Setting("attention_bias", has("attn_q.bias")),
        Setting("mlp_bias", has("ffn_up.bias")),
        Setting("no_rope_layer_interval", INTERVAL),
        Setting("no_rope_layers", layers_with_rope),
    ),
    harmless=SWITCHED,
    mlx_scaling=EVERY_KIND,
    limits=unset("gguf", "attention_bias", "mlp_bias"),
)
