"""Tokens whose ids are beyond the model's vocab_size: added ones are left out with a warning, whatever the kind."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from quantcli.checkpoint import Vocabulary
from quantcli.errors import BadInput
from quantcli.tokenizers import load
from tests.builders import byte_level_tokenizer, tiny_llama
from tests.conversions import converted
from tests.gguf_files import load as stored

DATA = Path(__file__).resolve().parent.parent / "data" / "tokenizers"
#: The folder of each kind's tokenizer, and how many tokens it has.
KINDS = {"bytes": 96, "spm": 432, "spm-json": 432}
#: Where a folder says which tokens were added.
PLACES = ("tokenizer.json", "added_tokens_decoder", "added_tokens.json")


def folder_of(root: Path, kind: str) -> Path:
    root.mkdir()
    if kind == "bytes":
        (root / "tokenizer.json").write_text(json.dumps(byte_level_tokenizer()))
        return root
    shutil.copy(DATA / "small-spm" / ("tokenizer.model" if kind == "spm" else "tokenizer.json"), root)
    return root


def add(root: Path, place: str, texts: list[str], first: int) -> None:
    """Further tokens with the ids from `first` on, in one of the places."""
    numbered = dict(enumerate(texts, first))
    if place == "added_tokens.json":
        (root / place).write_text(json.dumps({text: number for number, text in numbered.items()}))
    elif place == "added_tokens_decoder":
        entries = {str(number): {"content": text, "special": True} for number, text in numbered.items()}
        (root / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": entries}))
    else:
        data = json.loads((root / place).read_text())
        data["added_tokens"] += [{"id": n, "content": text, "special": True} for n, text in numbered.items()]
        (root / place).write_text(json.dumps(data))


def cases() -> list[tuple[str, str]]:
    """Kind and place: files are read where the kind has them."""
    left_out = {("spm", "tokenizer.json"), ("bytes", "added_tokens.json"), ("spm-json", "added_tokens.json")}
    return [(kind, place) for kind in KINDS for place in PLACES if (kind, place) not in left_out]


def about_rows(vocabulary: Vocabulary) -> list[str]:
    return [warning for warning in vocabulary.warnings if "no row" in warning]


@pytest.mark.parametrize(("kind", "place"), cases())
def test_an_added_token_without_a_row_is_left_out(kind: str, place: str, tmp_path: Path) -> None:
    root, size = folder_of(tmp_path / "m", kind), KINDS[kind]
    plain = load(root, {"vocab_size": size})
    assert about_rows(plain) == []
    add(root, place, ["<one>", "[PAD]", "<three>"], size)
    made = load(root, {"vocab_size": size})
    assert (made.tokens, made.types) == (plain.tokens, plain.types)
    (warning,) = about_rows(made)
    assert "3 added tokens" in warning and "'<one>'" in warning and str(size) in warning
    (warning,) = about_rows(load(root, {"vocab_size": size + 2}))
    assert "'<three>'" in warning and f"id {size + 2}" in warning
    assert about_rows(load(root, {"vocab_size": size + 3})) == []
    assert len(load(root, {}).tokens) == size + 3


def test_one_that_the_model_lists_too(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "m", "bytes")
    data: dict[str, Any] = byte_level_tokenizer()
    data["model"]["vocab"]["<|pad|>"] = 95
    (root / "tokenizer.json").write_text(json.dumps(data))
    made = load(root, {"vocab_size": 95})
    assert len(made.tokens) == 95
    assert len(about_rows(made)) == 1


def test_an_ordinary_token_without_a_row_is_another_models(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "m", "bytes")
    with pytest.raises(BadInput, match=r"tokenizer\.json: .*'ab'.* 92\b.*vocab_size.* 90\b"):
        load(root, {"vocab_size": 90})


def test_a_special_token_without_a_row_is_no_special_token(tmp_path: Path) -> None:
    source = tiny_llama(tmp_path / "m", pad_token_id=96)
    add(source, "tokenizer.json", ["[PAD]"], 96)
    (source / "tokenizer_config.json").write_text('{"eos_token": "<|end|>", "pad_token": "[PAD]"}')
    report = converted(source, tmp_path / "out.gguf")
    keys = stored(tmp_path / "out.gguf")[0]
    assert "tokenizer.ggml.padding_token_id" not in keys
    assert keys["tokenizer.ggml.tokens"][1].length == 96
    assert any("'[PAD]'" in warning for warning in report["warnings"])
