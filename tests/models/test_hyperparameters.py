"""Both spellings of config.json give the same hyperparameters; errors name the key."""

import json
from pathlib import Path
from typing import Any

import pytest

from quantcli.errors import BadInput
from quantcli.models import ARCHITECTURES, Rope, find, from_config, from_gguf, mlx_keys, text_settings
from quantcli.models.rope import mlx_rope_keys

BEFORE: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "vocab_size": 384,
    "rope_theta": 500000.0,
    "rope_scaling": {
        "factor": 8.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "type": "llama3",
    },
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
}
AFTER = {k: v for k, v in BEFORE.items() if k not in ("rope_theta", "rope_scaling", "torch_dtype")} | {
    "dtype": "bfloat16",
    "rope_parameters": {
        "factor": 8.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_theta": 500000.0,
        "rope_type": "llama3",
    },
}


def test_both_spellings_mean_the_same() -> None:
    h = from_config(BEFORE)
    assert h == from_config(AFTER)
    assert h.rope == Rope(500000.0, "llama3", 8.0, 8192, low_freq_factor=1.0, high_freq_factor=4.0)
    assert (h.head_dim, h.states_head_dim, h.dtype, h.tie_embeddings) == (16, False, "bf16", True)


@pytest.mark.parametrize(
    "case", ["llama", "qwen2", "qwen3", "mistral", "llama_llama3rope", "llama_linear", "llama_yarn"]
)
def test_both_files_of_a_case_mean_the_same(shared: Path, case: str) -> None:
    configs = [
        json.loads((shared / "fixtures/arch" / case / name).read_text()) for name in ("config.json", "config-v5.json")
    ]
    architecture = find(configs[0])
    assert architecture is not None
    assert architecture.hyperparameters(configs[0]) == architecture.hyperparameters(configs[1])


def test_defaults_are_those_of_the_family() -> None:
    config = {k: v for k, v in BEFORE.items() if k not in ("num_key_value_heads", "rms_norm_eps")}
    config |= {"num_attention_heads": 32}
    assert ARCHITECTURES["llama"].hyperparameters(config).kv_heads == 32
    assert ARCHITECTURES["llama"].hyperparameters(config | {"model_type": "mistral"}).kv_heads == 8
    assert ARCHITECTURES["qwen3"].hyperparameters(config | {"model_type": "qwen3"}).head_dim == 128
    assert ARCHITECTURES["llama"].hyperparameters(config).norm_eps == 1e-6


def test_sliding_window_counts_where_it_is_used() -> None:
    config = BEFORE | {"sliding_window": 4096}
    assert from_config(config).sliding_window == 4096
    switched = config | {"use_sliding_window": False}
    assert from_config(switched, defaults={"use_sliding_window": True}).sliding_window is None
    assert from_config(switched).sliding_window == 4096  # a class that does not know the switch
    assert from_config(config | {"sliding_window": None}).sliding_window is None


@pytest.mark.parametrize(
    "key", ["hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size"]
)
@pytest.mark.parametrize("value", [None, 0, -4, "64", True, 2**32, 1.5, [64], {"a": 1}, 10**4000])
def test_sizes_that_are_none(key: str, value: object) -> None:
    with pytest.raises(BadInput, match=rf"config\.json: key {key}(:| is missing)") as error:
        from_config(BEFORE | {key: value})
    assert len(str(error.value)) < 300


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rms_norm_eps": "small"}, "rms_norm_eps: .* 'small'"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps: .* nan"),
        ({"rope_theta": True}, "rope_theta: .* True"),
        ({"rope_theta": -1.0}, "rope_theta: expected a number above 0, found -1.0"),
        ({"rope_scaling": [1]}, r"rope_scaling: .* \[1\]"),
        ({"rope_scaling": {"type": "yarn"}}, "rope_scaling: key factor is missing"),
        ({"rope_scaling": {"type": "linear", "factor": 0}}, "factor: expected a number above 0, found 0"),
        ({"rope_scaling": None, "rope_parameters": {"rope_type": 7}}, "rope_parameters: key rope_type: .* 7"),
        ({"num_attention_heads": 3}, "head_dim is missing.*hidden_size 64.*multiple.*num_attention_heads 3"),
        ({"num_key_value_heads": 3}, "num_attention_heads 4.*multiple.*num_key_value_heads 3"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings: .* 'yes'"),
        ({"torch_dtype": 16}, "torch_dtype: .* 16"),
    ],
)
def test_settings_that_mean_nothing(change: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        from_config(BEFORE | change)


def test_mlx_sees_the_rope_settings() -> None:
    assert mlx_rope_keys(BEFORE) == {}
    scaling = {k: v for k, v in AFTER["rope_parameters"].items() if k != "rope_theta"} | {"type": "llama3"}
    assert mlx_rope_keys(AFTER) == {"rope_theta": 500000.0, "rope_scaling": scaling}
    assert mlx_rope_keys({"rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}}) == {"rope_theta": 1e6}
    assert mlx_rope_keys({"rope_theta": 5.0, "rope_parameters": {"rope_theta": 1e6}}) == {}
    nested = {"full_attention": {"rope_theta": 1e6, "rope_type": "linear", "factor": 8.0}}
    nested["sliding_attention"] = {"rope_theta": 1e4, "rope_type": "default"}
    assert mlx_rope_keys({"rope_parameters": nested}) == {
        "rope_theta": 1e6,
        "rope_scaling": {"type": "linear", "rope_type": "linear", "factor": 8.0},
        "rope_local_base_freq": 1e4,
    }
    assert mlx_rope_keys({"rope_parameters": {"some_attention": {"rope_theta": 1e6}}}) == {}
    assert mlx_rope_keys({"rope_parameters": "none"}) == {}


def test_mlx_sees_what_its_class_calls_otherwise_or_wants_stated() -> None:
    assert mlx_keys({"model_type": "qwen3_moe", "num_local_experts": 3}) == {"num_experts": 3}
    assert mlx_keys({"model_type": "glm4_moe"}) == {"rope_scaling": None}
    assert mlx_keys({"model_type": "glm4_moe", "rope_scaling": {"rope_type": "linear"}}) == {}
    neox = {"model_type": "gpt_neox", "rope_parameters": {"rope_theta": 1e6, "partial_rotary_factor": 0.5}}
    assert mlx_keys(neox) == {"rotary_emb_base": 1e6, "rotary_pct": 0.5}
    exaone = {"model_type": "exaone4", "hidden_size": 64, "num_attention_heads": 4, "sliding_window": 16}
    stated = {"rope_scaling": None, "head_dim": 16, "sliding_window_pattern": "LLLG"}
    assert mlx_keys(exaone | {"sliding_window_pattern": 4}) == stated
    assert mlx_keys(exaone | stated) == {}


def test_a_text_model_may_leave_its_sizes_to_its_class() -> None:
    """As the release of Gemma 3 4B does."""
    text = {
        "model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024,
    }  # fmt: skip
    config = {"model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"], "text_config": text}
    architecture = find(config)
    assert architecture is not None
    read = architecture.hyperparameters(text_settings(config))
    assert (read.heads, read.kv_heads, read.head_dim, read.vocab_size, read.layers) == (8, 4, 256, 262208, 34)
    made = mlx_keys(config)
    assert (made["vocab_size"], made["text_config"]["num_attention_heads"]) == (262208, 8)


def test_gguf_metadata_means_the_same() -> None:
    metadata = {
        "general.architecture": "llama",
        "llama.block_count": 2,
        "llama.context_length": 16384,
        "llama.embedding_length": 64,
        "llama.feed_forward_length": 160,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.rope.scaling.type": "yarn",
        "llama.rope.scaling.factor": 4.0,
        "llama.rope.scaling.original_context_length": 4096,
        "llama.rope.freq_base": 10000.0,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.attention.key_length": 16,
        "llama.vocab_size": 384,
    }
    config = BEFORE | {"max_position_embeddings": 16384, "rope_theta": 10000.0, "head_dim": 16}
    config |= {"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096}}
    config |= {"torch_dtype": None, "tie_word_embeddings": False}
    assert from_gguf(metadata) == from_config(config, "llama")
    with pytest.raises(BadInput, match=r"llama: attention\.head_count is missing"):
        from_gguf({k: v for k, v in metadata.items() if k != "llama.attention.head_count"})
