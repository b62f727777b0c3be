"""Rows of the text models whose cases came from reference data, and one variant of each: see arch_cases.py.

A variant shows at once what its family's first case lacks: a tied head, biases, another pattern of layers, several
files. tests/models/families/test_variants.py says which of these a family has.
"""

from __future__ import annotations

from collections.abc import Mapping

from tests.peers.arch_cases import (
    DEEPSEEK_V3,
    GRANITEMOE,
    HUNYUAN_MOE,
    HY_V3,
    MELLUM,
    SEED_OSS,
    SOLAR_OPEN,
    SPARSE,
    TIED,
    TINY,
    Case,
    rope,
)

WINDOWS_OF_4 = {"sliding_window": 16, "layer_types": [*["sliding_attention"] * 3, "full_attention"]}

AFMOE = Case(
    "bpe-llama3", "afmoe",
    {
        **TINY, **rope(1e4), **SPARSE, **WINDOWS_OF_4, "model_type": "afmoe", "num_hidden_layers": 4, "head_dim": 16,
        "num_shared_experts": 1, "num_dense_layers": 1, "global_attn_every_n_layers": 4, "mup_enabled": True,
    },
    further={
        "route_norm": True, "score_func": "sigmoid", "n_group": 1, "topk_group": 1, "load_balance_coeff": 0.001,
    },
    f32=(),
)  # fmt: skip
COHERE2_MOE = Case(
    "bpe-command-r", "command-r",
    {
        **TINY, **rope(5e4), **WINDOWS_OF_4, "model_type": "cohere2_moe", "num_hidden_layers": 4, "head_dim": 16,
        "num_experts": 4, "num_experts_per_tok": 2, "logit_scale": 0.25,
    },
    further={"rope_scaling": None, "rope_theta": 5e4},
    modern=True,
)  # fmt: skip
DOTS1 = Case(
    "bpe-qwen2", "qwen2",
    {
        **TINY, **rope(1e7), "model_type": "dots1", "num_hidden_layers": 3, "num_key_value_heads": 4, "head_dim": 16,
        "n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 2, "moe_intermediate_size": 32,
        "first_k_dense_replace": 1, "norm_topk_prob": True, "routed_scaling_factor": 2.5, "max_window_layers": 3,
    },
    further={"scoring_func": "sigmoid", "topk_method": "noaux_tc"},
)  # fmt: skip
ERNIE4_5_MOE = Case(
    "spm-llama", "default",
    {
        **TINY, **rope(5e5), "model_type": "ernie4_5_moe", "num_hidden_layers": 3, "intermediate_size": 128,
        "moe_intermediate_size": 32, "moe_k": 2, "moe_num_experts": 4, "moe_num_shared_experts": 2,
        "moe_layer_start_index": 1, "moe_layer_interval": 1, "vocab_size": 432, "tie_word_embeddings": True,
    },
    further={"moe_capacity": [4, 4, 4], "moe_use_aux_free": True},
    f32=(),
)  # fmt: skip
#: Latent attention with four experts.
SMALL_LATENT = {
    "num_hidden_layers": 3, "num_key_value_heads": 4, "q_lora_rank": 48, "kv_lora_rank": 32, "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8, "v_head_dim": 24, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1,
    "moe_intermediate_size": 32, "n_group": 1, "topk_group": 1, "norm_topk_prob": True, "routed_scaling_factor": 1.8,
    "mlp_layer_types": ["dense", "sparse", "sparse"],
}  # fmt: skip
GLM4_MOE_LITE = Case(
    "bpe-glm4", "glm4",
    {**TINY, **rope(1e6), **SMALL_LATENT, "model_type": "glm4_moe_lite"},
    further={
        "first_k_dense_replace": 1, "num_nextn_predict_layers": 1, "topk_method": "noaux_tc",
        "scoring_func": "sigmoid",
    },
    copies=DEEPSEEK_V3.copies, tensors=DEEPSEEK_V3.tensors,
)  # fmt: skip
INDEXED = {"index_topk": 2048, "index_n_heads": 2}
GLM_MOE_DSA = Case(
    "bpe-glm4", "glm4",
    {
        **TINY, **rope(1e6), **SMALL_LATENT, **INDEXED, "model_type": "glm_moe_dsa", "index_head_dim": 64,
        "indexer_types": ["full", "shared", "full"], "head_dim": 8,
    },
    further={
        "first_k_dense_replace": 1, "moe_layer_freq": 1, "num_nextn_predict_layers": 1, "topk_method": "noaux_tc",
        "scoring_func": "sigmoid",
    },
    modern=True,
    copies=DEEPSEEK_V3.copies, tensors=DEEPSEEK_V3.tensors,
)  # fmt: skip
DEEPSEEK_V32 = DEEPSEEK_V3.like(
    {**INDEXED, "model_type": "deepseek_v32", "index_head_dim": 32, "mlp_layer_types": ["dense", "sparse", "sparse"]},
    without=(*DEEPSEEK_V3.without, "mlp_layer_types", "layer_types", "mlp_bias"),
    converter={"add_bos": True},
)
MINIMAX_M2 = Case(
    "bpe-gpt4o", "minimax-m2",
    {
        **TINY, **rope(5e6, partial_rotary_factor=0.5), "model_type": "minimax_m2", "head_dim": 32,
        "intermediate_size": 32, "num_local_experts": 4, "num_experts_per_tok": 2,
    },
    further={
        "rotary_dim": 16, "scoring_func": "sigmoid", "use_routing_bias": True, "use_qk_norm": True,
        "qk_norm_type": "per_layer", "num_mtp_modules": 0, "shared_intermediate_size": 0,
    },
    without=("partial_rotary_factor",),
    f32=(),
)  # fmt: skip
OLMO = Case(
    "bpe-gptneox", "olmo", {**TINY, **rope(1e4), "model_type": "olmo", "num_key_value_heads": 4, "clip_qkv": 8.0}
)
HUNYUAN_DENSE = Case(
    "bpe-deepseek-v3", "hunyuan-dense",
    {
        **TINY, **rope(1e4, "dynamic", factor=1.0, alpha=1000.0), **TIED, "model_type": "hunyuan_v1_dense",
        "head_dim": 16, "max_position_embeddings": 32768,
    },
    further={
        "attention_head_dim": 16, "use_qk_norm": True,
        "rope_scaling": {
            "alpha": 1000.0, "beta_fast": 32, "beta_slow": 1, "factor": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0,
            "type": "dynamic",
        },
    },
)  # fmt: skip

#: Layers of which one in four has attention; the others have a state.
DELTA = {
    "num_hidden_layers": 4, "head_dim": 32, "linear_conv_kernel_dim": 4, "linear_key_head_dim": 16,
    "linear_value_head_dim": 16, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
}  # fmt: skip
DELTA_EXPERTS = {
    "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32,
}  # fmt: skip
#: The module for multi-token prediction outside the layers.
PREDICTION = {
    "mtp.fc.weight": (64, 128), "mtp.norm.weight": (64,), "mtp.pre_fc_norm_embedding.weight": (64,),
    "mtp.pre_fc_norm_hidden.weight": (64,),
}  # fmt: skip
QWEN3_NEXT = Case(
    "bpe-qwen2", "qwen2",
    {**TINY, **rope(1e7, partial_rotary_factor=0.25), **DELTA, **DELTA_EXPERTS, "model_type": "qwen3_next"},
    further={
        "full_attention_interval": 4, "decoder_sparse_step": 1, "mlp_only_layers": [], "num_nextn_predict_layers": 1,
    },
    without=("layer_types",),
    copies=(("model.layers.3.", "mtp.layers.0."),),
    tensors=PREDICTION,
)  # fmt: skip
QWEN3_5 = Case(
    "bpe-qwen2", "qwen2",
    {
        **TINY, **DELTA, "model_type": "qwen3_5_text",
        **rope(1e7, partial_rotary_factor=0.5, mrope_section=[3, 3, 2], mrope_interleaved=True),
    },
    further={
        "full_attention_interval": 4, "attn_output_gate": True, "mamba_ssm_dtype": "float32",
        "mtp_num_hidden_layers": 1, "mtp_use_dedicated_embeddings": False, "num_nextn_predict_layers": 1,
    },
    modern=True,
    copies=QWEN3_NEXT.copies, tensors=PREDICTION,
)  # fmt: skip
FUSED = {
    "model.layers.{0..3}.mlp.experts.gate_up_proj": (4, 64, 128),
    "model.layers.{0..3}.mlp.experts.down_proj": (4, 128, 32),
    "mtp.layers.0.mlp.experts.gate_up_proj": (4, 64, 128), "mtp.layers.0.mlp.experts.down_proj": (4, 128, 32),
}  # fmt: skip
QWEN3_5_MOE = QWEN3_5.like(
    {**DELTA_EXPERTS, "model_type": "qwen3_5_moe_text", "hidden_size": 128},
    without=("intermediate_size",),
    left_out=(r"\.experts\.\d+\.",),
    tensors={**{name: tuple(2 * size for size in shape) for name, shape in PREDICTION.items()}, **FUSED},
)

#: By the name of the folder in tests/data/arch.
DECODERS: Mapping[str, Case] = {
    "afmoe": AFMOE,
    "cohere2_moe": COHERE2_MOE,
    "deepseek_v32": DEEPSEEK_V32,
    "dots1": DOTS1,
    "ernie4_5_moe": ERNIE4_5_MOE,
    "glm4_moe_lite": GLM4_MOE_LITE,
    "glm_moe_dsa": GLM_MOE_DSA,
    "hunyuan_dense": HUNYUAN_DENSE,
    "minimax_m2": MINIMAX_M2,
    "olmo": OLMO,
    "qwen3_5": QWEN3_5,
    "qwen3_5_moe": QWEN3_5_MOE,
    "qwen3_5_text": QWEN3_5.like(
        {"linear_num_value_heads": 2, **TIED},
        further={"full_attention_interval": 4}, copies=(), tensors={}, converter={"no_mtp": True},
    ),
    "qwen3_next": QWEN3_NEXT,
    "seed_oss": SEED_OSS.like(further={"rope_scaling": {"rope_type": "default"}}),
}  # fmt: skip

BIASED = {"attention_bias": True}
UNTIED = {"tie_word_embeddings": False}
#: Without the layer for multi-token prediction.
NONE_PREDICTED = {"copies": (), "tensors": {}}
VARIANTS: Mapping[str, Case] = {
    "afmoe_tied": AFMOE.like({"num_dense_layers": 2, **TIED}, files=2),
    "cohere2_moe_dense": COHERE2_MOE.like(
        {"mlp_layer_types": ["dense", *["sparse"] * 3], "num_shared_experts": 1, "prefix_dense_intermediate_size": 128},
        files=2,
    ),
    "deepseek_v32_tied": DEEPSEEK_V32.like({**BIASED, **TIED}, files=2),
    "dots1_biased": DOTS1.like({**BIASED, "first_k_dense_replace": 2}, files=2),
    "ernie4_5_moe_untied": ERNIE4_5_MOE.like({**UNTIED, "moe_layer_start_index": 2}, files=2),
    "glm4_moe_lite_tied": GLM4_MOE_LITE.like({**BIASED, **TIED}, files=2),
    "glm_moe_dsa_tied": GLM_MOE_DSA.like({**BIASED, **TIED, "indexer_types": ["full"] * 3}, files=2),
    "granitemoe_biased": GRANITEMOE.like({**BIASED, **UNTIED}, files=2),
    "hunyuan_dense_biased": HUNYUAN_DENSE.like({**BIASED, **UNTIED}, files=2),
    "hunyuan_moe_tied": HUNYUAN_MOE.like({**BIASED, **TIED}, files=2),
    "hy_v3_tied": HY_V3.like(
        {**BIASED, **TIED, "mlp_bias": True, "mlp_layer_types": ["dense", "dense", "sparse"]},
        further={**HY_V3.further, "num_nextn_predict_layers": 0, "first_k_dense_replace": 2},
        copies=(), tensors={}, files=2,
    ),
    "mellum_biased": MELLUM.like(
        {**BIASED, "layer_types": ["full_attention", "sliding_attention"] * 2}, files=2
    ),
    "minimax_m2_deep": MINIMAX_M2.like({"num_hidden_layers": 3}, files=2),
    "olmo_tied": OLMO.like(TIED, files=2),
    "qwen3_5_moe_tied": QWEN3_5_MOE.like(TIED, files=2),
    "qwen3_next_tied": QWEN3_NEXT.like(TIED, files=2),
    "solar_open_tied": SOLAR_OPEN.like({**BIASED, **TIED, "num_hidden_layers": 3}, files=2),
}  # fmt: skip
