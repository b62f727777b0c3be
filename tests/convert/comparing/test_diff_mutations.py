"""Every difference is reported: each key of each file is changed, one at a time.

Between two folders and between two GGUF files the key itself is named. Between a folder and a GGUF file it is named in
either dialect, or listed as not compared.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from quantcli.checkpoint import Checkpoint
from quantcli.containers.gguf_values import Value
from quantcli.convert.comparing.compare import chosen, compare
from quantcli.convert.comparing.folders import STORAGE, UNCOUNTED
from quantcli.convert.comparing.settings import compare_settings
from quantcli.convert.comparing.tokenizer_files import files_of_tokenizers
from quantcli.convert.comparing.tokenizers import compare_tokenizers
from quantcli.convert.comparing.values import Found
from quantcli.errors import QuantError
from quantcli.sources.detect import open_source
from quantcli.tokenizers.files import Files
from tests.mutations.baselines import as_gguf, dense
from tests.mutations.settings import EXTRA_GGUF, of_gguf

#: Windows and layer types, both spellings of rope, experts, latent attention, factors of rope in tensors.
CASES = ("qwen3", "gemma3_text", "llama_llama3rope", "llama_yarn", "exaone4", "qwen2_window", "mixtral", "deepseek_v3",
         "gpt_oss", "phi3", "granite", "cohere", "falcon", "mamba")  # fmt: skip

#: Set where a config.json lacks them.
FURTHER: dict[str, Any] = {
    "hidden_act": "relu", "rope_theta": 77.0, "rope_scaling": {"rope_type": "linear", "factor": 3.0},
    "rope_parameters": {"rope_type": "default", "rope_theta": 77.0}, "sliding_window": 3, "use_sliding_window": True,
    "max_window_layers": 1, "layer_types": ["sliding_attention"], "head_dim": 6, "num_attention_heads": 2,
    "attention_bias": True, "mlp_bias": True, "partial_rotary_factor": 0.25, "rope_local_base_freq": 77.0,
    "tie_word_embeddings": True, "norm_topk_prob": True, "num_local_experts": 3, "is_causal": False,
    "final_logit_softcapping": 3.0, "eos_token_id": [1, 2], "bos_token_id": 3, "pad_token_id": 4,
    "text_config": {"hidden_size": 7}, "a_key_that_nobody_knows": 7,
}  # fmt: skip


def other(value: Any) -> Iterator[Any]:
    """Other values than this one: of its type, of another type, none."""
    if isinstance(value, bool):
        yield from (not value, int(value))
    elif isinstance(value, int | float):
        yield from (2 * value + 1, str(value))
    elif isinstance(value, str):
        yield from (f"{value}x", [value])
    elif value is None:
        yield from (1, "x", False)
    elif isinstance(value, list):
        yield from ([*value, *(value[-1:] or [1])], value[:-1] if value else "x")
    else:
        yield {**value, "a_key_that_nobody_knows": 1}
    if value is not None:
        yield None


def changes(held: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Path of a key, and the object with that key changed or left out; of nested objects and lists each part too."""
    for key, value in held.items():
        here = f"{path}.{key}" if path else key
        yield from ((here, {**held, key: changed}) for changed in other(value))
        if value is not None:
            yield here, {k: v for k, v in held.items() if k != key}
        if isinstance(value, Mapping):
            yield from ((inner, {**held, key: changed}) for inner, changed in changes(value, here))
        if isinstance(value, list):
            yield from ((inner, {**held, key: changed}) for inner, changed in _in_list(value, here))


def _in_list(values: list[Any], path: str) -> Iterator[tuple[str, list[Any]]]:
    """Changes of the first and the last element of a list."""
    for at in sorted({0, len(values) - 1}) if values else ():
        parts = changes(values[at], path) if isinstance(values[at], Mapping) else ((path, v) for v in other(values[at]))
        yield from ((inner, [*values[:at], changed, *values[at + 1 :]]) for inner, changed in parts)


def names(found: Found) -> set[str]:
    """Every key that is reported: as different, as different and not counted, as not compared."""
    reported = [f.key for f in (*found.fields, *found.uncounted)]
    return {*reported, *(name for left in found.not_compared for name in left.names)}


def is_reported(path: str, reported: set[str]) -> bool:
    """Whether a key is reported, itself or as part of what it stands in."""
    return any(
        path == name or name.startswith((f"{path}.", f"{path}[")) or path.startswith(f"{name}.") for name in reported
    )


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """Folder and GGUF file of each case; qwen3 and llama also with rope settings as transformers 5 writes them."""
    root = tmp_path_factory.mktemp("models")
    found = {}
    for case in CASES:
        model = dense(case, root)
        found[case] = (model.path, as_gguf(model, root).path)
    return found


def respelled(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config.json with `rope_parameters` and `dtype`."""
    new = {key: value for key, value in config.items() if key not in ("rope_theta", "rope_scaling", "torch_dtype")}
    scaling = dict(config.get("rope_scaling") or {})
    kind = scaling.pop("type", "default")
    rope = {"rope_type": kind, "rope_theta": config.get("rope_theta", 10000.0)} | scaling
    return new | {"rope_parameters": rope, "dtype": config.get("torch_dtype")}


#: Of each kind of rope settings one; all spell them anew in `make slow`.
RESPELLED = ("gemma3_text", "llama_llama3rope", "llama_yarn", "deepseek_v3", "falcon", "unknown")


@pytest.mark.parametrize(
    ("spelling", "case"),
    [
        pytest.param(spelling, case, marks=() if spelling == "old" or case in RESPELLED else pytest.mark.slow)
        for spelling in ("old", "new", "both")
        for case in (*CASES, "unknown")
    ],
)
def test_every_key_of_config_json_is_reported(case: str, spelling: str, models: dict[str, tuple[Path, Path]]) -> None:
    source = open_source(models["qwen3" if case == "unknown" else case][0])
    config = dict(source.config) | ({"model_type": "strange"} if case == "unknown" else {})
    config = {"old": config, "new": respelled(config), "both": config | respelled(config)}[spelling]
    one = replace(source, config=config)
    assert not names(compare_settings(one, one))
    further = {key: value for key, value in FURTHER.items() if key not in config}
    tried = 0
    for path, changed in [*changes(config), *((key, {**config, key: value}) for key, value in further.items())]:
        tried += 1
        try:
            found = compare_settings(one, replace(source, config=changed))
        except QuantError as error:
            assert path.split(".")[0] in str(error), (path, str(error))
            continue
        assert is_reported(path, names(found)), (path, changed.get(path.split(".")[0]))
        if path.rpartition(".")[2] in UNCOUNTED:
            assert not is_reported(path, {f.key for f in found.fields})
        elif path in further:
            assert is_reported(path, {f.key for f in found.fields}) or further[path] in (True, None), path
    assert tried > 60


def test_one_setting_under_both_spellings_is_no_difference(models: dict[str, tuple[Path, Path]]) -> None:
    for case in CASES:
        source = open_source(models[case][0])
        if source.config.get("rope_theta") is None:
            continue
        for config in (respelled(source.config), source.config | respelled(source.config)):
            for pair in ((source, replace(source, config=config)), (replace(source, config=config), source)):
                found = compare_settings(*pair)
                assert found.fields == [] and found.uncounted, case


def copy_of(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to)
    return to


@pytest.mark.parametrize("case", ["qwen3", "gemma3_text", "llama_llama3rope"])
def test_every_key_of_generation_config_json_is_reported(
    case: str, models: dict[str, tuple[Path, Path]], tmp_path: Path
) -> None:
    folder, file = models[case]
    stated = {
        "bos_token_id": 1, "eos_token_id": [1, 2], "do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.95,
        "repetition_penalty": 1.1, "max_new_tokens": 9, "transformers_version": "4", "a_key_that_nobody_knows": 7,
    }  # fmt: skip
    for name in ("a", "b"):
        (copy_of(folder, tmp_path / name) / "generation_config.json").write_text(json.dumps(stated))
    one, two, third = open_source(tmp_path / "a"), open_source(tmp_path / "b"), open_source(file)
    assert not names(compare_settings(one, two))
    mixed = compare_settings(two, third)
    for path, changed in changes(stated):
        (tmp_path / "b" / "generation_config.json").write_text(json.dumps(changed))
        reported = names(compare_settings(one, two))
        assert is_reported(f"generation_config.json: {path}", reported), (path, reported)
        found = compare_settings(two, third)
        key = path.split(".")[0]
        is_gone = changed.get(key) is None or key in UNCOUNTED
        assert found.fields != mixed.fields or key in names(found) or is_gone, (path, changed.get(key))
    (tmp_path / "b" / "generation_config.json").unlink()
    assert {f.key for f in compare_settings(one, two).fields} >= {
        f"generation_config.json: {key}" for key in ("temperature", "do_sample", "a_key_that_nobody_knows")
    }


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"])
@pytest.mark.parametrize("case", ["qwen3", "gemma3_text", "llama_llama3rope"])
def test_every_key_of_the_tokenizers_files_is_reported(
    name: str, case: str, models: dict[str, tuple[Path, Path]], tmp_path: Path
) -> None:
    """The vocabulary's own lists are compared place by place; of them ends are changed here."""
    for side in ("a", "b"):
        copy_of(models[case][0], tmp_path / side)
        if not (tmp_path / side / name).is_file():
            entry = {"content": "<s>", "lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
            (tmp_path / side / name).write_text(json.dumps({"bos_token": entry, "additional_special_tokens": ["<a>"]}))
    one, two = Files(tmp_path / "a"), Files(tmp_path / "b")
    held = one.json(name)
    if name == "tokenizer.json":
        vocab = held["model"]["vocab"]
        few = dict(list(vocab.items())[:3])
        held = {**held, "model": {**held["model"], "vocab": few, "merges": held["model"]["merges"][:3]}}
        (tmp_path / "a" / name).write_text(json.dumps(held))
    held.pop("chat_template", None)
    tried = 0
    for path, changed in changes(held):
        tried += 1
        (tmp_path / "b" / name).write_text(json.dumps(changed))
        found, _ = files_of_tokenizers(one, two, vocabulary=True)
        reported = {str(place["at"]) for part in found if part.what == name for place in part.first}
        assert is_reported(path.split("[")[0].split(".")[0], reported), (path, reported)
        assert sum(part.count for part in found) <= 64, path
    assert tried >= 8


@pytest.mark.parametrize("flag", ["lstrip", "rstrip", "single_word", "normalized", "special", "content"])
def test_a_flag_of_one_added_token_is_reported(flag: str, models: dict[str, tuple[Path, Path]], tmp_path: Path) -> None:
    folder = copy_of(models["qwen3"][0], tmp_path / "b")
    held = json.loads((folder / "tokenizer.json").read_text())
    token = held["added_tokens"][-1]
    token[flag] = f"{token[flag]}x" if flag == "content" else not token[flag]
    (folder / "tokenizer.json").write_text(json.dumps(held))
    found = compare_tokenizers(open_source(models["qwen3"][0]), open_source(folder))
    (part,) = (part for part in found.differences if part.what == "tokenizer.json")
    assert [place["at"] for place in part.first] == [f"added_tokens.{token['id']}.{flag}"]


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt", "tokenizer.model", "chat_template.jinja", "extra.json",
                                  "model.py", "1_Pooling/config.json"])  # fmt: skip
def test_files_of_one_side_and_files_that_differ_are_reported(
    name: str, models: dict[str, tuple[Path, Path]], tmp_path: Path
) -> None:
    sides = [copy_of(models["qwen3"][0], tmp_path / side) for side in ("a", "b")]
    for side in sides:
        (side / name).parent.mkdir(exist_ok=True)
        (side / name).write_text('{"a": 1}')
    first, second = map(open_source, sides)
    assert reported_of(first, second) == set()
    (sides[1] / name).write_text('{"a": 2}')
    assert any(name in reported for reported in reported_of(first, second))
    (sides[1] / name).unlink()
    assert name in reported_of(first, second)


def reported_of(a: Checkpoint, b: Checkpoint) -> set[str]:
    """What is reported of two sources' settings and tokenizers, by name."""
    settings, tokens = compare_settings(a, b), compare_tokenizers(a, b)
    left = [name for part in tokens.not_compared for name in part.names]
    return names(settings) | {part.what for part in tokens.differences} | set(left)


def test_documents_are_not_counted(models: dict[str, tuple[Path, Path]], tmp_path: Path) -> None:
    sides = [copy_of(models["qwen3"][0], tmp_path / side) for side in ("a", "b")]
    for side in sides:
        (side / "README.md").write_text(side.name)
    (sides[0] / "LICENSE").write_text("mine")
    found = compare_settings(*map(open_source, sides))
    assert not found.fields and not found.not_compared and len(found.uncounted) == 1


def gguf_changes(metadata: Mapping[str, Value]) -> Iterator[tuple[str, dict[str, Any]]]:
    """A key changed, left out, of another type; the key, and all keys with the change."""
    for change in of_gguf(metadata, EXTRA_GGUF):
        yield change.key, dict(change.settings)
    for key in metadata:
        if key != "general.architecture":
            yield key, {k: v for k, v in metadata.items() if k != key}


@pytest.mark.parametrize("case", CASES)
def test_every_key_of_a_gguf_is_reported(case: str, models: dict[str, tuple[Path, Path]]) -> None:
    model, source = (open_source(path) for path in models[case])
    mixed = compare_settings(model, source).fields
    for key, changed in gguf_changes(source.metadata):
        if key.startswith("tokenizer."):
            continue
        two = replace(source, metadata=changed)
        reported = {f.key for f in compare_settings(source, two).fields}
        assert reported == {key}, key
        try:
            found = compare_settings(model, two)
        except QuantError:
            continue
        idle = key not in changed and key.startswith("general.")
        assert found.fields != mixed or key in names(found) or idle, (key, changed.get(key))


def test_every_key_of_a_gguf_is_reported_by_its_type(models: dict[str, tuple[Path, Path]]) -> None:
    source = open_source(models["qwen3"][1])
    for key, held in source.metadata.items():
        if held.type == "uint32":
            two = replace(source, metadata={**source.metadata, key: Value("int32", held.value)})
            reported = [f.key for f in compare_settings(source, two).fields]
            reported += [
                str(place["at"]) for part in compare_tokenizers(source, two).differences for place in part.first
            ]
            assert reported == [f"{key} (type)"]


@pytest.mark.parametrize("case", ["qwen3", "gemma3_text"])
def test_every_key_of_a_ggufs_tokenizer_is_reported(case: str, models: dict[str, tuple[Path, Path]]) -> None:
    model, source = (open_source(path) for path in models[case])
    further = {
        "tokenizer.ggml.add_bos_token": Value("bool", case == "qwen3"),
        "tokenizer.ggml.fim_pre_token_id": Value("uint32", 3),
        "tokenizer.ggml.remove_extra_whitespaces": Value("bool", True),
        "tokenizer.ggml.eom_token_id": Value("uint32", 3),
        "tokenizer.a_key_that_nobody_knows": Value("string", "x"),
    }
    changed = [change for change in gguf_changes(source.metadata) if change[0].startswith("tokenizer.")]
    changed += [(key, {**source.metadata, key: value}) for key, value in further.items()]
    mixed = compare_tokenizers(model, source).differences
    for key, metadata in changed:
        two = replace(source, metadata=metadata)
        try:
            found, beside = compare_tokenizers(source, two), compare_tokenizers(model, two)
        except QuantError as error:
            assert key in str(error)
            continue
        reported = {str(place["at"]) for part in found.differences for place in part.first}
        is_list = key.removeprefix("tokenizer.ggml.") in ("tokens", "token_type", "scores", "merges")
        assert key in reported or (is_list and (found.differences or found.not_compared)) or "template" in key, key
        listed = {name for part in beside.not_compared for name in part.names}
        is_listed = key in listed or key.removeprefix("tokenizer.ggml.") in listed
        assert beside.differences != mixed or is_listed or key not in metadata, key


#: Changes that the other dialect shows in tensors: factors of rope.
IN_TENSORS = ("llama_llama3rope", "exaone4", "phi3")


@pytest.mark.parametrize("case", CASES)
def test_every_key_of_config_json_is_reported_against_a_gguf(case: str, models: dict[str, tuple[Path, Path]]) -> None:
    folder, path = models[case]
    source, file = open_source(folder), open_source(path)
    base = compare_settings(source, file)
    altered = [change for change in changes(source.config) if change[0].split(".")[0] not in STORAGE]
    altered += [(key, {**source.config, key: value}) for key, value in FURTHER.items() if key not in source.config]
    for key, changed in altered:
        two = replace(source, config=changed)
        top = key.split(".")[0]
        value = changed.get(top)
        try:
            found = compare_settings(two, file)
        except QuantError as error:
            assert "config.json: " in str(error) or "model_type" in str(error), (key, str(error))
            continue
        is_gone = value is None  # what a folder does not say is its class's default, or the vocabulary's
        reported = (
            found.fields != base.fields or is_reported(key, names(found)) or is_gone or _is_usual(key, changed, source)
        )
        if not reported and case in IN_TENSORS and top == "rope_scaling":
            reported = bool(in_tensors(two, file))
        assert reported, (key, value)


def _is_usual(key: str, changed: Mapping[str, Any], source: Checkpoint) -> bool:
    """Whether a part of a setting that was left out had the value that it has without."""
    top, _, inner = key.partition(".")
    if not inner or not isinstance(changed.get(top), Mapping):
        return False
    return changed[top].get(inner) is None and top == "rope_scaling"


def in_tensors(a: Checkpoint, b: Checkpoint) -> list[str]:
    """The names of the weights that differ, or that one side lacks."""
    try:
        found = compare(a, b, chosen(a, b, "rope_f*"), 1 << 26, 1, lambda _count, _name: None)
    except QuantError as error:
        return [str(error)]
    differing = [w.name for w in found.weights if w.result != "equal"]
    return [*differing, *(d.name for d in (*found.only_a, *found.only_b))]
