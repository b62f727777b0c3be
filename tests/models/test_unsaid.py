"""Settings of a GGUF's architecture: each is in the rebuilt config.json, changes nothing, or is named.

`model_saver.json.gz` has what llama.cpp's own model saver wrote of the tiny models of the reference data: nearly every
key that there is, for every architecture, with llama.cpp's defaults.
"""

import gzip
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantcli.errors import BadInput, QuantError
from quantcli.models import Rebuilt, config_from_gguf, rebuild
from quantcli.models.harmless_gguf import GGUF_KEYS
from tests.models.families.test_arch_cases import BY_ITSELF, OF_TOWERS

DATA = Path(__file__).resolve().parent.parent / "data"
CASES = sorted(path.name for path in (DATA / "arch").iterdir())
SAVED = json.loads(gzip.decompress((DATA / "gguf" / "model_saver.json.gz").read_bytes()))

#: Keys that llama.cpp reads for every architecture, with a value that is not its default.
OF_ALL: dict[str, list[Any]] = {
    "attention.causal": [False],
    "rope.scale_linear": [4.0],
    "rope.scaling.factor": [4.0],
    "rope.scaling.attn_factor": [1.5],
    "rope.scaling.type": ["other"],
    "pooling_type": [1, 2, 3, 4],
    "attention.value_length": [97],
    "attention.key_length_swa": [97],
    "rope.dimension_count": [6],
    "rope.freq_base": [12345.0],
    "vocab_size": [97],
    "embedding_length_out": [97],
    "expert_count": [3],
    "expert_gating_func": [2, 4],
    "rope.dimension_sections": [[2, 1, 1, 0]],
    "attention.temperature_scale": [0.1],
    "attention.temperature_length": [512],
    "attention.scale": [0.77],
    "attention.clamp_kqv": [8.0],
    "hidden_activation": ["tanh"],
    "a_key_of_nobody": [1, 0, False, "x", [1]],
}

HEADS = "attention.head_count"


class Case:
    """The metadata that the converter wrote of a tiny model, and its tensors."""

    def __init__(self, name: str) -> None:
        stored = json.loads((DATA / "arch" / name / "reference.json").read_text())
        self.metadata = {key: value for key, (_, value) in stored["metadata"].items()}
        self.prefix = self.metadata["general.architecture"]
        self.shapes = {key: tuple(shape) for key, (_, shape) in stored["tensors"].items()}
        self.values = stored["values"]

    def with_keys(self, **keys: Any) -> Rebuilt:
        """Rebuilt with other keys of the architecture; `__` stands for a dot."""
        return self.changed({key.replace("__", "."): value for key, value in keys.items()})

    def changed(self, keys: dict[str, Any]) -> Rebuilt:
        own = {f"{self.prefix}.{key}": value for key, value in keys.items()}
        return rebuild(self.metadata | own, self.shapes, self.values.__getitem__, "bf16", "a.gguf")

    def named(self, made: Rebuilt) -> list[str]:
        return [one.key.removeprefix(f"{self.prefix}.") for one in made.unsaid]

    def own(self) -> dict[str, Any]:
        start = f"{self.prefix}."
        return {key.removeprefix(start): value for key, value in self.metadata.items() if key.startswith(start)}


def others(value: Any) -> Iterator[Any]:
    """What a value is changed to: flipped, doubled and one added, replaced, made longer."""
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int | float):
        yield 2 * value + 1
    elif isinstance(value, str):
        yield from (f"{value}x", "none" if value != "none" else "yarn")
    else:
        yield from ([*value, value[-1]], [not value[0], *value[1:]])


def outcome(case: Case, key: str, value: Any) -> str:
    """What comes of a key that is changed or set."""
    usual = case.changed({})
    try:
        made = case.changed({key: value})
    except QuantError:
        return "refused"
    if key in case.named(made):
        return "named"
    if (made.config, made.pooling) != (usual.config, usual.pooling):
        return "said"
    return "idle" if f"{case.prefix}.{key}" in made.idle else "silent"


@pytest.mark.parametrize("name", CASES)
def test_the_converters_files_have_no_setting_without_a_place(name: str) -> None:
    case = Case(name)
    assert {*case.named(case.changed({}))} <= (set(OF_TOWERS) if name in BY_ITSELF else set())


#: Of one value more the last is that of the layer for multi-token prediction, which has no window.
LAST = (("exaone_moe_mtp", "attention.sliding_window_pattern"),)


@pytest.mark.parametrize("name", CASES)
def test_no_setting_that_a_file_has_changes_in_silence(name: str) -> None:
    case = Case(name)
    found = {
        (key, str(other)): outcome(case, key, other) for key, value in case.own().items() for other in others(value)
    }
    silent = [pair for pair, what in found.items() if what == "silent" and (name, pair[0]) not in LAST]
    idle = {key for (key, _), what in found.items() if what == "idle"}
    assert not silent
    assert idle <= {
        "rope.scaling.original_context_length", "rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow",
        "rope.scaling.type", "rope.scaling.factor", "tensor_data_layout",
    }  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_no_setting_that_llama_cpp_reads_for_every_architecture_is_set_in_silence(name: str) -> None:
    case = Case(name)
    own = case.own()
    absent = [(key, value) for key, values in OF_ALL.items() for value in values if key not in own]
    found = [(key, outcome(case, key, value)) for key, value in absent]
    is_settled = "rope.scaling.factor" in own or own.get("rope.scaling.type") == "none" or not own.get(HEADS, 1)
    assert "silent" not in {what for _, what in found}
    idle = {key for key, what in found if what == "idle"}
    assert idle <= ({"rope.scaling.factor", "rope.scale_linear"} if is_settled else set())


def test_every_harmless_key_has_a_reason() -> None:
    assert all(row.reason for row in GGUF_KEYS.values())


#: What llama.cpp's model saver says and the converter does not, and the other way round.
SAVED_OTHERWISE = {
    "head_dim", "rope_local_base_freq", "sliding_window", "bos_token_id", "eos_token_id", "pad_token_id", "torch_dtype",
    "vocab_size", "max_position_embeddings",
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(SAVED.keys() & set(CASES)))
def test_files_of_llama_cpps_model_saver_are_read(name: str) -> None:
    case = Case(name)
    other = {key: value for key, value in case.metadata.items() if not key.startswith(f"{case.prefix}.")}
    made = rebuild(other | SAVED[name], case.shapes, case.values.__getitem__, "bf16")
    usual = case.changed({}).config
    apart = {key for key in {*made.config, *usual} if made.config.get(key) != usual.get(key)} - SAVED_OTHERWISE
    assert made.unsaid == []
    # The saver writes ten times DeepSeek's multiplier, and llama.cpp reads what it says.
    assert apart <= ({"rope_scaling"} if name.startswith(("deepseek", "llama_yarn")) else set())


def test_zero_is_no_scaling_and_a_factor_without_a_type_is_linear() -> None:
    case = Case("llama")
    linear = {"rope_type": "linear", "type": "linear", "factor": 4.0}
    assert case.with_keys(rope__scaling__factor=0.0, rope__scaling__type="linear").config["rope_scaling"] is None
    assert case.with_keys(rope__scaling__factor=4.0).config["rope_scaling"] == linear
    assert case.with_keys(rope__scale_linear=4.0).config["rope_scaling"] == linear
    none = case.with_keys(rope__scaling__factor=4.0, rope__scaling__type="none")
    assert (none.config["rope_scaling"], none.unsaid) == (None, [])
    both = case.with_keys(rope__scaling__factor=2.0, rope__scale_linear=4.0)
    assert (both.config["rope_scaling"], both.unsaid) == (linear | {"factor": 2.0}, [])


def test_a_factor_of_attention_has_its_place_with_yarn_only() -> None:
    case = Case("llama_yarn")
    made = case.with_keys(rope__scaling__attn_factor=1.5)
    factor = case.own()["rope.scaling.factor"]
    assert made.unsaid == []
    assert made.config["rope_scaling"]["attention_factor"] == pytest.approx(1.5 * (0.1 * math.log(factor) + 1))
    assert [one.key for one in made.unread_by_mlx_lm] == ["llama.rope.scaling.attn_factor"]
    assert Case("llama").named(Case("llama").with_keys(rope__scaling__attn_factor=1.5)) == ["rope.scaling.attn_factor"]


def test_a_multiplier_that_llama_cpp_does_not_read_is_named() -> None:
    key = {"rope.scaling.yarn_log_multiplier": 0.05}
    assert Case("llama_yarn").named(Case("llama_yarn").changed(key)) == list(key)
    assert Case("deepseek_v2").changed(key).config["rope_scaling"]["mscale"] == 0.5


def test_longropes_factor_of_attention_is_said_where_the_class_computes_another() -> None:
    case = Case("phi3")
    stored = case.own()["rope.scaling.attn_factor"]
    assert "attention_factor" not in case.changed({}).config["rope_scaling"]
    made = case.changed({"rope.scaling.attn_factor": 2 * stored}).config["rope_scaling"]
    assert made["attention_factor"] == pytest.approx(2 * stored)


def test_what_is_not_causal_says_so() -> None:
    made = Case("qwen3").with_keys(attention__causal=False)
    assert (made.config["is_causal"], made.unsaid) == (False, [])
    assert [one.key for one in made.unread_by_mlx_lm] == ["qwen3.attention.causal"]
    windows = Case("cohere2").with_keys(attention__causal=False)
    assert "is_causal" not in windows.config
    assert Case("cohere2").named(windows) == ["attention.causal"]  # transformers ends windows on both sides then
    usual = Case("qwen3").with_keys(attention__causal=True)
    assert "is_causal" not in usual.config
    assert usual.unread_by_mlx_lm == []


@pytest.mark.parametrize("name", ["cohere2", "gemma", "qwen3_moe", "starcoder2"])
def test_scaling_that_mlx_lm_does_not_compute_is_named_for_it(name: str) -> None:
    case = Case(name)
    made = case.changed({"rope.scaling.type": "linear", "rope.scaling.factor": 4.0})
    assert made.config["rope_scaling"]["factor"] == 4.0
    assert [one.key for one in made.unread_by_mlx_lm] == [f"{case.prefix}.rope.scaling.factor"]


@pytest.mark.parametrize(
    ("name", "period", "usual"), [("gemma3_text", 2, 6), ("cohere2", 2, 4), ("gemma2", 3, 2), ("gpt_oss", 4, 2)]
)
def test_another_pattern_of_windows_is_said(name: str, period: int, usual: int) -> None:
    case = Case(name)
    layers = case.own()["block_count"]
    kinds = ["full_attention" if (layer + 1) % period == 0 else "sliding_attention" for layer in range(layers)]
    as_list = case.changed({"attention.sliding_window_pattern": [kind != "full_attention" for kind in kinds]}).config
    as_number = case.changed({"attention.sliding_window_pattern": period}).config
    assert as_list == as_number
    assert as_list["layer_types"] == kinds
    assert as_list.get("sliding_window_pattern", period) == period
    assert case.changed({"attention.sliding_window_pattern": usual}).config == case.changed({}).config


def test_each_kind_of_olmo3s_layers_has_its_rotary_base() -> None:
    case = Case("olmo3")
    both = case.changed({"rope.freq_base": 700.0, "rope.freq_base_swa": 300.0})
    one = {key: value for key, value in case.metadata.items() if key != "olmo2.rope.freq_base_swa"}
    same = rebuild(one | {"olmo2.rope.freq_base": 700.0}, case.shapes, case.values.__getitem__)
    assert both.config["rope_parameters"] == {
        "full_attention": {"rope_theta": 700.0, "rope_type": "default"},
        "sliding_attention": {"rope_theta": 300.0, "rope_type": "default"},
    }
    assert [key.key for key in both.unread_by_mlx_lm] == ["olmo2.rope.freq_base_swa"]
    assert same.config["rope_parameters"]["sliding_attention"]["rope_theta"] == 700.0
    assert same.unread_by_mlx_lm == []
    assert "rope_parameters" not in case.changed({}).config


def test_windows_without_a_period_have_none_in_config_json() -> None:
    case = Case("gemma3_text")
    pattern = [True] * case.own()["block_count"]
    pattern[0] = pattern[-1] = False
    assert "sliding_window_pattern" not in case.changed({"attention.sliding_window_pattern": pattern}).config


def test_gemma3_without_a_window_attends_to_all() -> None:
    made = Case("gemma3_text").with_keys(attention__sliding_window=0).config
    assert set(made["layer_types"]) == {"full_attention"}
    assert made["sliding_window_pattern"] == 1
    assert "sliding_window" not in made


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("qwen3_moe", "expert_gating_func", 2),
        ("qwen2_moe", "expert_weights_norm", True),
        ("deepseek_v2", "expert_weights_norm", True),
        ("glm4_moe", "expert_gating_func", 1),
        ("gpt_oss", "expert_gating_func", 1),
        ("gemma2", "attention.scale", 0.5),
        ("cohere2", "rope.dimension_count", 4),
        ("granite", "rope.scaling.finetuned", False),
        ("nemotron", "attention.layer_norm_rms_epsilon", 1e-3),
        ("llama", "attention.value_length", 8),
        ("llama", "vocab_size", 7),
        ("qwen3", "rope.dimension_count", 8),
        ("stablelm", "use_parallel_residual", True),
    ],
)
def test_another_value_than_the_class_has_built_in_is_named_with_both(name: str, key: str, value: Any) -> None:
    case = Case(name)
    (found,) = case.changed({key: value}).unsaid
    assert found.key == f"{case.prefix}.{key}"
    assert found.value == value
    assert found.instead is not None
    assert found.instead != value


@pytest.mark.parametrize(
    ("name", "key", "config", "value"),
    [
        ("deepseek_v3", "expert_weights_scale", "routed_scaling_factor", 1.0),
        ("deepseek_v3", "leading_dense_block_count", "first_k_dense_replace", 0),
        ("glm4_moe", "expert_weights_norm", "norm_topk_prob", False),
        ("cohere", "logit_scale", "logit_scale", 1.0),
    ],
)
def test_what_a_file_lacks_is_what_llama_cpp_computes_with(name: str, key: str, config: str, value: Any) -> None:
    case = Case(name)
    metadata = {k: v for k, v in case.metadata.items() if k != f"{case.prefix}.{key}"}
    assert config_from_gguf(metadata, case.shapes, case.values.__getitem__)[config] == value


def test_granite_divides_scores_by_the_root_of_a_heads_size_where_no_scale_is_said() -> None:
    case = Case("granite")
    metadata = {k: v for k, v in case.metadata.items() if k != "granite.attention.scale"}
    made = config_from_gguf(metadata, case.shapes)
    heads = made["hidden_size"] // made["num_attention_heads"]
    assert np.float32(made["attention_multiplier"]) == np.float32(heads**-0.5)


def test_one_value_for_each_layer_is_one_for_all_where_they_are_equal() -> None:
    case = Case("llama")
    layers = case.own()["block_count"]
    heads = case.own()["attention.head_count_kv"]
    assert case.with_keys(attention__head_count_kv=[heads] * layers).config == case.changed({}).config
    with pytest.raises(BadInput, match="head_count_kv"):
        case.with_keys(attention__head_count_kv=[heads] * (layers + 1))
    with pytest.raises(BadInput, match="head_count_kv"):
        case.with_keys(attention__head_count_kv=[heads, 2 * heads])


def test_numbers_of_heads_that_do_not_fit_are_refused_under_the_files_names() -> None:
    with pytest.raises(BadInput, match=r"attention\.head_count 4 .*multiple.* attention\.head_count_kv 3"):
        Case("llama").with_keys(attention__head_count_kv=3)
    with pytest.raises(BadInput, match=r"embedding_length 65 .*multiple.* attention\.head_count 4"):
        Case("granite").with_keys(embedding_length=65)


@pytest.mark.parametrize(
    ("case", "key"),
    [
        ("qwen3_moe", "expert_used_count"),
        ("deepseek_v2", "expert_used_count"),
        ("qwen3", "attention.layer_norm_rms_epsilon"),
        ("gemma3_text", "attention.layer_norm_rms_epsilon"),
        ("cohere", "attention.layer_norm_epsilon"),
        ("starcoder2", "attention.layer_norm_epsilon"),
        ("gpt_neox", "use_parallel_residual"),
        ("cohere2", "attention.sliding_window"),
    ],
)
def test_a_key_that_llama_cpp_needs_may_not_be_missing(case: str, key: str) -> None:
    found = Case(case)
    metadata = {name: value for name, value in found.metadata.items() if not name.endswith(f".{key}")}
    with pytest.raises(BadInput, match=key):
        config_from_gguf(metadata, found.shapes)
