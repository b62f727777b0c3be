"""The glm4_moe_lite architecture (GLM-4.7-Flash): deepseek_v3 with GLM's vocabulary, which llama.cpp runs as deepseek2.

GGUF keeps the layer for multi-token prediction, unlike DeepSeek V3's.

Source: llama.cpp's conversion of Glm4MoeLiteForCausalLM; mlx-lm's glm4_moe_lite; transformers' Glm4MoeLiteConfig.
"""

from dataclasses import replace

from quantcli.models.families.deepseek import (
    DEEPSEEK_V3,
    DEFAULTS,
    FOLLOWING,
    FURTHER,
    KEYS,
    LATENT,
    RANKS,
    first_dense,
    is_glm,
    kinds_of_mlp,
)
from quantcli.models.families.glm4_moe import ALL_BLOCKS, next_layers
from quantcli.models.hyperparameters import Hyperparameters
from quantcli.models.keys import GATING, Key
from quantcli.models.stored import Setting
from quantcli.tokenizers import conventions

#: Sizes of the published models, for which llama.cpp uses a sigmoid if the router's function is missing.
KNOWN_LAYERS, KNOWN_TOKENS = (47, 48), 154880


def _gating(h: Hyperparameters) -> int | None:
    """Return llama.cpp's number for the router's function; None for published models, whose config.json lacks it."""
    is_known = h.layers in KNOWN_LAYERS and h.vocab_size == KNOWN_TOKENS
    return None if is_known and not h.settings.has("scoring_func") else GATING["sigmoid"]


GLM4_MOE_LITE = replace(
    DEEPSEEK_V3,
    name="glm4_moe_lite",
    when=is_glm,
    model_types={
        "glm4_moe_lite": DEFAULTS
        | {
            "rms_norm_eps": 1e-5,
            "max_position_embeddings": 202752,
            "q_lora_rank": 768,
            "qk_nope_head_dim": 192,
            "v_head_dim": 256,
            "n_routed_experts": 64,
            "n_shared_experts": 1,
            "num_experts_per_tok": 4,
            "n_group": 1,
            "topk_group": 1,
            "moe_intermediate_size": 1536,
            "routed_scaling_factor": 1.8,
            "first_k_dense_replace": first_dense(1),
            "norm_topk_prob": True,
        }
    },
    mtp=("hf", "gguf"),
    keys=(ALL_BLOCKS, *KEYS[1:-1], Key("expert_gating_func", "uint32", _gating)),
    further=(
        *RANKS,
        *LATENT,
        *FURTHER,
        Key("nextn_predict_layers", "uint32", lambda h: next_layers(h) or None),
    ),
    classes={"glm4_moe_lite": "Glm4MoeLiteForCausalLM"},
    expects=(*DEEPSEEK_V3.expects, *FOLLOWING),
    harmless={},
    settings=(*DEEPSEEK_V3.settings, Setting("mlp_layer_types", kinds_of_mlp)),
    vocabulary=conventions.GLM4_MOE,
    mlx_keys=("first_k_dense_replace",),
)
