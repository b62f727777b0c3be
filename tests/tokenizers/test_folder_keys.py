"""What a folder's tokenizer files say and GGUF cannot hold is named in a warning; what changes nothing is not."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quantcli.errors import NotPossible, QuantError
from quantcli.models.generation_keys import HARMLESS, NEUTRAL, READ, dropped
from quantcli.tokenizers import load
from quantcli.tokenizers.conventions import PHI3
from tests.builders import tiny_llama
from tests.conversions import planned
from tests.tokenizers import kinds

DATA = Path(__file__).resolve().parent.parent / "data" / "tokenizers"
SETTINGS, JSON, MAP = "tokenizer_config.json", "tokenizer.json", "special_tokens_map.json"


def folder(tmp_path: Path, name: str, change: Callable[[dict[str, dict[str, Any]]], object]) -> Path:
    """A copy of a tokenizer's folder, its files changed as JSON objects by name."""
    root = tmp_path / "model"
    shutil.copytree(DATA / name, root)
    names = (SETTINGS, JSON, "config.json")
    files = {file: json.loads((root / file).read_text()) if (root / file).is_file() else {} for file in names}
    files[MAP] = {}
    change(files)
    for file, data in files.items():
        (root / file).write_text(json.dumps(data))
    return root


def warnings(root: Path) -> tuple[str, ...]:
    return load(root, json.loads((root / "config.json").read_text())).warnings


def template(*front: str) -> dict[str, Any]:
    first = [{"SpecialToken": {"id": text, "type_id": 0}} for text in front]
    return {"type": "TemplateProcessing", "single": [*first, {"Sequence": {"id": "A", "type_id": 0}}], "pair": []}


def set_key(file: str, *path: str, value: Any) -> Callable[[dict[str, dict[str, Any]]], object]:
    def change(files: dict[str, dict[str, Any]]) -> None:
        place = files[file]
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value

    return change


def flagged(flag: str) -> Callable[[dict[str, dict[str, Any]]], object]:
    return lambda files: files[JSON]["added_tokens"][-1].update({flag: True})


def whole_words(flag: bool, *unmerged: str) -> Callable[[dict[str, dict[str, Any]]], object]:
    """ignore_merges is the opposite of what llama.cpp does; each of `unmerged` is a token that no merge makes."""

    def change(files: dict[str, dict[str, Any]]) -> None:
        model = files[JSON]["model"]
        merges = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
        made = {"".join(merge) for merge in merges}
        special = {entry["content"] for entry in files[JSON]["added_tokens"]}
        for text in [text for text in model["vocab"] if len(text) > 1 and text not in made | special]:
            if not text.startswith("<0x"):
                model["merges"].append([text[:1], text[1:]])
        for text in unmerged:
            model["vocab"][text] = len(model["vocab"]) + len(special)
            files["config.json"]["vocab_size"] = model["vocab"][text] + 1
        model["ignore_merges"] = flag

    return change


def renamed_end(files: dict[str, dict[str, Any]]) -> None:
    files[JSON]["added_tokens"][-1]["content"] = files[SETTINGS]["pad_token"] = "<|eot_id|>"
    files[MAP]["eos_token"] = "<|eot_id|>"


BPE, SPM = "micro-llama", "small-spm"
#: What is changed -> the file and the word that the one warning names; empty: no warning.
CHANGES: dict[str, tuple[str, Callable[[dict[str, dict[str, Any]]], object], str, str]] = {
    "nothing": (BPE, lambda files: None, "", ""),
    "nothing, SentencePiece": (SPM, lambda files: None, "", ""),
    "split special": (BPE, set_key(SETTINGS, "split_special_tokens", value=True), SETTINGS, "split_special_tokens"),
    "not split special": (BPE, set_key(SETTINGS, "split_special_tokens", value=False), "", ""),
    "sampling": (SPM, set_key(SETTINGS, "sp_model_kwargs", value={"alpha": 0.1}), SETTINGS, "sp_model_kwargs"),
    "small letters": (BPE, set_key(SETTINGS, "do_lower_case", value=True), SETTINGS, "do_lower_case"),
    "remove space": (BPE, set_key(SETTINGS, "remove_space", value=True), SETTINGS, "remove_space"),
    "accents": (BPE, set_key(SETTINGS, "keep_accents", value=False), SETTINGS, "keep_accents"),
    "text only": (BPE, set_key(SETTINGS, "clean_up_tokenization_spaces", value=True), "", ""),
    "length": (BPE, set_key(SETTINGS, "model_max_length", value=1), "", ""),
    "dropout": (BPE, set_key(JSON, "model", "dropout", value=0.1), JSON, "dropout"),
    "no dropout": (BPE, set_key(JSON, "model", "dropout", value=0.0), "", ""),
    "prefix": (BPE, set_key(JSON, "model", "continuing_subword_prefix", value="##"), JSON, "continuing_subword_prefix"),
    "suffix": (SPM, set_key(JSON, "model", "end_of_word_suffix", value="</w>"), JSON, "end_of_word_suffix"),
    "empty suffix": (SPM, set_key(JSON, "model", "end_of_word_suffix", value=""), "", ""),
    "whole words": ("kinds/bpe-qwen2", whole_words(True, "ignore"), JSON, "ignore_merges"),
    "whole words, all of them merged": ("kinds/bpe-qwen2", whole_words(True), "", ""),
    "whole words, SentencePiece": (SPM, whole_words(True, "ignore"), JSON, "ignore_merges"),
    "whole words, SentencePiece, all of them merged": (SPM, whole_words(True), "", ""),
    "lstrip": (BPE, flagged("lstrip"), JSON, "lstrip"),
    "rstrip": (BPE, flagged("rstrip"), JSON, "rstrip"),
    "single_word": (SPM, flagged("single_word"), JSON, "single_word"),
    "normalized": (SPM, flagged("normalized"), "", ""),
    "normalizer": (SPM, lambda files: files[JSON]["normalizer"]["normalizers"].append({"type": "NFKC"}), JSON, "NFKC"),
    "pre-tokenizer": (
        SPM, set_key(JSON, "pre_tokenizer", value={"type": "Digits", "individual_digits": True}), JSON, "Digits",
    ),
    "no blank in front": (
        SPM,
        set_key(JSON, "normalizer", value={"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}),
        JSON,
        "add_prefix_space",
    ),
    "a blank in front": (SPM, set_key(SETTINGS, "add_prefix_space", value=False), JSON, "add_prefix_space"),
    "a blank by a class": (
        BPE,
        lambda files: files[SETTINGS].update(add_prefix_space=True, tokenizer_class="GPT2Tokenizer"),
        SETTINGS,
        "add_prefix_space",
    ),
    "no blank by the generic class": (BPE, set_key(SETTINGS, "add_prefix_space", value=True), "", ""),
    "post-processor": (
        BPE,
        lambda files: (
            files[JSON].update(post_processor={"type": "BertProcessing", "sep": ["a", 1], "cls": ["b", 2]}),
            files[SETTINGS].update(add_bos_token=False),
        ),
        JSON,
        "BertProcessing",
    ),
    "two in front": (
        BPE,
        set_key(JSON, "post_processor", value=template("<|begin_of_text|>", "<|eot_id|>")),
        JSON,
        "2 special tokens",
    ),
    "none in front": (BPE, set_key(JSON, "post_processor", value=None), JSON, "add_bos_token"),
    "none in front, said": (
        BPE,
        lambda files: (files[JSON].update(post_processor=None), files[SETTINGS].update(add_bos_token=False)),
        "",
        "",
    ),
    "another end in the map": (BPE, set_key(MAP, "eos_token", value="<|pad|>"), MAP, "eos_token"),
    "an end that llama.cpp knows in the map": (BPE, renamed_end, "", ""),
    "another start in the map": (BPE, set_key(MAP, "bos_token", value={"content": "<|pad|>"}), MAP, "bos_token"),
    "another padding in the map": (BPE, set_key(MAP, "pad_token", value="<|eot_id|>"), "", ""),
    "the same in the map": (BPE, set_key(MAP, "eos_token", value="<|end_of_text|>"), "", ""),
    "more special tokens": (
        BPE, set_key(SETTINGS, "additional_special_tokens", value=["<|pad|>", "ab"]), SETTINGS, "'ab'",
    ),
    "more special tokens by name": (
        BPE, set_key(SETTINGS, "extra_special_tokens", value={"x_token": "zz"}), SETTINGS, "'zz'",
    ),
    "special tokens that are added": (
        SPM, set_key(SETTINGS, "additional_special_tokens", value=[{"content": "</s>"}]), "", "",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", CHANGES)
def test_what_gguf_cannot_hold_is_one_warning(tmp_path: Path, what: str) -> None:
    name, change, file, word = CHANGES[what]
    found = warnings(folder(tmp_path, name, change))
    if not file:
        assert found == ()
        return
    (warning,) = found
    assert f"/{file}: " in warning and word in warning


def test_flags_of_many_tokens_are_one_warning(tmp_path: Path) -> None:
    root = folder(tmp_path, SPM, lambda files: [entry.update(rstrip=True) for entry in files[JSON]["added_tokens"]])
    (warning,) = warnings(root)
    assert "<unk>" in warning and "rstrip" in warning
    config = json.loads((root / "config.json").read_text())
    assert load(root, config, PHI3).warnings == ()  # which llama.cpp knows by the model's name


def test_a_second_chat_template_is_named(tmp_path: Path) -> None:
    root = folder(tmp_path, SPM, lambda files: None)
    text = load(root, {}).chat_template
    assert text is not None
    (root / "chat_template.jinja").write_text(text)
    assert warnings(root) == ()
    (root / "chat_template.jinja").write_text("{{ other }}")
    (warning,) = warnings(root)
    assert "/chat_template.jinja: " in warning


@pytest.mark.parametrize("kind", kinds.KINDS)
def test_published_tokenizers_lose_nothing(kind: str) -> None:
    assert kinds.loaded(kind).warnings == ()


#: generation_config.json of well-known releases.
RELEASES: tuple[dict[str, Any], ...] = (
    {"bos_token_id": 128000, "do_sample": True, "eos_token_id": [128001, 128008, 128009], "temperature": 0.6,
     "top_p": 0.9, "transformers_version": "4.42.3"},
    {"bos_token_id": 151643, "pad_token_id": 151643, "do_sample": True, "eos_token_id": [151645, 151643],
     "repetition_penalty": 1.05, "temperature": 0.7, "top_p": 0.8, "top_k": 20, "transformers_version": "4.37.0"},
    {"_from_model_config": True, "bos_token_id": 2, "cache_implementation": "hybrid", "eos_token_id": 1,
     "pad_token_id": 0, "transformers_version": "4.42.0"},
    {"chat_format": "chatml", "eos_token_id": 151643, "pad_token_id": 151643, "max_window_size": 6144,
     "max_new_tokens": 512, "do_sample": True, "top_k": 0, "top_p": 0.8, "transformers_version": "4.31.0"},
    {"bos_token_id": 1, "do_sample": True, "eos_token_id": 2, "pad_token_id": 0, "temperature": 0.6,
     "max_length": 4096, "top_p": 0.9, "transformers_version": "4.31.0.dev0"},
    {"do_sample": True, "top_p": 0.8, "temperature": 0.8, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
     "repetition_penalty": 1.0, "frequency_penalty": 0.0, "presence_penalty": 0.0},
)  # fmt: skip


@pytest.mark.parametrize("release", RELEASES)
def test_generation_settings_of_releases_lose_nothing(release: dict[str, Any]) -> None:
    assert dropped(release, "a") == []


@pytest.mark.parametrize("key", NEUTRAL)
def test_a_generation_setting_without_a_place_is_named(key: str) -> None:
    (warning,) = dropped({key: 7}, "a/generation_config.json")
    assert warning.startswith("a/generation_config.json: ") and f"{key} (7)" in warning
    assert all(dropped({key: same}, "a") == [] for same in (None, *NEUTRAL[key]))


def test_an_unknown_generation_setting_is_named(tmp_path: Path) -> None:
    root = tiny_llama(tmp_path / "a")
    settings = {"no_such_setting": True, "no_repeat_ngram_size": 3, "temperature": 0.5, "do_sample": False}
    (root / "generation_config.json").write_text(json.dumps(settings))
    (warning,) = planned(root, tmp_path / "a.gguf", to="gguf").warnings
    assert "no_such_setting (True), no_repeat_ngram_size (3)" in warning and "temperature" not in warning
    with pytest.raises(NotPossible, match="no_such_setting"):
        planned(root, tmp_path / "a.gguf", to="gguf", strict=True)
    assert planned(root, tmp_path / "made", to="mlx").warnings == ()  # whose file is a copy


def test_many_unknown_settings_are_one_warning() -> None:
    (warning,) = dropped({f"x{n}": "y" * 1000 for n in range(500)}, "a")
    assert " 500 " in warning and "x0 (" in warning and "492 more" in warning and len(warning) < 1200


def test_tables_of_generation_settings_do_not_overlap() -> None:
    assert not READ & HARMLESS.keys() and not READ & NEUTRAL.keys() and not HARMLESS.keys() & NEUTRAL.keys()
    assert all(len(reason) > 10 for reason in HARMLESS.values())


#: Values that no key has, or that only some have.
ODD: tuple[Any, ...] = (
    None,
    True,
    7,
    -1,
    1.5,
    "x",
    [],
    {},
    [[]],
    [None],
    {"a": 1},
    [{"type": []}],
    {"type": "Sequence"},
)
PATHS: tuple[tuple[str, ...], ...] = (
    *((SETTINGS, key) for key in (
        "bos_token", "eos_token", "eot_token", "fim_pre_token", "additional_special_tokens", "extra_special_tokens",
        "sp_model_kwargs", "do_lower_case", "add_prefix_space", "tokenizer_class", "add_bos_token", "chat_template",
    )),
    *((JSON, key) for key in ("normalizer", "pre_tokenizer", "post_processor", "added_tokens", "decoder")),
    *((JSON, "model", key) for key in ("type", "dropout", "ignore_merges", "merges", "vocab", "end_of_word_suffix")),
    (JSON, "post_processor", "single"), (MAP, "eos_token"), (MAP, "bos_token"), ("config.json", "eos_token_id"),
    ("generation_config.json", "eos_token_id"), ("generation_config.json", "suppress_tokens"),
)  # fmt: skip


@pytest.mark.parametrize("name", [BPE, SPM])
@pytest.mark.parametrize("path", PATHS, ids="/".join)
def test_odd_values_are_read_or_refused(tmp_path: Path, name: str, path: tuple[str, ...]) -> None:
    for place, odd in enumerate(ODD):
        below = tmp_path / str(place)
        below.mkdir()
        root = folder(below, name, lambda files: files.update({"generation_config.json": {}}))
        data = json.loads((root / path[0]).read_text())
        inner = data
        for key in path[1:-1]:
            inner = inner[key] if isinstance(inner.get(key), dict) else inner.setdefault(f"no {key}", {})
        inner[path[-1]] = odd
        (root / path[0]).write_text(json.dumps(data))
        try:
            json.dumps(warnings(root))
        except QuantError as error:
            assert str(error)
