"""The qwen3 architecture: qwen2 with a norm per head on q and k, and with head_dim in config.json.

Source: llama.cpp's conversion of Qwen3ForCausalLM; transformers' configuration defaults.
"""

from quantcli.models.base import EVERY_KIND, Architecture
from quantcli.models.decoder import decoder
from quantcli.models.families.qwen2 import DEFAULTS, SETTINGS, WINDOW_LAYERS
from quantcli.models.harmless import SWITCHED
from quantcli.models.limits import unset
from quantcli.models.sizes import ATTENTION_BIAS
from quantcli.models.stored import Setting, has

QWEN3 = Architecture(
    name="qwen3",
    gguf="qwen3",
    model_types={"qwen3": DEFAULTS | {"head_dim": 128}},
    tensors=decoder(qk_norm=True, bias=ATTENTION_BIAS),
    classes={"qwen3": "Qwen3ForCausalLM"},
    aliases=("Qwen3Model",),
    settings=(*SETTINGS, WINDOW_LAYERS, Setting("attention_bias", has("attn_q.bias"))),
    harmless=SWITCHED,
    mlx_scaling=EVERY_KIND,
    limits=(*unset("gguf", "attention_bias"), *unset("mlx", "attention_bias")),
)
