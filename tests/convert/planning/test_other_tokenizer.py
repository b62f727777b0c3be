"""`--tokenizer FOLDER`: its files take the place of the source's own, in folders and in GGUF."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from quantcli.errors import BadInput, NotPossible, WrongUsage
from tests.builders import byte_level_tokenizer, tiny_llama
from tests.conversions import converted, planned
from tests.gguf_files import load, save
from tests.runs import tree

FILES = {
    "tokenizer_config.json": b'{"chat_template": "{{ theirs }}", "eos_token": "<|end|>"}',
    "special_tokens_map.json": b'{"eos_token":   "<|end|>"}',
    "additional_chat_templates/tool_use.jinja": b"{{ tools }}",
    "tekken.json": b"{}",
}


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A folder with a tokenizer and much else."""
    folder = tmp_path / "other"
    (folder / "additional_chat_templates").mkdir(parents=True)
    for name, data in FILES.items():
        (folder / name).write_bytes(data)
    (folder / "tokenizer.json").write_text(json.dumps(byte_level_tokenizer(90)))
    (folder / "config.json").write_text('{"model_type": "other"}')
    (folder / "LICENSE").write_text("other")
    return folder


def names(folder: Path) -> set[str]:
    return set(tree(folder))


@pytest.mark.parametrize("options", [{"to": "hf"}, {}, {"scheme": "affine4-g32"}])
def test_a_folder_gets_the_files_of_the_other(options: dict[str, Any], other: Path, tmp_path: Path) -> None:
    source = tiny_llama(tmp_path / "m")
    (source / "chat_template.jinja").write_text("{{ own }}")
    (source / "vocab.json").write_text("{}")
    (source / "LICENSE").write_text("own")
    report = converted(source, tmp_path / "out", tokenizer=other, **options)
    for name in (*FILES, "tokenizer.json"):
        assert (tmp_path / "out" / name).read_bytes() == (other / name).read_bytes()
    assert not {"chat_template.jinja", "vocab.json"} & names(tmp_path / "out")
    assert (tmp_path / "out" / "LICENSE").read_text() == "own"
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "llama"
    assert "tekken.json" in {source["name"] for source in report["sources"]}


def test_a_gguf_gets_the_vocabulary_of_the_other(other: Path, tmp_path: Path) -> None:
    source = tiny_llama(tmp_path / "m")
    converted(source, tmp_path / "own.gguf")
    converted(source, tmp_path / "out.gguf", tokenizer=other)
    own, found = load(tmp_path / "own.gguf")[0], load(tmp_path / "out.gguf")[0]
    assert found["tokenizer.chat_template"] == ("string", "{{ theirs }}")
    assert found["tokenizer.ggml.tokens"][1].length == own["tokenizer.ggml.tokens"][1].length  # filled up
    assert found["tokenizer.ggml.tokens"][1].decode() != own["tokenizer.ggml.tokens"][1].decode()


@pytest.mark.parametrize("options", [{"to": "hf"}, {}])
@pytest.mark.parametrize("lost", ["model", "pre"])
def test_a_gguf_whose_tokenizer_cannot_be_rebuilt_becomes_a_folder(
    lost: str, options: dict[str, Any], other: Path, tmp_path: Path
) -> None:
    converted(tiny_llama(tmp_path / "m"), tmp_path / "in.gguf")
    keys, tensors = load(tmp_path / "in.gguf")
    save(tmp_path / "odd.gguf", keys | {f"tokenizer.ggml.{lost}": ("string", "odd-one")}, tensors)
    with pytest.raises(NotPossible, match="--tokenizer FOLDER"):
        planned(tmp_path / "odd.gguf", tmp_path / "out", **options)
    converted(tmp_path / "odd.gguf", tmp_path / "out", tokenizer=other, **options)
    for name in (*FILES, "tokenizer.json"):
        assert (tmp_path / "out" / name).read_bytes() == (other / name).read_bytes()
    assert {"config.json", "generation_config.json"} <= names(tmp_path / "out")


def test_what_is_no_tokenizer_is_refused(other: Path, tmp_path: Path) -> None:
    source = tiny_llama(tmp_path / "m")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match=f"--tokenizer {tmp_path / 'empty'}: has no tokenizer files"):
        planned(source, tmp_path / "out", tokenizer=tmp_path / "empty")
    for missing in (tmp_path / "nowhere", other / "tokenizer.json"):
        with pytest.raises(WrongUsage, match="is not a folder"):
            planned(source, tmp_path / "out", tokenizer=missing)
    (other / "tokenizer.json").write_text(json.dumps(byte_level_tokenizer(100)))
    for output in ("out", "out.gguf"):
        with pytest.raises(BadInput, match="has 97 tokens, but the model's embedding has 96 rows"):
            planned(source, tmp_path / output, tokenizer=other)


def test_a_gguf_made_of_a_gguf_keeps_its_own(other: Path, tmp_path: Path) -> None:
    converted(tiny_llama(tmp_path / "m"), tmp_path / "in.gguf")
    with pytest.raises(WrongUsage, match="tokenizer is copied"):
        planned(tmp_path / "in.gguf", tmp_path / "out.gguf", tokenizer=other)


@pytest.mark.parametrize("output", ["out", "out.gguf"])
def test_a_smaller_tokenizer_is_a_warning_where_config_names_other_ids(
    other: Path, output: str, tmp_path: Path
) -> None:
    source = tiny_llama(tmp_path / "m")
    ids = json.loads((source / "config.json").read_text())["eos_token_id"]
    (other / "tokenizer.json").write_text(json.dumps(byte_level_tokenizer(50)))
    warnings = planned(source, tmp_path / output, tokenizer=other).warnings
    assert any("has 50 tokens" in warning and f"eos_token_id {ids}" in warning for warning in warnings)
