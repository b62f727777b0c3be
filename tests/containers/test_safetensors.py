"""safetensors headers: hand-made bytes, and both ways against the safetensors library."""

import doctest
import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from quantcli.arrays import DTYPES
from quantcli.containers import safetensors as ours
from quantcli.containers.safetensors import Entry
from quantcli.errors import BadInput, NotPossible, Surroundings

HAND_MADE = (
    (0x50).to_bytes(8, "little")
    + b'{"__metadata__":{"k":"v"},"a":{"dtype":"F16","shape":[2],"data_offsets":[0,4]}}  '[:0x50]
    + b"\x00\x3c\x00\x40"
)


def test_doctests() -> None:
    assert doctest.testmod(ours).failed == 0


def test_hand_made_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(HAND_MADE)
    header = ours.read_header(path)
    assert header.entries == {"a": Entry("f16", (2,), 88, 4)}
    assert header.metadata == {"k": "v"}
    assert header.data_start == 88
    assert HAND_MADE[88:92] == b"\x00\x3c\x00\x40"


def test_layout_of_hand_made_bytes() -> None:
    head, offsets = ours.layout({"a": ("f16", (2,))}, {"k": "v"})
    assert head + b"\x00\x3c\x00\x40" == HAND_MADE
    assert offsets == {"a": 88}


@pytest.mark.parametrize("start", [b"\x80\x02", b"\x80\x04"])
def test_a_header_length_that_looks_like_a_pickle(start: bytes, tmp_path: Path) -> None:
    length = int.from_bytes(start, "little")
    path = tmp_path / "a.safetensors"
    path.write_bytes(start + bytes(6) + b"{}".ljust(length))
    assert ours.read_header(path).data_start == 8 + length


def test_empty_file_of_no_tensors(tmp_path: Path) -> None:
    path = tmp_path / "none.safetensors"
    head, offsets = ours.layout({}, {})
    path.write_bytes(head)
    assert offsets == {} and ours.read_header(path).entries == {}
    assert safetensors.numpy.load_file(path) == {}


ARRAYS: dict[str, Any] = {
    "z.f32": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a.f16": np.arange(5, dtype=np.float16),
    "b.u8": np.arange(7, dtype=np.uint8),
    "c.i64": np.array(-3, np.int64),
    "d.bool": np.array([True, False, True]),
    "e.bf16": np.arange(3).astype(ml_dtypes.bfloat16),
    "f.empty": np.zeros((0, 4), np.float32),
    "größe": np.ones((1, 2, 3), np.uint32),
}
OUR_DTYPE = {name: next(d.name for d in DTYPES.values() if d.numpy == a.dtype.name) for name, a in ARRAYS.items()}


def test_reads_what_the_library_writes(tmp_path: Path) -> None:
    path = tmp_path / "lib.safetensors"
    safetensors.numpy.save_file(ARRAYS, path, metadata={"format": "np"})
    header = ours.read_header(path)
    raw = path.read_bytes()
    assert header.metadata == {"format": "np"}
    assert set(header.entries) == set(ARRAYS)
    for name, array in ARRAYS.items():
        entry = header.entries[name]
        assert (entry.dtype, entry.shape, entry.nbytes) == (OUR_DTYPE[name], array.shape, array.nbytes)
        assert raw[entry.offset : entry.offset + entry.nbytes] == array.tobytes()


def test_reads_what_mlx_writes_without_metadata(tmp_path: Path) -> None:
    import mlx.core as mx

    mx.save_safetensors(str(tmp_path / "a.safetensors"), {"a": mx.zeros((2,))})
    assert b'"__metadata__":null' in (tmp_path / "a.safetensors").read_bytes()
    header = ours.read_header(tmp_path / "a.safetensors")
    assert (list(header.entries), header.metadata) == (["a"], {})


def test_the_library_reads_what_we_write(tmp_path: Path) -> None:
    path = tmp_path / "ours.safetensors"
    tensors = {name: (OUR_DTYPE[name], array.shape) for name, array in ARRAYS.items()}
    head, offsets = ours.layout(tensors, {"format": "pt", "by": "us"})
    body = bytearray(ours.file_size(head, tensors))
    body[: len(head)] = head
    for name, array in ARRAYS.items():
        assert offsets[name] % array.dtype.itemsize == 0
        body[offsets[name] : offsets[name] + array.nbytes] = array.tobytes()
    path.write_bytes(body)
    with safe_open(path, framework="np") as file:
        assert file.metadata() == {"format": "pt", "by": "us"}
        assert sorted(file.keys()) == sorted(ARRAYS)
        for name, array in ARRAYS.items():
            assert file.get_tensor(name).tobytes() == array.tobytes()
    assert {name: entry.offset for name, entry in ours.read_header(path).entries.items()} == offsets


def test_layout_depends_on_content_alone() -> None:
    tensors = {name: (OUR_DTYPE[name], array.shape) for name, array in ARRAYS.items()}
    turned = dict(reversed(tensors.items()))
    assert ours.layout(tensors, {"x": "1", "y": "2"}) == ours.layout(turned, {"y": "2", "x": "1"})


def test_entries_come_in_the_order_of_their_data(tmp_path: Path) -> None:
    members = {
        "last": {"dtype": "U8", "shape": [1], "data_offsets": [1, 2]},
        "first": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
    }
    text = json.dumps(members).encode()
    path = tmp_path / "turned.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"ab")
    assert list(ours.read_header(path).entries) == ["first", "last"]


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_every_dtype_goes_there_and_back(dtype: str) -> None:
    tensors = {"w": (dtype, (2, 4))}
    head, offsets = ours.layout(tensors, {})
    size = ours.file_size(head, tensors)
    entry = ours.parse_header(lambda at, count: head[at : at + count], size, "x").entries["w"]
    assert entry == Entry(dtype, (2, 4), offsets["w"], DTYPES[dtype].bits)


@pytest.mark.parametrize("tensors", [1, 4000])
def test_reads_are_few_and_inside_the_file(tensors: int) -> None:
    listed = {f"layers.{i}.weight": ("bf16", (2, 3)) for i in range(tensors)}
    head, _ = ours.layout(listed, {})
    size = ours.file_size(head, listed)
    calls = []

    def read(offset: int, length: int) -> bytes:
        calls.append((offset, length))
        return (head + bytes(size - len(head)))[offset : offset + length]

    assert len(ours.parse_header(read, size, "x").entries) == tensors
    assert len(calls) == (1 if len(head) <= ours.FIRST_READ else 2)
    assert all(offset + length <= size for offset, length in calls)


def test_a_hundred_thousand_tensors() -> None:
    listed = {f"layers.{i}.weight": ("bf16", (2, 3)) for i in range(100_000)}
    head, offsets = ours.layout(listed, {})
    header = ours.parse_header(lambda at, n: head[at : at + n], ours.file_size(head, listed), "x")
    assert {name: entry.offset for name, entry in header.entries.items()} == offsets


@settings(max_examples=50, deadline=None)
@given(
    st.dictionaries(
        st.text("abcé.0", min_size=1, max_size=4),
        st.tuples(st.sampled_from(sorted(DTYPES)), st.lists(st.integers(0, 5).map(lambda n: 4 * n), max_size=3)),
        max_size=6,
    )
)
def test_layout_is_read_back(drawn: dict[str, tuple[str, list[int]]]) -> None:
    tensors = {name: (dtype, tuple(shape) or (8,)) for name, (dtype, shape) in drawn.items()}
    head, offsets = ours.layout(tensors, {})
    assert len(head) % ours.ALIGNMENT == 0
    header = ours.parse_header(lambda at, n: head[at : at + n], ours.file_size(head, tensors), "x")
    assert {name: (e.dtype, e.shape) for name, e in header.entries.items()} == tensors
    assert {name: e.offset for name, e in header.entries.items()} == offsets


def test_layout_refuses_the_reserved_name() -> None:
    with pytest.raises(BadInput, match="__metadata__"):
        ours.layout({"__metadata__": ("u8", (1,))}, {})


def test_layout_refuses_values_that_end_within_a_byte() -> None:
    with pytest.raises(BadInput, match="12 bits"):
        ours.layout({"a": ("f4", (3,))}, {})


def test_layout_refuses_a_header_that_readers_would_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ours, "MAX_HEADER", 32)
    with pytest.raises(NotPossible, match="--shard-size"):
        ours.layout({"a": ("f32", (3,))}, {})


def test_a_missing_file_is_the_surroundings(tmp_path: Path) -> None:
    with pytest.raises(Surroundings, match="absent.safetensors"):
        ours.read_header(tmp_path / "absent.safetensors")


def test_every_fixture_is_read(shared: Path) -> None:
    files = sorted(shared.glob("fixtures/models/**/*.safetensors")) + sorted(
        shared.glob("fixtures/quantized/**/*.safetensors")
    )
    assert files
    for path in files:
        with safe_open(path, framework="np") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        assert {name: entry.shape for name, entry in ours.read_header(path).entries.items()} == shapes
