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
    it saves and published files lack. modern: published in transformers 5's spelling. copies: (prefix, prefix): tensors
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
    copies: tuple[tuple[str, str], ...] = ()
    tensors: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    renamed: tuple[tuple[str, str], ...] = ()
    left_out: tuple[str, ...] = ()
    f32: tuple[str, ...] = (r"e_score_correction_bias$",)
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

#: Beside the last layer's tensors, what a layer for multi-token prediction has; its number is 3.
PREDICTION = {
    "model.layers.3.eh_proj.weight": (64, 128), "model.layers.3.enorm.weight": (64,),
    "model.layers.3.hnorm.weight": (64,), "model.layers.3.embed_tokens.weight": (384, 64),
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

CASES: Mapping[str, Case] = {
    "qwen2": QWEN2,
    "deepseek_v3": DEEPSEEK_V3,
}
