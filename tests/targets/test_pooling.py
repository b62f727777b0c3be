"""The pooling of sentence-transformers models reaches GGUF, and what has no place there is named."""

import json
from pathlib import Path
from typing import Any

import pytest

from quantcli.errors import BadInput
from quantcli.targets.pooling import pooling
from quantcli.tokenizers.files import Files

TRANSFORMER = {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}
POOLING = {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}


def found(root: Path, settings: dict[str, Any], *more: Any) -> tuple[int | None, list[str]]:
    (root / "1_Pooling").mkdir()
    (root / "1_Pooling" / "config.json").write_text(json.dumps(settings))
    (root / "modules.json").write_text(json.dumps([TRANSFORMER, POOLING, *more]))
    return pooling(Files(root))


@pytest.mark.parametrize(
    ("settings", "number"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, 1),
        ({"pooling_mode_cls_token": True, "pooling_mode_max_tokens": False}, 2),
        ({"pooling_mode_lasttoken": True, "word_embedding_dimension": 64}, 3),
        ({"pooling_mode": "mean"}, 1),
        ({"pooling_mode": "cls", "embedding_dimension": 64}, 2),
        ({"pooling_mode": ["lasttoken"]}, 3),
    ],
)
def test_a_mode_is_llama_cpps_number(tmp_path: Path, settings: dict[str, Any], number: int) -> None:
    assert found(tmp_path, settings) == (number, [])


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"pooling_mode_max_tokens": True}, "'max'"),
        ({"pooling_mode": "weightedmean"}, "'weightedmean'"),
        ({"pooling_mode": "a new one"}, "'a new one'"),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, "'mean' and 'cls'"),
        ({}, "none"),
    ],
)
def test_a_mode_without_a_number_is_named(tmp_path: Path, settings: dict[str, Any], named: str) -> None:
    number, (warning,) = found(tmp_path, settings)
    assert number is None
    assert named in warning
    assert "1_Pooling/config.json" in warning


def test_what_else_has_no_place_is_named(tmp_path: Path) -> None:
    normalize = {"path": "3_Normalize", "type": "sentence_transformers.models.Normalize"}
    dense = {"path": "2_Dense", "type": "sentence_transformers.models.Dense"}
    settings = {"pooling_mode": "mean", "include_prompt": False}
    number, warnings = found(tmp_path, settings, dense, normalize)
    assert number == 1
    assert [name for name in ("include_prompt", "2_Dense") if not any(name in w for w in warnings)] == []
    assert not any("Normalize" in w for w in warnings)


def test_a_folder_without_modules_pools_as_the_runtime_is_asked_to(tmp_path: Path) -> None:
    assert pooling(Files(tmp_path)) == (None, [])


@pytest.mark.parametrize("path", ["../secret", "/etc", "", "a/../b", None, "..", 7])
def test_only_folders_of_the_model_are_read(tmp_path: Path, path: object) -> None:
    (tmp_path / "modules.json").write_text(json.dumps([TRANSFORMER, {**POOLING, "path": path}]))
    with pytest.raises(BadInput, match=r"modules\.json"):
        pooling(Files(tmp_path))


@pytest.mark.parametrize("text", ["{}", "[1]", "7", "null", json.dumps([TRANSFORMER] * 100)])
def test_modules_that_are_no_short_list_of_objects_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "modules.json").write_text(text)
    with pytest.raises(BadInput, match=r"modules\.json"):
        pooling(Files(tmp_path))
