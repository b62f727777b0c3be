"""What people take for a model: pieces of a file, joined parts, other formats, pages that a server sent."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from quantcli.containers import gguf
from quantcli.errors import BadInput, NotPossible
from quantcli.sources import pieces
from quantcli.sources.detect import open_source
from quantcli.sources.hub import HubId, tensors_of
from tests.builders import LLAMA, safetensors_bytes, tiny_llama
from tests.conversions import converted, planned
from tests.gguf_files import load, save

NAMES = [
    ["X.gguf.part1of2", "X.gguf.part2of2"],
    ["X.Q6_K.gguf-split-a", "X.Q6_K.gguf-split-b"],
    ["X.gguf.part00", "X.gguf.part01"],
    ["X.gguf.part-aa", "X.gguf.part-ab"],
    ["X.gguf.001", "X.gguf.002"],
    ["X.gguf.aa", "X.gguf.ab"],
    ["X.gguf.part9of10", "X.gguf.part10of10"],
    ["model.safetensors.part0", "model.safetensors.part1"],
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("whole")
    converted(tiny_llama(root / "m"), root / "X.gguf")
    return root / "X.gguf"


def cut(folder: Path, names: list[str], data: bytes) -> list[Path]:
    """The data in as many pieces as there are names."""
    folder.mkdir()
    step = -(-len(data) // len(names))
    for number, name in enumerate(names):
        (folder / name).write_bytes(data[number * step : (number + 1) * step])
    return [folder / name for name in names]


@pytest.mark.parametrize("names", NAMES, ids=lambda names: names[0])
def test_pieces_are_to_be_joined_in_their_order(names: list[str], whole: Path, tmp_path: Path) -> None:
    paths = cut(tmp_path / "p", list(reversed(names)), whole.read_bytes())
    joined = f"`cat {names[0]} {names[1]} > {pieces.joined_name(names[0])}`"
    for path in (*paths, tmp_path / "p"):
        with pytest.raises(BadInput, match="piece") as error:
            open_source(path)
        assert joined in str(error.value)


def test_the_joined_file_is_read(whole: Path, tmp_path: Path) -> None:
    first, second = cut(tmp_path / "p", NAMES[0], whole.read_bytes())
    (tmp_path / "p" / "X.gguf").write_bytes(first.read_bytes())
    with pytest.raises(BadInput, match=r"truncated.*Next to it is X.gguf.part1of2"):
        open_source(tmp_path / "p" / "X.gguf")
    (tmp_path / "p" / "X.gguf").write_bytes(first.read_bytes() + second.read_bytes())
    assert open_source(tmp_path / "p" / "X.gguf").weights


def test_a_piece_alone(whole: Path, tmp_path: Path) -> None:
    (path, _) = cut(tmp_path / "p", NAMES[1], whole.read_bytes())
    (tmp_path / "p" / NAMES[1][1]).unlink()
    with pytest.raises(BadInput, match="Download the other pieces"):
        open_source(path)


@pytest.mark.parametrize(
    "name", ["m-00001-of-00002.gguf", "m.gguf", "m.gguf.md", "m.gguf.json", "part1of2", "m.gguf.gz"]
)
def test_what_is_no_piece(name: str) -> None:
    assert pieces.joined_name(name) is None


def test_a_file_that_is_cut_off_without_pieces_says_so(whole: Path, tmp_path: Path) -> None:
    (tmp_path / "X.gguf").write_bytes(whole.read_bytes()[:90_000])
    with pytest.raises(BadInput, match="truncated"):
        open_source(tmp_path / "X.gguf")


@pytest.mark.parametrize("name", ["X.gguf", "X-00001-of-00005.gguf"])
def test_parts_that_cat_joined(name: str, whole: Path, tmp_path: Path) -> None:
    converted(whole, tmp_path / "s.gguf", shard_size=40_000)
    parts = sorted(tmp_path.glob("s-*.gguf"))
    (tmp_path / name).write_bytes(b"".join(part.read_bytes() for part in parts))
    with pytest.raises(BadInput, match=f"one after another.*the {len(parts)} parts"):
        open_source(tmp_path / name)
    assert open_source(parts[0]).weights


def test_a_first_part_without_tensors_may_end_with_its_keys(whole: Path, tmp_path: Path) -> None:
    """As llama-gguf-split --no-tensor-first-split makes it."""
    keys, tensors = load(whole)
    parts = [tmp_path / f"s-{number:05d}-of-00002.gguf" for number in (1, 2)]
    for number, (path, held) in enumerate(zip(parts, ({}, tensors), strict=True)):
        split = {"split.no": ("uint16", number), "split.count": ("uint16", 2)}
        save(path, ({} if number else keys) | split, held)
    data = parts[0].read_bytes()
    parts[0].write_bytes(data.rstrip(b"\0") + b"\0" * 2)
    assert len(open_source(parts[0]).weights) == len(tensors)


@pytest.mark.parametrize("start", [b"GGUF\1\0\0\0", b"GGUF\0\0\0\1"])
def test_gguf_version_1(start: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(start + bytes(60))
    with pytest.raises(NotPossible, match="version 1"):
        gguf.read(tmp_path / "a.gguf")


@pytest.mark.parametrize(
    "names",
    [
        ["params.json", "consolidated.safetensors", "tekken.json"],
        ["params.json", "consolidated-00001-of-00002.safetensors", "consolidated-00002-of-00002.safetensors"],
        ["params.json", "consolidated.00.pth", "tokenizer.model"],
        ["consolidated.00.safetensors"],
        ["params.json", "consolidated.safetensors", "config.json"],
        ["params.json", "consolidated.00.safetensors", "consolidated.01.safetensors", "config.json"],
    ],
)
def test_a_format_of_its_maker(names: list[str], tmp_path: Path) -> None:
    data = safetensors_bytes({"tok_embeddings.weight": np.zeros((4, 4), np.float32)})
    for name in names:
        (tmp_path / name).write_bytes(data if name.endswith(".safetensors") else b"{}")
    with pytest.raises(NotPossible, match="Mistral or Meta"):
        open_source(tmp_path)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["README.md", *reversed(NAMES[0])], "cat X.gguf.part1of2 X.gguf.part2of2 > X.gguf"),
        (["params.json", "consolidated.safetensors"], "Mistral or Meta"),
        (["params.json", "config.json", "consolidated.safetensors"], "Mistral or Meta"),
    ],
)
def test_a_repository_of_the_hub_says_the_same(names: list[str], message: str) -> None:
    with pytest.raises((BadInput, NotPossible), match=message):
        tensors_of(HubId("org/m"), names, lambda: b"{}")


def test_a_model_next_to_its_makers_format_is_read(tmp_path: Path) -> None:
    source = tiny_llama(tmp_path / "m")
    (source / "params.json").write_text("{}")
    data = safetensors_bytes({"tok_embeddings.weight": np.zeros((4, 4), np.float32)})
    (source / "consolidated.safetensors").write_bytes(data)
    assert "lm_head.weight" in open_source(source).weights


PAGES = [
    b"<!DOCTYPE html>\n<html>",
    b"\n  <!doctype HTML><html>",
    b"\xef\xbb\xbf<html lang='en'>",
    b"<?xml version='1.0'?>",
]


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize(
    "name",
    [
        "model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json",
        "special_tokens_map.json", "tokenizer.model", "model.safetensors.index.json",
    ],
)  # fmt: skip
@pytest.mark.parametrize("output", ["out", "out.gguf"])
def test_a_page_in_place_of_a_file(output: str, name: str, page: bytes, tmp_path: Path) -> None:
    source = tiny_llama(tmp_path / "m")
    (source / name).write_bytes(page + b"<body>Access denied</body></html>")
    if (name, output) in (("special_tokens_map.json", "out.gguf"), ("tokenizer.model", "out.gguf")):
        return  # not read there
    with pytest.raises(BadInput, match=f"{name}: is a web page"):
        planned(source, tmp_path / output)


def test_a_page_called_gguf(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(PAGES[0])
    with pytest.raises(BadInput, match="is a web page"):
        open_source(tmp_path / "m.gguf")


def test_pages_that_are_documents_are_copied(tmp_path: Path) -> None:
    source = tiny_llama(tmp_path / "m")
    (source / "about.html").write_bytes(PAGES[0])
    (source / "README.md").write_bytes(PAGES[1])
    converted(source, tmp_path / "out")
    assert (tmp_path / "out" / "about.html").read_bytes() == PAGES[0]


def test_a_folder_of_something_else_has_the_plain_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(json.dumps(LLAMA))
    with pytest.raises(BadInput, match="config.json is missing"):
        open_source(tmp_path)
