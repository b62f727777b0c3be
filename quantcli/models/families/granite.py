"""The granite architecture: llama with multipliers in its metadata.

Source: llama.cpp's conversion of GraniteForCausalLM.
"""

from quantcli.models.base import EVERY_KIND, Architecture
from quantcli.models.decoder import PERMUTED, decoder
from quantcli.models.keys import RMS_EPS, ROPE, ROPE_DIMENSIONS, SIZES, VOCAB_SIZE, Key
from quantcli.models.limits import square
from quantcli.models.sizes import ATTENTION_BIAS, MLP_BIAS
from quantcli.models.stored import Setting, has
from quantcli.tokenizers import conventions

#: Key of GGUF -> key of config.json.
MULTIPLIERS = {
    "attention.scale": "attention_multiplier",
    "embedding_scale": "embedding_multiplier",
    "residual_scale": "residual_multiplier",
    "logit_scale": "logits_scaling",
}


def _multiplier(name: str, config: str) -> Key:
    """Return the row for a multiplier; 0 is not written. The default of attention's is 1 / sqrt(head_dim)."""
    scale = (lambda file: file.head_dim**-0.5) if name == "attention.scale" else None
    return Key(name, "float32", lambda h: h.settings.number(config, 1.0) or None, config, absent=scale)


#: The rows for all multipliers.
MULTIPLIER_KEYS = tuple(_multiplier(*pair) for pair in MULTIPLIERS.items())

GRANITE = Architecture(
    name="granite",
    gguf="granite",
    model_types={"granite": {"rms_norm_eps": 1e-6, "max_position_embeddings": 2048}},
    tensors=decoder(rotary=PERMUTED, bias=ATTENTION_BIAS, mlp_bias=MLP_BIAS),
    mlx_schemes=dict.fromkeys(("attn_output", "ffn_down", "output"), "affine8-g64"),
    states_space_prefix=True,
    keys=(*SIZES, *ROPE, RMS_EPS),
    further=(VOCAB_SIZE, ROPE_DIMENSIONS, *MULTIPLIER_KEYS),
    classes={"granite": "GraniteForCausalLM"},
    settings=(
        Setting("hidden_act", "silu"),
        Setting("attention_bias", has("attn_q.bias")),
        Setting("mlp_bias", has("ffn_up.bias")),
    ),
    constants={"rope.scaling.finetuned": True},
    vocabulary=conventions.GRANITE,
    limits=square("mlx"),
    mlx_scaling=EVERY_KIND,
    mlx_ties=("granite",),
)
