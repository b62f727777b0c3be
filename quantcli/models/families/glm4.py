"""The glm4 architecture (GLM-4-0414): norms before and after attention and MLP, gate and up in one matrix.

The text model of a model with M-RoPE (GLM-4.1V and later) has rotary rows in another order in GGUF.

Source: llama.cpp's conversion of Glm4ForCausalLM and Glm4vForConditionalGeneration.
"""

from quantcli.models.base import Architecture
from quantcli.models.decoder import FUSED, PRE_NORMS, Rotary, decoder
from quantcli.models.keys import FREQ_BASE, HEAD_SIZES, RMS_EPS, ROPE, ROPE_DIMENSIONS, SECTIONS, SIZES
from quantcli.models.limits import unknown_to_mlx
from quantcli.models.multimodal import Multimodal
from quantcli.models.ops import MropeRows
from quantcli.models.rope_settings import scaling_with_sections
from quantcli.models.sixteen_bits import REFUSED, bf16_only
from quantcli.models.sizes import NEVER, flag
from quantcli.models.stored import Setting, Stored, has
from quantcli.tokenizers import conventions

NORMS = PRE_NORMS | {"post_self_attn_layernorm": "post_attention_norm", "post_mlp_layernorm": "post_ffw_norm"}
#: The order of the rows of q and k.
ROTARY: Rotary = {
    "self_attn.q_proj": (MropeRows("heads"),),
    "self_attn.k_proj": (MropeRows("kv_heads"),),
}

#: GLM's texts begin with tokens of the chat template; the BOS token in GGUF was added by llama.cpp's converter.
NO_START = (Setting("bos_token_id", None),)

#: What names begin with in mlx-vlm's folders, and in releases.
MLX_VLM = {
    "language_model.model.": "model.language_model.",
    "language_model.lm_head.": "lm_head.",
    "vision_tower.": "model.visual.",
}

GLM4 = Architecture(
    name="glm4",
    gguf="glm4",
    model_types={
        "glm4": {
            "rms_norm_eps": 1.5625e-7,
            "max_position_embeddings": 131072,
            "num_key_value_heads": 2,
            "head_dim": 128,
            "partial_rotary_factor": 0.5,
            "attention_bias": True,
        },
        "glm4v_text": {
            "rms_norm_eps": 1e-5,
            "max_position_embeddings": 32768,
            "num_key_value_heads": 2,
            "partial_rotary_factor": 0.5,
            "attention_bias": True,
        },
    },
    tensors=decoder(rotary=ROTARY, norms=NORMS, mlp=FUSED, bias=flag("attention_bias", True), output_bias=NEVER),
    mtp=(),
    keys=(*SIZES, *ROPE[:-1], SECTIONS, FREQ_BASE, RMS_EPS, *HEAD_SIZES),
    further=(ROPE_DIMENSIONS,),
    classes={"glm4": "Glm4ForCausalLM"},
    multimodal=(Multimodal("glm4v", "Glm4vForConditionalGeneration", "glm4v_text", mlx_vlm=MLX_VLM),),
    settings=(
        *NO_START,
        Setting("hidden_act", "silu"),
        Setting("attention_bias", has("attn_q.bias")),
        Setting("partial_rotary_factor", Stored.rotary_share),
        Setting("rope_scaling", scaling_with_sections),
    ),
    vocabulary=conventions.GLM4,
    sixteen_bits=bf16_only(REFUSED),  # llama.cpp also requires float32 sums in its matrix products (llama-graph.cpp)
    stores_head=("mlx",),
    limits=(unknown_to_mlx("glm4", "glm4v_text", nested=True),),
)
