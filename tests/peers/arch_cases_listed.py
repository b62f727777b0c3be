"""The models of arch_cases.py of which transformers has no class: config.json itself, and all tensors."""

from __future__ import annotations

from collections.abc import Mapping

from tests.peers.arch_cases import CASES as BUILT
from tests.peers.arch_cases import JOINED, Case

BAILING_MOE_V2 = Case(
    "bpe-qwen2", "bailingmoe2",
    {
        "architectures": ["BailingMoeV2ForCausalLM"], "model_type": "bailing_moe", "vocab_size": 384,
        "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 4096, "hidden_act": "silu",
        "rms_norm_eps": 1e-6, "rope_theta": 600000.0, "rope_scaling": None, "partial_rotary_factor": 0.5,
        "use_bias": False, "use_qkv_bias": False, "use_qk_norm": True, "use_rmsnorm": True,
        "tie_word_embeddings": False, "first_k_dense_replace": 1, "num_experts": 4, "num_experts_per_tok": 2,
        "num_shared_experts": 1, "moe_intermediate_size": 32, "n_group": 2, "topk_group": 1, "norm_topk_prob": True,
        "routed_scaling_factor": 2.5, "score_function": "sigmoid", "moe_router_enable_expert_bias": True,
        "num_nextn_predict_layers": 0, "torch_dtype": "bfloat16", "use_cache": True,
    },
    built=False,
    tensors={
        "lm_head.weight": (384, 64), "model.word_embeddings.weight": (384, 64), "model.norm.weight": (64,),
        "model.layers.{0..2}.input_layernorm.weight": (64,),
        "model.layers.{0..2}.post_attention_layernorm.weight": (64,),
        "model.layers.{0..2}.attention.query_key_value.weight": (128, 64),
        "model.layers.{0..2}.attention.dense.weight": (64, 64),
        "model.layers.{0..2}.attention.query_layernorm.weight": (16,),
        "model.layers.{0..2}.attention.key_layernorm.weight": (16,),
        "model.layers.0.mlp.gate_proj.weight": (96, 64), "model.layers.0.mlp.up_proj.weight": (96, 64),
        "model.layers.0.mlp.down_proj.weight": (64, 96),
        "model.layers.{1..2}.mlp.gate.weight": (4, 64), "model.layers.{1..2}.mlp.gate.expert_bias": (4,),
        "model.layers.{1..2}.mlp.experts.{0..3}.gate_proj.weight": (32, 64),
        "model.layers.{1..2}.mlp.experts.{0..3}.up_proj.weight": (32, 64),
        "model.layers.{1..2}.mlp.experts.{0..3}.down_proj.weight": (64, 32),
        "model.layers.{1..2}.mlp.shared_experts.gate_proj.weight": (32, 64),
        "model.layers.{1..2}.mlp.shared_experts.up_proj.weight": (32, 64),
        "model.layers.{1..2}.mlp.shared_experts.down_proj.weight": (64, 32),
    },
    converter={"raw": True, "plain_tokenizer": True},
)  # fmt: skip

STEP3P5 = Case(
    "bpe-deepseek-v3", "deepseek-v3",
    {
        "architectures": ["Step3p5ForCausalLM"], "model_type": "step3p5", "vocab_size": 384, "hidden_size": 64,
        "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4, "num_attention_groups": 2,
        "head_dim": 16, "max_position_embeddings": 4096, "max_seq_len": 4096, "rms_norm_eps": 1e-5,
        "rope_theta": [5000000.0, 10000.0, 10000.0], "rope_scaling": None, "yarn_only_types": ["full_attention"],
        "partial_rotary_factors": [0.5, 1.0, 1.0],
        "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
        "attention_other_setting": {
            "attention_type": "sliding_attention", "num_attention_heads": 6, "num_attention_groups": 2, "head_dim": 16,
            "true_head_dim": 16,
        },
        "sliding_window": 16, "use_head_wise_attn_gate": True, "use_qk_norm": True, "moe_num_experts": 4,
        "moe_top_k": 2, "moe_intermediate_size": 32, "share_expert_dim": 32, "moe_layers_enum": "1,2",
        "moe_every_n_layer": 1, "moe_layer_offset": 0, "moe_router_activation": "sigmoid",
        "moe_router_scaling_factor": 3.0, "norm_expert_weight": True, "use_moe": True, "use_moe_router_bias": True,
        "need_fp32_gate": True, "sink": False, "zero_centered": True, "tie_word_embeddings": False,
        "num_nextn_predict_layers": 0, "torch_dtype": "bfloat16",
    },
    built=False,
    tensors={
        "lm_head.weight": (384, 64), "model.embed_tokens.weight": (384, 64), "model.norm.weight": (64,),
        "model.layers.{0..2}.input_layernorm.weight": (64,),
        "model.layers.{0..2}.post_attention_layernorm.weight": (64,),
        "model.layers.{0..2}.self_attn.q_norm.weight": (16,), "model.layers.{0..2}.self_attn.k_norm.weight": (16,),
        "model.layers.{0..2}.self_attn.k_proj.weight": (32, 64),
        "model.layers.{0..2}.self_attn.v_proj.weight": (32, 64),
        "model.layers.0.self_attn.q_proj.weight": (64, 64), "model.layers.0.self_attn.o_proj.weight": (64, 64),
        "model.layers.0.self_attn.g_proj.weight": (4, 64), "model.layers.{1..2}.self_attn.q_proj.weight": (96, 64),
        "model.layers.{1..2}.self_attn.o_proj.weight": (64, 96), "model.layers.{1..2}.self_attn.g_proj.weight": (6, 64),
        "model.layers.0.mlp.gate_proj.weight": (96, 64), "model.layers.0.mlp.up_proj.weight": (96, 64),
        "model.layers.0.mlp.down_proj.weight": (64, 96),
        "model.layers.{1..2}.moe.gate.weight": (4, 64), "model.layers.{1..2}.moe.router_bias": (4,),
        "model.layers.{1..2}.moe.gate_proj.weight": (4, 32, 64), "model.layers.{1..2}.moe.up_proj.weight": (4, 32, 64),
        "model.layers.{1..2}.moe.down_proj.weight": (4, 64, 32),
        "model.layers.{1..2}.share_expert.gate_proj.weight": (32, 64),
        "model.layers.{1..2}.share_expert.up_proj.weight": (32, 64),
        "model.layers.{1..2}.share_expert.down_proj.weight": (64, 32),
    },
    f32=(r"router_bias$",),
    converter={"raw": True, "plain_tokenizer": True},
)  # fmt: skip
#: A layer for multi-token prediction, which has a window and no experts; its number is 3.
NEXT_STEP = {
    **JOINED, "model.layers.3.transformer.shared_head.norm.weight": (64,),
    "model.layers.3.transformer.shared_head.output.weight": (384, 64),
    "model.layers.3.input_layernorm.weight": (64,), "model.layers.3.post_attention_layernorm.weight": (64,),
    "model.layers.3.self_attn.q_norm.weight": (16,), "model.layers.3.self_attn.k_norm.weight": (16,),
    "model.layers.3.self_attn.q_proj.weight": (96, 64), "model.layers.3.self_attn.k_proj.weight": (32, 64),
    "model.layers.3.self_attn.v_proj.weight": (32, 64), "model.layers.3.self_attn.o_proj.weight": (64, 96),
    "model.layers.3.self_attn.g_proj.weight": (6, 64), "model.layers.3.mlp.gate_proj.weight": (96, 64),
    "model.layers.3.mlp.up_proj.weight": (96, 64), "model.layers.3.mlp.down_proj.weight": (64, 96),
}  # fmt: skip


def moved(name: str) -> str:
    """A pattern of its tensors with one more dense layer, and as many with experts after these."""
    found = name.replace("{0..2}", "{0..3}").replace("{1..2}", "{2..3}")
    return found.replace("model.layers.0.", "model.layers.{0..1}.")


#: Every row of the tables, by the name of the folder in tests/data/arch.
CASES: Mapping[str, Case] = {
    **BUILT,
    "step3p5": STEP3P5,
    "step3p5_mtp": STEP3P5.like(
        {
            "num_nextn_predict_layers": 1,
            "rope_theta": [5000000.0, 10000.0, 10000.0, 10000.0],
            "partial_rotary_factors": [0.5, 1.0, 1.0, 1.0],
            "layer_types": ["full_attention", *["sliding_attention"] * 3],
            "swiglu_limits": [0.0, 0.0, 7.0, 0.0],
            "swiglu_limits_shared": [0.0, 16.0, 0.0, 0.0],
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 1024,
            },
        },
        tensors={**STEP3P5.tensors, **NEXT_STEP},
        files=2,
    ),
    "bailing_moe_v2": BAILING_MOE_V2,
    "bailing_moe_v2_mtp": BAILING_MOE_V2.like(
        {"model_type": "bailing_moe_v2", "first_k_dense_replace": 2, "num_nextn_predict_layers": 1},
        tensors={
            **{moved(name): shape for name, shape in BAILING_MOE_V2.tensors.items()},
            **JOINED,
            "model.layers.3.final_layernorm.weight": (64,),
        },
        files=2,
    ),
}
