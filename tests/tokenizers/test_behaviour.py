"""Tokenizers at work: rebuilt ones give their sources' ids, and two different ones are told apart."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from quantcli.checkpoint import Vocabulary
from quantcli.errors import NotPossible
from quantcli.tokenizers.behaviour import PROBES, Encode, differences, encoder
from quantcli.tokenizers.rebuild import tokenizer_json
from quantcli.tokenizers.splittings import SPLITTINGS
from tests.tokenizers.kinds import DATA, KINDS, conventions_of, gguf_file, loaded, probes, stored


def at_work(vocabulary: Vocabulary, strips: bool = False) -> Encode:
    return encoder(json.dumps(tokenizer_json(vocabulary, strips)[0]).encode(), "the vocabulary")


def of_folder(kind: str) -> Encode:
    return encoder((DATA / kind / "tokenizer.json").read_bytes(), kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_rebuilt_tokenizer_gives_the_sources_ids(tmp_path: Path, kind: str) -> None:
    source = of_folder(kind)
    rebuilt = at_work(stored(gguf_file(tmp_path / "a.gguf", kind)), conventions_of(kind).strips)
    for probe in probes(kind):
        assert source(probe["text"]) == rebuilt(probe["text"]) == probe["tokenizers_with_special"], probe
    assert differences(source, rebuilt) == []


def test_differences_name_the_text_and_both_sides() -> None:
    vocabulary = loaded("bpe-qwen2")
    assert differences(at_work(vocabulary), at_work(replace(vocabulary, pre="deepseek-r1-qwen"))) != []
    found = differences(at_work(vocabulary), at_work(replace(vocabulary, pre="qwen35")), ("abc", "न\u093f", "x"))
    assert all(difference.a != difference.b for difference in found)
    plain, added = at_work(vocabulary), at_work(replace(vocabulary, add={"bos": True}, special={"bos": 360}))
    assert [d.text for d in differences(plain, added)] == list(PROBES)
    assert differences(plain, added, ("a",))[0].b == (360, *differences(plain, added, ("a",))[0].a)


@pytest.mark.parametrize("kind", KINDS)
def test_probes_tell_the_kinds_apart(kind: str) -> None:
    for other in KINDS:
        assert (differences(of_folder(kind), of_folder(other)) == []) == (kind == other)


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff", b'{"model": {"type": "BPE"}}', b"[" * 10_000])
def test_what_the_library_does_not_load(data: bytes) -> None:
    with pytest.raises(NotPossible, match=r"a\.json: the tokenizers library does not load it"):
        encoder(data, "a.json")


def test_a_panic_of_the_library_is_an_error_like_any_other() -> None:
    data = json.loads((DATA / "bpe-gpt2" / "tokenizer.json").read_text())
    data["model"]["continuing_subword_prefix"] = "abc"
    with pytest.raises(NotPossible, match="the tokenizers library does not load it"):
        encoder(json.dumps(data).encode(), "a.json")
    data["model"] = {"type": "WordPiece", "vocab": {"a": 0}, "unk_token": "?", "continuing_subword_prefix": "#"}
    data["model"]["max_input_chars_per_word"] = 5
    with pytest.raises(NotPossible, match=r"a\.json: the tokenizers library cannot encode 'Hello"):
        encoder(json.dumps(data).encode(), "a.json")("Hello")


def test_the_library_takes_every_splitting() -> None:
    """Each expression is one that its matcher can read."""
    vocabulary = loaded("bpe-gpt2")
    for name in SPLITTINGS:
        encode = at_work(replace(vocabulary, pre=name))
        assert all(encode(text) or not text for text in PROBES), name
