"""Sizes of published models, at least one of each family that fixtures/policy of the reference data does not have.

A row is a case of tests/data/arch, or the settings of a model that none of them is of, and the sizes in its place. The
sizes are those of config.json files on the Hub; of hy_v3, mellum and cohere2_moe what transformers' class assumes.
Where layers differ, lists that have something for each layer are stated again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.arch_models import config_of

Settings = Mapping[str, Any]


def sizes(
    hidden: int, layers: int, heads: int, kv_heads: int, inner: int, vocab: int, head: int | None = None, **more: Any
) -> dict[str, Any]:
    """The settings that every family has. head: head_dim, where config.json has it."""
    named = {"hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads} | more
    named |= {"num_key_value_heads": kv_heads, "intermediate_size": inner, "vocab_size": vocab}
    return named if head is None else named | {"head_dim": head}


def latent(query: int, key: int, plain: int, rotary: int, value: int) -> dict[str, int]:
    """Multi-head latent attention: two ranks, three sizes of heads."""
    ranks = {"q_lora_rank": query, "kv_lora_rank": key, "qk_nope_head_dim": plain, "qk_rope_head_dim": rotary}
    return ranks | {"v_head_dim": value, "qk_head_dim": plain + rotary}


def experts(count: int, chosen: int, inner: int, shared: int = 1, dense: int = 0) -> dict[str, int]:
    """Experts as DeepSeek's configurations name them. dense: layers without, in front."""
    named = {"n_routed_experts": count, "num_experts_per_tok": chosen, "moe_intermediate_size": inner}
    return named | {"n_shared_experts": shared, "first_k_dense_replace": dense}


def some_experts(count: int, chosen: int, inner: int, **more: Any) -> dict[str, Any]:
    """Experts as most other configurations name them."""
    return {"num_experts": count, "num_experts_per_tok": chosen, "moe_intermediate_size": inner} | more


def delta_net(keys: int, values: int) -> dict[str, int]:
    """Heads of a delta net; all are of 128."""
    return {"linear_num_key_heads": keys, "linear_num_value_heads": values} | dict.fromkeys(
        ("linear_key_head_dim", "linear_value_head_dim"), 128
    )


def around(kind: str, class_name: str, /, **text: Any) -> dict[str, Any]:
    """A model with a tower: the settings of its text model, nested."""
    return {"model_type": kind, "architectures": [class_name], "text_config": text, "vision_config": {}}


@dataclass(frozen=True)
class Published:
    """case: of tests/data/arch, whose other settings the model has; whole: all of them, where there is none.

    tokenizer: of tests/data/tokenizers/kinds, of a model without a case.
    """

    case: str | None
    settings: Settings
    whole: Settings | None = None
    tokenizer: str | None = None

    @property
    def config(self) -> dict[str, Any]:
        """config.json. Lists of a case with something for each layer make way for what the class assumes."""
        if self.case is None:
            assert self.whole is not None
            return {**self.whole, "text_config": {**self.whole["text_config"], **self.settings}}
        base = config_of(self.case)
        kept = {key: value for key, value in base.items() if not is_by_layer(value, base["num_hidden_layers"])}
        return {**kept, **self.settings}


def by_layer(layers: int, others: range | tuple[int, ...], usual: Any, other: Any) -> list[Any]:
    """A list with something for each layer: the usual, or in some layers other than that."""
    return [other if layer in others else usual for layer in range(layers)]


def is_by_layer(value: object, layers: int) -> bool:
    """Whether a setting has something for each layer."""
    return isinstance(value, list) and len(value) == layers and layers > 1


#: Layers that attend to all among those with a window, as two families have them.
EVERY_FOURTH = range(0, 100, 4)
SLIDING, FULL = "sliding_attention", "full_attention"


def longrope(frequencies: int) -> dict[str, Any]:
    """The scaling of a case, with factors for more frequencies."""
    scaling: dict[str, Any] = config_of("phimoe")["rope_scaling"]
    return scaling | {key: [1.0] * frequencies for key in ("short_factor", "long_factor")}


MROPE = {"rope_theta": 1e6, "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}}
QWEN2_5_VL = around(
    "qwen2_5_vl", "Qwen2_5_VLForConditionalGeneration", model_type="qwen2_5_vl_text", rms_norm_eps=1e-6, **MROPE
)
INTERLEAVED = {"rope_theta": 5e6, "rope_scaling": {"mrope_section": [24, 20, 20], "mrope_interleaved": True}}
QWEN3_VL = around(
    "qwen3_vl", "Qwen3VLForConditionalGeneration", model_type="qwen3_vl_text", rms_norm_eps=1e-6, **INTERLEAVED
) | {"vision_config": {"deepstack_visual_indexes": [8, 16, 24]}}
QWEN3_VL_MOE = around(
    "qwen3_vl_moe", "Qwen3VLMoeForConditionalGeneration", model_type="qwen3_vl_moe_text", rms_norm_eps=1e-6,
    decoder_sparse_step=1, norm_topk_prob=True, mlp_only_layers=[], **INTERLEAVED,
) | {"vision_config": {"deepstack_visual_indexes": [8, 16, 24]}}  # fmt: skip
MISTRAL3 = around("mistral3", "Mistral3ForConditionalGeneration", model_type="mistral", rms_norm_eps=1e-5)
MISTRAL3["text_config"] |= {"rope_theta": 1e9, "sliding_window": None}
GEMMA3 = around("gemma3", "Gemma3ForConditionalGeneration", model_type="gemma3_text", sliding_window=1024)
GEMMA3["text_config"] |= {"rope_scaling": {"rope_type": "linear", "factor": 8.0}, "tie_word_embeddings": True}

#: Family -> models of it, by name; "defaults": those of the class. llama.cpp takes 80 layers of olmo for a 70B model.
PUBLISHED: Mapping[str, Mapping[str, Published]] = {
    "afmoe": {
        "Trinity-Mini": Published(
            "afmoe", sizes(2048, 32, 32, 4, 6144, 200192, 128, num_dense_layers=2) | some_experts(128, 8, 1024)
        )
    },
    "arcee": {"AFM-4.5B": Published("arcee", sizes(2560, 36, 20, 4, 18432, 128004, 128))},
    "bailing_moe_v2": {
        "Ling-mini-2.0": Published(
            "bailing_moe_v2",
            sizes(2048, 20, 16, 4, 5120, 157184, 128, n_group=8, topk_group=4) | some_experts(256, 8, 512),
        )
    },
    "cohere2_moe": {"defaults": Published("cohere2_moe", sizes(8192, 40, 64, 64, 22528, 256000, 128, num_experts=8))},
    "deepseek_v3": {
        "Kimi-K2": Published(
            "kimi_k2",
            sizes(7168, 61, 64, 64, 18432, 163840) | latent(1536, 512, 128, 64, 128) | experts(384, 8, 2048, dense=1),
        )
    },
    "deepseek_v32": {
        "DeepSeek-V3.2": Published(
            "deepseek_v32",
            sizes(7168, 61, 128, 128, 18432, 129280, index_n_heads=64, index_head_dim=128)
            | latent(1536, 512, 128, 64, 128)
            | experts(256, 8, 2048, dense=3),
        )
    },
    "dots1": {
        "dots.llm1": Published("dots1", sizes(4096, 62, 32, 32, 10944, 152064, 128) | experts(128, 6, 1408, 2, 1))
    },
    "ernie4_5_moe": {
        "ERNIE-4.5-21B-A3B": Published(
            "ernie4_5_moe",
            sizes(2560, 28, 20, 4, 12288, 103424, moe_num_experts=64, moe_k=6, moe_intermediate_size=1536)
            | {"moe_layer_end_index": 27},
        ),
        "ERNIE-4.5-300B-A47B": Published(
            "ernie4_5_moe",
            sizes(8192, 54, 64, 8, 28672, 103424, moe_num_experts=64, moe_k=8, moe_intermediate_size=3584)
            | {"moe_layer_start_index": 3, "moe_layer_end_index": 53, "moe_num_shared_experts": 0}
            | {"tie_word_embeddings": False},
        ),
    },
    "exaone_moe": {
        "K-EXAONE-236B-A23B": Published(
            "exaone_moe", sizes(6144, 48, 64, 8, 18432, 153600, 128) | some_experts(128, 8, 2048)
        )
    },
    "gemma3": {"gemma-3-4b": Published(None, sizes(2560, 34, 8, 4, 10240, 262208, 256), GEMMA3, "spm-gemma")},
    "glm4_moe_lite": {
        "GLM-4.7-Flash": Published(
            "glm4_moe_lite",
            sizes(2048, 47, 20, 20, 10240, 154880) | latent(768, 512, 192, 64, 256) | experts(64, 4, 1536, dense=1),
        )
    },
    "glm_moe_dsa": {
        "GLM-5": Published(
            "glm_moe_dsa",
            sizes(6144, 78, 64, 64, 12288, 154880, index_n_heads=32, index_head_dim=128)
            | latent(2048, 512, 192, 64, 256)
            | experts(256, 8, 2048, dense=3),
        )
    },
    "granitemoe": {
        "granite-3.0-3b-a800m": Published(
            "granitemoe", sizes(1536, 32, 24, 8, 512, 49155, num_local_experts=40, num_experts_per_tok=8)
        )
    },
    "hunyuan_v1_dense": {"Hunyuan-7B": Published("hunyuan_dense", sizes(4096, 32, 32, 8, 14336, 128167, 128))},
    "hunyuan_v1_moe": {
        "Hunyuan-A13B": Published(
            "hunyuan_moe",
            sizes(4096, 32, 32, 8, 3072, 128167, 128, moe_topk=8, num_shared_expert=1) | some_experts(64, 8, 3072),
        )
    },
    "hy_v3": {"defaults": Published("hy_v3", sizes(4096, 80, 64, 8, 13312, 120832, 128) | some_experts(192, 8, 1536))},
    "laguna": {
        "Laguna-XS": Published(
            "laguna",
            sizes(2048, 40, 48, 8, 8192, 100352, 128, shared_expert_intermediate_size=512, sliding_window=512)
            | some_experts(256, 8, 512)
            | {"num_attention_heads_per_layer": by_layer(40, EVERY_FOURTH, 64, 48)}
            | {"layer_types": by_layer(40, EVERY_FOURTH, SLIDING, FULL)}
            | {"mlp_layer_types": by_layer(40, (0,), "sparse", "dense")},
        )
    },
    "mellum": {
        "defaults": Published(
            "mellum", sizes(2304, 28, 32, 4, 7168, 98304, 128, num_local_experts=64, moe_intermediate_size=896)
        )
    },
    "mimo_v2_flash": {
        "MiMo-V2-Flash": Published(
            "mimo_v2_flash",
            sizes(4096, 48, 64, 4, 16384, 152576, 192, v_head_dim=128)
            | dict.fromkeys(("sliding_window", "sliding_window_size", "attention_chunk_size"), 128)
            | {"n_routed_experts": 256, "num_experts_per_tok": 8, "moe_intermediate_size": 2048}
            | {"swa_num_attention_heads": 64, "swa_num_key_value_heads": 8, "swa_head_dim": 192, "swa_v_head_dim": 128}
            | {"hybrid_layer_pattern": by_layer(48, (0, *range(5, 48, 6)), 1, 0)}
            | {"moe_layer_freq": by_layer(48, (0,), 1, 0)},
        )
    },
    "minimax_m2": {
        "MiniMax-M2": Published(
            "minimax_m2", sizes(3072, 62, 48, 8, 1536, 200064, 128, num_local_experts=256, rotary_dim=64)
        )
    },
    "mistral3": {
        "Mistral-Small-3.2": Published(None, sizes(5120, 40, 32, 8, 32768, 131072, 128), MISTRAL3, "bpe-tekken")
    },
    "olmo": {
        "OLMo-7B": Published("olmo", sizes(4096, 32, 32, 32, 11008, 50304)),
        "80 layers": Published("olmo", sizes(4096, 80, 32, 32, 11008, 50304)),
    },
    "olmoe": {"OLMoE-1B-7B": Published("olmoe", sizes(2048, 16, 16, 16, 1024, 50304, num_experts=64))},
    "phi": {"phi-2": Published("phi", sizes(2560, 32, 32, 32, 10240, 51200))},
    "phimoe": {
        "Phi-3.5-MoE": Published(
            "phimoe", sizes(4096, 32, 32, 8, 6400, 32064, num_local_experts=16) | {"rope_scaling": longrope(64)}
        )
    },
    "qwen2_vl": {
        "Qwen2.5-VL-7B": Published(None, sizes(3584, 28, 28, 4, 18944, 152064), QWEN2_5_VL, "bpe-qwen2"),
        "Qwen2.5-VL-72B": Published(None, sizes(8192, 80, 64, 8, 29568, 152064), QWEN2_5_VL, "bpe-qwen2"),
    },
    "qwen3_5": {
        "Qwen3.5-27B": Published(
            "qwen3_5_text",
            sizes(5120, 64, 24, 4, 17408, 248320, 256, num_nextn_predict_layers=1, tie_word_embeddings=False)
            | delta_net(16, 48),
        )
    },
    "qwen3_5_moe": {
        "Qwen3.5-397B-A17B": Published(
            "qwen3_5_moe",
            sizes(4096, 60, 32, 2, 0, 248320, 256, num_nextn_predict_layers=1, shared_expert_intermediate_size=1024)
            | some_experts(512, 10, 1024)
            | delta_net(16, 64),
        )
    },
    "qwen3_next": {
        "Qwen3-Next-80B-A3B": Published(
            "qwen3_next",
            sizes(2048, 48, 16, 2, 5120, 151936, 256, num_nextn_predict_layers=1, shared_expert_intermediate_size=512)
            | some_experts(512, 10, 512)
            | delta_net(16, 32),
        )
    },
    "qwen3_vl": {"Qwen3-VL-8B": Published(None, sizes(4096, 36, 32, 8, 12288, 151936, 128), QWEN3_VL, "bpe-qwen2")},
    "qwen3_vl_moe": {
        "Qwen3-VL-30B-A3B": Published(
            None, sizes(2048, 48, 32, 4, 6144, 151936, 128) | some_experts(128, 8, 768), QWEN3_VL_MOE, "bpe-qwen2"
        )
    },
    "seed_oss": {"Seed-OSS-36B": Published("seed_oss", sizes(5120, 64, 80, 8, 27648, 155136, 128))},
    "solar_open": {
        "Solar-Open-100B": Published("solar_open", sizes(4096, 48, 64, 8, 10240, 196608, 128) | experts(128, 8, 1280))
    },
    "step3p5": {
        "Step-3.5-Flash": Published(
            "step3p5",
            {"hidden_size": 4096, "num_hidden_layers": 45, "num_attention_heads": 64, "num_attention_groups": 8}
            | {"head_dim": 128, "intermediate_size": 11264, "vocab_size": 128896, "sliding_window": 512}
            | {"moe_num_experts": 288, "moe_top_k": 8, "moe_intermediate_size": 1280, "share_expert_dim": 1280}
            | {"attention_other_setting": {"num_attention_heads": 96, "num_attention_groups": 8, "head_dim": 128}}
            | {"layer_types": by_layer(45, EVERY_FOURTH, SLIDING, FULL)}
            | {"rope_theta": by_layer(45, EVERY_FOURTH, 1e4, 5e6)}
            | {"partial_rotary_factors": by_layer(45, EVERY_FOURTH, 1.0, 0.5)}
            | {"moe_layers_enum": ",".join(map(str, range(3, 45)))},
        )
    },
}
