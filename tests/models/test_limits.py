"""Models that a runtime does not load: warned of where they are made. tests/peers/test_limits.py asks the runtimes."""

from pathlib import Path

import pytest

from quantcli.errors import NotPossible
from tests.arch_models import arch_model, tied_model, wide_model
from tests.conversions import planned
from tests.convert.test_golden_arch import reference


def named(source: Path, output: Path, **options: object) -> list[str]:
    """The warnings of what is not loaded."""
    plan = planned(source, output, **options)
    return [line for line in plan.warnings if "does not load" in line]


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
