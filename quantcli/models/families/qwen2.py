"""The qwen2 architecture (Qwen 1.5, 2, 2.5, QwQ): biases on q, k and v, no permuted rows.

Source: llama.cpp's conversion of Qwen2ForCausalLM; transformers' configuration defaults.
"""

from quantcli.models.base import EVERY_KIND, Architecture
from quantcli.models.decoder import decoder
from quantcli.models.harmless import SWITCHED
from quantcli.models.limits import square
from quantcli.models.sizes import ALWAYS, NEVER
from quantcli.models.stored import Setting

DEFAULTS = {
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 32768,
    "num_key_value_heads": 32,
    "use_sliding_window": False,
}


#: GGUF has no keys for sliding windows in this family: llama.cpp runs these models without them.
SETTINGS = (
    Setting("hidden_act", "silu"),
    Setting("sliding_window", None),
    Setting("use_sliding_window", False),
)
WINDOW_LAYERS = Setting("max_window_layers", lambda file: file.trunk)

QWEN2 = Architecture(
    name="qwen2",
    gguf="qwen2",
    model_types={"qwen2": DEFAULTS},
    tensors=decoder(bias=ALWAYS, output_bias=NEVER),
    classes={"qwen2": "Qwen2ForCausalLM"},
    aliases=("Qwen2Model",),
    settings=(*SETTINGS, WINDOW_LAYERS),
    harmless=SWITCHED,
    limits=square("gguf", "mlx"),
    mlx_scaling=EVERY_KIND,
    mlx_ties=("qwen2",),
)
