"""Files of ranks: which class they belong to, and files that are wrong or odd."""

import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from quantcli.errors import BadInput, NotPossible
from quantcli.tokenizers import load
from quantcli.tokenizers.conventions import DEEPSEEK_V3, HUNYUAN_DENSE, HUNYUAN_MOE
from quantcli.tokenizers.ranks import MOST_STEPS, spelled
from quantcli.tokenizers.tiktoken import load_ranks
from tests.arch_models import arch_model
from tests.conversions import planned

BYTES = [bytes((byte,)) for byte in range(256)]
TOKENS = [*BYTES, b"ab", b"abc", b" \xff"]


def lines(tokens: list[bytes]) -> bytes:
    return b"".join(b"%s %d\n" % (base64.b64encode(token), rank) for rank, token in enumerate(tokens))


def folder(root: Path, file: str, settings: dict[str, Any] | None = None, tokens: list[bytes] = TOKENS) -> Path:
    (root / file).write_bytes(lines(tokens))
    if settings is not None:
        (root / "tokenizer_config.json").write_text(json.dumps(settings))
    return root


#: What Kimi's releases name.
KIMI = {"tokenizer_class": "TikTokenTokenizer"}


def decoder(names: dict[int, str]) -> dict[str, Any]:
    return {"added_tokens_decoder": {str(number): {"content": name} for number, name in names.items()}}


@pytest.mark.parametrize(
    ("file", "settings", "pre", "first"),
    [
        ("tiktoken.model", {"tokenizer_class": "TikTokenTokenizer"}, "kimi-k2", b"<|reserved_token_259|>"),
        ("hy.tiktoken", None, "hunyuan", b"<|endoftext|>"),
        ("qwen.tiktoken", {}, "qwen2", b"<|endoftext|>"),
        ("hunyuan.tiktoken", {"tokenizer_class": "HYTokenizer"}, "hunyuan", b"<|endoftext|>"),
        ("qwen.tiktoken", {"tokenizer_class": "TikTokenTokenizer"}, "kimi-k2", b"<|reserved_token_259|>"),
        ("a.tiktoken", {"auto_map": {"AutoTokenizer": ["code.QWenTokenizer", None]}}, "qwen2", b"<|endoftext|>"),
        ("a.tiktoken", {"auto_map": {"AutoTokenizer": "code.HYTokenizer"}}, "hunyuan", b"<|endoftext|>"),
    ],
)
def test_the_class_and_else_the_name_of_the_file_says_what_it_is(
    tmp_path: Path, file: str, settings: dict[str, Any] | None, pre: str, first: bytes
) -> None:
    made = load(folder(tmp_path, file, settings), {"vocab_size": 264, "eos_token_id": 0})
    assert made.warnings == ()
    assert (made.pre, made.tokens[259], len(made.tokens)) == (pre, first, 264)
    assert made.tokens[256:259] == (b"ab", b"abc", "Ġÿ".encode())
    assert made.types == (*(1,) * 259, *(3,) * 5)
    assert made.merges == ("a b", "ab c", "Ġ ÿ")


def test_another_class_is_read_by_the_name_of_the_file_with_a_warning(tmp_path: Path) -> None:
    made = load(folder(tmp_path, "tiktoken.model", {"tokenizer_class": "MyTokenizer"}), {"eos_token_id": 0})
    (warning,) = made.warnings
    assert "MyTokenizer" in warning and "kimi-k2" in warning
    assert made.pre == "kimi-k2"


@pytest.mark.parametrize("settings", [None, {}, {"auto_map": {}, "tokenizer_class": None}])
def test_a_name_that_many_classes_have_is_taken_for_kimis_with_a_warning(
    tmp_path: Path, settings: dict[str, Any] | None
) -> None:
    config = {"vocab_size": 264, "eos_token_id": 0}
    made = load(folder(tmp_path, "tiktoken.model", settings), config)
    (warning,) = made.warnings
    assert "tokenizer_config.json" in warning and "tiktoken.model" in warning
    assert "TikTokenTokenizer" in warning and "kimi-k2" in warning
    told = load(tmp_path, config, DEEPSEEK_V3)
    assert told.warnings == () and told == replace(made, warnings=())
    others = load(tmp_path, config, HUNYUAN_MOE)
    assert (others.pre, others.warnings) == ("hunyuan", ())


def test_strict_refuses_a_class_that_nothing_tells(tmp_path: Path) -> None:
    source = arch_model(tmp_path, "llama32")
    for file in source.glob("tokenizer*"):
        file.unlink()
    rows = json.loads((source / "config.json").read_text())["vocab_size"]
    folder(source, "tiktoken.model", decoder({rows - 1: "[EOS]"}) | {"eos_token": "[EOS]"})
    (warning,) = planned(source, tmp_path / "a.gguf").warnings
    assert "TikTokenTokenizer" in warning
    with pytest.raises(NotPossible, match="--strict.*TikTokenTokenizer"):
        planned(source, tmp_path / "a.gguf", strict=True)


@pytest.mark.parametrize("settings", [None, {"tokenizer_class": "Arcade100kTokenizer"}])
def test_a_file_of_no_known_class_is_refused(tmp_path: Path, settings: dict[str, Any] | None) -> None:
    with pytest.raises(NotPossible, match=r"arcade100k\.tiktoken.*tokenizer\.json"):
        load(folder(tmp_path, "arcade100k.tiktoken", settings), {})


def test_the_architecture_says_it_where_nothing_else_does(tmp_path: Path) -> None:
    config = {"vocab_size": 264, "eos_token_id": 0}
    assert load(folder(tmp_path, "vocab.tiktoken"), config, HUNYUAN_MOE).pre == "hunyuan"
    folder(tmp_path, "vocab.tiktoken", {"tokenizer_class": "MyTokenizer"})
    (warning,) = load(tmp_path, config, HUNYUAN_MOE).warnings
    assert "MyTokenizer" in warning and "vocab.tiktoken" in warning


def test_tokenizer_json_counts_before_a_file_of_ranks(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text('{"model": {"type": "WordPiece", "vocab": {}}}')
    with pytest.raises(NotPossible, match="WordPiece"):
        load(folder(tmp_path, "hy.tiktoken"), {})


def test_names_come_from_added_tokens_decoder(tmp_path: Path) -> None:
    names = {259: "[BOS]", 260: "[EOS]", 262: "<|im_end|>"}
    settings = KIMI | decoder(names) | {"bos_token": "[BOS]", "eos_token": {"content": "<|im_end|>"}}
    made = load(folder(tmp_path, "tiktoken.model", settings), {"vocab_size": 520})
    assert made.tokens[259:263] == (b"[BOS]", b"[EOS]", b"<|reserved_token_261|>", b"<|im_end|>")
    assert made.tokens[516:] == (b"<|reserved_token_516|>", b"[PAD517]", b"[PAD518]", b"[PAD519]")
    assert made.types[516:] == (3, 5, 5, 5)
    assert made.special == {"bos": 259, "eos": 262} and made.warnings == ()
    named = load(tmp_path, {"vocab_size": 520, "bos_token_id": 7, "eos_token_id": 260})
    assert named.special == {"bos": 7, "eos": 260}


def test_without_vocab_size_the_last_named_token_is_the_last(tmp_path: Path) -> None:
    made = load(folder(tmp_path, "tiktoken.model", KIMI | decoder({261: "[EOS]"})), {})
    assert made.tokens[259:] == (b"<|reserved_token_259|>", b"<|reserved_token_260|>", b"[EOS]")
    assert made.special == {"eos": 261}


def test_names_that_the_model_has_no_row_for_are_named(tmp_path: Path) -> None:
    config = {"vocab_size": 260, "eos_token_id": 0}
    (warning,) = load(folder(tmp_path, "tiktoken.model", KIMI | decoder({259: "[a]", 270: "[late]"})), config).warnings
    assert "[late]" in warning and "270" in warning and "260" in warning


def test_names_that_the_class_has_no_place_for_are_named(tmp_path: Path) -> None:
    config = {"vocab_size": 264, "eos_token_id": 0}
    (warning,) = load(folder(tmp_path, "hy.tiktoken", decoder({259: "<|endoftext|>", 263: "[new]"})), config).warnings
    assert "[new]" in warning and "HYTokenizer" in warning and "1 such" in warning


@pytest.mark.parametrize(
    ("names", "fact"), [({259: "ab"}, "'ab'.*256"), ({259: "[X]", 261: "[X]"}, r"'\[X\]'.*259")], ids=["rank", "twice"]
)
def test_a_special_token_that_is_another_token_is_an_error(tmp_path: Path, names: dict[int, str], fact: str) -> None:
    with pytest.raises(BadInput, match=fact):
        load(folder(tmp_path, "tiktoken.model", KIMI | decoder(names)), {"vocab_size": 264})


def test_fewer_rows_than_ranks_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"258.*vocab_size is 200"):
        load(folder(tmp_path, "tiktoken.model"), {"vocab_size": 200})


def test_tokens_that_no_pair_makes_are_counted(tmp_path: Path) -> None:
    tokens = [*TOKENS, b"xyz", b"abab"]
    made = load(folder(tmp_path, "tiktoken.model", KIMI, tokens), {"vocab_size": 262, "eos_token_id": 0})
    (warning,) = made.warnings
    assert "1 of its tokens" in warning
    assert made.merges[-1] == "ab ab" and len(made.merges) == 4


def test_bytes_without_a_token_are_counted(tmp_path: Path) -> None:
    tokens = [token for token in TOKENS if token not in (b"\x80", b"\x81")]
    (warning,) = load(folder(tmp_path, "tiktoken.model", KIMI, tokens), {"vocab_size": 258, "eos_token_id": 0}).warnings
    assert "2 bytes" in warning and "0x80" in warning


def test_hunyuans_ids_are_places_in_the_file(tmp_path: Path) -> None:
    data = lines(TOKENS).replace(b" 258\n", b" 900\n") + base64.b64encode(b"ab") + b" 3\n"
    (tmp_path / "hy.tiktoken").write_bytes(data)
    made = load(tmp_path, {"vocab_size": 260, "eos_token_id": 0})
    assert made.tokens[256:] == (b"ab", b"abc", "Ġÿ".encode(), b"<|endoftext|>")


@pytest.mark.parametrize(("width", "bos"), [(4096, 127958), (2048, 1)])
def test_hunyuan_7b_has_another_first_token_than_its_config_says(tmp_path: Path, width: int, bos: int) -> None:
    config = {"vocab_size": 127960, "hidden_size": width, "bos_token_id": 1, "eos_token_id": 262, "eod_token_id": 259}
    made = load(folder(tmp_path, "hy.tiktoken", {"bos_token": "<|bos|>"}), config, HUNYUAN_DENSE)
    assert made.special["bos"] == bos and made.special["eos"] == 259
    few = load(tmp_path, {**config, "vocab_size": 264}, HUNYUAN_DENSE)
    assert few.special["bos"] == 1


def test_only_bytes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NotPossible, match="two others"):
        load(folder(tmp_path, "tiktoken.model", KIMI, BYTES), {"vocab_size": 256})


@pytest.mark.parametrize(
    ("data", "fact"),
    [
        (b"", "no tokens"),
        (b"\n\n", "no tokens"),
        (b"YQ==\n", r"line 1.*b'YQ=='"),
        (b"YQ== 0 0\n", "line 1"),
        (b"YQ== 0\nYg== one\n", "line 2"),
        (b"YQ== -1\n", "line 1"),
        (b"YQ== 00000000000000000000\n", "line 1"),
        (b"YQ 0\n", r"line 1.*base64"),
        (b"Y\xff== 0\n", r"line 1.*base64"),
        ("YQ== ٠\n".encode(), "line 1"),
        (b"\xff\xfe\x00\x01", "line 1"),
        (b"YQ== 1\n", r"line 1: .*\b0\b.*\b1\b"),
        (b"YQ== 0\nYg== 2\n", r"line 2: .*\b1\b.*\b2\b"),
        (b"Yg== 1\nYQ== 0\n", r"line 1: .*\b0\b.*\b1\b"),
        (b"YQ== 0\nYQ== 1\n", r"line 2.*rank 0"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git-lfs"),
        (b"<!DOCTYPE html><html>", "web page"),
    ],
    ids=str,
)
def test_wrong_files_are_one_error_each(data: bytes, fact: str) -> None:
    with pytest.raises(BadInput, match=rf"^x\.tiktoken.*{fact}"):
        load_ranks(data, "x.tiktoken")


def test_tokens_that_take_hours_to_rebuild_are_refused() -> None:
    long = lines([b"a" * int(MOST_STEPS**0.5 + 1)])
    with pytest.raises(BadInput, match="too long"):
        load_ranks(long, "x.tiktoken")


def test_bytes_are_spelled_as_gpt_2_spells_them() -> None:
    assert spelled(b"Az~ \n\x00\x7f\xa0\xad\xff") == "Az~ĠĊĀġł\u0143ÿ"
    assert len({spelled(byte) for byte in BYTES}) == 256
