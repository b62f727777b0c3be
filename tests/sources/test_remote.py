"""Headers of models on the Hub by range requests; against a server on 127.0.0.1."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from quantcli.containers import safetensors
from quantcli.errors import BadInput, NotPossible, Surroundings
from quantcli.sources import remote
from quantcli.sources.detect import open_folder, open_source
from quantcli.sources.hub import list_files
from quantcli.sources.remote import RemoteFolder, open_remote
from tests.builders import safetensors_bytes
from tests.hub_models import INDEX, MODEL, index, shard, whole
from tests.hub_server import Blob, Hub, blob, sparse

DATA = Path(__file__).resolve().parent.parent / "data" / "quantized"

# --- headers by range requests ---------------------------------------------------------------------------------------


def huge(count: int = 4) -> dict[str, Blob]:
    """Four shards of 150 GB."""
    names = [f"model-{i:05}-of-{count:05}.safetensors" for i in range(1, count + 1)]
    shards = {name: sparse(shard(f"t{i}", 150 << 30, 40), 150 << 30) for i, name in enumerate(names)}
    placed = {f"t{i}.{j}": name for i, name in enumerate(names) for j in range(40)}
    return {"config.json": blob(b'{"model_type": "llama"}'), INDEX: index(**placed), **shards}


def test_600_gb_are_inspected_with_less_than_a_megabyte(hub: Hub) -> None:
    hub.add(MODEL.repo, huge())
    opened = open_remote(MODEL)
    assert isinstance(opened, RemoteFolder)
    assert sum(e.nbytes for h in opened.headers.values() for e in h.entries.values()) > 599 << 30
    assert sum(len(h.entries) for h in opened.headers.values()) == 160
    ranges = [r.range for r in hub.requests if r.path.startswith("/cdn/")]
    assert ranges == [f"bytes=0-{safetensors.FIRST_READ - 1}"] * 4
    assert sum(r.sent for r in hub.requests) < 1_000_000


def test_a_remote_folder_opens_as_a_local_one_does(hub: Hub) -> None:
    from quantcli.sources.folder import read_json, read_tensors
    from quantcli.sources.hf import open_hf

    hub.add(MODEL.repo, huge())
    opened = open_remote(MODEL)
    assert isinstance(opened, RemoteFolder)
    before = len(hub.requests)
    checkpoint = open_hf(opened, read_json(opened, "config.json"), read_tensors(opened))
    assert len(checkpoint.weights) == 160 and checkpoint.config == {"model_type": "llama"}
    assert len(hub.requests) == before
    assert str(checkpoint.files[0]) == "org/model@main/model-00001-of-00004.safetensors"


def test_a_remote_mlx_folder_is_read_by_the_file_next_to_its_config(hub: Hub) -> None:
    tensors = {"m.q.weight": np.zeros((3, 32), np.uint32), "m.q.scales": np.ones((3, 4), np.float16)}
    tensors["m.q.biases"] = tensors["m.q.scales"]
    files = {"config.json": blob(b'{"model_type": "llama"}'), "model.safetensors": blob(safetensors_bytes(tensors))}
    hub.add(MODEL.repo, files | {"quantization_config.json": blob(b'{"per_tensor": {"m.q": {"bits": 4}}}')})
    opened = open_remote(MODEL)
    assert isinstance(opened, RemoteFolder)
    weight = open_folder(opened).weights["m.q.weight"]
    assert (weight.scheme.name, weight.reason) == ("affine4-g64", "quantization_config.json: m.q")


def test_a_long_header_takes_a_second_range_of_just_its_rest(hub: Hub) -> None:
    head = shard("t", 1 << 40, 4000)
    assert len(head) > safetensors.FIRST_READ
    hub.add(MODEL.repo, {"model.safetensors": sparse(head, 1 << 40)})
    opened = open_remote(MODEL)
    assert isinstance(opened, RemoteFolder) and len(opened.header("model.safetensors").entries) == 4000
    ranges = [r.range for r in hub.requests if r.path.startswith("/cdn/")]
    assert ranges == [f"bytes=0-{safetensors.FIRST_READ - 1}", f"bytes={safetensors.FIRST_READ}-{len(head) - 1}"]


def test_any_range_can_be_read(hub: Hub) -> None:
    data = shard("t", 2000) + bytes(range(256)) * 8
    hub.add(MODEL.repo, {"model.safetensors": whole("t"), "more.safetensors": blob(data, large=True)})
    opened = open_remote(MODEL)
    assert isinstance(opened, RemoteFolder)
    file = opened.file("more.safetensors")
    assert file.size == len(data)
    assert file.read(100, 57) == data[100:157]
    assert file.read(len(data) - 5, 100) == data[-5:]
    assert file.read(len(data), 1) == file.read(0, 0) == b""
    with pytest.raises(NotPossible, match="no file nothing"):
        opened.file("nothing")


def test_a_server_that_ignores_ranges_is_left_at_once(hub: Hub) -> None:
    hub.add(MODEL.repo, huge())
    hub.ignores_ranges = True
    with pytest.raises(Surroundings, match="range requests"):
        open_remote(MODEL)


def test_a_file_wanted_whole_may_come_without_a_range(hub: Hub) -> None:
    hub.add(MODEL.repo, {"config.json": blob(b'{"a": 1}'), "model.safetensors": whole("a")})
    hub.ignores_ranges = True
    opened = open_remote(MODEL)
    assert isinstance(opened, RemoteFolder) and opened.read("config.json") == b'{"a": 1}'


@pytest.mark.parametrize(
    ("content_range", "body", "message"),
    [
        ("bytes 1-10/2000", b"x" * 10, "expected bytes 0-9/2000"),
        ("bytes 0-9/3000", b"x" * 10, "expected bytes 0-9/2000"),
        ("items 0-9/2000", b"x" * 10, "range requests"),
        ("bytes 0-9/2000", b"x" * 9, "expected 10 bytes, .* sent 9"),
        ("bytes 0-9/2000", b"x" * 5000, "expected 10 bytes, .* more than 10"),
    ],
)
def test_a_range_that_is_not_the_one_asked_for(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, content_range: str, body: bytes, message: str
) -> None:
    from tests.hub_server import Handler

    hub.add(MODEL.repo, {"model.safetensors": whole("a")})
    file = remote.RemoteFile(MODEL, list_files(MODEL).commit, "model.safetensors", 2000, None)
    lie = {"Content-Range": content_range}
    monkeypatch.setattr(Handler, "content", lambda self, found, headers: self.answer(206, body, headers | lie))
    with pytest.raises(Surroundings, match=message):
        file.read(0, 10)


def test_a_server_that_sends_without_end_is_left(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    from tests.hub_server import Handler

    hub.add(MODEL.repo, {"model.safetensors": whole("a")})
    file = remote.RemoteFile(MODEL, list_files(MODEL).commit, "model.safetensors", 2000, None)
    released = threading.Event()

    def endless(self: Handler, found: Blob, headers: dict[str, str]) -> None:
        self.answer(206, bytes(1000), headers | {"Content-Range": "bytes 0-9/2000"}, claimed=1 << 40)
        released.wait(10)

    monkeypatch.setattr(Handler, "content", endless)
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.5)
    with pytest.raises(Surroundings, match="more than 10"):
        file.read(0, 10)
    released.set()


def test_a_slow_server_is_given_up(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(MODEL.repo, {"model.safetensors": whole("a")})
    monkeypatch.setattr(remote, "REQUEST_SECONDS", -1)
    with pytest.raises(Surroundings, match=r"cannot be reached \('2000 of 2000 bytes in"):
        open_remote(MODEL)


def test_a_malformed_header_is_bad_input_that_names_the_file(hub: Hub) -> None:
    hub.add(MODEL.repo, {"model.safetensors": blob(b"\xff" * 100, large=True)})
    with pytest.raises(BadInput, match=r"org/model@main/model\.safetensors: .* header of 18446744073709551615"):
        open_remote(MODEL)


def test_a_huge_config_is_not_fetched(hub: Hub) -> None:
    hub.add(MODEL.repo, {"config.json": sparse(b"{", 1 << 40), "model.safetensors": whole("a")})
    with pytest.raises(BadInput, match="1099511627776 .* 67108864"):
        open_remote(MODEL)
    assert not hub.data_requests()


def test_quantized_checkpoints_are_told_without_a_download(hub: Hub) -> None:
    """Headers and a few small tensors; the same schemes as of the folder."""
    cases = ("bnb-nf4-double", "ct-w3a16-dense-g64", "gptq-b4-actorder", "hqq-b4-g64", "torchao-int8-row")
    for case in cases:
        files = {name: (DATA / case / name).read_bytes() for name in ("config.json", "model.safetensors")}
        repo = replace(MODEL, repo=f"org/{case}")
        hub.add(repo.repo, {name: blob(data, large=name.endswith("s")) for name, data in files.items()})
        opened = open_remote(repo)
        assert isinstance(opened, RemoteFolder)
        here, there = open_source(DATA / case).weights, open_folder(opened).weights
        assert {n: (w.scheme, w.shape) for n, w in here.items()} == {n: (w.scheme, w.shape) for n, w in there.items()}
