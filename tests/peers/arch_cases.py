"""The models that make_arch.py makes for tests/data/arch: one row each, a tiny model of a family or a variant of one.

A row says how transformers builds the model and how published checkpoints of the family differ from what transformers
5 saves: in keys of config.json, in names of tensors, in tensors that transformers does not know (layers for
multi-token prediction). Where transformers has no class, the row lists all tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Case:
    """One checkpoint.

    tokenizer: a folder of tests/data/tokenizers/kinds; pre: the pre-tokenizer that the converter is told. config:
    `model_type` and the arguments of its configuration in transformers, as transformers 5 spells them; without a class
    (built is False) config.json itself. cls: the class in transformers where AutoModelForCausalLM has none.

    further: keys of config.json that transformers does not save, a dot leads into a nested object; without: those that
    it saves and published files lack. modern: published in transformers 5's spelling. flat: text_config's keys stand at
    the top. copies: (prefix, prefix): tensors
    that stand there again under another name. tensors: further ones, `{0..3}` stands for numbers. renamed: (regular
    expression, replacement), in turn. left_out: regular expressions of tensors that are not stored. f32: of those that
    are F32, all others are BF16. files: how many files the tensors stand in. generation: generation_config.json's
    sampling. converter: options of converter.py.
    """

    tokenizer: str
    pre: str
    config: Settings
    cls: str | None = None
    built: bool = True
    further: Settings = field(default_factory=dict)
    without: tuple[str, ...] = ()
    modern: bool = False
    flat: bool = False
    copies: tuple[tuple[str, str], ...] = ()
    tensors: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    renamed: tuple[tuple[str, str], ...] = ()
    left_out: tuple[str, ...] = ()
    f32: tuple[str, ...] = (r"e_score_correction_bias$", r"expert_bias$")
    files: int = 1
    generation: Settings = field(default_factory=dict)
    converter: Settings = field(default_factory=dict)

    def like(self, config: Settings | None = None, **changed: Any) -> Case:
        """A variant: other settings of config, other fields."""
        return replace(self, config={**self.config, **(config or {})}, **changed)


def rope(theta: float, kind: str = "default", **further: Any) -> Settings:
    """`rope_parameters` of transformers 5."""
    return {"rope_parameters": {"rope_type": kind, "rope_theta": theta, **further}}


TINY = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 4096, "vocab_size": 384,
}  # fmt: skip

QWEN2 = Case(
    "bpe-qwen2", "qwen2",
    {
        **TINY, **rope(1e6), "model_type": "qwen2", "hidden_size": 256, "intermediate_size": 256, "vocab_size": 416,
        "tie_word_embeddings": True, "max_window_layers": 2,
    },
    generation={"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.05},
)  # fmt: skip

#: What a layer for multi-token prediction has in addition to the last layer's tensors; its number is 3.
JOINED = {
    "model.layers.3.eh_proj.weight": (64, 128), "model.layers.3.enorm.weight": (64,),
    "model.layers.3.hnorm.weight": (64,),
}  # fmt: skip
PREDICTION = {
    **JOINED, "model.layers.3.embed_tokens.weight": (384, 64),
    "model.layers.3.shared_head.head.weight": (384, 64), "model.layers.3.shared_head.norm.weight": (64,),
}  # fmt: skip
LATENT = {
    "num_key_value_heads": 4, "kv_lora_rank": 64, "qk_nope_head_dim": 32, "qk_rope_head_dim": 16, "v_head_dim": 48,
    "q_lora_rank": 96,
}  # fmt: skip
DEEPSEEK_V3 = Case(
    "bpe-deepseek-v3", "deepseek-v3",
    {
        **TINY, **LATENT, "model_type": "deepseek_v3", "intermediate_size": 160, "num_hidden_layers": 3,
        "n_routed_experts": 8, "num_experts_per_tok": 3, "n_shared_experts": 1, "moe_intermediate_size": 64,
        "first_k_dense_replace": 1, "norm_topk_prob": True, "routed_scaling_factor": 2.5, "n_group": 4,
        "topk_group": 2, "num_nextn_predict_layers": 1, "max_position_embeddings": 163840,
        **rope(
            1e4, "yarn", factor=40.0, beta_fast=32.0, beta_slow=1.0, mscale=1.0, mscale_all_dim=1.0,
            original_max_position_embeddings=4096,
        ),
    },
    further={"scoring_func": "sigmoid", "topk_method": "noaux_tc", "moe_layer_freq": 1, "ep_size": 1},
    without=("head_dim", "rope_interleave"),
    copies=(("model.layers.2.", "model.layers.3."),),
    tensors=PREDICTION,
)  # fmt: skip

#: Experts, and in front of them one layer without.
SPARSE = {"num_hidden_layers": 3, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
DENSE_FIRST = {"mlp_layer_types": ["dense", "sparse", "sparse"]}
WINDOWS = {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}

SEED_OSS = Case(
    "bpe-qwen2", "seed-coder",
    {
        **TINY, **rope(1e7), "model_type": "seed_oss", "head_dim": 32, "attention_bias": True,
        "attention_out_bias": False,
    },
)  # fmt: skip
ARCEE = Case(
    "bpe-llama3", "llama-bpe",
    {
        **TINY, "model_type": "arcee", "head_dim": 16, "max_position_embeddings": 65536,
        **rope(
            1e4, "yarn", factor=20.0, beta_fast=32.0, beta_slow=1.0, mscale=1.0, original_max_position_embeddings=4096
        ),
    },
)  # fmt: skip
OLMOE = Case(
    "bpe-gptneox", "olmo",
    {
        **TINY, **rope(1e4), "model_type": "olmoe", "intermediate_size": 32, "num_key_value_heads": 4,
        "num_experts": 4, "num_experts_per_tok": 2, "norm_topk_prob": False,
    },
)  # fmt: skip
GRANITEMOE = Case(
    "bpe-starcoder", "refact",
    {
        **TINY, **rope(1e4), "model_type": "granitemoe", "num_local_experts": 4, "num_experts_per_tok": 2,
        "intermediate_size": 64, "embedding_multiplier": 12.0, "logits_scaling": 8.0, "residual_multiplier": 0.25,
        "attention_multiplier": 0.0625, "tie_word_embeddings": True,
    },
)  # fmt: skip
HUNYUAN_MOE = Case(
    "bpe-deepseek-v3", "hunyuan",
    {
        **TINY, **rope(1e4, "dynamic", factor=1.0, alpha=1000.0), "model_type": "hunyuan_v1_moe", "hidden_size": 256,
        "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 128,
        "num_experts": 4, "moe_topk": [2, 2], "max_position_embeddings": 32768,
    },
    further={
        "moe_intermediate_size": [32, 32], "num_shared_expert": [1, 1], "use_qk_norm": True, "use_cla": False,
        "use_mixed_mlp_moe": True, "moe_layer_num_skipped": 0, "cla_share_factor": 2,
    },
    converter={"gpt2_vocab": True},
)  # fmt: skip
#: What config.json of Hunyuan's releases repeats of models of other kinds; and further, that of A13B.
HUNYUAN_KEYS = {
    "add_classification_head": False, "anyres_pooling_size": 2, "anyres_vit_max_image_size": None,
    "anyres_vit_two_views": False, "class_num": 0, "dense_list": [4096, 0], "im_end_id": 6, "im_newline_id": 12,
    "im_start_id": 5, "image_token_id": 9, "mask_init_id": 13, "mlp_bias": False, "norm_type": "rms",
    "num_media_embeds": 257, "org_vocab_size": 384, "pad_id": 1, "pool_type": "last",
    "position_embedding_xdrope": False, "skip_cls_token": False, "text_end_id": 8, "text_start_id": 7,
    "use_cla": False, "use_rotary_pos_emb": True, "video_end_id": 11, "video_start_id": 10,
    "vit_add_patchemb_bias": False, "vit_input_resolution": 224, "vit_mapping_type": "resampler",
    "vit_norm_type": "fused", "vit_patch": 1, "vit_path": None, "vit_remove_prenorm": False, "vit_token": 64,
    "vit_type": None, "vit_used_rms_norm": False, "xdrope_section": None,
}  # fmt: skip
A13B_KEYS = {
    **HUNYUAN_KEYS,
    "attention_dropout": 0.1, "attention_head_dim": 128, "cla_share_factor": 2, "group_limited_greedy": False,
    "kv_lora_rank": None, "moe_drop_tokens": False, "moe_random_routing_dropped_token": False, "n_group": None,
    "q_lora_rank": None, "routed_scaling_factor": 1.0, "topk_group": None, "use_mla": False,
    "rope_scaling": {
        "alpha": 1000.0, "beta_fast": 32, "beta_slow": 1, "factor": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0,
        "type": "dynamic",
    },
}  # fmt: skip
#: Under the model type of the code that it was released with.
HUNYUAN_A13B = HUNYUAN_MOE.like(
    {
        **rope(1e4, "dynamic", alpha=1000.0, factor=1.0), "hidden_size": 256, "intermediate_size": 32,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 128, "max_position_embeddings": 32768,
    },
    further={**HUNYUAN_MOE.further, **A13B_KEYS, "model_type": "hunyuan", "moe_intermediate_size": [32, 32]},
    converter={"raw": True, "plain_tokenizer": True, "gpt2_vocab": True},
)  # fmt: skip
HY_V3 = Case(
    "bpe-deepseek-v3", "hunyuan",
    {
        **TINY, **rope(11158840.0), **SPARSE, **DENSE_FIRST, "model_type": "hy_v3", "head_dim": 16,
        "num_shared_experts": 1,
    },
    further={
        "route_norm": True, "first_k_dense_replace": 1, "moe_router_enable_expert_bias": True,
        "num_nextn_predict_layers": 1,
    },
    modern=True,
    copies=(("model.layers.2.", "model.layers.3."),),
    tensors={**JOINED, "model.layers.3.final_layernorm.weight": (64,)},
    f32=(),
)  # fmt: skip
EXAONE_MOE = Case(
    "bpe-exaone4", "exaone-moe",
    {
        **TINY, **rope(1e6), **SPARSE, "model_type": "exaone_moe", "num_hidden_layers": 5, "head_dim": 16,
        "sliding_window": 16, "sliding_window_pattern": 4,
        "layer_types": [*["sliding_attention"] * 3, *["full_attention"] * 2],
        "mlp_layer_types": ["dense", *["sparse"] * 4], "num_shared_experts": 1, "first_k_dense_replace": 1,
    },
    further={
        "scoring_func": "sigmoid", "topk_method": "noaux_tc", "sliding_window_pattern": "LLLG",
        "is_moe_layer": [False, *[True] * 4], "num_nextn_predict_layers": 0,
    },
)  # fmt: skip
SOLAR_OPEN = Case(
    "bpe-qwen2", "solar-open",
    {
        **TINY, **rope(1e6), "model_type": "solar_open", "head_dim": 16, "n_routed_experts": 4,
        "num_experts_per_tok": 2, "moe_intermediate_size": 32, "n_shared_experts": 1,
    },
    further={"first_k_dense_replace": 0, "partial_rotary_factor": 1.0, "use_qk_norm": False},
    converter={"gpt2_vocab": True},
)  # fmt: skip
LAGUNA = Case(
    "bpe-qwen2", "laguna",
    {
        **TINY, **SPARSE, **DENSE_FIRST, "model_type": "laguna", "head_dim": 16, "sliding_window": 16,
        "shared_expert_intermediate_size": 32, "moe_routed_scaling_factor": 2.5,
        "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
        "num_attention_heads_per_layer": [4, 6, 6],
        "rope_parameters": {
            "full_attention": {
                "rope_type": "yarn", "rope_theta": 5e5, "factor": 32.0, "beta_fast": 64.0, "beta_slow": 1.0,
                "original_max_position_embeddings": 4096, "partial_rotary_factor": 0.5,
            },
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 1.0},
        },
    },
    modern=True,
)  # fmt: skip
MELLUM = Case(
    "bpe-starcoder", "mellum2",
    {
        **TINY, **SPARSE, "model_type": "mellum", "num_hidden_layers": 4, "head_dim": 32, "sliding_window": 16,
        "layer_types": [*["sliding_attention"] * 3, "full_attention"], "max_position_embeddings": 131072,
        "rope_parameters": {
            "full_attention": {
                "rope_type": "yarn", "rope_theta": 5e5, "factor": 16.0, "beta_fast": 32.0, "beta_slow": 1.0,
                "attention_factor": 1.0, "original_max_position_embeddings": 8192,
            },
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
    },
    modern=True,
)  # fmt: skip
PHI = Case(
    "bpe-gpt2", "gpt-2",
    {
        **TINY, **rope(1e4, partial_rotary_factor=0.5), "model_type": "phi", "intermediate_size": 256,
        "num_key_value_heads": 4,
    },
    without=("num_key_value_heads",),
    files=2,
)  # fmt: skip
PHIMOE = Case(
    "spm-phi3", "default",
    {
        **TINY, "model_type": "phimoe", "num_local_experts": 4, "num_experts_per_tok": 2,
        "max_position_embeddings": 131072, "vocab_size": 448, "attention_bias": True, "lm_head_bias": True,
        **rope(
            1e4, "longrope", long_factor=[1.0, 1.1, 1.2, 1.3, 1.5, 2.0, 3.0, 4.0], short_factor=[1.0] * 7 + [1.05],
            long_mscale=1.243163121016122, short_mscale=1.243163121016122, original_max_position_embeddings=4096,
        ),
    },
    further={"architectures": ["PhiMoEForCausalLM"], "original_max_position_embeddings": 4096},
)  # fmt: skip
#: Keys of published configs that transformers does not know.
OF_WINDOWS = {
    "swa_head_dim": 24, "swa_v_head_dim": 16, "swa_num_attention_heads": 4, "swa_num_key_value_heads": 4,
    "swa_rope_theta": 1e4, "sliding_window_size": 16, "attention_chunk_size": 16,
    "add_swa_attention_sink_bias": True, "add_full_attention_sink_bias": False,
}  # fmt: skip
MIMO_V2_FLASH = Case(
    "bpe-qwen2", "qwen2",
    {
        **TINY, "model_type": "mimo_v2_flash", "num_hidden_layers": 3, "head_dim": 24, "v_head_dim": 16,
        "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "sliding_window": 16,
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 5e6, "partial_rotary_factor": 0.334},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.334},
        },
    },
    further={
        **OF_WINDOWS, "hybrid_layer_pattern": [0, 1, 1], "moe_layer_freq": [0, 1, 1], "layernorm_epsilon": 1e-5,
        "n_shared_experts": None, "routed_scaling_factor": None, "scoring_func": "sigmoid", "topk_method": "noaux_tc",
    },
    without=("rope_local_base_freq", "rope_scaling", "layer_types", "mlp_layer_types", "rms_norm_eps"),
    copies=tuple(("model.layers.0.", f"model.mtp.layers.{layer}.") for layer in range(3)),
    tensors={
        **{f"model.mtp.layers.{{0..2}}.{norm}.weight": (64,) for norm in ("enorm", "hnorm", "final_layernorm")},
        "model.mtp.layers.{0..2}.eh_proj.weight": (64, 128),
        "model.mtp.layers.{0..2}.self_attn.k_proj.weight": (96, 64),
        "model.mtp.layers.{0..2}.self_attn.v_proj.weight": (64, 64),
        "model.mtp.layers.{0..2}.self_attn.attention_sink_bias": (4,),
    },
    renamed=((r"(mtp\.layers\.\d\.)post_attention_layernorm", r"\1pre_mlp_layernorm"),),
    converter={"raw": True},
)  # fmt: skip
ODD_LAYERS = {"hybrid_layer_pattern": [1, 0, 1], "moe_layer_freq": [0, 0, 1]}
MINISTRAL3 = Case(
    "bpe-tekken", "tekken",
    {
        **TINY, "model_type": "ministral3", "head_dim": 32, "tie_word_embeddings": True,
        **rope(
            1e6, "yarn", factor=16.0, beta_fast=32.0, beta_slow=1.0, mscale=1.0, mscale_all_dim=1.0,
            original_max_position_embeddings=256, llama_4_scaling_beta=0.1,
        ),
    },
    modern=True,
)  # fmt: skip
KIMI_K2 = DEEPSEEK_V3.like(
    {
        "num_nextn_predict_layers": 0, "n_group": 1, "topk_group": 1, "num_experts_per_tok": 2,
        "routed_scaling_factor": 2.827, "max_position_embeddings": 131072,
        **rope(
            5e4, "yarn", factor=32.0, beta_fast=1.0, beta_slow=1.0, mscale=1.0, mscale_all_dim=1.0,
            original_max_position_embeddings=4096,
        ),
    },
    further={
        **DEEPSEEK_V3.further, "model_type": "kimi_k2", "num_nextn_predict_layers": 0, "seq_aux": True,
        "aux_loss_alpha": 0.001,
        "auto_map": {
            "AutoConfig": "configuration_deepseek.DeepseekV3Config",
            "AutoModel": "modeling_deepseek.DeepseekV3Model",
            "AutoModelForCausalLM": "modeling_deepseek.DeepseekV3ForCausalLM",
        },
    },
    without=(*DEEPSEEK_V3.without, "qk_head_dim"),
    copies=(), tensors={}, converter={"raw": True, "plain_tokenizer": True},
)  # fmt: skip
#: A text model and a tower; GGUF has the tower in a file of its own.
MISTRAL3 = Case(
    "bpe-tekken", "tekken",
    {
        "model_type": "mistral3", "image_token_index": 10, "spatial_merge_size": 2, "tie_word_embeddings": False,
        "text_config": {**TINY, **rope(1e9), "model_type": "mistral", "head_dim": 32, "sliding_window": None},
        "vision_config": {
            "model_type": "pixtral", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
            "num_attention_heads": 2, "head_dim": 16, "image_size": 64, "patch_size": 8,
        },
    },
    cls="Mistral3ForConditionalGeneration",
)  # fmt: skip
TIED = {"tie_word_embeddings": True}

#: By the name of the folder in tests/data/arch. Models without a class in transformers: arch_cases_listed.py.
CASES: Mapping[str, Case] = {
    "qwen2": QWEN2,
    "deepseek_v3": DEEPSEEK_V3,
    "kimi_k2": KIMI_K2,
    "seed_oss_plain": SEED_OSS.like({"attention_bias": False, "num_hidden_layers": 3, **TIED}, files=2),
    "arcee": ARCEE,
    "arcee_tied": ARCEE.like({"attention_bias": True, "mlp_bias": True, **TIED}, files=2),
    "olmoe": OLMOE,
    "olmoe_biased": OLMOE.like({"attention_bias": True, "num_hidden_layers": 3}, files=3),
    "granitemoe": GRANITEMOE,
    "granitemoeshared": GRANITEMOE.like(
        {"model_type": "granitemoeshared", "shared_intermediate_size": 64, "tie_word_embeddings": False}
    ),
    "hunyuan_moe": HUNYUAN_MOE,
    "hunyuan_a13b": HUNYUAN_A13B,
    "hy_v3": HY_V3,
    "exaone_moe": EXAONE_MOE,
    "exaone_moe_mtp": EXAONE_MOE.like(
        further={**EXAONE_MOE.further, "num_nextn_predict_layers": 1},
        copies=(("model.layers.0.", "mtp.layers.0."),),
        tensors={
            "mtp.fc.weight": (64, 128),
            "mtp.norm.weight": (64,),
            "mtp.pre_fc_norm_embedding.weight": (64,),
            "mtp.pre_fc_norm_hidden.weight": (64,),
        },
        files=2,
    ),
    "solar_open": SOLAR_OPEN,
    "laguna": LAGUNA,
    "laguna_full": LAGUNA.like(
        {
            "layer_types": ["full_attention"] * 3,
            "mlp_layer_types": ["dense", "dense", "sparse"],
            "num_attention_heads_per_layer": None,
            "sliding_window": 0,
            "gating": "per-element",
            **TIED,
        },
        files=2,
    ),
    "mellum": MELLUM,
    "phi": PHI,
    "phimoe": PHIMOE,
    "phimoe_mini": PHIMOE.like(
        {"num_hidden_layers": 3, "max_position_embeddings": 4096, **rope(1e4)},
        files=2,
    ),
    "mimo_v2_flash": MIMO_V2_FLASH,
    "mimo_v2_flash_odd": MIMO_V2_FLASH.like(
        {
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "mlp_layer_types": ["dense", "dense", "sparse"],
        },
        further={**MIMO_V2_FLASH.further, **ODD_LAYERS},
        files=2,
    ),
    "ministral3": MINISTRAL3,
}
