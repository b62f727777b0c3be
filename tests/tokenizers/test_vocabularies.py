"""Whole vocabularies: those that llama.cpp's converter wrote, and folders that are wrong or odd."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from quantcli.errors import BadInput, NotPossible
from quantcli.tokenizers import load
from quantcli.tokenizers.conventions import GPT_NEOX, GRANITE, MAMBA, STARCODER2
from tests.tokenizers import kinds
from tests.tokenizers.kinds import KINDS, loaded

DATA = Path(__file__).resolve().parent.parent / "data" / "tokenizers"


@pytest.fixture
def bpe(tmp_path: Path) -> Path:
    shutil.copytree(DATA / "micro-llama", tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def spm(tmp_path: Path) -> Path:
    shutil.copytree(DATA / "small-spm", tmp_path / "model")
    return tmp_path / "model"


def edit(folder: Path, name: str, **changes: Any) -> None:
    """Set keys of a JSON file; `a__b` is the key b in the object a."""
    data = json.loads((folder / name).read_text())
    for path, value in changes.items():
        *outer, last = path.split("__")
        place = data
        for key in outer:
            place = place[key]
        place[last] = value
    (folder / name).write_text(json.dumps(data))


def config_of(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return config


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_read_without_a_warning(kind: str) -> None:
    assert loaded(kind).warnings == ()
    # exaone4 is another name for the splitting of mpt, granite's refact for that of starcoder
    plain = load(kinds.DATA / kind, {"vocab_size": len(loaded(kind).tokens)})
    assert {"exaone4": "mpt"}.get(loaded(kind).pre or "", loaded(kind).pre) == plain.pre


def test_an_architecture_chooses_among_names_of_one_rule() -> None:
    for conventions, pre in ((GRANITE, "refact"), (STARCODER2, "starcoder"), (GPT_NEOX, "starcoder")):
        assert load(kinds.DATA / "bpe-starcoder", {}, conventions).pre == pre


def test_the_number_of_tokens_is_rounded_up() -> None:
    made = load(kinds.DATA / "bpe-gptneox", {"vocab_size": 361}, MAMBA)
    assert len(made.tokens) == 368 and made.tokens[-1] == b"[PAD367]" and made.pre == "mpt"


def test_scores_from_merges_rank_pieces_as_the_model_file_does(spm: Path) -> None:
    """Without tokenizer.model, scores come from the order of merges: the same order among merged pieces."""
    whole = load(spm, config_of(spm))
    (spm / "tokenizer.model").unlink()
    derived = load(spm, config_of(spm))
    assert whole.model == derived.model == "spm"
    assert whole.tokens == derived.tokens
    assert whole.types == derived.types
    assert whole.special == derived.special and whole.add == derived.add
    merges = json.loads((spm / "tokenizer.json").read_text())["model"]["merges"]
    merged = {("".join(m) if isinstance(m, list) else m.replace(" ", "")).encode() for m in merges}
    ids = [number for number, token in enumerate(whole.tokens) if token in merged]
    assert len(ids) > 90 and whole.scores and derived.scores
    by_model = sorted(ids, key=lambda number: -whole.scores[number])  # type: ignore[index]
    by_merges = sorted(ids, key=lambda number: -derived.scores[number])  # type: ignore[index]
    assert by_model == by_merges


def test_more_ids_than_tokens_are_padded(bpe: Path) -> None:
    vocabulary = load(bpe, config_of(bpe) | {"vocab_size": 515})
    assert vocabulary.tokens[511:] == (b"<|pad|>", b"[PAD512]", b"[PAD513]", b"[PAD514]")
    assert vocabulary.types[511:] == (3, 5, 5, 5)


def test_padding_of_sentencepiece(spm: Path) -> None:
    vocabulary = load(spm, config_of(spm) | {"vocab_size": 434})
    assert vocabulary.tokens[432:] == (b"[PAD432]", b"[PAD433]")
    assert vocabulary.types[432:] == (5, 5)
    assert vocabulary.scores is not None and vocabulary.scores[432:] == (-10000.0, -10000.0)
    fewer = load(spm, config_of(spm) | {"vocab_size": 430})
    assert len(fewer.tokens) == 430
    assert re.search(r": 2 tokens\b.*\bvocab_size 430\b", fewer.warnings[0])


def test_without_vocab_size_there_are_as_many_as_there_are(bpe: Path) -> None:
    assert len(load(bpe, {}).tokens) == 512


def test_added_tokens_of_all_sorts(bpe: Path) -> None:
    added = json.loads((bpe / "tokenizer.json").read_text())["added_tokens"]
    texts = ["<|looks_special|>", "plain\u2581word", "<pad>"]
    more = [{"id": 512 + place, "content": text, "special": False} for place, text in enumerate(texts)]
    edit(bpe, "tokenizer.json", added_tokens=added + more)
    edit(bpe, "tokenizer_config.json", added_tokens_decoder={"515": {"content": "late", "special": True}})
    vocabulary = load(bpe, {"vocab_size": 516})
    assert vocabulary.tokens[512:] == (b"<|looks_special|>", b"plain word", b"<pad>", b"late")
    assert vocabulary.types[512:] == (3, 4, 3, 3)


def test_merges_in_both_spellings(bpe: Path) -> None:
    merges = json.loads((bpe / "tokenizer.json").read_text())["model"]["merges"]
    pairs = [m if isinstance(m, list) else m.split(" ") for m in merges]
    edit(bpe, "tokenizer.json", model__merges=[" ".join(pair) for pair in pairs])
    joined = load(bpe, config_of(bpe)).merges
    edit(bpe, "tokenizer.json", model__merges=pairs)
    assert load(bpe, config_of(bpe)).merges == joined == tuple(" ".join(pair) for pair in pairs)
    edit(bpe, "tokenizer.json", model__merges=[["a b", "c"]])
    assert load(bpe, config_of(bpe)).merges == ("a\u0120b c",)


def test_an_unknown_rule_is_said_to_be_assumed(bpe: Path) -> None:
    split = {"type": "Split", "pattern": {"Regex": "[a-z]+"}, "behavior": "Isolated", "invert": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
    edit(bpe, "tokenizer.json", pre_tokenizer={"type": "Sequence", "pretokenizers": [split, byte_level]})
    vocabulary = load(bpe, config_of(bpe))
    assert vocabulary.pre == "default"
    (warning,) = vocabulary.warnings
    assert "tokenizer.ggml.pre" in warning and "`default`" in warning and "--override-kv" in warning


def test_normalizers(bpe: Path) -> None:
    edit(
        bpe, "tokenizer.json", normalizer={"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]}
    )
    assert load(bpe, config_of(bpe)).normalizer == {"lowercase": True}
    (warning,) = load(bpe, config_of(bpe)).warnings  # a key says so, but llama.cpp does it for WordPiece alone
    assert "'Lowercase'" in warning
    edit(bpe, "tokenizer.json", normalizer={"type": "NFKC"})
    assert "normalizer 'NFKC'" in load(bpe, config_of(bpe)).warnings[0]


def test_a_folder_without_a_tokenizer(bpe: Path) -> None:
    (bpe / "tokenizer.json").rename(bpe / "vocab.json")
    with pytest.raises(NotPossible, match=r"has vocab\.json but no tokenizer\.json"):
        load(bpe, {})
    (bpe / "vocab.json").unlink()
    with pytest.raises(NotPossible, match=r"tokenizer\.json and tokenizer\.model .*GGUF"):
        load(bpe, {})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model__type": "Unigram"}, "'Unigram'.*BPE.*SentencePiece"),
        ({"pre_tokenizer": None, "decoder": None}, "is not byte-level and has no byte fallback"),
    ],
)
def test_kinds_that_are_not_read(bpe: Path, changes: dict[str, Any], message: str) -> None:
    edit(bpe, "tokenizer.json", **changes)
    with pytest.raises(NotPossible, match=message):
        load(bpe, config_of(bpe))


TEMPLATE = {"type": "TemplateProcessing", "special_tokens": {}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": []}, r"\bmodel\b.*\[\]"),
        ({"model__type": 5}, "model: key type: .*found 5"),
        ({"model__vocab": ["a"]}, "model: key vocab: expected"),
        ({"model__vocab": {"a": "0"}}, r"model\.vocab: .*'a'.*'0'"),
        ({"model__vocab": {"a": -1}}, r"'a'.* -1\b"),
        ({"model__vocab": {"a": True}}, r"'a'.*\bTrue\b"),
        ({"model__vocab": {"a": 10**9}}, r"'a'.*\b1000000000\b"),
        ({"model__vocab": {"a": 600}}, r"'a'.*\b600\b.*vocab_size.*\b512\b"),
        ({"model__vocab": {"a": 7, "b": 7}}, r"'a'.*'b'.*\b7\b"),
        ({"model__vocab": {"a": 509}}, r"'a'.*'<\|begin_of_text\|>'.*\b509\b"),
        ({"model__vocab": {"<|pad|>": 3}}, r"'<\|pad\|>'.*\b511 in added_tokens.*\b3 in model\.vocab"),
        ({"model__vocab": {"\ud800": 0}}, "surrogate"),
        ({"model__merges": {"a": 1}}, "model: key merges: expected"),
        ({"model__merges": ["ab"]}, r"model\.merges\[0\].*'ab'"),
        ({"model__merges": ["a b", "a b c"]}, r"model.merges\[1\]"),
        ({"model__merges": [["a", 1]]}, r"model.merges\[0\]"),
        ({"model__merges": [["a", ""]]}, r"model.merges\[0\]"),
        ({"model__ignore_merges": "yes"}, "model: key ignore_merges: .*found 'yes'"),
        ({"added_tokens": {"a": 1}}, r"\badded_tokens\b.*\{'a': 1\}"),
        ({"added_tokens": ["a"]}, r"added_tokens\[0\].*object"),
        ({"added_tokens": [{"id": 1.5, "content": "a"}]}, r"added_tokens\[0\].*\b1\.5\b"),
        ({"added_tokens": [{"id": 1, "content": None}]}, r"added_tokens\[0\].*content"),
        ({"normalizer": "NFC"}, "normalizer.*'NFC'"),
        ({"pre_tokenizer": 1}, r"pre_tokenizer.*\b1\b"),
        ({"post_processor": [1]}, r"post_processor.*\[1\]"),
        ({"post_processor": TEMPLATE | {"single": [1, 2]}}, "template entry .*found 1"),
        (
            {"post_processor": TEMPLATE | {"single": [{"SpecialToken": {"id": 1}}, {}]}},
            "SpecialToken or Sequence with an id",
        ),
    ],
)
def test_tokenizer_json_that_is_wrong(bpe: Path, changes: dict[str, Any], message: str) -> None:
    edit(bpe, "tokenizer.json", **changes)
    with pytest.raises(BadInput, match=rf"tokenizer\.json: .*{message}") as error:
        load(bpe, config_of(bpe))
    assert len(str(error.value)) < 600


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"{", b"\xff\xfe{}", b'{"model": ' + b"[" * 100_000, b'{"a": 1, "a": 2}', b'{"model": {}}\0', b"null"],
)
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_files_that_are_no_json_object(bpe: Path, name: str, data: bytes) -> None:
    (bpe / name).write_bytes(data)
    with pytest.raises(BadInput, match=name):
        load(bpe, config_of(bpe))


@pytest.mark.parametrize("levels", [5, 25])
def test_nested_sequences_are_walked_without_recursion(bpe: Path, levels: int) -> None:
    step: dict[str, Any] = {"type": "Lowercase"}
    for _ in range(levels):
        step = {"type": "Sequence", "normalizers": [step]}
    edit(bpe, "tokenizer.json", normalizer=step)
    assert load(bpe, config_of(bpe)).normalizer == {"lowercase": True}


@pytest.mark.parametrize("size", ["512", 0, -1, True, 10**8, 1.5])
def test_vocabulary_sizes_that_are_none(bpe: Path, size: object) -> None:
    with pytest.raises(BadInput, match=r"config\.json: key vocab_size(:| is)"):
        load(bpe, {"vocab_size": size})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"added_tokens_decoder": []}, r"added_tokens_decoder.*\[\]"),
        ({"added_tokens_decoder": {"x": {"content": "a"}}}, "added_tokens_decoder.*'x'"),
        ({"added_tokens_decoder": {"٣": {"content": "a"}}}, "added_tokens_decoder.*'٣'"),
        ({"added_tokens_decoder": {"3": "a"}}, r"added_tokens_decoder.*\b3\b.*object"),
        ({"added_tokens_decoder": {"999999999": {"content": "a"}}}, "added_tokens_decoder.*999999999"),
        ({"chat_template": 5}, r"chat_template.*\b5\b"),
        ({"chat_template": [{"name": "default"}]}, r"chat_template.*\bname\b.*\btemplate\b"),
    ],
)
def test_tokenizer_config_that_is_wrong(spm: Path, changes: dict[str, Any], message: str) -> None:
    edit(spm, "tokenizer_config.json", **changes)
    with pytest.raises(BadInput, match=rf"tokenizer_config\.json: .*{message}"):
        load(spm, config_of(spm))


def test_chat_templates_in_all_places(bpe: Path) -> None:
    (bpe / "chat_template.json").write_text('{"chat_template": "from json"}')
    assert load(bpe, {}).chat_template == "from json"
    (bpe / "chat_template.jinja").write_text("from jinja")
    (bpe / "additional_chat_templates").mkdir()
    (bpe / "additional_chat_templates" / "tool-use.jinja").write_text("tools")
    assert (load(bpe, {}).chat_template, load(bpe, {}).chat_templates) == ("from jinja", {"tool_use": "tools"})
    edit(bpe, "tokenizer_config.json", chat_template="from config")
    assert (load(bpe, {}).chat_template, load(bpe, {}).chat_templates) == ("from config", {})
    entries = [{"name": "default", "template": "D"}, {"name": "rag", "template": "R"}]
    edit(bpe, "tokenizer_config.json", chat_template=entries)
    assert (load(bpe, {}).chat_template, load(bpe, {}).chat_templates) == ("D", {"rag": "R"})
    (bpe / "tokenizer_config.json").unlink()
    (bpe / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(BadInput, match=r"chat_template\.jinja: is not UTF-8"):
        load(bpe, {})


@pytest.mark.parametrize("cleans", [True, False, None])
@pytest.mark.parametrize("pre", ["starcoder", "smollm"])
def test_the_vocabulary_tells_smollm_from_starcoder(pre: str, cleans: bool | None, tmp_path: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        data = json.loads((kinds.DATA / "bpe-starcoder" / name).read_text())
        if name == "tokenizer_config.json":
            data.pop("clean_up_tokenization_spaces", None)
            data |= {} if cleans is None else {"clean_up_tokenization_spaces": cleans}
        text = json.dumps(data)
        (tmp_path / name).write_text(text if pre == "starcoder" else text.replace("<fim_", "<other_"))
    assert load(tmp_path, {}).pre == pre
