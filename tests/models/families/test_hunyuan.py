"""Hunyuan A13B under the name of the code that it was released with, and settings that all Hunyuan releases repeat."""

import json
from pathlib import Path
from typing import Any

import pytest

from quantcli.errors import NotPossible
from quantcli.models.limits import MISCOMPUTED
from tests.arch_models import arch_model
from tests.conversions import converted, planned
from tests.peers.arch_cases import HUNYUAN_KEYS


def test_both_names_give_the_converters_gguf_without_a_warning(tmp_path: Path) -> None:
    """Of the name `hunyuan` tests/data/arch holds what the converter makes."""
    for number, kind in enumerate(("hunyuan", "hunyuan_v1_moe")):
        (tmp_path / kind).mkdir()
        source = arch_model(tmp_path / kind, "hunyuan_a13b", settings={"model_type": kind})
        converted(source, tmp_path / f"{number}.gguf", strict=True, check=False)
    assert (tmp_path / "0.gguf").read_bytes() == (tmp_path / "1.gguf").read_bytes()


def test_a_dense_release_repeats_keys_of_other_models_without_a_warning(tmp_path: Path) -> None:
    source = arch_model(tmp_path, "hunyuan_dense", settings=HUNYUAN_KEYS)
    assert planned(source, tmp_path / "a.gguf").warnings == ()
    (tmp_path / "other").mkdir()
    settings = {**HUNYUAN_KEYS, "add_classification_head": True}
    with pytest.raises(NotPossible, match="add_classification_head True"):
        planned(arch_model(tmp_path / "other", "hunyuan_dense", settings=settings), tmp_path / "b.gguf")


@pytest.mark.parametrize("scheme", [None, "affine4-g32"])
def test_an_mlx_folder_of_that_name_becomes_gguf_and_comes_back(tmp_path: Path, scheme: str | None) -> None:
    source = arch_model(tmp_path, "hunyuan_a13b")
    converted(source, tmp_path / "mlx", scheme=scheme, check=False)
    assert json.loads((tmp_path / "mlx" / "config.json").read_text())["model_type"] == "hunyuan"
    report = converted(tmp_path / "mlx", tmp_path / "mlx.gguf", check=False)
    assert report["warnings"] == []
    converted(tmp_path / "mlx.gguf", tmp_path / "back", to="hf", check=False)
    back = json.loads((tmp_path / "back" / "config.json").read_text())
    assert (back["model_type"], back["architectures"]) == ("hunyuan_v1_moe", ["HunYuanMoEV1ForCausalLM"])
    assert back["moe_topk"] == [2, 2]


def test_mlx_lm_is_said_to_compute_other_values(tmp_path: Path) -> None:
    source = arch_model(tmp_path, "hunyuan_a13b")
    (warning,) = planned(source, tmp_path / "mlx").warnings
    assert f"mlx-lm {MISCOMPUTED}" in warning and "divided by their sum" in warning
    with pytest.raises(NotPossible, match="--strict"):
        planned(source, tmp_path / "mlx", strict=True)


@pytest.mark.parametrize(
    ("settings", "fact"),
    [
        ({"architectures": ["HunYuanForCausalLM"]}, "HunYuanForCausalLM"),
        ({"moe_topk": 1}, r"moe_topk: .*list.* 1\."),
        ({"use_cla": True}, "use_cla True"),
        ({"use_mla": True}, "use_mla True"),
        ({"use_qk_norm": None}, "use_qk_norm False"),
        ({"use_mixed_mlp_moe": None}, "use_mixed_mlp_moe False"),
        ({"moe_drop_tokens": True}, "moe_drop_tokens True"),
    ],
)
def test_other_models_of_that_name_are_refused(tmp_path: Path, settings: dict[str, Any], fact: str) -> None:
    source = arch_model(tmp_path, "hunyuan_a13b")
    stated = {**json.loads((source / "config.json").read_text()), **settings}
    (source / "config.json").write_text(json.dumps({key: value for key, value in stated.items() if value is not None}))
    with pytest.raises(NotPossible, match=fact):
        planned(source, tmp_path / "a.gguf")
