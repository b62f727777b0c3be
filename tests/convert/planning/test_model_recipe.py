"""`--recipe MODEL`: the schemes of another model, by role and layer; `inspect --as-recipe` prints them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from quantcli.cli.app import app
from quantcli.errors import NotPossible
from tests.builders import tiny_llama
from tests.conversions import converted, planned, schemes

WIDE = {
    "hidden_size": 256, "intermediate_size": 512, "head_dim": 64, "num_attention_heads": 4, "num_key_value_heads": 4,
    "num_hidden_layers": 4,
}  # fmt: skip

#: Two layouts as published dynamic quants have them: types by role, single layers better, an embedding of its own.
DYNAMIC: dict[str, tuple[str, ...]] = {
    "UD-Q2_K": (
        "*ffn_gate*=iq4_nl", "*ffn_up*=q2_k", "*ffn_down*=q3_k", "blk.0.ffn_down*=q5_k", "blk.3.ffn_down*=q6_k",
        "*attn_v*=q4_k", "*attn_k*=q4_k", "*attn_q*=q3_k", "*attn_output*=q4_k", "token_embd*=q6_k", "output*=f16",
    ),
    "UD-Q4_K": (
        "*attn*=q4_k", "blk.1.attn_v*=bf16", "*ffn*=q4_k", "*ffn_down*=q5_k", "blk.[03].ffn_gate*=q6_k",
        "token_embd*=q8_0", "output*=q6_k",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A fine-tune, and dynamic quants of its base model."""
    root = tmp_path_factory.mktemp("models")
    made = {"tuned": tiny_llama(root / "tuned", **WIDE), "base": tiny_llama(root / "base", **WIDE)}
    for name, rules in DYNAMIC.items():
        made[name] = root / f"{name}.gguf"
        converted(made["base"], made[name], overrides=rules)
    made["mlx"] = root / "mlx"
    rules = ("*=affine4-g64", "*.down_proj=affine8-g32", "*.1.*.v_proj=affine6-g64", "lm_head=dense")
    converted(made["base"], made["mlx"], overrides=rules)
    return made


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.mark.parametrize("name", DYNAMIC)
def test_a_fine_tune_gets_the_types_of_a_dynamic_quant(name: str, models: dict[str, Path], tmp_path: Path) -> None:
    report = converted(models["tuned"], tmp_path / "out.gguf", recipe=models[name])
    assert schemes(tmp_path / "out.gguf") == schemes(models[name]) and report["warnings"] == []
    assert len(set(schemes(models[name]).values())) > 4


@pytest.mark.parametrize(("name", "output"), [(name, "out.gguf") for name in DYNAMIC] + [("mlx", "out")])
def test_the_printed_recipe_gives_the_same_plan(
    name: str, output: str, models: dict[str, Path], tmp_path: Path
) -> None:
    whole = planned(models["tuned"], tmp_path / output, recipe=models[name])
    done = run("inspect", models[name], "--as-recipe")
    (tmp_path / "recipe.toml").write_text(done.stdout)
    (tmp_path / "recipe.json").write_text(run("inspect", models[name], "--as-recipe", "--json").stdout)
    for file in ("recipe.toml", "recipe.json"):
        plan = planned(models["tuned"], tmp_path / output, recipe=tmp_path / file)
        assert [(s.name, s.scheme, s.route) for s in plan.steps] == [(s.name, s.scheme, s.route) for s in whole.steps]
        assert plan.warnings == whole.warnings == ()


def test_a_quantized_folder_is_a_recipe(models: dict[str, Path], tmp_path: Path) -> None:
    converted(models["tuned"], tmp_path / "out", recipe=models["mlx"])
    assert schemes(tmp_path / "out") == schemes(models["mlx"])


def test_a_folder_of_another_quantizer_is_a_recipe(models: dict[str, Path], tmp_path: Path) -> None:
    converted(models["base"], tmp_path / "ct", to="hf", overrides=("*.layers.*=int4-g64", "*.down_proj=int8-g64"))
    converted(models["tuned"], tmp_path / "out", to="hf", recipe=tmp_path / "ct")
    assert schemes(tmp_path / "out") == schemes(tmp_path / "ct")


def test_weights_that_the_other_lacks_follow_the_scheme(models: dict[str, Path], tmp_path: Path) -> None:
    deeper = tiny_llama(tmp_path / "deeper", **{**WIDE, "num_hidden_layers": 5})
    name = "UD-Q4_K"
    plan = planned(deeper, tmp_path / "out.gguf", recipe=models[name], scheme="q8_0")
    found = {step.name: step.scheme.name for step in plan.steps}
    own = {key: kind for key, kind in found.items() if key.startswith("blk.4.") and "norm" not in key}
    assert set(own.values()) == {"q8_0"} and len(own) == 7
    assert {key: kind for key, kind in found.items() if key not in own and "norm" not in key} == {
        key: kind for key, kind in schemes(models[name]).items() if "norm" not in key
    }
    layers, lacking = plan.warnings
    assert "has 4 layers" in layers and "has 5." in layers
    assert "7 weights" in lacking and "blk.4." in lacking


def test_other_shapes_and_layers_are_counted(models: dict[str, Path], tmp_path: Path) -> None:
    narrow = tiny_llama(tmp_path / "narrow", **{**WIDE, "num_hidden_layers": 3, "intermediate_size": 256})
    warnings = planned(narrow, tmp_path / "out.gguf", recipe=models["UD-Q2_K"]).warnings
    assert any("has 4 layers" in w and "has 3." in w for w in warnings)
    assert any("9 weights" in w and "another shape" in w for w in warnings)
    assert any("7 weights (first: 'blk.3." in w and "no counterpart in the converted model" in w for w in warnings)
    with pytest.raises(NotPossible, match="--strict"):
        planned(narrow, tmp_path / "out.gguf", recipe=models["UD-Q2_K"], strict=True)


def test_models_without_a_table_are_matched_by_name(tmp_path: Path) -> None:
    tuned = tiny_llama(tmp_path / "tuned")
    converted(tuned, tmp_path / "mlx", overrides=("*.o_proj=affine8-g32",))
    for folder in (tuned, tmp_path / "mlx"):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"model_type": "mystery", "architectures": ["Odd"]}))
    plan = planned(tuned, tmp_path / "out", recipe=tmp_path / "mlx", allow_unknown_architecture=True)
    assert {s.name for s in plan.steps if s.scheme.name == "affine8-g32"} == {
        f"model.layers.{layer}.self_attn.o_proj.weight" for layer in range(2)
    }


def test_a_scheme_of_another_target_is_named(models: dict[str, Path], tmp_path: Path) -> None:
    done = run("convert", models["tuned"], tmp_path / "out", "--recipe", models["UD-Q2_K"])
    assert done.exit_code == 2 and "is not a scheme" in done.stderr and "MLX folder" in done.stderr


def test_rules_of_a_model_are_shown(models: dict[str, Path]) -> None:
    done = run("inspect", models["tuned"], "--rules", "--recipe", models["UD-Q2_K"], "--json")
    found = {weight["name"]: weight["scheme"] for weight in json.loads(done.stdout)["weights"]}
    assert found["model.layers.0.mlp.down_proj.weight"] == "q5_k"
    assert found["model.layers.1.mlp.down_proj.weight"] == "q3_k"


def test_as_recipe_is_for_a_whole_model(models: dict[str, Path]) -> None:
    assert run("inspect", models["tuned"], "--as-recipe", "--filter", "*").exit_code == 2


def test_a_scheme_for_the_rest_may_have_nothing_left_to_do(models: dict[str, Path], tmp_path: Path) -> None:
    plan = planned(models["tuned"], tmp_path / "out.gguf", recipe=models["UD-Q4_K"], scheme="iq4_nl")
    assert {s.name: s.scheme.name for s in plan.steps} == schemes(models["UD-Q4_K"])
