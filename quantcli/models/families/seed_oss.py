"""The seed_oss architecture (Seed-OSS 36B): biases on q, k and v, and in GGUF another name for the norm before the MLP.

Source: llama.cpp's conversion of SeedOssForCausalLM; mlx-lm's seed_oss.
"""

from quantcli.models.base import EVERY_KIND, Architecture
from quantcli.models.decoder import decoder
from quantcli.models.limits import unset
from quantcli.models.sizes import MLP_BIAS, flag
from quantcli.models.stored import Setting, has

SEED_OSS = Architecture(
    name="seed_oss",
    gguf="seed_oss",
    model_types={
        "seed_oss": {
            "rms_norm_eps": 1e-6,
            "max_position_embeddings": 524288,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "attention_bias": True,
        }
    },
    tensors=decoder(
        norms={"input_layernorm": "attn_norm", "post_attention_layernorm": "post_attention_norm"},
        bias=flag("attention_bias", True),
        output_bias=flag("attention_out_bias"),
        mlp_bias=MLP_BIAS,
    ),
    classes={"seed_oss": "SeedOssForCausalLM"},
    settings=(
        Setting("hidden_act", "silu"),
        Setting("attention_bias", has("attn_q.bias")),
        Setting("attention_out_bias", has("attn_output.bias")),
        Setting("mlp_bias", has("ffn_up.bias")),
    ),
    mlx_scaling=EVERY_KIND,
    limits=unset("gguf", "attention_out_bias", "mlp_bias"),
    mlx_ties=("seed_oss",),
    mlx_keys=("attention_bias", "head_dim", "max_position_embeddings", "num_key_value_heads", "rms_norm_eps"),
)
