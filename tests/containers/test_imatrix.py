"""Importance matrices: llama-imatrix's own in both forms, hand-made ones, and malformed files of both forms.

tests/data/imatrix: what llama-imatrix made of a small llama, 14 entries from 16 chunks of 256 tokens.
"""

import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantcli.containers import gguf_write, imatrix
from quantcli.containers.gguf_values import Value
from quantcli.containers.imatrix import ImportanceMatrix
from quantcli.errors import BadInput, Surroundings, WrongUsage

DATA = Path(__file__).resolve().parent.parent / "data" / "imatrix"
LEGACY, GGUF = (DATA / "imatrix.dat").read_bytes(), (DATA / "imatrix.gguf").read_bytes()

KEYS: dict[str, tuple[str, Any]] = {
    "general.type": ("string", "imatrix"),
    "imatrix.datasets": ("array[string]", ["a.txt", "b.txt"]),
    "imatrix.chunk_count": ("uint32", 3),
    "imatrix.chunk_size": ("uint32", 512),
}


def parsed(data: bytes, name: str = "m.dat") -> ImportanceMatrix:
    return imatrix.parse(lambda offset, length: data[offset : offset + length], len(data), Path("folder") / name)


def i32(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}i", *numbers)


def f32(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def entry(name: bytes = b"w", calls: int = 4, values: Sequence[float] = (2.0, 3.0)) -> bytes:
    return i32(len(name)) + name + i32(calls, len(values)) + f32(*values)


def dat(*entries: bytes, end: bytes = b"", count: int | None = None) -> bytes:
    return i32(len(entries) if count is None else count) + b"".join(entries) + end


def gguf_of(tensors: dict[str, Any], keys: dict[str, tuple[str, Any]] | None = None, kind: str = "f32") -> bytes:
    """A GGUF file of these float32 arrays."""
    arrays = {name: np.asarray(values, np.float32) for name, values in tensors.items()}
    listed = [(name, array.shape, kind) for name, array in arrays.items()]
    start, offsets, size = gguf_write.header(KEYS if keys is None else keys, listed)
    data = bytearray(start + bytes(size - len(start)))
    for name, array in arrays.items():
        raw = array.astype(np.float16 if kind == "f16" else np.float32).tobytes()
        data[offsets[name] : offsets[name] + len(raw)] = raw
    return bytes(data)


def pair(sums: Any = ((2.0, 3.0),), counts: Any = ((4.0,),), name: str = "w") -> dict[str, Any]:
    return {f"{name}.in_sum2": sums, f"{name}.counts": counts}


def same(one: ImportanceMatrix, other: ImportanceMatrix) -> bool:
    return one.entries.keys() == other.entries.keys() and all(
        array.dtype == np.float32 and np.array_equal(array, other.entries[name]) for name, array in one.entries.items()
    )


def test_llama_imatrix_in_both_forms() -> None:
    new, old = imatrix.read(DATA / "imatrix.gguf"), imatrix.read(DATA / "imatrix.dat")
    assert same(new, old) and len(new.entries) == 14
    assert (new.file, new.chunks, new.chunk_size, new.datasets) == ("imatrix.gguf", 16, 256, ("calibration.txt",))
    assert (old.file, old.chunks, old.chunk_size, old.datasets) == ("imatrix.dat", 16, 0, ("calibration.txt",))
    assert set(new.counts.values()) == {(16 * 256,)} and set(old.counts.values()) == {(16,)}
    assert new.entries["blk.0.attn_q.weight"].shape == (256,)
    assert np.array_equal(new.entries["blk.0.attn_q.weight"], new.entries["blk.0.attn_v.weight"])


def test_every_matrix_of_the_fixtures(shared: Path) -> None:
    folders = [path.parent for path in sorted((shared / "fixtures/gguf").glob("*/imatrix.dat"))]
    assert len(folders) >= 3
    for folder in folders:
        assert same(imatrix.read(folder / "imatrix.gguf"), imatrix.read(folder / "imatrix.dat"))


def test_metadata_as_llama_quantize_wrote_it(shared: Path) -> None:
    compared = 0
    for path in sorted((shared / "fixtures/gguf").glob("*/*+im*.json")):
        manifest = json.loads(path.read_text())
        how = manifest["how"].split()
        chosen = {o: [how[i + 1] for i, word in enumerate(how) if word == o] for o in how if o.endswith("-weights")}
        whole = imatrix.read(path.parent / how[how.index("--imatrix") + 1])
        matrix = imatrix.chosen(whole, chosen.get("--include-weights", ()), chosen.get("--exclude-weights", ()))
        wanted = [(key, tuple(value)) for key, value in manifest["metadata"].items()][-4:]
        assert list(imatrix.metadata(matrix).items()) == wanted
        assert imatrix.check(matrix, {t["name"]: tuple(t["shape"][::-1]) for t in manifest["tensors"]}) == []
        compared += 1
    assert compared >= 100


def test_hand_made_legacy_file() -> None:
    two = dat(entry(), entry(b"x", 0, (5.0,)), end=i32(7, 5) + b"a.txt")
    matrix = parsed(two)
    assert {name: array.tolist() for name, array in matrix.entries.items()} == {"w": [0.5, 0.75], "x": [5.0]}
    assert (matrix.counts, matrix.chunks, matrix.datasets) == ({"w": (4,), "x": (0,)}, 7, ("a.txt",))
    assert parsed(dat(entry())).chunks == 0, "what follows the entries may be left out"
    assert parsed(dat(entry(), end=i32(7))).datasets == () == parsed(dat(entry(), end=i32(7, 0))).datasets
    third = parsed(dat(entry(calls=3, values=(1.0,)))).entries["w"]
    assert third.dtype == np.float32 and third[0] == np.float32(1) / np.float32(3)


def test_hand_made_gguf() -> None:
    matrix = parsed(gguf_of(pair() | {"other": [1.0]}))
    assert {name: array.tolist() for name, array in matrix.entries.items()} == {"w": [0.5, 0.75]}
    assert (matrix.counts, matrix.chunks, matrix.chunk_size) == ({"w": (4,)}, 3, 512)
    assert matrix.datasets == ("a.txt", "b.txt")


def test_experts() -> None:
    matrix = parsed(gguf_of(pair([[2.0, 3.0], [7.0, 8.0], [2.0, 4.0]], [[4.0], [0.0], [2.5]])))
    third = np.array([2, 4], np.float32) / np.float32(3)
    assert np.array_equal(matrix.entries["w"], np.array([[0.5, 0.75], [1, 1], third], np.float32)), "unseen: ones"
    assert matrix.counts["w"] == (4, 0, 3), "halves are rounded up"
    assert matrix.entries["w"].dtype == np.float32
    flat = parsed(dat(entry(calls=1, values=[float(v) for v in range(6)])))
    for found in (matrix.weights("w", (3, 5, 2)), flat.weights("w", (3, 5, 2))):
        assert found is not None and found.shape == (3, 2)


def test_divisions_are_those_of_float32() -> None:
    sums = np.random.default_rng(0).random((4, 64), np.float32) * np.float32(1e3)
    counts = np.array([[3], [7], [532], [2**24 + 1]], np.float32)
    found = parsed(gguf_of(pair(sums, counts))).entries["w"]
    wanted = [
        [np.float32(value) / np.float32(count[0]) for value in row] for row, count in zip(sums, counts, strict=True)
    ]
    assert np.array_equal(found, np.array(wanted, np.float32))
    assert not np.array_equal(found, (sums * (1 / counts)).astype(np.float32)), "no product with the inverse"


def test_big_endian_gguf() -> None:
    data = (Path(__file__).resolve().parent.parent / "data" / "gguf" / "small-big-endian.gguf").read_bytes()
    assert data[4:8] == bytes([0, 0, 0, 3])
    keys = b"".join(
        struct.pack(">Q", len(key)) + key + struct.pack(">II", 4, 9)
        for key in (b"imatrix.chunk_count", b"imatrix.chunk_size")
    )
    keys += struct.pack(">Q", 16) + b"imatrix.datasets" + struct.pack(">IIQ", 9, 8, 0)
    infos = b"".join(
        struct.pack(">Q", len(name)) + name + struct.pack(">IQIQ", 1, size, 0, offset)
        for name, size, offset in ((b"w.in_sum2", 2, 0), (b"w.counts", 1, 32))
    )
    head = b"GGUF" + struct.pack(">IQQ", 3, 2, 3) + keys + infos
    data = head + bytes(-len(head) % 32) + struct.pack(">2f", 2, 3) + bytes(24) + struct.pack(">f", 4) + bytes(28)
    assert parsed(data).entries["w"].tolist() == [0.5, 0.75]


def matrix_of(**sizes: int) -> ImportanceMatrix:
    entries = {name: np.ones(size, np.float32) for name, size in sizes.items()}
    return ImportanceMatrix("m.gguf", entries, {name: (1,) for name in entries}, 2, 256, ("a.txt", "b.txt"))


def test_weights_of_a_tensor() -> None:
    matrix = matrix_of(a=6)
    found = matrix.weights("a", (4, 6))
    assert found is not None and found.shape == (6,)
    assert matrix.weights("b", (4, 6)) is None
    with pytest.raises(BadInput, match=r"m\.gguf: entry 'a': expected 8 .* \[4, 8\], found 6"):
        matrix.weights("a", (4, 8))
    odd = ImportanceMatrix("m", {"token_embd.weight": np.ones(3, np.float32)}, {"token_embd.weight": (1,)})
    assert odd.weights("token_embd.weight", (9, 4)) is None, "llama-quantize makes nothing of it either"


def test_check() -> None:
    matrix = matrix_of(a=6, b=4, c=1, d=1, e=1)
    shapes = {"a": (4, 6), "b": (2, 9, 2)}
    (warning,) = imatrix.check(matrix, shapes)
    assert warning.startswith("m.gguf: 3 of 5 entries ") and warning.endswith(": c, d, e.")
    assert imatrix.check(matrix_of(a=6), shapes) == []
    with pytest.raises(BadInput, match=r"m\.gguf: entry 'a': expected 3 .* \[4, 3\], found 6"):
        imatrix.check(matrix, {"a": (4, 3), "b": (2, 9, 3)})
    odd = matrix_of(**{"token_embd.weight": 3})
    assert imatrix.check(odd, {"token_embd.weight": (9, 4)}) == []
    assert len(imatrix.mismatches(matrix, {"a": (4, 3), "b": (2, 9, 3)})) == 2


def test_chosen_entries() -> None:
    matrix = matrix_of(**{"blk.0.attn_v.weight": 1, "blk.1.attn_v.weight": 1, "blk.0.ffn_up.weight": 1})
    assert list(imatrix.chosen(matrix, include=["attn_v"]).entries) == ["blk.0.attn_v.weight", "blk.1.attn_v.weight"]
    assert list(imatrix.chosen(matrix, exclude=["attn_v", "x"]).entries) == ["blk.0.ffn_up.weight"]
    assert list(imatrix.chosen(matrix, include=["blk.1", "up"]).counts) == [
        "blk.1.attn_v.weight",
        "blk.0.ffn_up.weight",
    ]
    assert imatrix.chosen(matrix) == matrix
    assert imatrix.metadata(imatrix.chosen(matrix, include=["x"])) == {}, "no entry, no matrix"
    with pytest.raises(WrongUsage, match="--include-weights and --exclude-weights"):
        imatrix.chosen(matrix, ["a"], ["b"])


def test_metadata() -> None:
    assert list(imatrix.metadata(matrix_of(a=1, b=2)).items()) == [
        ("quantize.imatrix.file", Value("string", "m.gguf")),
        ("quantize.imatrix.dataset", Value("string", "a.txt")),
        ("quantize.imatrix.entries_count", Value("uint32", 2)),
        ("quantize.imatrix.chunks_count", Value("uint32", 2)),
    ]
    long = ImportanceMatrix("é" * 100, {"a": np.ones(1, np.float32)}, {"a": (1,)})
    assert imatrix.metadata(long) == {
        "quantize.imatrix.file": Value("string", "é" * 63),
        "quantize.imatrix.entries_count": Value("uint32", 1),
    }


NAN, INF = float("nan"), float("inf")

#: What is wrong -> a legacy file, and what its sentence says.
MALFORMED_LEGACY = {
    "empty": (b"", "expected 4 more bytes, found 0"),
    "no entries": (dat(), "number of entries: expected a number from 1 to 65536, found 0"),
    "negative entries": (dat(count=-1), "found -1"),
    "more entries than bytes": (dat(entry(), count=1000), "entries, 1000,"),
    "entries beyond reason": (dat(entry(), count=2**31 - 1), "to 65536, found 2147483647"),
    "one entry missing": (dat(entry(), entry(), count=3)[:-6] + bytes(24), "."),
    "negative name": (dat(i32(-1) + bytes(30)), "entry 1 of 1"),
    "empty name": (dat(i32(0) + bytes(30)), "to 65535, found 0"),
    "endless name": (dat(i32(2**31 - 1) + bytes(30)), "to 65535, found 2147483647"),
    "name beyond the end": (dat(i32(60000) + bytes(30)), "60000"),
    "name that is not UTF-8": (dat(entry(b"\xff")), "byte 0"),
    "name that steers a terminal": (dat(entry(b"a\x1b[2J")), "control characters"),
    "name twice": (dat(entry(), entry()), "entry 'w': appears twice"),
    "negative calls": (dat(entry(calls=-1)), "entry 'w': is damaged or not an importance matrix: number of calls"),
    "no values": (
        dat(entry(values=()) + bytes(4)),
        "values: expected a number from 1 to 2147483647, found 0",
    ),
    "negative values": (dat(i32(1) + b"w" + i32(1, -1) + bytes(9)), "to 2147483647, found -1"),
    "values beyond the end": (
        dat(i32(1) + b"w" + i32(1, 2**31 - 1) + bytes(9)),
        "8589934588 more bytes, found 9",
    ),
    "NaN": (dat(entry(values=(1.0, NAN))), "found nan at index 1"),
    "Inf": (dat(entry(values=(INF,))), "found inf at index 0"),
    "value below 0": (dat(entry(values=(-1.0,))), "found -1.0 at index 0"),
    "negative chunks": (dat(entry(), end=i32(-1)), "chunks: expected a number from 0 to 2147483647, found -1"),
    "negative data set": (dat(entry(), end=i32(1, -1)), "data set's name: expected a number from 0 to 65535, found -1"),
    "data set cut off": (dat(entry(), end=i32(1, 9) + b"a.txt"), "expected 9 more bytes, found 5"),
    "data set that is not UTF-8": (dat(entry(), end=i32(1, 1) + b"\xff"), "not UTF-8"),
    "bytes behind": (dat(entry(), end=i32(1, 1) + b"ab"), "but the file has"),
    "cut off": (LEGACY[:-30], "truncated"),
    "a pickle": (b"PK\x03\x04" + bytes(50), "a zip archive"),
}

#: The same for GGUF.
MALFORMED_GGUF = {
    "a model": ((DATA.parent / "gguf" / "small.gguf").read_bytes(), "in_sum2"),
    "no counts": (gguf_of({"w.in_sum2": [1.0]}), "'w.counts' is missing"),
    "no sums": (gguf_of({"w.counts": [1.0]} | pair(name="v")), "'w.in_sum2' is missing"),
    "no name": (gguf_of(pair(name="")), "an empty name"),
    "half precision": (gguf_of(pair(), kind="f16"), "tensor 'w.in_sum2': expected type f32, found f16"),
    "NaN": (gguf_of(pair([[1.0, NAN]])), "found nan at index 1"),
    "Inf": (gguf_of(pair([[INF, 1.0]])), "found inf at index 0"),
    "sum below 0": (gguf_of(pair([[-1.0, 1.0]])), "found -1.0 at index 0"),
    "count that is NaN": (
        gguf_of(pair(counts=[[NAN]])),
        "found nan at index 0",
    ),
    "negative count": (gguf_of(pair(counts=[[-4.0]])), "found -4.0 at index 0"),
    "huge count": (gguf_of(pair(counts=[[1e30]])), "has a count of 1e+30"),
    "counts that divide nothing": (gguf_of(pair([[1.0, 2.0]], [[1.0], [1.0], [1.0]])), "3 counts"),
    "more counts than sums": (gguf_of(pair([[1.0]], [[1.0], [1.0]])), "2 counts"),
    **{
        f"no {key}": (gguf_of(pair(), {k: v for k, v in KEYS.items() if k != key}), f"key {key} is missing")
        for key in KEYS
        if key.startswith("imatrix")
    },
    "chunks as text": (
        gguf_of(pair(), KEYS | {"imatrix.chunk_count": ("string", "3")}),
        "imatrix.chunk_count: expected type uint32, found string",
    ),
    "data sets as numbers": (
        gguf_of(pair(), KEYS | {"imatrix.datasets": ("array[uint32]", [1])}),
        "imatrix.datasets: expected type array[string], found array[uint32]",
    ),
    "data set that steers a terminal": (
        gguf_of(pair(), KEYS | {"imatrix.datasets": ("array[string]", ["\x1b[2J"])}),
        "control characters",
    ),
    "data set that is not UTF-8": (
        gguf_of(pair(), KEYS | {"imatrix.datasets": ("array[string]", [b"\xff"])}),
        "not UTF-8",
    ),
    "cut off": (GGUF[:-100], "truncated"),
}


@pytest.mark.parametrize("what", MALFORMED_LEGACY)
def test_malformed_legacy_files(what: str) -> None:
    refused(*MALFORMED_LEGACY[what])


@pytest.mark.parametrize("what", MALFORMED_GGUF)
def test_malformed_gguf_files(what: str) -> None:
    refused(*MALFORMED_GGUF[what])


def refused(data: bytes, says: str) -> None:
    with pytest.raises(BadInput) as caught:
        parsed(data)
    said = str(caught.value)
    assert said.startswith("folder/m.dat: ") and says in said and said.endswith(".") and "\n" not in said
    assert len(said) < 400


def test_a_file_that_becomes_shorter_and_one_that_is_not_there(tmp_path: Path) -> None:
    for data in (LEGACY, GGUF):
        with pytest.raises(BadInput, match="truncated|shorter"):
            imatrix.parse(lambda offset, length, data=data: data[offset:6000][:length], len(data), Path("m"))  # type: ignore[misc]
    with pytest.raises(Surroundings, match="none.dat"):
        imatrix.read(tmp_path / "none.dat")


@given(st.sampled_from([LEGACY[:700], dat(entry(), entry(b"x"), end=i32(1, 2) + b"ab"), gguf_of(pair())]), st.data())
def test_a_few_changed_bytes_are_read_or_refused(data: bytes, draw: st.DataObject) -> None:
    changed = bytearray(data)
    for _ in range(draw.draw(st.integers(1, 4))):
        changed[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    try:
        matrix = parsed(bytes(changed[: draw.draw(st.integers(0, len(data)))]))
    except BadInput as error:
        assert str(error).startswith("folder/m.dat: ")
    else:
        assert all(np.isfinite(array).all() and array.size for array in matrix.entries.values())
