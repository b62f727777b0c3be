"""What config.json says and GGUF does not: refused where llama.cpp computes something else, named where it may."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from quantcli import models
from quantcli.convert.planning.plan import make
from quantcli.convert.planning.steps import Plan
from quantcli.errors import BadInput, NotPossible, QuantError
from quantcli.models import round_trip
from quantcli.models.harmless import CONFIG_KEYS, NEUTRAL
from quantcli.targets.model import NO_TOWERS
from tests.convert.test_golden_arch import reference
from tests.models.families.test_arch_cases import whole_config
from tests.mutations import baselines, outcomes
from tests.mutations.baselines import CASES, Baseline

NULL = object()
ROOT = TemporaryDirectory(prefix="round-trip-")


@cache
def model(case: str) -> Baseline:
    return baselines.dense(case, Path(ROOT.name))


def planned(case: str, **settings: Any) -> Plan | QuantError:
    """The plan for GGUF of a case with other settings; one of None is left out, NULL is null."""
    config = {**model(case).settings, **settings}
    config = {key: None if value is NULL else value for key, value in config.items() if value is not None}
    return outcomes.planned(lambda: model(case).opened(config), "gguf")


def warnings(found: Plan | QuantError) -> str:
    assert isinstance(found, Plan), found
    return "\n".join(found.warnings)


def refusal(found: Plan | QuantError) -> str:
    assert isinstance(found, NotPossible | BadInput), found
    return str(found)


#: Model, settings that llama.cpp has built in otherwise, what the message names.
BUILT_IN: list[tuple[str, Mapping[str, Any], tuple[str, ...]]] = [
    ("qwen3_moe", {"hidden_act": "gelu"}, ("hidden_act 'gelu'", "'silu'")),
    ("qwen3_moe", {"norm_topk_prob": False}, ("norm_topk_prob False", "True")),
    ("qwen3_moe", {"norm_topk_prob": None}, ("norm_topk_prob False", "True")),
    ("qwen3_moe", {"hidden_act": "gelu", "norm_topk_prob": False}, ("hidden_act", "norm_topk_prob")),
    ("qwen2_moe", {"norm_topk_prob": True}, ("norm_topk_prob True",)),
    ("gemma", {"is_causal": False}, ("is_causal False",)),
    ("falcon_mamba", {"mixer_rms_eps": 1e-3}, ("mixer_rms_eps 0.001",)),
    ("gemma", {"rope_theta": 20000.0}, ("rope_theta 20000.0", "10000.0")),
    ("gemma2", {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, ("rope_scaling.rope_type 'linear'",)),
    ("gemma2", {"layer_types": ["full_attention", "sliding_attention"]}, ("layer_types",)),
    ("gemma2", {"query_pre_attn_scalar": 100}, ("query_pre_attn_scalar 100", "64")),
    ("gemma2", {"attn_logit_softcapping": NULL}, ("attn_logit_softcapping None", "50.0")),
    ("gemma3_text", {"use_bidirectional_attention": True}, ("use_bidirectional_attention True",)),
    ("gemma3_text", {"sliding_window_pattern": 3}, ("sliding_window_pattern 3", "6")),
    ("cohere2", {"layer_switch": 2}, ("layer_switch 2", "4")),
    ("deepseek_v2", {"topk_method": "group_limited_greedy"}, ("topk_method", "n_group")),
    ("falcon", {"parallel_attn": False}, ("parallel_attn False",)),
    ("gpt_oss", {"swiglu_limit": 5.0}, ("swiglu_limit 5.0", "7.0")),
    ("smollm3", {"no_rope_layers": [1, 1, 1, 1]}, ("no_rope_layers",)),
    ("olmoe", {"clip_qkv": 8.0}, ("clip_qkv 8.0",)),
    ("mamba", {"residual_in_fp32": False}, ("residual_in_fp32 False",)),
    ("qwen2", {"partial_rotary_factor": 0.5}, ("partial_rotary_factor 0.5",)),
    ("qwen2", {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, ("rope_scaling.rope_type 'llama3'",)),
]


@pytest.mark.parametrize(("case", "settings", "named"), BUILT_IN, ids=[f"{c}-{'-'.join(s)}" for c, s, _ in BUILT_IN])
def test_a_setting_that_llama_cpp_has_built_in_otherwise_is_refused(
    case: str, settings: Mapping[str, Any], named: tuple[str, ...]
) -> None:
    message = refusal(planned(case, **settings))
    assert "config.json" in message
    assert [text for text in named if text not in message] == []


@pytest.mark.parametrize(
    ("case", "key", "value"),
    [
        ("qwen3_moe", "attention_bias", True),
        ("qwen2_moe", "qkv_bias", False),
        ("llama_linear", "attention_bias", False),
        ("llama_linear", "attention_bias", None),
        ("llama_linear", "mlp_bias", False),
        ("qwen3_moe", "mlp_only_layers", [0]),
        ("qwen3_moe", "decoder_sparse_step", 2),
        ("deepseek_v3", "moe_layer_freq", 2),
    ],
)
def test_a_setting_that_the_tensors_contradict_is_refused(case: str, key: str, value: Any) -> None:
    found = planned(case, **{key: value})
    assert isinstance(found, BadInput | NotPossible)
    assert key in str(found)


def test_settings_without_a_place_are_named_in_one_warning() -> None:
    found = warnings(planned("qwen3", a_key_that_nobody_knows=7, text_config={"scale_emb": 12.0}, logit_scale=0.5))
    (line,) = [line for line in found.splitlines() if "a_key_that_nobody_knows 7" in line]
    assert "text_config.scale_emb 12.0" in line
    assert "logit_scale 0.5" in line


def test_of_many_unknown_keys_some_are_named_and_all_are_counted() -> None:
    unknown = {f"unknown_{number}": number + 1 for number in range(40)}
    (line,) = [line for line in warnings(planned("qwen3", **unknown)).splitlines() if "unknown_" in line]
    assert "and 28 more" in line
    assert len(line) < 1000


def test_a_key_of_config_json_cannot_steer_a_terminal() -> None:
    assert "\x1b" not in warnings(planned("qwen3", **{"\x1b[2J": 1}))


def test_a_window_that_llama_cpp_does_without_is_one_warning() -> None:
    settings = {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 1}
    (line,) = [line for line in warnings(planned("qwen2", **settings)).splitlines() if "sliding_window" in line]
    assert "use_sliding_window True" in line
    assert "max_window_layers 1" in line
    assert warnings(planned("qwen2", use_sliding_window=False, sliding_window=64)) == ""
    assert warnings(planned("mistral", sliding_window=4096)) == ""  # as long as the context


def test_scaling_beyond_the_context_is_a_warning() -> None:
    found = warnings(planned("qwen2", rope_scaling={"rope_type": "dynamic", "factor": 6.0}))
    assert "rope_scaling.rope_type 'dynamic'" in found
    assert "rope_scaling.factor 6.0" in found


def test_values_for_more_layers_than_a_model_has_are_named_and_those_for_its_prediction_are_not() -> None:
    kinds = model("step3p5_mtp").settings["layer_types"]
    assert len(kinds) == 4  # of three layers and one for prediction
    assert warnings(planned("step3p5_mtp")) == ""
    longer = warnings(planned("step3p5_mtp", layer_types=[*kinds, kinds[-1]]))
    assert "layer_types" in longer
    assert "more values than the model has layers" in longer


def test_a_setting_that_contradicts_the_one_that_counts_names_both() -> None:
    assert "from max_position_embeddings" in refusal(planned("step3p5", max_position_embeddings=8192))
    assert "from first_k_dense_replace" in refusal(planned("exaone_moe", first_k_dense_replace=3))
    assert "from sliding_window_size" in refusal(planned("mimo_v2_flash", sliding_window_size=32))
    assert "from rope_local_base_freq" in refusal(planned("mimo_v2_flash", rope_local_base_freq=5e5))


def test_one_setting_under_two_names_may_not_differ() -> None:
    both = {"rope_type": "default", "rope_theta": 5e5}
    assert "rope_theta 1000000.0" in warnings(planned("qwen3", rope_parameters=both))
    assert warnings(planned("qwen3", rope_parameters={**both, "rope_theta": 1e6})) == ""
    assert "layer_norm_eps 0.1" in warnings(planned("qwen3", layer_norm_eps=0.1))


def test_an_end_that_the_tokenizer_does_not_share_reaches_the_file() -> None:
    assert written("llama", eos_token_id=5)["tokenizer.ggml.eot_token_id"] == 5
    assert warnings(planned("llama", bos_token_id=5)) == ""  # tokenizer_config.json names it


def test_a_list_of_ends_reaches_the_file_without_a_warning() -> None:
    """369 and 373 are known by their text, `<|end_of_text|>` and `<|eom_id|>`, and need no key."""
    assert warnings(planned("llama_llama3rope", eos_token_id=[374, 369, 373])) == ""
    assert warnings(planned("llama_llama3rope", eos_token_id=369)) == ""
    assert warnings(planned("llama", eos_token_id=[2, 5, 6])) == ""
    assert written("llama", eos_token_id=[2, 5, 6])["tokenizer.ggml.eom_token_id"] == 6
    assert "eos_token_id 7" in warnings(planned("llama", eos_token_id=[2, 5, 6, 7]))


def test_a_model_that_attends_to_what_comes_later_says_so() -> None:
    assert written("qwen3", is_causal=False)["qwen3.attention.causal"] is False
    assert written("deepseek_v3", is_causal=False)["deepseek2.attention.causal"] is False
    assert "qwen3.attention.causal" not in written("qwen3", is_causal=True)


def test_a_key_that_is_set_by_hand_can_say_what_the_converter_does_not() -> None:
    config = {**model("gemma").settings, "rope_theta": 20000.0}
    source = model("gemma").opened(config)
    request = replace(outcomes.request("gguf"), override_kv=("gemma.rope.freq_base=float:20000",))
    plan = make(source, request)
    assert plan.warnings == ()
    assert outcomes.header_of(plan).metadata["gemma.rope.freq_base"].value == 20000.0
    with pytest.raises(NotPossible, match="rope_theta"):
        make(source, replace(request, override_kv=("gemma.rope.freq_base=float:30000",)))


ODD: tuple[Any, ...] = (
    [], {}, "x", -1, 0, 1.5, 10**400, 1e308, float("inf"), float("nan"), True, [1], ["x", None], {"a": {"b": [1]}},
)  # fmt: skip


@pytest.mark.parametrize("case", ["llama_llama3rope", "gemma3_text", "deepseek_v3", "phi3"])
def test_settings_of_any_kind_are_refused_or_named_and_never_a_crash(case: str) -> None:
    settings, shapes = model(case).settings, {"token_embd.weight": (8, 8)}
    architecture = models.find(settings)
    assert architecture is not None
    metadata = written(case)
    scaling = settings.get("rope_scaling") or {}
    names = (*scaling, "rope_theta", "partial_rotary_factor", "full_attention")
    keys = [*settings, "rope_parameters", "rope_pct", "layer_types", "a.b", "." * 10000, "sliding_window"]
    changed = [{**settings, key: value} for key in keys for value in ODD]
    changed += [
        {**settings, key: {**scaling, name: value}}
        for key in ("rope_scaling", "rope_parameters")
        for name in names
        for value in ODD
    ]
    noticed = 0
    for config in changed:
        with suppress(QuantError):
            found = architecture.hyperparameters(config)
            noticed += bool(
                round_trip.check(
                    {**config, "model_type": settings["model_type"]}, architecture, found, metadata, shapes
                )
            )
    assert noticed > 50


def test_an_embedding_model_says_how_it_pools(tmp_path: Path) -> None:
    folder = baselines.dense("qwen3", tmp_path)
    (folder.path / "1_Pooling").mkdir()
    (folder.path / "1_Pooling" / "config.json").write_text('{"pooling_mode_lasttoken": true}')
    (folder.path / "modules.json").write_text('[{"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}]')
    plan = outcomes.planned(folder.opened, "gguf")
    assert isinstance(plan, Plan), plan
    keys = list(outcomes.header_of(plan).metadata)
    assert outcomes.header_of(plan).metadata["qwen3.pooling_type"].value == 3
    assert keys.index("qwen3.pooling_type") < keys.index("general.quantization_version")


def test_a_key_of_another_family_is_no_setting_of_this_one() -> None:
    """LayerNorm's epsilon is not RMSNorm's, and a switch or a window counts where the class reads it."""
    assert "rms_norm_eps 0.1" in warnings(planned("starcoder2", rms_norm_eps=0.1))
    assert written("starcoder2", rms_norm_eps=0.1)["starcoder2.attention.layer_norm_epsilon"] == pytest.approx(1e-5)
    assert "rotary_pct 0.75" in warnings(planned("glm4", rotary_pct=0.75))
    assert written("glm4", rotary_pct=0.75)["glm4.rope.dimension_count"] == 16
    assert "olmo2.attention.sliding_window" not in written("olmo2", sliding_window=16)
    assert "sliding_window 16" in warnings(planned("olmo2", sliding_window=16))
    assert written("phi3_short", use_sliding_window=False)["phi3.attention.sliding_window"] == 2047


@pytest.mark.parametrize("key", ["long_factor", "short_factor"])
def test_factors_of_frequencies_are_as_many_as_the_frequencies(key: str) -> None:
    scaling = model("phi3").settings["rope_scaling"]
    found = planned("phi3", rope_scaling={**scaling, key: [*scaling[key], 1.0]})
    assert isinstance(found, BadInput)
    assert re.search(rf"\b{key}: .* 12 .* 13\.$", str(found))


def test_layers_are_as_many_as_their_kinds() -> None:
    found = planned("olmo3", layer_types=["full_attention"] * 5)
    assert isinstance(found, BadInput)
    assert "layer_types" in str(found)


def written(case: str, **settings: Any) -> dict[str, Any]:
    """The metadata of the file that is planned."""
    plan = planned(case, **settings)
    assert isinstance(plan, Plan), plan
    return {key: value.value for key, value in outcomes.header_of(plan).metadata.items()}


#: Case -> how many warnings there are of a model that llama.cpp computes otherwise, or does not load.
NOTED = {
    "mixtral_window": 1, "qwen2_window": 1, "internlm3": 1, "deepseek_v2_lite": 1, "exaone4": 1, "cohere_qk": 1,
    "arcee_tied": 2, "deepseek_v32_tied": 1, "dots1_biased": 1, "glm4_moe_lite_tied": 1, "glm_moe_dsa_tied": 1,
    "hunyuan_dense_biased": 1, "hunyuan_moe_tied": 1, "hy_v3_tied": 2, "mellum_biased": 1,
    "kimi_k2": 1, "laguna": 1, "laguna_full": 1, "mellum": 2, "qwen3_vl_biased": 1, "qwen3_vl_moe_tied": 1,
    "olmoe_biased": 1, "phimoe": 1,
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_every_spelling_of_a_known_model_comes_back(case: str) -> None:
    """As published, as transformers 5 saves it, and without what its class assumes anyway."""
    usual = warnings(outcomes.planned(model(case).opened, "gguf"))
    towers = [line for line in usual.splitlines() if NO_TOWERS in line]
    assert len(towers) == ("prefixes" in reference(case))
    for name in ("config.json", "config-v5.json", "config-minimal.json"):
        config = whole_config(case, name)
        plan = outcomes.planned(lambda: model(case).opened(config), "gguf")  # noqa: B023
        assert len(warnings(plan).splitlines()) == NOTED.get(case, 0) + len(towers), name


def test_every_harmless_key_has_a_reason_and_none_is_expected_of_a_family() -> None:
    of_families = [item for family in models.FAMILIES for item in family.harmless.items()]
    for key, row in (*CONFIG_KEYS.items(), *of_families):
        words = row.reason.split()
        assert len(words) > 2 and key not in words, key
    expected = {setting.name for family in models.FAMILIES for setting in family.expects}
    always = {key for key, row in CONFIG_KEYS.items() if row.when is None}
    assert not expected & always
    for family in models.FAMILIES:
        own = {key for key, row in family.harmless.items() if row.when is None}
        assert not own & {setting.name for setting in family.expects}, family.name
    assert not always & {*NEUTRAL}
