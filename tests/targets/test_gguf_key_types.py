"""Keys in a type that llama.cpp does not read, and `--override-kv KEY=TYPE:`, which gives them the right one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantcli.errors import NotPossible, WrongUsage
from quantcli.targets.gguf_key_types import refused
from tests.builders import tiny_llama
from tests.conversions import converted, planned
from tests.gguf_files import load, of_values, save

TYPES = "tokenizer.ggml.token_type"

#: key, its stored type and value, the option, what becomes of it.
WRONG: dict[str, tuple[str, tuple[str, Any], str, tuple[str, Any]]] = {
    "token types of mlx-lm": (TYPES, ("array[uint32]", [1, 3, 6]), "int:", ("array[int32]", [1, 3, 6])),
    "token types in 64 bits": (TYPES, ("array[int64]", [1, 3]), "int:", ("array[int32]", [1, 3])),
    "scores in 64 bits": ("tokenizer.ggml.scores", ("array[float64]", [0.5]), "float:", ("array[float32]", [0.5])),
    "a count in 64 bits": ("llama.block_count", ("uint64", 3), "int:", ("uint32", 3)),
    "a count as int32": ("llama.context_length", ("int32", 4096), "int:", ("uint32", 4096)),
    "a count anew": ("llama.block_count", ("uint64", 3), "int:2", ("uint32", 2)),
    "a flag as a number": ("tokenizer.ggml.add_bos_token", ("uint32", 1), "bool:", ("bool", True)),
    "an id in 64 bits": ("tokenizer.ggml.eos_token_id", ("int64", 2), "int:", ("uint32", 2)),
    "a float in 64 bits": ("llama.rope.freq_base", ("float64", 1e4), "float:", ("float32", 1e4)),
    "the file type as int32": ("general.file_type", ("int32", 0), "int:", ("uint32", 0)),
}


def source(path: Path, **keys: Any) -> Path:
    given = {"general.architecture": ("string", "llama"), **keys}
    return save(path, given, {"a.weight": of_values(np.ones((4, 64)))})


@pytest.mark.parametrize("what", WRONG)
def test_a_type_that_llama_cpp_does_not_read_is_named_and_mended(what: str, tmp_path: Path) -> None:
    key, stored, option, wanted = WRONG[what]
    made = source(tmp_path / "in.gguf", **{key: stored})
    if key != "general.file_type":  # which every output has anew
        (warning,) = planned(made, tmp_path / "out.gguf").warnings
        assert (
            key in warning and stored[0] in warning and f"--override-kv '{key}={option.partition(':')[0]}:'" in warning
        )
        with pytest.raises(NotPossible, match="--strict"):
            planned(made, tmp_path / "out.gguf", strict=True)
    report = converted(made, tmp_path / "out.gguf", override_kv=(f"{key}={option}",))
    assert report["warnings"] == []
    kind, value = load(tmp_path / "out.gguf")[0][key]
    assert (kind, value.decode() if kind.startswith("array") else value) == wanted


#: key, its stored type and value, an option that cannot be.
IMPOSSIBLE: dict[str, tuple[str, tuple[str, Any], str]] = {
    "another type": (TYPES, ("array[uint32]", [1]), "float:"),
    "too large": (TYPES, ("array[uint32]", [2**31]), "int:"),
    "no whole number": ("llama.block_count", ("float64", 1.5), "int:"),
    "a text": ("llama.block_count", ("string", "three"), "int:"),
    "texts": (TYPES, ("array[string]", ["a"]), "int:"),
    "a list for one": ("tokenizer.ggml.eos_token_id", ("array[uint64]", [2]), "int:"),
    "no such key": ("my.key", ("uint32", 1), "float:"),
    "nothing stored": ("my.other", ("", None), "int:"),
}


@pytest.mark.parametrize("what", IMPOSSIBLE)
def test_a_value_that_does_not_fit_is_quoted(what: str, tmp_path: Path) -> None:
    key, stored, option = IMPOSSIBLE[what]
    made = source(tmp_path / "in.gguf", **({key: stored} if stored[0] else {}))
    with pytest.raises(WrongUsage, match=f"--override-kv '{key}={option}'"):
        planned(made, tmp_path / "out.gguf", override_kv=(f"{key}={option}",))


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("llama.attention.head_count", "array[int32]"),
        ("llama.attention.head_count_kv", "array[uint32]"),
        ("llama.attention.sliding_window_pattern", "uint32"),
        ("tokenizer.ggml.scores", "array[int32]"),
        ("general.name", "uint32"),
        ("mystery.key", "float64"),
    ],
)
def test_types_that_llama_cpp_reads_are_no_matter(key: str, kind: str) -> None:
    assert refused(key, kind) is None


def test_a_folder_is_made_whatever_integers_say_the_types_of_tokens(tmp_path: Path) -> None:
    converted(tiny_llama(tmp_path / "m"), tmp_path / "in.gguf")
    keys, tensors = load(tmp_path / "in.gguf")
    types = ("array[uint32]", keys[TYPES][1].decode())
    save(tmp_path / "in.gguf", keys | {"tokenizer.ggml.add_bos_token": ("bool", True)}, tensors)
    save(tmp_path / "odd.gguf", keys | {TYPES: types, "tokenizer.ggml.add_bos_token": ("uint32", 1)}, tensors)
    for name in ("in", "odd"):
        converted(tmp_path / f"{name}.gguf", tmp_path / name, to="hf")
    assert (tmp_path / "odd" / "tokenizer.json").read_bytes() == (tmp_path / "in" / "tokenizer.json").read_bytes()
    assert config_of(tmp_path / "odd")["add_bos_token"] is True


def config_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "tokenizer_config.json").read_text())
    return found
