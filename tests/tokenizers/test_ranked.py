"""Vocabularies in tiktoken's files and in Mistral's: the keys that llama.cpp's converter writes, whole models, back."""

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from quantcli.containers.gguf import read
from quantcli.containers.gguf_values import ArrayValue
from quantcli.containers.gguf_write import header
from quantcli.targets.gguf_metadata import tokenizer
from quantcli.tokenizers.rebuild import tokenizer_json
from tests.conversions import converted
from tests.tokenizers.kinds import stored
from tests.tokenizers.ranked import (
    CASES,
    RANKED,
    conventions_for,
    files_of,
    reference,
    vocabulary_of,
    write_whole_model,
)

BOS = "tokenizer.ggml.bos_token_id"


def has_other_ids(text: str, name: str) -> bool:
    """Whether the rebuilt tokenizer.json gives a text other ids.

    Hunyuan's class composes a text first (Unicode NFC), of which llama.cpp's rule for it says nothing; mistral-common
    knows no special tokens in a text.
    """
    if name == "hunyuan":
        return not unicodedata.is_normalized("NFC", text)
    return name.startswith("tekken") and text in ("<unk>", "<s>", "</s>")


def plain(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, ArrayValue):
        value = value.decode()
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return value.decode() if isinstance(value, bytes) else value


def converters(name: str) -> dict[str, Any]:
    """What llama.cpp's converter writes. Of Hunyuan it names one id whatever the size of the vocabulary."""
    found = {key: value for key, (_, value) in reference(name)["metadata"].items()}
    return found | ({BOS: found[BOS]} if name != "hunyuan" else {BOS: vocabulary_of(name).special["bos"]})


@pytest.mark.parametrize("name", RANKED)
def test_the_keys_are_those_of_llama_cpps_converter(name: str) -> None:
    vocabulary = vocabulary_of(name)
    assert vocabulary.warnings == ()
    made = tokenizer(vocabulary, name.startswith("tekken"), conventions_for(name))
    assert list(made) == list(converters(name))
    assert {key: plain(value) for key, (_, value) in made.items()} == converters(name)
    kinds = {key: kind for key, (kind, _) in made.items() if not kind.startswith("array")}
    assert kinds == {key: kind for key, (kind, _) in reference(name)["metadata"].items() if kind != "array"}


def test_the_scores_of_tekken_are_whole_numbers_and_are_read_again(tmp_path: Path) -> None:
    made = tokenizer(vocabulary_of("tekken-v3"), True)
    assert made["tokenizer.ggml.scores"] == ("array[int32]", (0,) * 324)
    (tmp_path / "a.gguf").write_bytes(header({"general.architecture": ("string", "llama"), **made}, [])[0])
    assert stored(tmp_path / "a.gguf").scores == (0,) * 324


@pytest.mark.parametrize("name", RANKED)
def test_a_rebuilt_tokenizer_gives_the_originals_ids_and_texts(tmp_path: Path, name: str) -> None:
    from tokenizers import Tokenizer

    keys = tokenizer(vocabulary_of(name), False, conventions_for(name))
    (tmp_path / "a.gguf").write_bytes(header({"general.architecture": ("string", "llama"), **keys}, [])[0])
    made, warnings = tokenizer_json(stored(tmp_path / "a.gguf"))
    assert warnings == ()
    library = Tokenizer.from_str(json.dumps(made))
    probes = reference(name)["probes"]
    assert len(probes) == 200
    odd = [p["text"] for p in probes if library.encode(p["text"], add_special_tokens=False).ids != p["ids"]]
    assert odd == [p["text"] for p in probes if has_other_ids(p["text"], name)]
    if name in ("kimi", "tekken-v3", "tekken-v7"):  # the others' texts are composed
        assert [p["text"] for p in probes] == [library.decode(p["ids"], skip_special_tokens=False) for p in probes]


@pytest.mark.parametrize("name", [*CASES, "mistral3"])
def test_whole_models_become_gguf_and_folders_get_the_files_as_they_are(tmp_path: Path, name: str) -> None:
    kind = "tekken-v7" if name == "mistral3" else name
    model = write_whole_model(tmp_path / name, kind, "language_model." if name == "mistral3" else "")
    if name == "mistral3":
        text = json.loads((model / "config.json").read_text())
        whole = {"architectures": ["Mistral3ForConditionalGeneration"], "model_type": "mistral3", "text_config": text}
        (model / "config.json").write_text(json.dumps(whole))
    report = converted(model, tmp_path / "model.gguf")
    assert len(report["warnings"]) == (name == "kimi")
    assert all("beta_fast" in warning and "32" in warning for warning in report["warnings"])  # where Kimi's is 1
    metadata = read(tmp_path / "model.gguf").metadata
    keys = {key: plain(value) for key, (_, value) in metadata.items() if key.startswith("tokenizer.")}
    assert keys == converters(kind)
    for target, dtype in (("hf", "f32"), ("mlx", "bf16")):
        report = converted(model, tmp_path / target, to=target, dtype=dtype)
        written = {entry["name"] for entry in report["files"]}
        assert written >= set(files_of(kind))
        for file, data in files_of(kind).items():
            assert (tmp_path / target / file).read_bytes() == data, file


@pytest.mark.parametrize("name", ["hunyuan", "kimi", "tekken-v7"])
def test_a_folder_made_of_the_gguf_file_makes_the_same_vocabulary(tmp_path: Path, name: str) -> None:
    model = write_whole_model(tmp_path / name, name)
    converted(model, tmp_path / "a.gguf")
    report = converted(tmp_path / "a.gguf", tmp_path / "back", to="hf")
    lost = [warning for warning in report["warnings"] if "mistral-v7-tekken" in warning]
    assert report["warnings"] == lost and len(lost) == (name == "tekken-v7")
    assert not (tmp_path / "back" / "chat_template.jinja").is_file() or not lost
    assert not any((tmp_path / "back" / file).is_file() for file in files_of(name) if "token" not in file)
    if name == "kimi":  # whose model_type is DeepSeek V3's from here on
        config = json.loads((tmp_path / "back" / "config.json").read_text())
        assert config["model_type"] == "deepseek_v3"
    converted(tmp_path / "back", tmp_path / "b.gguf")
    first, second = (stored(tmp_path / file) for file in ("a.gguf", "b.gguf"))
    assert (first.pre, first.tokens, first.types, first.merges) == (
        second.pre,
        second.tokens,
        second.types,
        second.merges,
    )
