"""Families whose dialects differ most: over MLX to GGUF, names in overrides, how two dialects compare."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from quantcli.convert.comparing.compare import Verdict, chosen, compare
from quantcli.convert.inspecting.survey import matching, requirements
from quantcli.sources.detect import open_source
from tests.conversions import converted, schemes
from tests.convert.test_golden_arch import DATA, hashes, reference, write_model

#: What their tables do: experts stacked, taken apart and transposed, rows permuted, split and regrouped, norms shifted,
#: `kv_b` cut in two, -exp(A_log), layers left out.
CASES = (
    "deepseek_v2", "deepseek_v3", "falcon", "gemma2", "glm4_moe", "gpt_neox", "gpt_oss", "gpt_oss_mxfp4", "llama",
    "mamba", "mixtral", "phi3", "qwen3_moe", "stablelm",
)  # fmt: skip
DOWN = (
    "blk.1.ffn_down_exps.weight",
    "blk.1.ffn_down_exps",
    "model.layers.1.block_sparse_moe.experts.*.w2",
    "model.layers.1.block_sparse_moe.experts.[0-9].w2.weight",
    "model.layers.1.block_sparse_moe.switch_mlp.down_proj",
    "model.layers.1.block_sparse_moe.switch_mlp.down_proj.weight",
)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of the cases, and of `mixtral` the GGUF file and the MLX folder."""
    root = tmp_path_factory.mktemp("models")
    for case in CASES:
        write_model(root / case, case, reference(case)["source"])
        kind = json.loads((DATA / "arch" / case / "reference.json").read_text())["tokenizer"]
        for file in (DATA / "tokenizers" / "kinds" / kind).glob("*.json"):
            shutil.copy(file, root / case)
    converted(root / "mixtral", root / "mixtral.gguf")
    converted(root / "mixtral", root / "mixtral-mlx")
    return {path.name: path for path in root.iterdir()}


@pytest.mark.parametrize("case", CASES)
def test_over_mlx_to_gguf(models: dict[str, Path], tmp_path: Path, case: str) -> None:
    """The same tensors as without the detour, all to the last bit; mlx-lm has no layers for multi-token prediction."""
    converted(models[case], tmp_path / "straight.gguf")
    converted(models[case], tmp_path / "mlx")
    converted(tmp_path / "mlx", tmp_path / "over.gguf")
    over, straight = hashes(tmp_path / "over.gguf"), hashes(tmp_path / "straight.gguf")
    further = {name for name in straight if case == "glm4_moe" and name.startswith("blk.3.")}
    assert over == {name: entry for name, entry in straight.items() if name not in further}


@pytest.mark.parametrize("source", ["mixtral", "mixtral.gguf", "mixtral-mlx"])
@pytest.mark.parametrize("pattern", DOWN)
def test_an_override_may_use_the_names_of_any_dialect(
    models: dict[str, Path], tmp_path: Path, source: str, pattern: str
) -> None:
    report = converted(models[source], tmp_path / "mlx", overrides=(f"{pattern}=affine8-g32",))
    assert not report["warnings"]
    changed = {name for name, scheme in schemes(tmp_path / "mlx").items() if scheme == "affine8-g32"}
    assert changed == {"model.layers.1.block_sparse_moe.switch_mlp.down_proj.weight"}


def test_an_override_for_one_expert_matches_nothing_where_they_are_stacked(
    models: dict[str, Path], tmp_path: Path
) -> None:
    one = ("model.layers.1.block_sparse_moe.experts.2.w2=f32",)
    report = converted(models["mixtral.gguf"], tmp_path / "mlx", overrides=one)
    assert "matches no weight" in report["warnings"][0]
    converted(models["mixtral.gguf"], tmp_path / "hf", to="hf", overrides=one)
    wide = {name for name, scheme in schemes(tmp_path / "hf").items() if scheme == "f32"}
    assert wide == {"model.layers.1.block_sparse_moe.experts.2.w2.weight"}


@pytest.mark.parametrize(
    ("a", "b"), [("mixtral", "mixtral.gguf"), ("mixtral-mlx", "mixtral.gguf"), ("mixtral-mlx", "mixtral")]
)
def test_stacked_experts_are_compared_with_their_like(models: dict[str, Path], a: str, b: str) -> None:
    first, second = open_source(models[a]), open_source(models[b])
    found = compare(first, second, chosen(first, second, None), 1 << 28, 2, lambda _count, _name: None)
    assert len(found.weights) == 41 and {weight.verdict for weight in found.weights} == {Verdict.EQUAL}
    assert not (found.only_a or found.only_b or found.fields or found.tokenizer)


def test_a_bias_that_is_always_f32_is_no_warning(models: dict[str, Path], tmp_path: Path) -> None:
    report = converted(models["deepseek_v3"], tmp_path / "mlx", scheme="affine4-g32")
    assert schemes(tmp_path / "mlx")["model.layers.1.mlp.gate.e_score_correction_bias"] == "f32"
    assert not report["warnings"]


def test_values_that_are_computed_come_from_what_is_stored(models: dict[str, Path], tmp_path: Path) -> None:
    """gpt-oss's experts, dense, are transposed: the report tells of the packed ones."""
    report = converted(models["gpt_oss_mxfp4"], tmp_path / "hf", to="hf", scheme="f32")
    found = {
        (w["from"]["scheme"], w["route"], w["grade"]) for w in report["weights"] if "experts.down_proj" in w["name"]
    }
    assert ("mxfp4", "dequantize", "exact") in found
    made = matching(open_source(tmp_path / "hf"), "blk.0.ffn_down_exps*")
    assert {w.name for w in made} == {
        "model.layers.0.mlp.experts.down_proj",
        "model.layers.0.mlp.experts.down_proj_bias",
    }


@pytest.mark.parametrize("glob", DOWN)
def test_inspect_takes_names_of_any_dialect(glob: str, models: dict[str, Path]) -> None:
    for case in ("mixtral", "mixtral.gguf", "mixtral-mlx"):
        found = matching(open_source(models[case]), glob)
        assert len(found) == (1 if case != "mixtral" else 4) and not requirements(
            open_source(models[case]), [(glob, found[0].scheme.name)], None, None
        )
