"""Settings of a GGUF file in the folders made of it: files beside config.json, and warnings that name what is lost."""

import json
from pathlib import Path

import pytest

from quantcli.errors import NotPossible
from tests.conversions import config, converted, planned
from tests.mutations.baselines import as_gguf, dense


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("qwen3")
    return as_gguf(dense("qwen3", root), root).path


def with_keys(source: Path, output: Path, *keys: str) -> Path:
    converted(source, output, check=False, override_kv=keys)
    return output


@pytest.mark.parametrize("to", ["hf", "mlx"])
def test_the_first_name_of_linear_scaling_counts(shared: Path, tmp_path: Path, to: str) -> None:
    source = shared / "field" / "gguf" / "rope-scale-linear.gguf"
    if not source.is_file():
        pytest.skip(f"no reference data: {source}")
    report = converted(source, tmp_path / "out", check=False, to=to)
    assert config(tmp_path / "out")["rope_scaling"] == {"factor": 4.0, "rope_type": "linear", "type": "linear"}
    assert not [warning for warning in report["warnings"] if "config.json" in warning]


@pytest.mark.parametrize("to", ["hf", "mlx"])
@pytest.mark.parametrize(("number", "mode"), [(1, "mean_tokens"), (2, "cls_token"), (3, "lasttoken")])
def test_pooling_is_sentence_transformers(qwen3: Path, tmp_path: Path, to: str, number: int, mode: str) -> None:
    source = with_keys(qwen3, tmp_path / "model.gguf", f"qwen3.pooling_type=int:{number}")
    report = converted(source, tmp_path / "out", check=False, to=to)
    modules = json.loads((tmp_path / "out" / "modules.json").read_text())
    pooling = json.loads((tmp_path / "out" / "1_Pooling" / "config.json").read_text())
    assert [(module["path"], module["type"].rpartition(".")[2]) for module in modules] == [
        ("", "Transformer"), ("1_Pooling", "Pooling"),
    ]  # fmt: skip
    assert [key for key, value in pooling.items() if value is True] == [f"pooling_mode_{mode}"]
    assert pooling["word_embedding_dimension"] == config(tmp_path / "out")["hidden_size"]
    assert report["warnings"] == []


def test_no_pooling_is_no_file_and_a_classifiers_is_named(qwen3: Path, tmp_path: Path) -> None:
    none = with_keys(qwen3, tmp_path / "none.gguf", "qwen3.pooling_type=int:0")
    rank = with_keys(qwen3, tmp_path / "rank.gguf", "qwen3.pooling_type=int:4")
    assert planned(none, tmp_path / "a", to="hf").warnings == ()
    assert "modules.json" not in {file.name for file in planned(none, tmp_path / "a", to="hf").files}
    (warning,) = planned(rank, tmp_path / "b", to="hf").warnings
    assert "qwen3.pooling_type is 4" in warning


def test_one_warning_lists_every_setting_without_a_place(qwen3: Path, tmp_path: Path) -> None:
    keys = ("qwen3.attention.clamp_kqv=float:8", "qwen3.a_key_of_nobody=str:x", "general.nobodys=str:x")
    source = with_keys(qwen3, tmp_path / "model.gguf", *keys, "qwen3.vocab_size=int:7", "general.author=str:x")
    (warning,) = planned(source, tmp_path / "out", to="hf").warnings
    for said in ("clamp_kqv is 8.0", "a_key_of_nobody is 'x'", "general.nobodys is 'x'", "vocab_size is 7"):
        assert said in warning
    assert "author" not in warning
    with pytest.raises(NotPossible, match="clamp_kqv"):
        planned(source, tmp_path / "out", to="hf", strict=True)


def test_thousands_of_unknown_keys_make_one_short_warning(qwen3: Path, tmp_path: Path) -> None:
    keys = [f"qwen3.nobodys_{'x' * 200}{number}=str:{'y' * 300}" for number in range(3000)]
    source = with_keys(qwen3, tmp_path / "model.gguf", *keys)
    (warning,) = planned(source, tmp_path / "out", to="hf").warnings
    assert len(warning) < 6000
    listed = warning.count("qwen3.nobodys_")
    assert listed > 0 and f"{3000 - listed} more" in warning


def test_what_mlx_lm_does_not_read_is_named_for_mlx_alone(qwen3: Path, tmp_path: Path) -> None:
    source = with_keys(qwen3, tmp_path / "model.gguf", "qwen3.attention.causal=bool:false")
    (warning,) = planned(source, tmp_path / "mlx").warnings
    assert "qwen3.attention.causal is False" in warning
    converted(source, tmp_path / "hf", check=False, to="hf", strict=True)
    assert config(tmp_path / "hf")["is_causal"] is False
