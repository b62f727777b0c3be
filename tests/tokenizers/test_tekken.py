"""Mistral's tekken.json: chat templates and sizes, and files that are wrong or odd."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quantcli.errors import BadInput, NotPossible
from quantcli.tokenizers import load
from quantcli.tokenizers.write import files
from tests.tokenizers.ranked import DATA, vocabulary_of

Data = dict[str, Any]


def folder(root: Path, change: Callable[[Data], object] = lambda data: None) -> Path:
    """A folder with the file of tekken-v7, changed."""
    data = json.loads((DATA / "tekken-v7" / "tekken.json").read_text())
    change(data)
    (root / "tekken.json").write_text(json.dumps(data))
    return root


def versioned(version: str) -> Callable[[Data], object]:
    return lambda data: data["config"].update(version=version)


def test_the_files_own_special_tokens_count(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text('{"add_bos_token": false, "add_prefix_space": true}')
    made = load(folder(tmp_path), {"vocab_size": 632, "bos_token_id": 5, "pad_token_id": 6})
    assert made.special == {"bos": 1, "eos": 2, "unknown": 0, "padding": 22}
    assert made.add == {"bos": True, "eos": False} and made.add_space_prefix is None
    assert made.tokens[22:31] == (b"<pad>", *(b"<SPECIAL_%d>" % n for n in range(23, 30)), "Ā".encode())
    assert made.tokens[630:] == (b"[PAD630]", b"[PAD631]") and made.types[629:] == (1, 5, 5)
    assert load(tmp_path, {}).tokens == made.tokens[:630]


def test_files_of_sentencepiece_do_not_count_next_to_it(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(b"not read")
    assert load(folder(tmp_path), {}).pre == "tekken"


@pytest.mark.parametrize(
    ("version", "name"),
    [("v1", "mistral-v1"), ("v3", "mistral-v3-tekken"), ("v7", "mistral-v7-tekken"), ("v13", None), ("v99", None)],
)
def test_chat_templates_are_llama_cpps_where_it_has_one(tmp_path: Path, version: str, name: str | None) -> None:
    folder(tmp_path, versioned(version))
    made = load(tmp_path, {})
    assert made.chat_template == name
    assert [version in warning for warning in made.warnings] == [True] * (name is None)
    (tmp_path / "chat_template.jinja").write_text("{{ own }}")
    made = load(tmp_path, {})
    assert made.chat_template == name or (name is None and made.chat_template == "{{ own }}")
    assert [str(name) in warning for warning in made.warnings] == [True] * (name is not None)


def test_a_name_is_no_chat_template_of_a_folder() -> None:
    written = files(vocabulary_of("tekken-v7"))
    assert "chat_template.jinja" not in written.files
    (warning,) = written.warnings
    assert "mistral-v7-tekken" in warning
    assert "chat_template" not in json.loads(written.files["tokenizer_config.json"])


def test_another_pattern_is_named(tmp_path: Path) -> None:
    (warning,) = load(folder(tmp_path, lambda data: data["config"].update(pattern=r"\p{L}+")), {}).warnings
    assert "pattern" in warning


def test_a_smaller_vocabulary_is_cut(tmp_path: Path) -> None:
    made = load(folder(tmp_path, lambda data: data["config"].update(default_vocab_size=400)), {"vocab_size": 400})
    assert made.tokens == vocabulary_of("tekken-v7").tokens[:400]
    assert all("".join(merge.split(" ")).encode() in made.tokens for merge in made.merges)


def test_fewer_rows_than_tokens_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="vocab_size is 500"):
        load(folder(tmp_path), {"vocab_size": 500})


def test_only_bytes_are_refused_here_too(tmp_path: Path) -> None:
    with pytest.raises(NotPossible, match="two others"):
        load(folder(tmp_path, lambda data: data["config"].update(default_vocab_size=286)), {})


def in_config(**changes: Any) -> Callable[[Data], object]:
    return lambda data: data["config"].update(changes)


def in_vocab(place: int, **changes: Any) -> Callable[[Data], object]:
    return lambda data: data["vocab"][place].update(changes)


def in_special(place: int, **changes: Any) -> Callable[[Data], object]:
    return lambda data: data["special_tokens"][place].update(changes)


def without(*path: str) -> Callable[[Data], object]:
    def change(data: Data) -> None:
        for key in path[:-1]:
            data = data[key]
        del data[path[-1]]

    return change


ROW = {"rank": 23, "token_str": "é", "is_control": True}
LONG = base64.b64encode(b"a" * 20000).decode()


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        (without("config"), "config"),
        (without("config", "pattern"), "pattern"),
        (without("config", "default_vocab_size"), "default_vocab_size"),
        (in_config(default_vocab_size=1 << 40), "default_vocab_size"),
        (in_config(default_vocab_size=651), "651.*30.*620"),
        (in_config(default_vocab_size=200), "bytes"),
        (in_config(default_num_special_tokens=0), "default_num_special_tokens"),
        (in_config(default_num_special_tokens=700), "default_num_special_tokens"),
        (in_config(default_num_special_tokens=4, default_vocab_size=604), "23 special tokens"),
        (in_config(version=7), "version"),
        (lambda data: data.update(vocab={}), "vocab"),
        (lambda data: data["vocab"].insert(4, 7), r"vocab\[4\]"),
        (lambda data: data["vocab"].pop(300), r"vocab\[300\].*\b300\b.*\b301\b"),
        (in_vocab(300, rank=-1), r"vocab\[300\]"),
        (in_vocab(1, rank=True), r"vocab\[1\]"),
        (in_vocab(300, token_bytes="YQ"), r"vocab\[300\].*base64"),
        (in_vocab(300, token_bytes="\u00e9\u00e9=="), r"vocab\[300\].*base64"),
        (in_vocab(300, token_bytes=""), r"vocab\[300\].*empty"),
        (in_vocab(300, token_bytes=7), r"vocab\[300\]"),
        (in_vocab(300, token_bytes="YQ=="), r"vocab\[300\].*97"),
        (in_vocab(65, token_bytes="Qg=="), r"vocab\[65\].*bytes"),
        (in_vocab(300, token_bytes=LONG), "too long"),
        (lambda data: data.update(special_tokens={}), "special_tokens"),
        (in_special(3, rank=9), r"special_tokens\[3\].*\b3\b.*\b9\b"),
        (in_special(3, token_str=None), r"special_tokens\[3\]"),
        (in_special(3, token_str="</s>"), r"'</s>'.*2.*3"),
        (in_special(1, token_str="[bos]"), "<s>"),
        (in_special(3, token_str="a"), r"'a'.*3"),
        (in_special(3, token_str="<SPECIAL_25>"), r"SPECIAL_25.*3.*25"),
        (lambda data: data["special_tokens"].append(ROW | {"token_str": "\ud800"}), "surrogate"),
        (lambda data: (versioned("v13")(data), data.pop("special_tokens")), r"special_tokens.*v13"),
    ],
)
def test_wrong_files_are_one_error_each(tmp_path: Path, change: Callable[[Data], object], fact: str) -> None:
    with pytest.raises(BadInput, match=rf"tekken\.json.*{fact}"):
        load(folder(tmp_path, change), {})


@pytest.mark.parametrize("data", [b"", b"[]", b"\xff\xfe", b'{"config": {}, "config": {}}', b"{" * 1000])
def test_what_is_no_object_is_an_error(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "tekken.json").write_bytes(data)
    with pytest.raises(BadInput, match=r"tekken\.json"):
        load(tmp_path, {})
