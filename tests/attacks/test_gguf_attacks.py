"""Malformed GGUF files: each is one `BadInput` sentence that names the file, and the key or tensor if there is one."""

import os
import re
import struct
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantcli.containers import gguf
from quantcli.containers.gguf_values import VALUE_TYPES
from quantcli.errors import BadInput

SMALL = (Path(__file__).resolve().parent.parent / "data" / "gguf" / "small.gguf").read_bytes()
IDS = {name: number for number, name in enumerate(VALUE_TYPES)}


def u32(number: int) -> bytes:
    return struct.pack("<I", number)


def u64(number: int) -> bytes:
    return struct.pack("<Q", number)


def text(raw: bytes, length: int | None = None) -> bytes:
    return u64(len(raw) if length is None else length) + raw


def key(name: bytes, kind: str | int, payload: bytes) -> bytes:
    return text(name) + u32(IDS[kind] if isinstance(kind, str) else kind) + payload


def array(kind: str | int, length: int, payload: bytes = b"") -> bytes:
    return u32(IDS[kind] if isinstance(kind, str) else kind) + u64(length) + payload


def tensor(
    name: bytes = b"w", sizes: tuple[int, ...] = (8,), kind: int = 0, offset: int = 0, rank: int | None = None
) -> bytes:
    return text(name) + u32(len(sizes) if rank is None else rank) + b"".join(map(u64, sizes)) + u32(kind) + u64(offset)


def file_of(
    keys: tuple[bytes, ...] = (),
    tensors: tuple[bytes, ...] = (),
    data: int = 0,
    counts: tuple[int, int] | None = None,
    start: bytes = b"GGUF" + u32(3),
) -> bytes:
    """A file of these keys and tensors, `data` bytes behind its header; counts: what it claims of tensors and keys."""
    claimed = counts or (len(tensors), len(keys))
    head = start + u64(claimed[0]) + u64(claimed[1]) + b"".join(keys) + b"".join(tensors)
    return head + bytes(-len(head) % 32 + data)


def of_key(payload: bytes, kind: str | int = "array") -> bytes:
    return file_of((key(b"k", kind, payload),), data=64)


def of_tensors(*tensors: bytes, data: int = 64) -> bytes:
    return file_of((), tensors, data)


def nested(depth: int) -> bytes:
    return array("array", 1) * (depth - 1) + array("uint8", 1, b"\x07")


WHOLE_FILE = {
    "empty file": (b"", "GGUF"),
    "two bytes": (b"GG", "GGUF"),
    "magic alone": (b"GGUF", "truncated"),
    "magic and version alone": (b"GGUF" + u32(3), "truncated"),
    "one byte short of the counts": (file_of()[:23], "truncated"),
    "git-lfs pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 7\n", "git-lfs"),
    "zip": (b"PK\x03\x04" + bytes(60), "zip archive"),
    "pickle": (b"\x80\x02" + bytes(60), "pickle"),
    "safetensors": (u64(2) + b"{}" + bytes(60), "GGUF"),
    "a GGML file": (b"lmgg" + bytes(60), "older than GGUF"),
    "a GGJT file": (b"tjgg" + u32(3) + bytes(60), "older than GGUF"),
    "magic turned round": (b"FUGG" + u32(3) + bytes(60), "GGUF"),
    "magic in lower case": (b"gguf" + u32(3) + bytes(60), "GGUF"),
    "version 0": (file_of(start=b"GGUF" + u32(0)), "version 0"),
    "version 4": (file_of(start=b"GGUF" + u32(4)), "version 4"),
    "version 2**32 - 1": (file_of(start=b"GGUF\xff\xff\xff\xff"), "version 4294967295"),
    "2**64 - 1 keys": (file_of(counts=(0, 2**64 - 1)), "keys, 18446744073709551615"),
    "2**64 - 1 tensors": (file_of(counts=(2**64 - 1, 0)), "tensors, 18446744073709551615"),
    "2**63 keys": (file_of(counts=(0, 2**63)), "keys, 9223372036854775808"),
    "2**60 tensors, whose bytes overflow": (file_of(counts=(2**60, 0)), "tensors, 1152921504606846976"),
    "as many keys as bytes": (file_of(counts=(0, 100), data=100), "keys, 100"),
    "as many tensors as bytes": (file_of(counts=(100, 0), data=100), "tensors, 100"),
    "70,000 keys": (file_of(counts=(0, 70_000), data=1_000_000), "70000 keys.* 65536"),
    "300,000 tensors": (file_of(counts=(300_000, 0), data=7_500_000), "300000 tensors.* 262144"),
    "one key too many": (file_of((key(b"k", "uint8", b"\1"),), counts=(0, 2), data=64), "key 2 of 2 has an empty name"),
    "a key's name longer than the file": (file_of((text(b"k", 2**16 - 1),), data=64), "key 1 of 1 .*to byte"),
    "a key's name of 2**64 - 1 bytes": (file_of((text(b"k", 2**64 - 1),), data=64), "key 1 of 1 claims a string of"),
    "a key's name of 65,536 bytes": (file_of((key(b"k" * 65_536, "uint8", b"\1"),)), "65536.* 65535"),
    "a key's name empty": (file_of((key(b"", "uint8", b"\1"),)), "empty name"),
    "a key's name not UTF-8": (file_of((key(b"k\xff", "uint8", b"\1"),)), "not UTF-8"),
    "a key's name with an escape": (file_of((key(b"k\x1b[2J", "uint8", b"\1"),)), "control characters"),
    "a key's name with a zero": (file_of((key(b"k\0", "uint8", b"\1"),)), "control characters"),
    "a key's name with a bidi override": (file_of((key("k\u202e".encode(), "uint8", b"\1"),)), "control characters"),
    "a key's name as an encoded surrogate": (file_of((key(b"k\xed\xa0\x80", "uint8", b"\1"),)), "not UTF-8"),
    "a tensor's name longer than the file": (
        file_of((), (text(b"w", 2**15),), data=64),
        "tensor 1 of 1 .*to byte",
    ),
    "a tensor's name of 2**63 bytes": (file_of((), (text(b"w", 2**63),), data=64), "tensor 1 of 1 claims a string of"),
    "a tensor's name empty": (of_tensors(tensor(b"")), "empty name"),
    "a tensor's name not UTF-8": (of_tensors(tensor(b"w\xc0\xaf")), "tensor 1 of 1.*not UTF-8"),
    "a tensor's name with a line break": (of_tensors(tensor(b"w\n")), "control characters"),
    "tensors that the file ends before": (
        file_of((), (tensor(),), counts=(3, 0), data=64),
        "tensor 2 of 3 has an empty name",
    ),
}

OF_KEY_K = {
    "value type 13": (of_key(b"\1", 13), "value type 13.* 12"),
    "value type 2**32 - 1": (of_key(b"\1", 2**32 - 1), "value type .*4294967295"),
    "the same key twice": (file_of((key(b"k", "uint8", b"\1"),) * 2), "twice"),
    "the same key twice, of two types": (
        file_of((key(b"k", "uint8", b"\1"), key(b"k", "bool", b"\1"))),
        "twice",
    ),
    "a bool of 2": (of_key(b"\2", "bool"), r"bool.*\b2\b"),
    "a bool of 255": (of_key(b"\xff", "bool"), r"bool.*\b255\b"),
    "an array with a bool of 3": (of_key(array("bool", 3, b"\0\1\3")), r"bool.*\b3\b"),
    "a text longer than the file": (of_key(u64(2**20), "string"), "to byte"),
    "a text of 2**64 - 1 bytes": (of_key(u64(2**64 - 1), "string"), "claims a string of 18446744073709551615 bytes"),
    "a number truncated": (file_of((key(b"k", "uint64", u64(1)),))[:-20], "truncated"),
    "an array of 2**64 - 1 bytes": (
        of_key(array("uint8", 2**64 - 1)),
        "elements of type uint8, 18446744073709551615",
    ),
    "an array of 2**61 numbers, whose bytes overflow": (
        of_key(array("uint64", 2**61)),
        "elements of type uint64, 2305843009213693952",
    ),
    "an array one longer than the file": (
        file_of((key(b"k", "array", array("uint8", 33)),), data=0),
        "elements of type uint8",
    ),
    "an array of 2**60 texts": (of_key(array("string", 2**60)), "elements of type string, 1152921504606846976"),
    "an array of 2**60 arrays": (of_key(array("array", 2**60)), "elements of type array, 1152921504606846976"),
    "an array's text longer than the file": (of_key(array("string", 2, text(b"a") + u64(2**40))), "to byte"),
    "an array's text of 2**64 - 1 bytes": (of_key(array("string", 2, text(b"a") + u64(2**64 - 1))), "to byte"),
    "an array's last text beyond the end": (of_key(array("string", 1, u64(1000))), "to byte"),
    "an array of type 13": (of_key(array(13, 1, b"\1")), "value type 13"),
    "arrays nested 5 deep": (of_key(nested(5)), r"\b4 levels"),
    "arrays nested 100,000 deep": (of_key(nested(100_000)), r"\b4 levels"),
    "200,000 empty arrays": (of_key(array("array", 200_000, array("uint8", 0) * 200_000)), "131072"),
}

OF_ALIGNMENT = {
    "alignment 0": ("uint32", u32(0), "1048576, found 0"),
    "alignment 3": ("uint32", u32(3), "1048576, found 3"),
    "alignment 48": ("uint32", u32(48), "1048576, found 48"),
    "alignment 2**31": ("uint32", u32(2**31), "1048576, found 2147483648"),
    "alignment -32": ("int32", struct.pack("<i", -32), "uint32, found int32"),
    "alignment in 64 bits": ("uint64", u64(32), "uint32, found uint64"),
    "alignment as text": ("string", text(b"32"), "uint32, found string"),
    "alignment as array": ("array", array("uint32", 1, u32(32)), "uint32, found array.uint32."),
    "alignment as float": ("float32", struct.pack("<f", 32), "uint32, found float32"),
}

OF_TENSOR_W = {
    "the same tensor twice": (of_tensors(tensor(), tensor(offset=32)), "twice"),
    "33 dimensions": (of_tensors(tensor(sizes=(1,) * 32 + (8,))), "33 dimensions.* 32"),
    "2**32 - 1 dimensions": (of_tensors(tensor(rank=2**32 - 1)), "4294967295 dimensions"),
    "a size of 0 next to a large one": (of_tensors(tensor(sizes=(2**63, 0))), "2\\*\\*63 - 1"),
    "a size of 2**64 - 1": (of_tensors(tensor(sizes=(2**64 - 1,))), "2\\*\\*63 - 1"),
    "a product that is 0 modulo 2**64": (of_tensors(tensor(sizes=(2**32, 2**32))), "2\\*\\*63 - 1"),
    "a product that is 8 modulo 2**64": (of_tensors(tensor(sizes=(2**61 + 1, 8))), "2\\*\\*63 - 1"),
    "a product of four that overflows": (of_tensors(tensor(sizes=(2**16, 2**16, 2**16, 2**16))), "2\\*\\*63 - 1"),
    "bytes that are 0 modulo 2**64": (of_tensors(tensor(sizes=(2**62,))), "truncated.* 18446744073709551680"),
    "rows that are no whole blocks of q8_0": (of_tensors(tensor(sizes=(40, 4), kind=8)), "rows of 40 .* 32 .q8_0"),
    "rows that are no whole blocks of q6_k": (of_tensors(tensor(sizes=(128, 2), kind=14)), "rows of 128 .* 256 .q6_k"),
    "an offset off the alignment": (of_tensors(tensor(offset=16)), "offset 16.* 32"),
    "an offset off a larger alignment": (
        file_of((key(b"general.alignment", "uint32", u32(64)),), (tensor(offset=32),), 96),
        "offset 32.* 64",
    ),
    "an offset beyond the file": (of_tensors(tensor(offset=2**20)), "truncated"),
    "an offset of 2**64 - 32": (of_tensors(tensor(offset=2**64 - 32)), "truncated"),
    "data one byte short": (of_tensors(tensor(), data=31), "truncated"),
    "data absent": (of_tensors(tensor(), data=0), "truncated"),
    "no file behind the header": (of_tensors(tensor(), data=0)[:-1], "truncated"),
    "the same bytes twice": (of_tensors(tensor(), tensor(b"x")), r"byte \d+.* \d+"),
    "an overlap": (of_tensors(tensor(sizes=(16,)), tensor(b"x", offset=32)), r"byte \d+.* \d+"),
    "an overlap, listed in the other order": (
        of_tensors(tensor(b"x", offset=32), tensor(sizes=(9,))),
        r"byte \d+.* \d+",
    ),
    "an unknown type beyond the file": (of_tensors(tensor(kind=9999, offset=64), data=64), "truncated"),
    "an unknown type at another's place": (of_tensors(tensor(kind=9999), tensor(b"x")), r"byte \d+.* \d+"),
    "the header cut in its sizes": (file_of((), (tensor(),))[:52], "truncated"),
}


def refused(path: Path, content: bytes) -> str:
    """The sentence that a file of this content is refused with."""
    path.write_bytes(content)
    with pytest.raises(BadInput) as caught:
        gguf.read(path)
    sentence = str(caught.value)
    assert str(path) in sentence and sentence.endswith(".")
    assert len(sentence) < len(str(path)) + 400 and sentence.isprintable()
    return sentence


def test_the_files_that_the_attacks_vary_are_sound(tmp_path: Path) -> None:
    path = tmp_path / "good.gguf"
    path.write_bytes(of_tensors(tensor(sizes=(8,)), tensor(b"x", offset=32)))
    assert list(gguf.read(path).tensors) == ["w", "x"]
    path.write_bytes(of_key(nested(4)))
    assert gguf.read(path).metadata["k"].value.decode() == [[[[7]]]]
    path.write_bytes(of_key(array("string", 1, text(b"\xff"))))
    assert gguf.read(path).metadata["k"].value.decode() == [b"\xff"]
    path.write_bytes(of_key(text(b"\xff"), "string"))
    assert gguf.read(path).metadata["k"] == ("string", b"\xff")


@pytest.mark.parametrize("attack", WHOLE_FILE)
def test_whole_file(attack: str, tmp_path: Path) -> None:
    content, expected = WHOLE_FILE[attack]
    sentence = refused(tmp_path / "a.gguf", content)
    assert re.search(expected, sentence), sentence


@pytest.mark.parametrize("attack", OF_KEY_K)
def test_one_key(attack: str, tmp_path: Path) -> None:
    content, expected = OF_KEY_K[attack]
    sentence = refused(tmp_path / "a.gguf", content)
    assert re.search(expected, sentence) and "key 'k'" in sentence, sentence


@pytest.mark.parametrize("attack", OF_ALIGNMENT)
def test_alignment(attack: str, tmp_path: Path) -> None:
    kind, payload, expected = OF_ALIGNMENT[attack]
    sentence = refused(tmp_path / "a.gguf", file_of((key(b"general.alignment", kind, payload),), (tensor(),), 64))
    assert re.search(expected, sentence) and "key 'general.alignment'" in sentence, sentence


@pytest.mark.parametrize("attack", OF_TENSOR_W)
def test_one_tensor(attack: str, tmp_path: Path) -> None:
    content, expected = OF_TENSOR_W[attack]
    sentence = refused(tmp_path / "a.gguf", content)
    assert re.search(expected, sentence) and "tensor 'w'" in sentence, sentence


def test_a_folder(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="not a regular file"):
        gguf.read(tmp_path)


def test_a_named_pipe_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BadInput, match="not a regular file"):
        gguf.read(tmp_path / "pipe")


def test_a_header_of_gigabytes_is_refused_without_reading_it(tmp_path: Path) -> None:
    path = tmp_path / "sparse.gguf"
    path.write_bytes(file_of((key(b"k", "string", u64(1 << 40)),)))
    os.truncate(path, 1 << 41)
    with pytest.raises(BadInput, match="key 'k' claims a string of 1099511627776 bytes"):
        gguf.read(path)
    path.write_bytes(file_of((key(b"k", "array", array("string", 2, u64(1 << 40))),)))
    os.truncate(path, 1 << 41)
    with pytest.raises(BadInput, match="key 'k' .*to byte .* 134217728"):
        gguf.read(path)


def test_memory_stays_near_the_header(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(of_key(array("string", 500_000, u64(0) * 500_000)))
    os.truncate(path, 1 << 40)
    tracemalloc.start()
    gguf.read(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5 * 500_000 * 8


def test_a_file_that_becomes_shorter_while_it_is_read() -> None:
    content = of_key(array("uint8", 3_000_000))
    with pytest.raises(BadInput, match="key 'k' .*to byte .* shorter"):
        gguf.parse(lambda at, count: content[at : at + count], 4_000_000, Path("a.gguf"))


def parsed(content: bytes) -> gguf.GgufFile:
    return gguf.parse(lambda at, count: content[at : at + count], len(content), Path("a.gguf"))


def test_every_truncation() -> None:
    # The bytes behind the last tensor are padding, which a file may lack.
    for length in range(1792 + 100):
        with pytest.raises(BadInput):
            parsed(SMALL[:length])
    assert parsed(SMALL[: 1792 + 100]).tensors["token_embd.weight"].span == 100


@settings(max_examples=500, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 959), st.integers(0, 255)), min_size=1, max_size=4))
def test_flipped_header_bytes(flips: list[tuple[int, int]]) -> None:
    content = bytearray(SMALL)
    for at, byte in flips:
        content[at] = byte
    try:
        file = parsed(bytes(content))
    except BadInput:
        return
    # What is still read is sound: each tensor lies in the file, none in another, every array decodes.
    end = file.data_start
    for info in sorted(file.tensors.values(), key=lambda tensor: tensor.offset):
        assert info.offset >= end and info.offset % file.alignment == 0
        end = info.offset + (info.nbytes or 0)
        assert end <= info.offset + info.span <= len(content)
    for value in file.metadata.values():
        if isinstance(value.value, gguf.ArrayValue):
            assert len(value.value.decode()) == value.value.length


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_after_the_magic(content: bytes) -> None:
    try:
        parsed(b"GGUF" + u32(3) + content)
    except BadInput:
        return
