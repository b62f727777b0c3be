"""GGUF headers: hand-made bytes, both ways against the `gguf` library, real files of llama.cpp with their manifests."""

import doctest
import hashlib
import json
from pathlib import Path
from typing import Any

import gguf as library
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantcli.containers import gguf, gguf_values, gguf_write
from quantcli.containers.gguf import ArrayValue, TensorInfo, Value
from quantcli.errors import BadInput, Surroundings
from tests.attacks.gguf_files import sample

DATA = Path(__file__).resolve().parent.parent / "data" / "gguf"

HAND_MADE = bytes.fromhex(
    "47475546 03000000 0100000000000000 0200000000000000"  # GGUF, version 3, 1 tensor, 2 keys
    "0100000000000000 61 00000000 07"  # a: uint8 = 7
    "0100000000000000 62 09000000 08000000 0100000000000000 0200000000000000 6869"  # b: array of 1 text, "hi"
    "0100000000000000 77 02000000 2000000000000000 0200000000000000 08000000 0000000000000000"  # w: 32 x 2, type 8, 0
)
PADDED = HAND_MADE + bytes(-len(HAND_MADE) % 32)


@pytest.mark.parametrize("module", [gguf, gguf_values, gguf_write])
def test_doctests(module: Any) -> None:
    assert doctest.testmod(module).failed == 0


def test_hand_made_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(PADDED + bytes(96))
    file = gguf.read(path)
    assert (file.version, file.byte_order, file.alignment, file.data_start) == (3, "little", 32, 128)
    assert file.metadata["a"] == Value("uint8", 7)
    assert file.metadata["b"].type == "array[string]" and file.metadata["b"].value.decode() == [b"hi"]
    assert file.tensors == {"w": TensorInfo("w", (2, 32), 8, "q8_0", 128, 68, 96)}


def test_header_of_hand_made_bytes() -> None:
    metadata = {"a": ("uint8", 7), "b": ("array[string]", ["hi"])}
    assert gguf_write.header(metadata, [("w", (2, 32), "q8_0")]) == (PADDED, {"w": 128}, 128 + 96)


def test_a_file_without_its_final_padding_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(PADDED + bytes(68))
    assert gguf.read(path).tensors["w"].span == 68


def test_version_2_and_big_endian(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(HAND_MADE.replace(b"\x03\0\0\0", b"\x02\0\0\0", 1) + bytes(128))
    assert gguf.read(path).version == 2
    path.write_bytes(
        b"GGUF" + b"\0\0\0\x03" + bytes(7) + b"\0" + bytes(7) + b"\x01" + bytes(7) + b"\x01a\0\0\0\x02\x01\0"
    )
    file = gguf.read(path)
    assert (file.version, file.byte_order, file.metadata) == (3, "big", {"a": Value("uint16", 256)})


SMALL_SCALARS: dict[str, Any] = {
    "uint8": 200,
    "int8": -100,
    "uint16": 60_000,
    "int16": -30_000,
    "uint32": 4_000_000_000,
    "int32": -2_000_000_000,
    "uint64": 2**64 - 1,
    "int64": -(2**63),
    "float32": float(np.float32(0.1)),
    "float64": 0.1,
    "bool": True,
}
SMALL_ARRAYS: dict[str, tuple[str, Any]] = {
    "ints": ("array[int32]", [1, -2, 3]),
    "floats": ("array[float32]", [0.5, -1.5]),
    "bools": ("array[bool]", [True, False, True]),
    "texts": ("array[string]", [b"a", b"", "größe".encode(), b"\n"]),
}
SMALL_TENSORS: list[tuple[str, tuple[int, ...], str]] = [
    ("norm.weight", (8,), "f32"),
    ("half", (1, 2, 3), "f16"),
    ("ids", (4,), "i32"),
    ("blk.0.ffn_down.weight", (3, 64), "q8_0"),
    ("blk.0.attn_q.weight", (2, 32), "q4_0"),
    ("output.weight", (2, 256), "q6_k"),
    ("token_embd.weight", (5, 32), "q4_1"),
]


@pytest.mark.parametrize(("name", "byte_order"), [("small.gguf", "little"), ("small-big-endian.gguf", "big")])
def test_reads_what_the_library_wrote(name: str, byte_order: str) -> None:
    file = gguf.read(DATA / name)
    assert (file.version, file.byte_order, file.alignment, file.data_start % 32) == (3, byte_order, 32, 0)
    assert file.metadata["general.name"] == Value("string", "Small")
    for kind, value in SMALL_SCALARS.items():
        assert file.metadata[f"test.{kind}"] == Value(kind, value)
    for key, (kind, elements) in SMALL_ARRAYS.items():
        found = file.metadata[f"test.{key}"]
        assert (found.type, found.value.length, found.value.decode()) == (kind, len(elements), elements)
    assert [(t.name, t.shape, t.type_name) for t in file.tensors.values()] == SMALL_TENSORS


def test_tensor_bytes_lie_where_the_header_says() -> None:
    reader = library.GGUFReader(DATA / "small.gguf")
    raw = (DATA / "small.gguf").read_bytes()
    ours = gguf.read(DATA / "small.gguf").tensors
    assert len(reader.tensors) == len(ours)
    for tensor in reader.tensors:
        info = ours[tensor.name]
        assert (info.offset, info.nbytes, info.type_id) == (tensor.data_offset, tensor.n_bytes, tensor.tensor_type)
        assert info.shape == tuple(tensor.shape.tolist()[::-1])
        assert raw[info.offset : info.offset + tensor.n_bytes] == tensor.data.tobytes()


def test_same_header_as_the_library() -> None:
    raw = (DATA / "small.gguf").read_bytes()
    file = gguf.read(DATA / "small.gguf")
    scalars = {f"test.{kind}": (kind, value) for kind, value in SMALL_SCALARS.items()}
    arrays = {f"test.{key}": value for key, value in SMALL_ARRAYS.items()}
    names = {"general.architecture": ("string", "llama"), "general.name": ("string", b"Small")}
    mixed = names | scalars | arrays
    by_hand = {key: mixed[key] for key in file.metadata}
    for metadata in (by_hand, file.metadata, gguf.read(DATA / "small-big-endian.gguf").metadata):
        head, offsets, size = gguf_write.header(metadata, SMALL_TENSORS)
        assert head == raw[: file.data_start]
        assert offsets == {t.name: t.offset for t in file.tensors.values()}
        assert size == len(raw)


def test_the_library_reads_what_we_write(tmp_path: Path) -> None:
    path = tmp_path / "ours.gguf"
    metadata = {f"k.{kind}": (kind, value) for kind, value in SMALL_SCALARS.items()} | SMALL_ARRAYS
    metadata |= {"general.alignment": ("uint32", 64), "text": ("string", "größe")}
    head, offsets, size = gguf_write.header(metadata, SMALL_TENSORS)
    assert size % 64 == 0 and all(offset % 64 == 0 for offset in offsets.values())
    path.write_bytes(head + bytes(range(256)) * ((size - len(head)) // 256 + 1))
    reader = library.GGUFReader(path)
    for key, (kind, value) in metadata.items():
        found = reader.get_field(key)
        assert found is not None
        assert found.types[0].name.lower() == kind.partition("[")[0]
        plain = [t.decode() for t in value] if kind == "array[string]" else value
        assert found.contents() == pytest.approx(plain) if "float" in kind else found.contents() == plain
    assert [
        (t.name, tuple(t.shape.tolist()[::-1]), t.tensor_type.name.lower(), t.data_offset) for t in reader.tensors
    ] == [(name, shape, kind, offsets[name]) for name, shape, kind in SMALL_TENSORS]


def test_arrays_of_arrays(tmp_path: Path) -> None:
    nested = [[[1, 2], []], [[3]]]
    head, _, _ = gguf_write.header({"n": ("array[array[array[int16]]]", nested)}, [])
    path = tmp_path / "n.gguf"
    path.write_bytes(head)
    file = gguf.read(path)
    assert file.metadata["n"].type == "array[array]" and file.metadata["n"].value.decode() == nested
    assert gguf_write.header(file.metadata, [])[0] == head


def test_arrays_of_arrays_of_the_other_byte_order() -> None:
    """The arrays in an array may have several types: no one type of elements says how they are written."""
    found = []
    for order in "<>":
        raw = sample(order, 3, "arrays", "none").raw
        file = gguf.parse(lambda at, count, raw=raw: raw[at : at + count], len(raw), Path("a.gguf"))  # type: ignore[misc]
        assert file.metadata["n"].value.decode() == [[[1, 2], []], [b"q"]]
        found.append(gguf_write.header(file.metadata, [])[0])
    assert found[0] == found[1] == sample("<", 3, "arrays", "none").raw


def test_unknown_tensor_types_have_a_span(tmp_path: Path) -> None:
    head, offsets, size = gguf_write.header({}, [("a", (40,), "f32"), ("b", (8,), "f32")])
    at = head.index(b"\x01\0\0\0\0\0\0\0b") - 12  # the type of a, before its offset
    path = tmp_path / "new.gguf"
    path.write_bytes(head[:at] + (9999).to_bytes(4, "little") + head[at + 4 :] + bytes(size - len(head)))
    assert gguf.read(path).tensors["a"] == TensorInfo("a", (40,), 9999, None, offsets["a"], None, 160)


def test_tensors_may_lie_in_any_order(tmp_path: Path) -> None:
    head, offsets, size = gguf_write.header({}, [("a", (8,), "f32"), ("b", (8,), "f32")])
    first, second = head.index(b"\x01\0\0\0\0\0\0\0b") - 8, head.index(b"\x01\0\0\0\0\0\0\0b") + 9 + 4 + 8 + 4
    turned = bytearray(head)
    turned[first], turned[second] = 32, 0
    path = tmp_path / "turned.gguf"
    path.write_bytes(turned + bytes(size - len(head)))
    tensors = gguf.read(path).tensors
    assert list(tensors) == ["a", "b"] and tensors["a"].offset == offsets["b"] and tensors["b"].offset == offsets["a"]


def test_a_large_vocabulary_takes_few_reads() -> None:
    tokens = [b"token%d" % i for i in range(150_000)]
    head, _, _ = gguf_write.header({"tokens": ("array[string]", tokens)}, [])
    calls = []

    def read(offset: int, length: int) -> bytes:
        calls.append((offset, length))
        return head[offset : offset + length]

    file = gguf.parse(read, len(head), Path("a.gguf"))
    assert file.metadata["tokens"].value.decode() == tokens
    assert len(calls) <= 4 and sum(length for _, length in calls) <= len(head)


def test_a_missing_file_is_the_surroundings(tmp_path: Path) -> None:
    with pytest.raises(Surroundings, match="absent.gguf"):
        gguf.read(tmp_path / "absent.gguf")


VALUES = st.one_of(
    st.tuples(st.just("uint8"), st.integers(0, 255)),
    st.tuples(st.just("int64"), st.integers(-(2**63), 2**63 - 1)),
    st.tuples(st.just("float64"), st.floats(allow_nan=False)),
    st.tuples(st.just("bool"), st.booleans()),
    st.tuples(st.just("string"), st.text(st.characters(codec="utf-8"), max_size=9)),
    st.tuples(st.just("array[uint16]"), st.lists(st.integers(0, 65535), max_size=5)),
    st.tuples(st.just("array[string]"), st.lists(st.binary(max_size=5), max_size=5)),
    st.tuples(st.just("array[array[bool]]"), st.lists(st.lists(st.booleans(), max_size=3), max_size=3)),
)
SHAPES = st.lists(st.integers(1, 5), min_size=1, max_size=4).map(lambda shape: (*shape[:-1], 32 * shape[-1]))


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(st.text("ab.é_0", min_size=1, max_size=5), VALUES, max_size=5),
    st.dictionaries(
        st.text("ab.é_0", min_size=1, max_size=5), st.tuples(SHAPES, st.sampled_from(["f32", "q4_0"])), max_size=4
    ),
    st.sampled_from([1, 2, 4, 8, 32, 4096]),
)
def test_header_is_read_back(metadata: Any, tensors: Any, alignment: int) -> None:
    metadata = metadata | {gguf.ALIGNMENT_KEY: ("uint32", alignment)}
    listed = [(name, shape, kind) for name, (shape, kind) in tensors.items()]
    head, offsets, size = gguf_write.header(metadata, listed)
    assert len(head) % alignment == 0 == size % alignment
    file = gguf.parse(lambda at, n: head[at : at + n], size, Path("a.gguf"))
    assert [(t.name, t.shape, t.type_name) for t in file.tensors.values()] == listed
    assert {t.name: t.offset for t in file.tensors.values()} == offsets
    plain = {k: v.value.decode() if isinstance(v.value, ArrayValue) else v.value for k, v in file.metadata.items()}
    assert plain == {key: value for key, (_, value) in metadata.items()}


REFUSED_VALUES = {
    "300 as uint8": ("uint8", 300),
    "-1 as uint32": ("uint32", -1),
    "1.5 as int32": ("int32", 1.5),
    "1e40 as float32": ("float32", 1e40),
    "1 as bool": ("bool", 1),
    "a number as text": ("string", 7),
    "None as text": ("string", None),
    "a surrogate": ("string", "\ud800"),
    "an array with one element too large": ("array[int8]", [1, 128]),
    "bools that are numbers": ("array[bool]", [0, 1]),
    "a type of nobody": ("uint128", 1),
    "an array without its element type": ("array", [1]),
    "an array of nobody's type": ("array[text]", ["a"]),
}


@pytest.mark.parametrize("case", REFUSED_VALUES)
def test_values_that_their_type_cannot_hold(case: str) -> None:
    with pytest.raises(BadInput, match="key 'some.key'"):
        gguf_write.header({"some.key": REFUSED_VALUES[case]}, [])


@pytest.mark.parametrize(
    ("tensors", "error", "expected"),
    [
        ([("w", (2, 33), "q8_0")], BadInput, "rows of 33 .* 32 .q8_0"),
        ([("w", (32,), "f32"), ("w", (32,), "f32")], BadInput, "twice"),
        ([("w\n", (32,), "f32")], BadInput, "control characters"),
    ],
)
def test_tensors_that_cannot_be_written(tensors: Any, error: type[Exception], expected: str) -> None:
    with pytest.raises(error, match=expected):
        gguf_write.header({}, tensors)


@pytest.mark.parametrize("alignment", [("uint32", 0), ("uint32", 24), ("int32", 32)])
def test_alignments_that_cannot_be_written(alignment: tuple[str, int]) -> None:
    with pytest.raises(BadInput, match="general.alignment"):
        gguf_write.header({"general.alignment": alignment}, [])


def test_real_files_agree_with_their_manifests(shared: Path) -> None:
    paths = sorted(shared.glob("fixtures/gguf/files/*.gguf"))
    assert len(paths) == 13
    for path in paths:
        manifest = json.loads(Path(f"{path}.json").read_text())
        check_against_manifest(gguf.read(path), manifest, path.read_bytes())


def check_against_manifest(file: gguf.GgufFile, manifest: dict[str, Any], raw: bytes) -> None:
    wanted = (manifest["version"], manifest["endian"], manifest["alignment"], manifest["data_start"])
    assert (file.version, file.byte_order, file.alignment, file.data_start) == wanted
    assert list(file.metadata) == list(manifest["metadata"])
    for key, (kind, value) in manifest["metadata"].items():
        assert file.metadata[key].type == kind
        found = file.metadata[key].value
        if isinstance(value, dict):
            assert value == {"length": found.length, "sha256": hashlib.sha256(found.payload).hexdigest()}
        else:
            assert (found.decode() if isinstance(found, ArrayValue) else found) == value
    assert list(file.tensors) == [tensor["name"] for tensor in manifest["tensors"]]
    for tensor in manifest["tensors"]:
        info = file.tensors[tensor["name"]]
        assert (info.shape, info.type_name) == (tuple(tensor["shape"][::-1]), tensor["type"].lower())
        assert (info.offset, info.nbytes) == (file.data_start + tensor["offset"], tensor["nbytes"])
        assert hashlib.sha256(raw[info.offset : info.offset + tensor["nbytes"]]).hexdigest() == tensor["sha256"]


def test_real_headers_are_written_back_byte_for_byte(shared: Path) -> None:
    for path in sorted(shared.glob("fixtures/gguf/files/*.gguf")):
        file = gguf.read(path)
        if (file.version, file.byte_order) != (3, "little"):
            continue
        raw = path.read_bytes()
        listed = [(t.name, t.shape, str(t.type_name)) for t in file.tensors.values()]
        head, offsets, size = gguf_write.header(file.metadata, listed)
        assert head == raw[: file.data_start] and size == len(raw)
        assert offsets == {t.name: t.offset for t in file.tensors.values()}


def test_offsets_and_sizes_are_those_of_every_manifest(shared: Path) -> None:
    paths = [
        p
        for folder in ("tiny-llama", "micro-llama", "split")
        for p in (shared / "fixtures/gguf" / folder).glob("*.json")
    ]
    manifests = [json.loads(p.read_text()) for p in paths]
    manifests = [m for m in manifests if isinstance(m, dict) and "tensors" in m]
    assert len(manifests) > 50
    for manifest in manifests:
        listed = [(t["name"], tuple(t["shape"][::-1]), t["type"].lower()) for t in manifest["tensors"]]
        head, offsets, size = gguf_write.header({}, listed)
        assert {name: offset - len(head) for name, offset in offsets.items()} == {
            t["name"]: t["offset"] for t in manifest["tensors"]
        }
        assert size - len(head) == manifest["file_size"] - manifest["data_start"]
