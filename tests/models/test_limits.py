"""Models that a runtime does not load: warned of where they are made. tests/peers/test_limits.py asks the runtimes."""

from pathlib import Path
from typing import Any

import pytest

from quantcli.errors import NotPossible
from quantcli.models.limits import MISCOMPUTED, NOT_LOADED
from tests.arch_models import arch_model, config_of, tied_model, wide_model
from tests.conversions import converted, planned
from tests.convert.test_golden_arch import reference


def named(source: Path, output: Path, **options: object) -> list[str]:
    """The warnings of what is not loaded."""
    plan = planned(source, output, **options)
    return [line for line in plan.warnings if NOT_LOADED in line]


@pytest.mark.parametrize(("case", "in_gguf", "in_mlx"), [
    ("qwen3", False, False), ("olmo2", True, False), ("mixtral", False, True), ("qwen2", True, True),
    ("internlm3", False, True), ("llama", False, False),
])  # fmt: skip
def test_heads_wider_than_the_model(tmp_path: Path, case: str, in_gguf: bool, in_mlx: bool) -> None:
    source = wide_model(tmp_path, case)
    for output, runtime, expected in (("a.gguf", "llama.cpp", in_gguf), ("mlx", "mlx-lm", in_mlx)):
        found = named(source, tmp_path / output)
        assert len(found) == expected
        assert all(runtime in line and "head_dim" in line for line in found)
        if expected:
            with pytest.raises(NotPossible, match="--strict"):
                planned(source, tmp_path / output, strict=True)
    assert not named(source, tmp_path / "hf", to="hf")


@pytest.mark.parametrize(
    ("case", "layers", "expected"),
    [("deepseek_v2", 3, False), ("deepseek_v2_lite", 2, True), ("deepseek_v2_lite", 27, False)],
)
def test_deepseek_is_told_apart_by_its_layers(tmp_path: Path, case: str, layers: int, expected: bool) -> None:
    tensors = dict(reference(case)["source"])
    last = {name: entry for name, entry in tensors.items() if ".layers.1." in name}
    for i in range(2, layers if layers == 27 else 0):
        tensors |= {name.replace(".layers.1.", f".layers.{i}."): entry for name, entry in last.items()}
    source = arch_model(tmp_path, case, tensors, {"num_hidden_layers": layers})
    assert len(named(source, tmp_path / "a.gguf")) == expected


def test_good_models_are_not_named(tmp_path: Path) -> None:
    for case in ("qwen2", "olmo2", "phi3", "starcoder2", "gpt_neox", "cohere", "deepseek_v2"):
        source = tied_model(tmp_path, case)
        assert not named(source, tmp_path / "a.gguf") and not named(source, tmp_path / "mlx"), case


def test_phimoe_needs_its_biases(tmp_path: Path) -> None:
    tensors = {name: entry for name, entry in reference("phimoe")["source"].items() if "_proj.bias" not in name}
    del tensors["lm_head.bias"]
    source = arch_model(tmp_path, "phimoe", tensors, {"attention_bias": False, "lm_head_bias": False})
    for output in ("a.gguf", "mlx"):
        (said,) = named(source, tmp_path / output)
        assert "attention_bias and lm_head_bias to be true" in said


@pytest.mark.parametrize("case", ["gemma3", "gemma3_text", "cohere2"])
def test_windows_without_a_period_are_named_where_mlx_lm_knows_nothing_else(tmp_path: Path, case: str) -> None:
    config = config_of(case)
    text = config.get("text_config", config)
    kinds = ["sliding_attention"] * text["num_hidden_layers"]
    for first in ("full_attention", "sliding_attention"):
        kinds[0], kinds[-1] = first, "full_attention"
        changed = {**text, "layer_types": kinds, "sliding_window_pattern": len(kinds)}
        settings = changed if text is config else {"text_config": changed}
        (tmp_path / first).mkdir()
        source = arch_model(tmp_path / first, case, settings=settings)
        warnings = planned(source, tmp_path / "mlx", to="mlx").warnings
        assert any("mlx-lm" in line and "layer_types" in line for line in warnings) == (first == "full_attention")


#: Case -> settings of config.json, the runtime that computes other values with them, and a key that it does not read.
SETTINGS_UNREAD: list[tuple[str, dict[str, Any], str, str]] = [
    ("kimi_k2", {}, "llama.cpp", "beta_fast"),
    ("laguna", {}, "llama.cpp", "beta_fast"),
    ("mellum", {}, "llama.cpp", "attention_factor"),
    ("mellum", {}, "llama.cpp", "rope_theta"),
    ("mellum", {}, "mlx-lm", "attention_factor"),
    ("phimoe", {"sliding_window": 16}, "llama.cpp", "sliding_window"),
    ("phimoe", {"sliding_window": 16}, "mlx-lm", "sliding_window"),
    ("qwen3_moe", {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "mlx-lm", "rotary scaling"),
    ("solar_open", {"rope_scaling": {"type": "yarn", "factor": 2.0}}, "mlx-lm", "rotary scaling"),
    ("qwen3", {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "beta_slow": 2.0}}, "llama.cpp", "beta_slow"),
    ("seed_oss", {"hidden_act": "gelu"}, "mlx-lm", "hidden_act"),
]


@pytest.mark.parametrize(("case", "settings", "runtime", "key"), SETTINGS_UNREAD)
def test_settings_that_a_runtime_does_not_read_are_named(
    tmp_path: Path, case: str, settings: dict[str, Any], runtime: str, key: str
) -> None:
    source = arch_model(tmp_path, case, settings=settings)
    output = tmp_path / {"llama.cpp": "a.gguf", "mlx-lm": "mlx"}[runtime]
    named = [line for line in planned(source, output).warnings if MISCOMPUTED in line]
    assert any(runtime in line and key in line for line in named)
    with pytest.raises(NotPossible, match="--strict"):
        planned(source, output, strict=True)


@pytest.mark.parametrize(
    ("case", "settings"),
    [
        ("ministral3", {}),  # of which llama.cpp reads all of YaRN's settings
        ("deepseek_v3", {}),
        ("llama_yarn", {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "attention_factor": 1.1386294361119891}}),
        ("phimoe", {"sliding_window": 131072}),
        ("seed_oss", {"hidden_act": "swish"}),
    ],
)
def test_settings_that_runtimes_have_built_in_are_not_named(
    tmp_path: Path, case: str, settings: dict[str, Any]
) -> None:
    source = arch_model(tmp_path, case, settings=settings)
    for output in ("a.gguf", "mlx"):
        assert not any(MISCOMPUTED in line for line in planned(source, tmp_path / output).warnings)


def test_corrections_that_a_flag_claims_and_nobody_stores_are_named(tmp_path: Path) -> None:
    """A folder of mlx-lm's has lost them; a router without them chooses other experts."""
    name = "e_score_correction_bias"
    tensors = {key: entry for key, entry in reference("ernie4_5_moe")["source"].items() if name not in key}
    source = arch_model(tmp_path, "ernie4_5_moe", tensors, {"moe_use_aux_free": True})
    converted(source, tmp_path / "mlx", to="mlx")
    made = tmp_path / "mlx"
    for folder, target, is_named in (
        (source, "a.gguf", True), (made, "a.gguf", True), (made, "hf", True), (source, "again", False),
    ):  # fmt: skip
        to = {"hf": "hf", "again": "mlx"}.get(target)
        named = [line for line in planned(folder, tmp_path / target, to=to).warnings if name in line]
        assert bool(named) == is_named and all("moe_use_aux_free" in line for line in named)
    (tmp_path / "off").mkdir()
    source = arch_model(tmp_path / "off", "ernie4_5_moe", tensors, {"moe_use_aux_free": False})
    assert not any(name in line for line in planned(source, tmp_path / "b.gguf").warnings)
