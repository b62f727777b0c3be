"""Both spellings of the kinds of layers give the same GGUF file, whichever one a config.json has."""

import json
from pathlib import Path
from typing import Any

import pytest

from quantcli import models
from quantcli.convert.planning.steps import Plan
from quantcli.models.layer_spellings import LISTS, OTHER_KEY, RENAMED
from tests.arch_models import arch_model
from tests.conversions import converted
from tests.models.families.test_arch_cases import CASES, SPELLINGS, config_of
from tests.mutations import outcomes
from tests.mutations.baselines import Baseline, dense

#: A kind of layer as the tables have it -> as published.
PUBLISHED = {new: old for old, new in RENAMED.items()}


def text_of(config: dict[str, Any]) -> dict[str, Any]:
    """The settings of a model's text model."""
    nested: dict[str, Any] = config.get("text_config", config)
    return nested


def with_layers(case: str) -> dict[str, Any]:
    """A config.json of a case that lists its layers' kinds, in any of its spellings; empty where none does."""
    configs = (config_of(case, spelling) for spelling in SPELLINGS)
    return next((config for config in configs if text_of(config).get("layer_types")), {})


def published(config: dict[str, Any]) -> dict[str, Any]:
    """The same with the names that kinds of layers had before transformers 5."""
    text = text_of(config)
    changed = {**text, "layer_types": [PUBLISHED.get(kind, kind) for kind in text["layer_types"]]}
    return changed if text is config else {**config, "text_config": changed}


def planned(model: Baseline, config: dict[str, Any], target: str = "gguf") -> Plan:
    plan = outcomes.planned(lambda: model.opened(config), target)
    assert isinstance(plan, Plan), plan
    return plan


@pytest.mark.parametrize("case", [case for case in CASES if with_layers(case)])
def test_both_spellings_plan_the_same_gguf(case: str, tmp_path: Path) -> None:
    config, model = with_layers(case), dense(case, tmp_path)
    old, new = (planned(model, one) for one in (published(config), config))
    assert text_of(published(config))["layer_types"] != text_of(config)["layer_types"]
    assert outcomes.everything(old) == outcomes.everything(new)
    assert old.warnings == new.warnings


def under_the_other_key(config: dict[str, Any]) -> dict[str, Any]:
    """The same with the kinds of layers as `layers_block_type`."""
    text = text_of(config)
    changed = {OTHER_KEY if key == "layer_types" else key: value for key, value in text.items()}
    return changed if text is config else {**config, "text_config": changed}


@pytest.mark.parametrize("case", [case for case in CASES if with_layers(case)])
def test_both_keys_plan_the_same_gguf(case: str, tmp_path: Path) -> None:
    config, model = with_layers(case), dense(case, tmp_path)
    other, usual = (planned(model, one) for one in (under_the_other_key(published(config)), config))
    assert outcomes.everything(other) == outcomes.everything(usual)
    assert [sorted(line) for line in other.warnings] == [sorted(line) for line in usual.warnings]  # in another order


def test_a_list_that_another_contradicts_is_named(tmp_path: Path) -> None:
    config, model = with_layers("qwen3_next"), dense("qwen3_next", tmp_path)
    kinds = config["layer_types"]
    same, other = (planned(model, {**config, OTHER_KEY: one}) for one in (kinds, [kinds[-1], *kinds[:-1]]))
    assert [OTHER_KEY in "".join(plan.warnings) for plan in (same, other)] == [False, True]


@pytest.mark.parametrize("case", ["qwen3_next", "qwen3_5", "olmo3", "glm_moe_dsa"])
def test_both_spellings_give_the_same_bytes(case: str, tmp_path: Path) -> None:
    folder = arch_model(tmp_path, case)
    for name, config in (("new", with_layers(case)), ("old", published(with_layers(case)))):
        (folder / "config.json").write_text(json.dumps(config))
        converted(folder, tmp_path / f"{name}.gguf", check=False)
    assert (tmp_path / "new.gguf").read_bytes() == (tmp_path / "old.gguf").read_bytes()


@pytest.mark.parametrize("case", ["qwen3_next", "qwen3_5", "mellum"])
def test_mlx_folders_have_the_spelling_that_mlx_lm_reads(case: str) -> None:
    config = with_layers(case)
    made = {**published(config), **models.mlx_keys(published(config))}
    assert text_of(made)["layer_types"] == text_of(config)["layer_types"]
    assert "layer_types" not in models.mlx_keys(config)
    other = under_the_other_key(published(config))
    assert text_of({**other, **models.mlx_keys(other)})["layer_types"] == text_of(config)["layer_types"]


def test_lists_of_layers_of_any_type_are_left_alone() -> None:
    for key in LISTS:
        for value in (None, 3, "mamba", {"mamba": 1}, [], [["mamba"], None, 3]):
            assert "layer_types" not in models.mlx_keys({"model_type": "qwen3", key: value})
