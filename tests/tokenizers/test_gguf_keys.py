"""Every `tokenizer.*` key of a GGUF file reaches a folder, is known to change nothing, or is named in a warning."""

import json
from pathlib import Path
from typing import Any

import pytest

from quantcli.containers.gguf import read
from quantcli.containers.gguf_values import Value
from quantcli.errors import BadInput, NotPossible
from quantcli.tokenizers.conventions import NEMOTRON
from quantcli.tokenizers.gguf_keys import HARMLESS, READ, dropped
from quantcli.tokenizers.write import files
from tests.builders import llama_gguf, tiny_llama
from tests.conversions import converted, planned
from tests.tokenizers import tiny

GGML = "tokenizer.ggml."
ROLES = (
    "bos", "eos", "eot", "eom", "unknown", "seperator", "padding", "mask", "cls", "fim_pre", "fim_suf", "fim_mid",
    "fim_pad", "fim_rep", "fim_sep", "prefix", "suffix", "middle",
)  # fmt: skip
#: Keys of llama.cpp beside ids of special tokens -> a value that a file may have -> whether a folder says it.
KEYS: tuple[tuple[str, tuple[str, Any], str], ...] = (
    ("add_bos_token", ("bool", True), "said"),
    ("add_eos_token", ("bool", True), "said"),
    ("add_sep_token", ("bool", True), "said"),
    ("add_space_prefix", ("bool", True), "said"),
    ("suppress_tokens", ("array[int32]", [4, 5]), "said"),
    ("normalizer.lowercase", ("bool", True), "said"),
    ("normalizer.strip_accents", ("bool", True), "said"),
    ("token_type_count", ("uint32", 2), "harmless"),
    ("remove_extra_whitespaces", ("bool", False), "harmless"),
    ("remove_extra_whitespaces", ("bool", True), "warning"),
    ("precompiled_charsmap", ("array[uint8]", []), "harmless"),
    ("precompiled_charsmap", ("array[int8]", [1, 2, 3, 4, 5, 6, 7, 8]), "warning"),
    ("added_tokens", ("array[string]", ["a"]), "warning"),
    ("no_such_key", ("uint32", 3), "warning"),
)
OTHERS: tuple[tuple[str, tuple[str, Any], str], ...] = (
    ("tokenizer.chat_template", ("string", "{{ x }}"), "said"),
    ("tokenizer.chat_template.tools", ("string", "{{ y }}"), "said"),
    ("tokenizer.chat_templates", ("array[string]", ["tools"]), "harmless"),
    ("tokenizer.huggingface.json", ("string", "{}"), "harmless"),
    ("tokenizer.rwkv.world", ("string", "x"), "harmless"),
    ("tokenizer.other", ("string", "x"), "warning"),
)
ALL = tuple((GGML + name, value, outcome) for name, value, outcome in KEYS) + OTHERS
ALL += tuple((f"{GGML}{role}_token_id", ("uint32", 93), "said") for role in ROLES)


def model(tmp_path: Path) -> Path:
    """A GGUF file of 96 tokens; 93 is `<|begin|>`, 94 `<|end|>` and 95 `<|pad|>`, the others are ordinary."""
    path = llama_gguf(tmp_path / "model.gguf", tiny_llama(tmp_path / "source"), eos_token_id=94, bos_token_id=94)
    return tiny.rekeyed(path, tmp_path / "plain.gguf", {f"{GGML}padding_token_id": None})


def changed(path: Path, key: str, value: tuple[str, Any] | None) -> Path:
    return tiny.rekeyed(path, path.with_name("changed.gguf"), {key: value})


@pytest.mark.parametrize("to", ["hf", "mlx"])
@pytest.mark.parametrize(("key", "value", "outcome"), ALL, ids=lambda x: x if isinstance(x, str) else None)
def test_every_key_is_said_harmless_or_named(
    tmp_path: Path, key: str, value: tuple[str, Any], outcome: str, to: str
) -> None:
    plain = model(tmp_path)
    with_key = changed(plain, key, value)
    plan, other = planned(with_key, tmp_path / "a", to=to), planned(plain, tmp_path / "a", to=to)
    new = [warning for warning in plan.warnings if key in warning]
    bytes_of = [
        {file.name: file.blobs for file in p.files if file.name.endswith(("json", "jinja"))} for p in (plan, other)
    ]
    assert (bytes_of[0] != bytes_of[1]) == (outcome == "said")
    assert len(new) == (outcome == "warning") and len(plan.warnings) == len(other.warnings) + len(new)
    if outcome == "warning":
        with pytest.raises(NotPossible, match="dropped"):
            planned(with_key, tmp_path / "a", to=to, strict=True)


@pytest.mark.parametrize("role", [role for role in ROLES if role != "cls"])
def test_roles_come_back(tmp_path: Path, role: str) -> None:
    """GGUF -> folder -> GGUF; the older names of three come back as the newer ones. llama.cpp does not read `cls`."""
    key = f"{GGML}{role}_token_id"
    source = changed(model(tmp_path), key, ("uint32", 95))
    converted(source, tmp_path / "folder", to="hf")
    converted(tmp_path / "folder", tmp_path / "back.gguf", to="gguf")
    newer = {"prefix": "fim_pre", "suffix": "fim_suf", "middle": "fim_mid"}.get(role, role)
    stored = read(tmp_path / "back.gguf").metadata
    assert stored[f"{GGML}{newer}_token_id"] == Value("uint32", 95)


@pytest.mark.parametrize("role", ["fim_pre", "fim_suf", "fim_mid", "fim_pad", "fim_rep", "fim_sep"])
def test_a_role_of_an_ordinary_token_is_named(tmp_path: Path, role: str) -> None:
    """Named in a folder, it would be cut out of every text."""
    key = f"{GGML}{role}_token_id"
    plan = planned(changed(model(tmp_path), key, ("uint32", 7)), tmp_path / "a", to="hf")
    (warning,) = [warning for warning in plan.warnings if "dropped" in warning]
    assert key in warning


def test_a_pre_tokenizer_of_sentencepiece_is_named(tmp_path: Path) -> None:
    """llama.cpp has one for byte-level BPE alone."""
    keys = tiny.vocabulary_keys("llama", [], [], {})
    for pre, count in (("default", 0), ("llama-bpe", 1)):
        found = {key: Value(*pair) for key, pair in (keys | {f"{GGML}pre": ("string", pre)}).items()}
        assert len(dropped(found, "a.gguf")) == count


def test_scores_may_be_whole_numbers(tmp_path: Path) -> None:
    """As llama.cpp's converter writes them of Mistral's vocabularies, where they are all zeros."""
    made = tiny.vocabulary(tmp_path / "a.gguf", "gpt2", [], [], {}, scores=("array[int32]", (0,) * 28))
    assert made.scores == (0,) * 28
    assert made.merges == ("a b",) and "tokenizer.json" in files(made).files
    with pytest.raises(BadInput, match=r"scores.*array\[int64\]"):
        tiny.vocabulary(tmp_path / "a.gguf", "gpt2", [], [], {}, scores=("array[int64]", (0,) * 28))


def test_an_unknown_token_that_is_not_of_that_type_is_named(tmp_path: Path) -> None:
    for number, count in ((0, 0), (1, 1)):
        made = files(tiny.vocabulary(tmp_path / "a.gguf", "llama", [], [], {"unknown": number}))
        assert json.loads(made.files["tokenizer_config.json"])["unk_token"] == "<unk>"
        assert len(made.warnings) == count and all("unknown_token_id" in warning for warning in made.warnings)
    nemotron = tiny.vocabulary(tmp_path / "a.gguf", "llama", [], [], {"unknown": 1})
    assert files(nemotron, NEMOTRON).warnings == ()  # of which llama.cpp's converter writes it


def test_many_keys_are_one_warning() -> None:
    lost = {f"tokenizer.x{n}": Value("uint32", n) for n in range(100)}
    (warning,) = dropped(lost, "a.gguf")
    assert "100" in warning and "tokenizer.x0 (0)" in warning and "92 more" in warning and len(warning) < 500
    assert dropped({key: Value("uint32", 1) for key in READ}, "a.gguf") == []


def test_reasons_are_sentences_without_an_end() -> None:
    assert all(len(entry.reason) > 10 and not entry.reason.endswith(".") for entry in HARMLESS.values())
    assert not READ & HARMLESS.keys()


def test_sampling_comes_back(tmp_path: Path) -> None:
    """Also the settings that transformers has no place for; it keeps what it does not know."""
    sampling = {"temperature": 0.5, "top_k": 7, "xtc_probability": 0.25, "mirostat": 2, "penalty_last_n": 32}
    root = tiny_llama(tmp_path / "source")
    (root / "generation_config.json").write_text(json.dumps(sampling))
    converted(root, tmp_path / "a.gguf", to="gguf")
    converted(tmp_path / "a.gguf", tmp_path / "folder", to="hf")
    made = json.loads((tmp_path / "folder" / "generation_config.json").read_text())
    assert made.items() >= sampling.items()
    converted(tmp_path / "folder", tmp_path / "b.gguf", to="gguf")
    ours, theirs = (read(tmp_path / name).metadata for name in ("a.gguf", "b.gguf"))
    assert {k: v for k, v in ours.items() if "sampling" in k} == {k: v for k, v in theirs.items() if "sampling" in k}
