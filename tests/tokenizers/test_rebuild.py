"""Tokenizer files rebuilt from GGUF metadata: as their sources were, and refusals of what cannot be rebuilt."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from quantcli.checkpoint import Vocabulary
from quantcli.errors import BadInput, NotPossible
from quantcli.targets.gguf_metadata import tokenizer
from quantcli.tokenizers import load
from quantcli.tokenizers.conventions import COHERE, GEMMA2, GLM4, GLM4_MOE, NEMOTRON, PLAIN, Conventions
from quantcli.tokenizers.pre_tokenizers import steps
from quantcli.tokenizers.rebuild import tokenizer_json
from quantcli.tokenizers.splittings import SPLITTINGS
from quantcli.tokenizers.write import files, token_ids
from tests.tokenizers.kinds import DATA, KINDS, conventions_of, gguf_file, loaded, reference, stored

BYTES = tuple(chr(code) for code in range(33, 127))


def simple(**changes: Any) -> Vocabulary:
    """A byte-level vocabulary of printable characters, one merge and two special tokens."""
    tokens = tuple(text.encode() for text in (*BYTES, "ab", "<s>", "</s>"))
    types = (1,) * (len(BYTES) + 1) + (3, 3)
    special = {"bos": len(BYTES) + 1, "eos": len(BYTES) + 2}
    start = Vocabulary("bpe", "gpt-2", tokens, types, None, ("a b",), special, {})
    return replace(start, **changes)


def pieces(*entries: tuple[str, float, int]) -> Vocabulary:
    texts, scores, types = zip(*entries, strict=True)
    return Vocabulary("spm", "default", tuple(t.encode() for t in texts), types, scores, (), {}, {})


@pytest.mark.parametrize("kind", KINDS)
def test_keys_are_those_of_llama_cpps_converter(kind: str) -> None:
    """All of them, in their order."""
    made = tokenizer(loaded(kind), kind == "bpe-tekken", conventions_of(kind))
    assert list(made) == list(reference(kind))
    for key, (_, value) in made.items():
        plain = [v.decode() if isinstance(v, bytes) else v for v in value] if isinstance(value, tuple) else value
        assert plain == reference(kind)[key], key


@pytest.mark.parametrize("kind", KINDS)
def test_a_tokenizer_json_comes_back(tmp_path: Path, kind: str) -> None:
    source = json.loads((DATA / kind / "tokenizer.json").read_text(encoding="utf-8"))
    made, warnings = tokenizer_json(stored(gguf_file(tmp_path / "a.gguf", kind)), conventions_of(kind).strips)
    assert warnings == ()
    model, wanted = made["model"], source["model"]
    assert model["merges"] == [m if isinstance(m, list) else m.split(" ") for m in wanted["merges"]]
    assert {key: model[key] for key in model.keys() - {"vocab", "merges"}} == {
        key: wanted.get(key, False) for key in model.keys() - {"vocab", "merges"}
    }
    added = {token["content"]: token["id"] for token in source["added_tokens"]}
    assert model["vocab"] == wanted["vocab"] | added
    # special flags that llama.cpp's converter sets by a token's text stay set
    plain = [{key: token[key] for key in token.keys() - {"special"}} for token in made["added_tokens"]]
    assert plain == [{key: token[key] for key in token.keys() - {"special"}} for token in source["added_tokens"]]
    normalizer = source["normalizer"]
    assert made["normalizer"] == (None if normalizer == {"type": "Sequence", "normalizers": []} else normalizer)
    assert made["decoder"] == source["decoder"]
    assert made["post_processor"] == source["post_processor"]
    if kind != "spm-gemma":  # whose pre-tokenizer never matches, behind its normalizer
        assert steps(made["pre_tokenizer"]) == steps(source["pre_tokenizer"])


@pytest.mark.parametrize("kind", KINDS)
def test_the_rebuilt_folder_gives_the_same_keys(tmp_path: Path, kind: str) -> None:
    """GGUF -> folder -> GGUF; scores of pieces come back as the order of merges, not as numbers."""
    vocabulary = stored(gguf_file(tmp_path / "a.gguf", kind))
    for name, data in files(vocabulary, conventions_of(kind)).files.items():
        (tmp_path / name).write_bytes(data)
    again = load(tmp_path, {"vocab_size": len(vocabulary.tokens)}, conventions_of(kind))
    made, wanted = (tokenizer(v, kind == "bpe-tekken", conventions_of(kind)) for v in (again, vocabulary))
    scores = "tokenizer.ggml.scores"
    assert {k: v for k, v in made.items() if k != scores} == {k: v for k, v in wanted.items() if k != scores}
    assert (scores in made) == (scores in wanted)


def test_special_tokens_end_answers() -> None:
    assert token_ids(loaded("bpe-llama3")) == {"bos_token_id": 368, "eos_token_id": [374, 369, 373]}


def test_a_token_that_ends_answers_is_special_whatever_its_type() -> None:
    """As in llama.cpp; files without types are older than these."""
    vocabulary = simple(types=())
    assert [token["content"] for token in tokenizer_json(vocabulary)[0]["added_tokens"]] == ["</s>"]
    assert token_ids(vocabulary)["eos_token_id"] == 96


def test_gpt_oss_goes_on_behind_a_message() -> None:
    vocabulary = loaded("bpe-gpt4o")
    ends = token_ids(vocabulary)["eos_token_id"]
    assert isinstance(ends, list)
    assert [vocabulary.tokens[number] for number in ends] == [b"<|return|>", b"<|endoftext|>", b"<|call|>"]


@pytest.mark.parametrize(
    ("kind", "conventions", "side"),
    [
        ("spm-gemma", GEMMA2, "left"),
        ("spm-llama", PLAIN, "left"),
        ("spm-nemotron", NEMOTRON, "right"),
        ("bpe-command-r", COHERE, "left"),
        ("bpe-glm4", GLM4, "left"),
        ("bpe-glm4", GLM4_MOE, "left"),
        ("bpe-qwen2", PLAIN, None),
        ("bpe-llama3", PLAIN, None),
    ],
)
def test_batches_are_padded_on_the_side_of_the_published_tokenizers(
    kind: str, conventions: Conventions, side: str | None
) -> None:
    assert json.loads(files(loaded(kind), conventions).files["tokenizer_config.json"]).get("padding_side") == side


def test_tokenizer_config(tmp_path: Path) -> None:
    made = files(loaded("bpe-qwen2"), context_length=32768).files
    assert json.loads(made["tokenizer_config.json"]) == {
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "add_bos_token": False,
        "add_eos_token": False,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": 32768,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    assert made["chat_template.jinja"].decode().startswith("{% for m in messages %}")


def test_named_templates() -> None:
    made = files(simple(chat_template="D", chat_templates={"tool_use": "T"})).files
    assert made["chat_template.jinja"] == b"D" and made["additional_chat_templates/tool_use.jinja"] == b"T"
    only = json.loads(files(simple(chat_templates={"rag": "R"})).files["tokenizer_config.json"])
    assert only["chat_template"] == [{"name": "rag", "template": "R"}]
    for name in ("../up", "a/b", "", ".hidden", "a" * 200):
        with pytest.raises(BadInput, match=rf"tokenizer\.chat_template.*'{re.escape(name[:40])}.*\b100\b"):
            files(simple(chat_template="D", chat_templates={name: "T"}))


@pytest.mark.parametrize(
    ("add", "single", "pair"),
    [
        ({}, "A", "A B"),
        ({"bos": False, "eos": False}, "A", "A B"),
        ({"bos": True}, "<s> A", "<s> A B"),
        ({"bos": True, "sep": False}, "<s> A", "<s> A <s> B"),
        ({"bos": True, "sep": True}, "<s> A", "<s> A </s> B"),
        ({"bos": True, "eos": True}, "<s> A </s>", "<s> A </s> B </s>"),
        ({"eos": True}, "A </s>", "A </s> B </s>"),
    ],
)
def test_what_is_put_around_a_text(add: dict[str, bool], single: str, pair: str) -> None:
    processor = tokenizer_json(simple(add=add))[0]["post_processor"]
    if single == "A":
        assert processor["type"] == "ByteLevel"
        return
    template = processor["processors"][1]
    for wanted, entries in ((single, template["single"]), (pair, template["pair"])):
        assert " ".join(next(iter(entry.values()))["id"] for entry in entries) == wanted


def test_merges_follow_scores() -> None:
    vocabulary = pieces(("<unk>", 0, 2), ("a", -3, 1), ("b", -4, 1), ("ab", -2, 1), ("ba", -1, 1), ("aba", -2.5, 1))
    merges = tokenizer_json(vocabulary)[0]["model"]["merges"]
    assert merges == [["b", "a"], ["a", "b"], ["a", "ba"], ["ab", "a"]]


def test_a_blank_in_front_is_a_matter_of_the_key() -> None:
    for prefix, normalizer in ((None, "Sequence"), (True, "Sequence"), (False, "Replace")):
        made = tokenizer_json(replace(pieces(("a", 0, 1)), add_space_prefix=prefix))[0]
        assert made["normalizer"]["type"] == normalizer
        assert len(made["decoder"]["decoders"]) == (3 if prefix is False else 4)


def test_raw_merges_of_gemma4() -> None:
    made, _ = tokenizer_json(simple(model="gemma4", pre="gemma4"))
    assert made["model"]["byte_fallback"] and made["model"]["merges"] == [["a", "b"]]
    assert made["normalizer"] == {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
    assert made["pre_tokenizer"]["pattern"] == {"Regex": r"[^\n]+|[\n]+"}


def test_padding_and_foreign_merges_are_left_out() -> None:
    tokens = (*simple().tokens, b"[PAD97]", b"")
    vocabulary = simple(tokens=tokens, types=(*simple().types, 5, 5), merges=("a b", "a zz", "nothing", "a c"))
    made, warnings = tokenizer_json(vocabulary)
    assert made["model"]["merges"] == [["a", "b"]] and "3 merges" in warnings[0]
    assert "[PAD97]" not in made["model"]["vocab"] and made["model"]["vocab"]["[EMPTY_98]"] == 98


@pytest.mark.parametrize(
    ("vocabulary", "error", "message"),
    [
        (simple(model="t5"), NotPossible, r"tokenizer\.ggml\.model.*'t5'.*gpt2.*llama.*gemma4.*--tokenizer"),
        (simple(pre="nobody-knows"), NotPossible, r"'nobody-knows'.*tokenizer\.ggml\.pre\b.*--tokenizer"),
        (simple(tokens=(*simple().tokens[:-1], b"a")), BadInput, r"tokenizer\.ggml\.tokens.*'a'.*\b64\b.*\b96\b"),
        (simple(tokens=(*simple().tokens[:-1], b"\xff")), BadInput, r"tokens\[96\] is"),
        (simple(types=(1,)), BadInput, r"token_type.*\b97\b.*\b1\b"),
        (simple(merges=()), BadInput, "merges is missing"),
        (replace(pieces(("a", 0, 1)), scores=None), BadInput, "scores is missing"),
        (pieces(("a", float("nan"), 1)), BadInput, "NaN"),
        (pieces(("a", 0, 1), ("b" * 5000, 0, 1)), BadInput, "more than 4096 characters"),
        (replace(pieces(("a", 0, 1)), scores=(0.0, 1.0)), BadInput, r"scores.*\b1\b.*\b2\b"),
    ],
)
def test_vocabularies_that_cannot_be_rebuilt(vocabulary: Vocabulary, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        files(vocabulary)


def test_ids_out_of_range_are_nobodys() -> None:
    vocabulary = simple(special={"bos": 10**6, "eos": -1, "padding": 97}, add={"bos": True, "eos": True})
    assert "bos_token" not in json.loads(files(vocabulary).files["tokenizer_config.json"])
    assert token_ids(vocabulary) == {"eos_token_id": 96}  # its text says so
    assert tokenizer_json(vocabulary)[0]["post_processor"]["type"] == "ByteLevel"


def test_every_splitting_is_written() -> None:
    for name, how in SPLITTINGS.items():
        made = tokenizer_json(simple(pre=name))[0]
        assert made["model"]["ignore_merges"] == how.ignore_merges
        assert steps(made["pre_tokenizer"]) is not None, name
