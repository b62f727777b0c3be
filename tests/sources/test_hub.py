"""Models on the Hub: ids, downloads, the cache; against a server on 127.0.0.1."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from quantcli.errors import BadInput, NotPossible, Surroundings, WrongUsage
from quantcli.sources.hub import HubId, cached_sha256, download, list_files, parse_id
from quantcli.sources.remote import RemoteFolder, open_remote
from tests.hub_models import INDEX, MODEL, NEEDED, stored, two_shards, whole
from tests.hub_server import Hub, blob, sparse

# --- ids -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "revision", "expected"),
    [
        ("org/name", None, HubId("org/name")),
        ("org/name", "v1", HubId("org/name", "v1")),
        ("org/name@refs/pr/4", None, HubId("org/name", "refs/pr/4")),
        ("org/name@v1", "v1", HubId("org/name", "v1")),
        ("Org-1/na.me_2:sub/m-q4_0.gguf", None, HubId("Org-1/na.me_2", "main", "sub/m-q4_0.gguf")),
        ("org/name@v1:m.gguf", None, HubId("org/name", "v1", "m.gguf")),
    ],
)
def test_what_is_an_id(text: str, revision: str | None, expected: HubId) -> None:
    assert parse_id(text, revision) == expected


@pytest.mark.parametrize(
    "text",
    [
        "name", "", "a/b/c", "./org/name", "../org/name", "/org/name", "~/name", "org/name/", "org//name",
        "org/model.gguf", "org/model.safetensors", "org/name@", "org/name:", "org/name@a..b", "org/name@/v1",
        "org/name:model.bin", "org/name:../m.gguf", "org/name:/m.gguf", "or--g/name", "org/na..me", "-org/name",
        "org/name.git", "org/name?x=1", "org/na me", "org/name\n", "org/" + "n" * 97, "örg/name", "C:\\org/name",
        "https://example.com/org/name",
    ],
)  # fmt: skip
def test_what_is_no_id(text: str) -> None:
    assert parse_id(text, None) is None


def test_a_path_that_exists_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_id("org/name") == HubId("org/name")
    (tmp_path / "org" / "name").mkdir(parents=True)
    assert parse_id("org/name") is None


@pytest.mark.parametrize(("text", "revision"), [("org/name@v1", "v2"), ("org/name", "../x"), ("org/name", "")])
def test_revisions_that_contradict_or_make_no_sense(text: str, revision: str) -> None:
    with pytest.raises(WrongUsage, match="revision"):
        parse_id(text, revision)


# --- download --------------------------------------------------------------------------------------------------------


def test_download_takes_what_is_needed_and_is_quiet(hub: Hub, capfd: pytest.CaptureFixture[str]) -> None:
    files = two_shards()
    commit = hub.add(MODEL.repo, files)
    folder = download(MODEL)
    assert folder.name == commit
    assert stored(folder) == NEEDED
    for name in NEEDED:
        assert (folder / name).read_bytes() == files[name].cut(0, files[name].size)
    asked = {r.path.split("/", 5)[-1] for r in hub.requests if not r.path.startswith("/api/")}
    assert not any(name.endswith((".bin", ".pth", ".onnx")) or "consolidated" in name for name in asked)
    assert capfd.readouterr() == ("", "")


def test_a_second_download_asks_for_no_data(hub: Hub) -> None:
    hub.add(MODEL.repo, two_shards())
    first = download(MODEL)
    assert hub.data_requests()
    hub.requests.clear()
    assert download(MODEL) == first
    assert hub.requests and not hub.data_requests()


def test_offline_uses_the_cache(hub: Hub, offline: Any) -> None:
    hub.add(MODEL.repo, two_shards())
    folder = download(MODEL)
    hub.requests.clear()
    offline()
    assert download(MODEL) == folder == open_remote(MODEL)
    assert not hub.requests
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(Surroundings, match=r"model-00002-of-00002\.safetensors is missing"):
        download(MODEL)
    with pytest.raises(Surroundings, match="not in the cache.*HF_HUB_OFFLINE"):
        download(HubId("org/other"))
    with pytest.raises(Surroundings, match="not in the cache"):
        download(HubId(MODEL.repo, "v1"))


def test_offline_without_a_cached_tree_lists_the_folder(hub: Hub, offline: Any, tmp_path: Path) -> None:
    from huggingface_hub import _tree_cache

    hub.add(MODEL.repo, {"config.json": blob(b"{}"), "model.safetensors": whole("a")})
    folder = download(MODEL)
    for path in (tmp_path / "cache").rglob("trees/*.json"):
        path.unlink()
    _tree_cache._IN_MEMORY_TREE_CACHE.clear()
    offline()
    assert download(MODEL) == folder


@pytest.mark.parametrize("revision", ["v1", "refs/pr/4"])
def test_revisions(hub: Hub, revision: str) -> None:
    hub.add(MODEL.repo, {"config.json": blob(b'{"new": 1}'), "model.safetensors": whole("new")}, "main")
    old = hub.add(MODEL.repo, {"config.json": blob(b'{"old": 1}'), "model.safetensors": whole("old")}, revision)
    asked = HubId(MODEL.repo, revision)
    opened = open_remote(asked)
    assert isinstance(opened, RemoteFolder)
    assert opened.read("config.json") == b'{"old": 1}' and list(opened.header("model.safetensors").entries) == ["old.0"]
    folder = download(asked)
    assert folder.name == old and (folder / "config.json").read_bytes() == b'{"old": 1}'
    assert (download(HubId(MODEL.repo, old)) / "config.json").read_bytes() == b'{"old": 1}'


def test_without_an_index_the_files_called_model_are_taken(hub: Hub) -> None:
    hub.add("org/one", {"weights.safetensors": whole("a"), "config.json": blob(b"{}")})
    assert stored(download(HubId("org/one"))) == {"weights.safetensors", "config.json"}
    hub.add("org/two", {"model.safetensors": whole("a"), "other.safetensors": whole("b")})
    assert stored(download(HubId("org/two"))) == {"model.safetensors"}
    hub.add("org/three", {"x.safetensors": whole("a"), "y.safetensors": whole("b")})
    with pytest.raises(BadInput, match="several safetensors files"):
        download(HubId("org/three"))
    assert not [r for r in hub.requests if "org/three/resolve" in r.path]


def test_names_are_no_patterns(hub: Hub) -> None:
    hub.add(MODEL.repo, {"model[1].safetensors": whole("a"), "config.json": blob(b"{}")})
    assert stored(download(MODEL)) == {"model[1].safetensors", "config.json"}


@pytest.mark.parametrize("act", [download, open_remote])
def test_pickles_are_refused_and_never_asked_for(hub: Hub, act: Any) -> None:
    hub.add(MODEL.repo, {"config.json": blob(b"{}"), "pytorch_model.bin": blob(b"\x80\x02", large=True)})
    with pytest.raises(NotPossible, match="pickled tensors"):
        act(MODEL)
    assert not [r for r in hub.requests if r.path.endswith(".bin")]


@pytest.mark.parametrize("act", [download, open_remote])
@pytest.mark.parametrize("weight_map", [{}, {"a": "../model.safetensors"}, {"a": 1}, 3])
def test_an_index_that_makes_no_sense(hub: Hub, act: Any, weight_map: object) -> None:
    content = blob(json.dumps({"weight_map": weight_map}).encode())
    hub.add(MODEL.repo, {INDEX: content, "model.safetensors": whole("a")})
    with pytest.raises(BadInput, match=r"index\.json: (key weight_map:|tensor 'a': expected )"):
        act(MODEL)


@pytest.mark.parametrize("act", [download, open_remote])
def test_an_index_of_files_that_are_not_there_does_not_count(hub: Hub, act: Any) -> None:
    content = blob(json.dumps({"weight_map": {"a": "gone.safetensors"}}).encode())
    hub.add(MODEL.repo, {INDEX: content, "model.safetensors": whole("a"), "config.json": blob(b"{}")})
    opened = act(MODEL)
    if isinstance(opened, Path):
        assert stored(opened) == {INDEX, "model.safetensors", "config.json"}
    else:
        assert opened.tensor_files == ("model.safetensors",)


@pytest.mark.parametrize("act", [download, open_remote])
def test_half_of_the_files_of_an_index_are_no_model(hub: Hub, act: Any) -> None:
    content = blob(json.dumps({"weight_map": {"a": "here.safetensors", "b": "gone.safetensors"}}).encode())
    hub.add(MODEL.repo, {INDEX: content, "here.safetensors": whole("a")})
    with pytest.raises(BadInput, match=r"'gone\.safetensors', the file of tensor 'b', is missing"):
        act(MODEL)


def test_a_branch_that_moves_during_the_download(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(MODEL.repo, {"model.safetensors": whole("a")})
    before = list_files(MODEL)
    hub.add(MODEL.repo, {"model.safetensors": whole("b")})
    monkeypatch.setattr("quantcli.sources.hub.list_files", lambda hub_id: before)
    with pytest.raises(Surroundings, match="changed during the download"):
        download(MODEL)


def test_the_hubs_sha256(hub: Hub) -> None:
    files = two_shards()
    hub.add(MODEL.repo, files)
    digest = files["model-00001-of-00002.safetensors"].digest
    opened = open_remote(MODEL)
    assert isinstance(opened, RemoteFolder)
    assert opened.file("model-00001-of-00002.safetensors").sha256 == digest
    assert opened.file("config.json").sha256 is None
    folder = download(MODEL)
    assert cached_sha256(folder / "model-00001-of-00002.safetensors") == digest
    assert cached_sha256(folder / "config.json") is None and cached_sha256(folder) is None
    (folder / "else.safetensors").symlink_to(folder.parent / digest)
    assert cached_sha256(folder / "else.safetensors") is None


# --- GGUF files ------------------------------------------------------------------------------------------------------


def gguf_header(arrays: int = 0) -> bytes:
    """A GGUF v3 header without tensors and one key, of an array of so many bytes."""
    key = b"general.x"
    array = (0).to_bytes(4, "little") + arrays.to_bytes(8, "little") + bytes(arrays)
    keys = len(key).to_bytes(8, "little") + key + (9).to_bytes(4, "little") + array
    return b"GGUF" + (3).to_bytes(4, "little") + (0).to_bytes(8, "little") + (1).to_bytes(8, "little") + keys


def test_the_only_gguf_file_is_taken(hub: Hub) -> None:
    hub.add(MODEL.repo, {"README.md": blob(b""), "m-q4_0.gguf": blob(gguf_header(), large=True)})
    path = download(MODEL)
    assert path.name == "m-q4_0.gguf" and path.read_bytes() == gguf_header()
    assert stored(path.parent) == {"m-q4_0.gguf"}


def test_a_split_gguf_is_taken_whole(hub: Hub, offline: Any) -> None:
    parts = [f"q8/m-{i:05}-of-00003.gguf" for i in (1, 2, 3)]
    hub.add(MODEL.repo, {n: blob(gguf_header() + bytes([i]), large=True) for i, n in enumerate(parts)})
    path = download(MODEL)
    assert path.as_posix().endswith(parts[0]) and stored(path.parent.parent) == set(parts)
    opened = open_remote(HubId(MODEL.repo, file=parts[1]))
    assert isinstance(opened, RemoteFolder) and list(opened.tensor_files) == parts
    offline()
    assert download(MODEL) == path == open_remote(MODEL)


def test_of_several_gguf_files_one_is_named(hub: Hub) -> None:
    files = {f"m-{q}.gguf": blob(gguf_header() + q.encode(), large=True) for q in ("q4_0", "q8_0")}
    hub.add(MODEL.repo, files)
    with pytest.raises(NotPossible, match=r"m-q4_0\.gguf, m-q8_0\.gguf\).* org/model:m-q4_0\.gguf"):
        download(MODEL)
    with pytest.raises(NotPossible, match=r"no file m-q2\.gguf.*: m-q4_0\.gguf, m-q8_0\.gguf"):
        download(HubId(MODEL.repo, file="m-q2.gguf"))
    assert not hub.data_requests()
    path = download(HubId(MODEL.repo, file="m-q8_0.gguf"))
    assert stored(path.parent) == {"m-q8_0.gguf"} and path.name == "m-q8_0.gguf"


def test_beside_safetensors_a_gguf_file_has_to_be_named(hub: Hub) -> None:
    hub.add(MODEL.repo, {"model.safetensors": whole("a"), "m.gguf": blob(gguf_header(), large=True)})
    assert stored(download(MODEL)) == {"model.safetensors"}
    assert download(HubId(MODEL.repo, file="m.gguf")).name == "m.gguf"


def test_a_huge_gguf_header_is_read_in_growing_ranges(hub: Hub) -> None:
    head = gguf_header(arrays=5 << 20)
    hub.add(MODEL.repo, {"m.gguf": sparse(head, 600 << 30)})
    opened = open_remote(MODEL)
    assert isinstance(opened, RemoteFolder)
    assert opened.gguf_headers["m.gguf"].data_start == len(head) + -len(head) % 32
    assert sum(r.sent for r in hub.requests) < 9 << 20 and len(hub.data_requests()) <= 4
