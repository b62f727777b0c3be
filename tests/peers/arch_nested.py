"""Rows of models with towers, whose text model is of a family: see arch_cases.py.

GGUF has the text model alone, so a tower is as small as its class allows. Published names and settings that
transformers 5 no longer writes: Qwen2-VL's settings are flat, SigLIP's tower has one more name in front.
"""

from __future__ import annotations

from collections.abc import Mapping

from tests.peers.arch_cases import MINISTRAL3, MISTRAL3, TINY, Case, rope
from tests.peers.arch_decoders import DELTA, DELTA_EXPERTS, PREDICTION

#: The tower of Qwen's models: one layer.
QWEN_TOWER = {
    "depth": 1, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "patch_size": 4, "spatial_merge_size": 2,
    "temporal_patch_size": 2, "in_channels": 3,
}  # fmt: skip
QWEN_TOKENS = {
    "image_token_id": 375, "video_token_id": 376, "vision_start_token_id": 373, "vision_end_token_id": 374,
}  # fmt: skip
MROPE = {"type": "mrope", "mrope_section": [2, 3, 3]}
QWEN2_5_VL = Case(
    "bpe-qwen2", "qwen2",
    {
        "model_type": "qwen2_5_vl", "tie_word_embeddings": True, **QWEN_TOKENS,
        "text_config": {
            **TINY, **rope(1e6, mrope_section=[2, 3, 3]), "max_window_layers": 2, "tie_word_embeddings": True,
        },
        "vision_config": {**QWEN_TOWER, "out_hidden_size": 64, "fullatt_block_indexes": [0], "window_size": 16},
    },
    cls="Qwen2_5_VLForConditionalGeneration",
    flat=True,
    further={"rope_scaling": MROPE, "vision_config.model_type": "qwen2_5_vl"},
)  # fmt: skip
QWEN2_VL = QWEN2_5_VL.like(
    {
        "model_type": "qwen2_vl", "tie_word_embeddings": False,
        "text_config": {
            **TINY, **rope(1e6, mrope_section=[2, 3, 3]), "max_window_layers": 2, "tie_word_embeddings": False,
        },
        "vision_config": {
            "depth": 1, "embed_dim": 32, "hidden_size": 64, "num_heads": 2, "mlp_ratio": 2, "patch_size": 4,
            "spatial_merge_size": 2, "temporal_patch_size": 2, "in_channels": 3,
        },
    },
    cls="Qwen2VLForConditionalGeneration",
    further={"rope_scaling": MROPE, "vision_config.model_type": "qwen2_vl"},
    files=2,
)  # fmt: skip
INTERLEAVED = {"mrope_interleaved": True, "mrope_section": [6, 5, 5], "rope_type": "default"}
QWEN3_VL = Case(
    "bpe-qwen2", "qwen2",
    {
        "model_type": "qwen3_vl", "tie_word_embeddings": True, **QWEN_TOKENS,
        "text_config": {
            **TINY, **rope(5e6, mrope_section=[6, 5, 5], mrope_interleaved=True), "head_dim": 32,
            "tie_word_embeddings": True,
        },
        "vision_config": {
            **QWEN_TOWER, "out_hidden_size": 64, "num_position_embeddings": 16, "deepstack_visual_indexes": [0],
        },
    },
    cls="Qwen3VLForConditionalGeneration",
    further={"text_config.rope_scaling": INTERLEAVED, "vision_config.model_type": "qwen3_vl"},
    files=2,
)  # fmt: skip
QWEN3_VL_MOE = QWEN3_VL.like(
    {
        "model_type": "qwen3_vl_moe", "tie_word_embeddings": False,
        "text_config": {
            **TINY, **rope(5e6, mrope_section=[6, 5, 5], mrope_interleaved=True), "head_dim": 32, "hidden_size": 96,
            "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "tie_word_embeddings": False,
        },
        "vision_config": {
            **QWEN_TOWER, "out_hidden_size": 96, "num_position_embeddings": 16, "deepstack_visual_indexes": [0],
        },
    },
    cls="Qwen3VLMoeForConditionalGeneration",
    further={
        "text_config.rope_scaling": INTERLEAVED, "vision_config.model_type": "qwen3_vl_moe",
        "text_config.num_experts": 4, "text_config.norm_topk_prob": True,
    },
    left_out=(r"\.experts\.\d",),
    tensors={
        "model.language_model.layers.{0..1}.mlp.experts.gate_up_proj": (4, 96, 64),
        "model.language_model.layers.{0..1}.mlp.experts.down_proj": (4, 32, 96),
    },
)  # fmt: skip
SIGLIP = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 16,
    "patch_size": 4,
}  # fmt: skip
GEMMA3 = Case(
    "spm-gemma", "default",
    {
        "model_type": "gemma3", "mm_tokens_per_image": 4, "boi_token_index": 5, "eoi_token_index": 6,
        "image_token_index": 7,
        "text_config": {
            **TINY, "num_hidden_layers": 6, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32,
            "vocab_size": 456, "sliding_window": 16, "query_pre_attn_scalar": 32, "max_position_embeddings": 32768,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        },
        "vision_config": {**SIGLIP, "model_type": "siglip_vision_model", "vision_use_head": False},
    },
    cls="Gemma3ForConditionalGeneration",
    # mlx-lm takes the size of the vocabulary from the top.
    further={
        "text_config.sliding_window_pattern": 6, "vocab_size": 456,
        "text_config.rope_scaling": {"factor": 8.0, "rope_type": "linear"},
    },
    without=("text_config.layer_types",),
    renamed=((r"^vision_tower\.(?!vision_model)", "vision_tower.vision_model."),),
)  # fmt: skip
GLM4V = Case(
    "bpe-glm4", "glm4",
    {
        "model_type": "glm4v", "image_token_id": 375, "video_token_id": 376, "image_start_token_id": 373,
        "image_end_token_id": 374, "tie_word_embeddings": False,
        "text_config": {
            **TINY, **rope(1e4, mrope_section=[2, 1, 1], partial_rotary_factor=0.5), "attention_bias": True,
        },
        "vision_config": {**QWEN_TOWER, "image_size": 16, "out_hidden_size": 64},
    },
    cls="Glm4vForConditionalGeneration",
    modern=True,
)  # fmt: skip
SMOLVLM = Case(
    "bpe-llama3", "smollm",
    {
        "model_type": "smolvlm", "scale_factor": 2, "image_token_id": 375, "tie_word_embeddings": False,
        "text_config": {**TINY, **rope(1e5), "model_type": "llama", "head_dim": 16, "pad_token_id": 2},
        "vision_config": SIGLIP,
    },
    cls="SmolVLMForConditionalGeneration",
    further={"text_config.architectures": ["VLlama3ForCausalLM"]},
)  # fmt: skip
VOXTRAL = Case(
    "bpe-tekken", "tekken",
    {
        "model_type": "voxtral", "audio_token_id": 24,
        "text_config": {**TINY, **rope(1e8), "model_type": "llama", "head_dim": 16},
        "audio_config": {
            "model_type": "voxtral_encoder", "hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 1,
            "num_attention_heads": 2, "num_mel_bins": 80, "max_source_positions": 32,
        },
    },
    cls="VoxtralForConditionalGeneration",
)  # fmt: skip
QWEN3_5_TOWER = {**QWEN_TOWER, "out_hidden_size": 64, "num_position_embeddings": 16}
QWEN3_5 = Case(
    "bpe-qwen2", "qwen2",
    {
        "model_type": "qwen3_5", "tie_word_embeddings": False, **QWEN_TOKENS,
        "text_config": {
            **TINY, **DELTA, **rope(1e7, partial_rotary_factor=0.5, mrope_section=[3, 3, 2], mrope_interleaved=True),
        },
        "vision_config": QWEN3_5_TOWER,
    },
    cls="Qwen3_5ForConditionalGeneration",
    further={
        "text_config.full_attention_interval": 4, "text_config.mtp_num_hidden_layers": 1,
        "text_config.mtp_use_dedicated_embeddings": False, "text_config.attn_output_gate": True,
        "text_config.mamba_ssm_dtype": "float32",
    },
    modern=True,
    copies=(("model.language_model.layers.3.", "mtp.layers.0."),),
    tensors=PREDICTION,
)  # fmt: skip
FUSED = {
    f"{prefix}.mlp.experts.{name}": shape
    for prefix in ("model.language_model.layers.{0..3}", "mtp.layers.0")
    for name, shape in {"gate_up_proj": (4, 64, 64), "down_proj": (4, 64, 32)}.items()
}
QWEN3_5_MOE = QWEN3_5.like(
    {"model_type": "qwen3_5_moe", "text_config": {**QWEN3_5.config["text_config"], **DELTA_EXPERTS}},
    cls="Qwen3_5MoeForConditionalGeneration",
    without=("text_config.intermediate_size",),
    left_out=(r"\.experts\.\d",),
    tensors={**PREDICTION, **FUSED},
    files=2,
)


def nested(case: Case, **text: bool) -> Case:
    """A variant whose text model has other settings."""
    tied = {"tie_word_embeddings": text["tie_word_embeddings"]}
    return case.like({"text_config": {**case.config["text_config"], **text}, **tied})


#: By the name of the folder in tests/data/arch.
TOWERED: Mapping[str, Case] = {
    "mistral3": MISTRAL3.like(files=2),
    "mistral3_ministral3": MISTRAL3.like({"text_config": MINISTRAL3.config, "tie_word_embeddings": True}, modern=True),
    "qwen2_vl": QWEN2_VL,
    "qwen2_5_vl": QWEN2_5_VL,
    "qwen3_vl": QWEN3_VL,
    "qwen3_vl_biased": nested(QWEN3_VL, attention_bias=True, tie_word_embeddings=False),
    "qwen3_vl_moe": QWEN3_VL_MOE,
    "qwen3_vl_moe_tied": nested(QWEN3_VL_MOE, attention_bias=True, tie_word_embeddings=True),
    "gemma3": GEMMA3,
    "glm4v": GLM4V,
    "smolvlm": SMOLVLM,
    "voxtral": VOXTRAL,
    "qwen3_5_towers": QWEN3_5.like(files=2),
    "qwen3_5_moe_towers": QWEN3_5_MOE,
}
