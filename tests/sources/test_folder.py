"""Which files of a folder hold its tensors, and what is refused."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from quantcli.errors import BadInput, NotPossible, Surroundings
from quantcli.sources.folder import LocalFolder, read_json, read_tensors, sidecars
from quantcli.sources.tensor_files import INDEX
from tests.builders import folder_of, safetensors_bytes, sharded

ONE = {"a.weight": np.ones((2, 3), np.float32)}
TWO = {"b.weight": np.zeros((4,), np.float16)}
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"

Files = dict[str, dict[str, np.ndarray]]


def put(root: Path, **files: bytes) -> Path:
    """A folder of files whose names are spelled with `__` for a full stop."""
    for name, data in files.items():
        (root / name.replace("__", ".")).write_bytes(data)
    return root


def names_of(root: Path, only: str | None = None) -> dict[str, str]:
    tensors = read_tensors(LocalFolder(root), only)
    return {name: part.file.name for name, part in tensors.parts.items()}


def test_single_file(tmp_path: Path) -> None:
    tensors = read_tensors(LocalFolder(folder_of(tmp_path, ONE)))
    part = tensors.parts["a.weight"]
    assert (part.dtype, part.shape, part.file) == ("f32", (2, 3), tmp_path / "model.safetensors")
    assert part.read().tolist() == [[1, 1, 1], [1, 1, 1]]
    assert tensors.files == (tmp_path / "model.safetensors",) and tensors.warnings == ()


def test_sharded_with_an_index(tmp_path: Path) -> None:
    sharded(tmp_path, {FIRST: ONE, SECOND: TWO})
    assert names_of(tmp_path) == {"a.weight": FIRST, "b.weight": SECOND}


def test_sharded_without_an_index_takes_all_that_start_with_model(tmp_path: Path) -> None:
    sharded(tmp_path, {FIRST: ONE, SECOND: TWO, "adapter.safetensors": {"c": np.zeros(1, np.float32)}})
    (tmp_path / INDEX).unlink()
    assert names_of(tmp_path) == {"a.weight": FIRST, "b.weight": SECOND}


def test_the_index_decides_not_what_lies_there(tmp_path: Path) -> None:
    sharded(tmp_path, {FIRST: ONE, SECOND: TWO})
    put(tmp_path, model__safetensors=safetensors_bytes({"old": np.zeros(1, np.float32)}))
    assert names_of(tmp_path) == {"a.weight": FIRST, "b.weight": SECOND}


def test_the_only_file_whatever_its_name(tmp_path: Path) -> None:
    assert names_of(folder_of(tmp_path, ONE, name="weights.safetensors")) == {"a.weight": "weights.safetensors"}


def test_one_file_named(tmp_path: Path) -> None:
    sharded(tmp_path, {FIRST: ONE, SECOND: TWO})
    assert names_of(tmp_path, SECOND) == {"b.weight": SECOND}


OTHER = "model-00003-of-00003.safetensors"

#: Files that are there, the index's map, the file of each tensor that is read, what the warnings name.
STALE: dict[str, tuple[Files, dict[str, str], dict[str, str], tuple[str, ...]]] = {
    "one file is another": (
        {"model.safetensors": {**ONE, **TWO}},
        {"a.weight": FIRST, "b.weight": SECOND},
        {"a.weight": "model.safetensors", "b.weight": "model.safetensors"},
        (f"2 files (the first: '{FIRST}')",),
    ),
    "one of two files is there, and the whole": (
        {"model.safetensors": {**ONE, **TWO}, FIRST: ONE},
        {"a.weight": FIRST, "b.weight": SECOND},
        {"a.weight": "model.safetensors", "b.weight": "model.safetensors"},
        (SECOND, FIRST),
    ),
    "shards of another number": (
        {FIRST: ONE, SECOND: TWO},
        {"a.weight": OTHER, "b.weight": OTHER},
        {"a.weight": FIRST, "b.weight": SECOND},
        (OTHER,),
    ),
    "the only file has another name": (
        {"weights.safetensors": ONE},
        {"a.weight": FIRST},
        {"a.weight": "weights.safetensors"},
        (FIRST,),
    ),
    "the whole has further tensors": (
        {"model.safetensors": {**ONE, **TWO}},
        {"a.weight": "model.safetensors"},
        {"a.weight": "model.safetensors", "b.weight": "model.safetensors"},
        ("does not list tensor 'b.weight'",),
    ),
    "the whole has other tensors": (
        {"model.safetensors": TWO},
        {"a.weight": "model.safetensors"},
        {"b.weight": "model.safetensors"},
        ("says that tensor 'a.weight' is in model.safetensors",),
    ),
    "an old whole next to the shards": (
        {"model.safetensors": {"old": np.zeros(1, np.float32)}, FIRST: ONE, SECOND: TWO},
        {"a.weight": FIRST, "b.weight": SECOND},
        {"a.weight": FIRST, "b.weight": SECOND},
        ("model.safetensors: not read",),
    ),
}


@pytest.mark.parametrize("what", STALE)
def test_a_stale_index_is_ignored_with_a_warning(what: str, tmp_path: Path) -> None:
    files, weight_map, expected, named = STALE[what]
    for name, tensors in files.items():
        put(tmp_path, **{name.replace(".", "__"): safetensors_bytes(tensors)})
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    assert names_of(tmp_path) == expected
    warnings = read_tensors(LocalFolder(tmp_path)).warnings
    assert len(warnings) == len(named)
    assert all(text in warning for text, warning in zip(named, warnings, strict=True))


def test_tensors_that_the_index_does_not_name_are_read_with_a_warning(tmp_path: Path) -> None:
    sharded(tmp_path, {FIRST: ONE, SECOND: TWO})
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"a.weight": FIRST}}))
    assert names_of(tmp_path) == {"a.weight": FIRST}
    put(tmp_path, **{FIRST.replace(".", "__"): safetensors_bytes({**ONE, **TWO})})
    assert names_of(tmp_path) == {"a.weight": FIRST, "b.weight": FIRST}
    passed, unnamed = read_tensors(LocalFolder(tmp_path)).warnings
    assert SECOND in passed and "'b.weight' is not listed" in unnamed
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"a.weight": FIRST, "b.weight": SECOND}}))
    assert names_of(tmp_path) == {"a.weight": FIRST, "b.weight": SECOND}
    (stray,) = read_tensors(LocalFolder(tmp_path)).warnings
    assert "b.weight" in stray and "b.weight is" in stray


def test_a_folder_within_may_hold_shards(tmp_path: Path) -> None:
    folder_of(tmp_path / "m" / "part", ONE)
    (tmp_path / "m" / INDEX).write_text(json.dumps({"weight_map": {"a.weight": "part/model.safetensors"}}))
    assert names_of(tmp_path / "m") == {"a.weight": "model.safetensors"}


def test_sidecars(tmp_path: Path) -> None:
    put(tmp_path, tokenizer__json=b"{}", chat_template__jinja=b"", notes__txt=b"", tokenizer__model=b"")
    (tmp_path / "additional_chat_templates").mkdir()
    put(tmp_path / "additional_chat_templates", tool__jinja=b"")
    (tmp_path / "other").mkdir()
    put(tmp_path / "other", tool__jinja=b"")
    found = sidecars(LocalFolder(tmp_path), ())
    kept = ("additional_chat_templates/tool.jinja", "chat_template.jinja", "notes.txt", "tokenizer.json")
    assert found.copied == (*kept, "tokenizer.model")
    assert [passed.name for passed in found.passed] == ["other/tool.jinja"]


INDEXES = {
    "no map": ({"metadata": {}}, "key weight_map is missing"),
    "map is a list": ({"weight_map": [FIRST]}, "weight_map"),
    "map is empty": ({"weight_map": {}}, "weight_map"),
    "file is a number": ({"weight_map": {"a.weight": 7}}, "'a.weight': .* found 7"),
    "file is no safetensors": ({"weight_map": {"a.weight": "model.bin"}}, "'a.weight': .* found 'model.bin'"),
    "file is not there": (
        {"weight_map": {"b.weight": SECOND, "a.weight": "model-3.safetensors"}},
        "'a.weight', is missing",
    ),
    "tensor is not in its file": ({"weight_map": {"c.weight": FIRST}}, f"{FIRST}: tensor 'c.weight' is missing"),
    "absolute path": ({"weight_map": {"a.weight": "/etc/model.safetensors"}}, "'a.weight': .* found the path"),
    "parent folder": ({"weight_map": {"a.weight": "../model.safetensors"}}, "'a.weight': .* found the path"),
    "parent within": ({"weight_map": {"a.weight": "x/../../m.safetensors"}}, "'a.weight': .* found the path"),
    "backslash": ({"weight_map": {"a.weight": "..\\m.safetensors"}}, "'a.weight': .* found the path"),
    "zero byte": ({"weight_map": {"a.weight": "m\0.safetensors"}}, "'a.weight': .* found the path"),
    "deep": ({"weight_map": {"a.weight": "x/y/m.safetensors"}}, "'a.weight': .* found the path"),
    "a name of two lines": ({"weight_map": {"a\nb": 7}}, "found 7"),
}


@pytest.mark.parametrize("what", INDEXES)
def test_bad_index(what: str, tmp_path: Path) -> None:
    index, said = INDEXES[what]
    sharded(tmp_path, {FIRST: ONE, SECOND: TWO})
    (tmp_path / INDEX).write_text(json.dumps(index))
    with pytest.raises(BadInput, match=said) as error:
        read_tensors(LocalFolder(tmp_path))
    assert "\n" not in str(error.value)


def test_several_files_without_an_index_are_listed(tmp_path: Path) -> None:
    put(tmp_path, a__safetensors=safetensors_bytes(ONE), b__safetensors=safetensors_bytes(TWO))
    with pytest.raises(BadInput, match=r"several safetensors files \(a.safetensors, b.safetensors\)"):
        read_tensors(LocalFolder(tmp_path))


def test_one_tensor_in_two_files_without_an_index(tmp_path: Path) -> None:
    put(tmp_path, model__safetensors=safetensors_bytes(ONE), model2__safetensors=safetensors_bytes(ONE))
    with pytest.raises(BadInput, match=r"tensor a.weight appears in model.safetensors too"):
        read_tensors(LocalFolder(tmp_path))


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no \\*.safetensors file"):
        read_tensors(LocalFolder(tmp_path))


def test_only_pickles(tmp_path: Path) -> None:
    put(tmp_path, pytorch_model__bin=b"\x80\x02.")
    with pytest.raises(NotPossible, match="pickled tensors \\(pytorch_model.bin\\)"):
        read_tensors(LocalFolder(tmp_path))


def test_a_json_file_that_no_such_file_is(tmp_path: Path) -> None:
    with open(tmp_path / "config.json", "wb") as handle:
        handle.truncate(300 << 20)
    with pytest.raises(BadInput, match="314572800 .* 268435456"):
        read_json(LocalFolder(tmp_path), "config.json")


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(Surroundings, match="config.json: cannot be read"):
        read_json(LocalFolder(tmp_path), "config.json")


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is closed to root")
def test_a_folder_that_cannot_be_listed(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    with pytest.raises(Surroundings, match="closed: cannot be listed"):
        read_tensors(LocalFolder(closed))
