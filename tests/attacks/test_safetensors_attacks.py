"""Malformed safetensors files: each is one `BadInput` sentence that names the file, and the tensor if there is one."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantcli.containers.safetensors import MAX_HEADER, parse_header, read_header
from quantcli.errors import BadInput


def file_of(header: bytes, data: bytes = b"", length: int | None = None) -> bytes:
    return (len(header) if length is None else length).to_bytes(8, "little") + header + data


def file_with(members: dict[str, Any], data: bytes = b"") -> bytes:
    return file_of(json.dumps(members).encode(), data)


def tensor(dtype: object = "U8", shape: object = (4,), offsets: object = (0, 4), **more: object) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets, **more}


def one(data: bytes = b"abcd", **members: object) -> bytes:
    """A file of one tensor `w`, some of whose members are replaced."""
    return file_with({"w": tensor(**members)}, data)  # type: ignore[arg-type]


def two(first: tuple[int, int], second: tuple[int, int], size: int) -> bytes:
    rows = {"v": first, "w": second}
    return file_with(
        {name: tensor("U8", [end - begin], [begin, end]) for name, (begin, end) in rows.items()}, bytes(size)
    )


GOOD = file_with(
    {"v": tensor("F16", [2, 2], [0, 8]), "__metadata__": {"a": "b"}, "w": tensor("I32", [1], [8, 12])}, bytes(12)
)

WHOLE_FILE = {
    "empty file": (b"", "truncated"),
    "seven bytes": (b"\x02\0\0\0\0\0\0", "truncated"),
    "half a surrogate pair": (file_with({"w\ud800": tensor()}, b"abcd"), "surrogate"),
    "git-lfs pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 7\n", "git-lfs"),
    "zip, as torch.save writes": (b"PK\x03\x04" + bytes(60), "zip archive.*safetensors"),
    "pickle protocol 2": (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19." + bytes(20), "pickle.*safetensors"),
    "pickle protocol 4": (b"\x80\x04\x95" + bytes(40), "pickle"),
    "pickle of four bytes": (b"\x80\x02N.", "pickle"),
    "a GGUF file": (b"GGUF\x03\0\0\0" + bytes(40), "GGUF"),
    "header of 2**64 - 1 bytes": (file_of(b"{}", length=2**64 - 1), "claims a header of 18446744073709551615"),
    "header of 2**63 bytes": (file_of(b"{}", length=2**63), "100000000"),
    "header one byte over the limit": (file_of(b"{}", length=MAX_HEADER + 1), "100000000"),
    "header one byte over the file": (file_of(b"{}", length=3), "header of 3 bytes.* 10 "),
    "header of no bytes": (file_of(b""), "not a safetensors file.*{.*header"),
    "header of no bytes, data behind": (file_of(b"", b"{}"), "not a safetensors file.*{.*header"),
    "header that starts with a space": (file_of(b" {}"), "not a safetensors file.*{.*header"),
    "header that starts with a byte order mark": (file_of("\ufeff{}".encode()), "not a safetensors file.*{.*header"),
    "header that is a list": (file_of(b"[1, 2]"), "not a safetensors file.*{.*header"),
    "header that is a text": (file_of(b'"w"'), "not a safetensors file.*{.*header"),
    "header in UTF-16": (file_of("{}".encode("utf-16-le")), "JSON"),
    "header not UTF-8": (file_of(b'{"\xff\xfe": 1}'), "not UTF-8"),
    "header with an overlong UTF-8 slash": (file_of(b'{"a\xc0\xafb": 1}'), "not UTF-8"),
    "header cut off": (file_of(b'{"w": {"dtype": "U8", '), "not JSON"),
    "two objects": (file_of(b"{}{}"), "not JSON"),
    "zero bytes as padding": (file_of(b"{}\0\0"), "not JSON"),
    "a comment": (file_of(b"{/* */}"), "not JSON"),
    "a trailing comma": (file_of(b'{"__metadata__": {},}'), "not JSON"),
    "a line break in a name": (file_of(b'{"a\nb": 1}'), "not JSON"),
    "nested 100,000 deep": (file_of(b'{"w":' + b"[" * 100_000 + b"]" * 100_000 + b"}"), "nested too deep"),
    "objects nested 100,000 deep": (file_of(b'{"w":' * 100_000 + b"1" + b"}" * 100_000), "nested too deep"),
    "a number of 10,000 digits": (file_of(b'{"w":' + b"9" * 10_000 + b"}"), "number .*digits"),
    "the same tensor twice": (file_of(b'{"w": {"dtype":"U8"}, "w": 1}'), "'w' appears twice"),
    "the same member twice": (file_of(b'{"w": {"dtype":"U8","dtype":"I8"}}'), "'dtype' appears twice"),
    "metadata twice": (file_of(b'{"__metadata__": {}, "__metadata__": {}}'), "'__metadata__' appears twice"),
    "a name twice, once escaped": (file_of(b'{"w": 1, "\\u0077": 1}'), "'w' appears twice"),
    "metadata is a list": (file_with({"__metadata__": ["a"]}), r"__metadata__: .*\['a'\]"),
    "metadata is a number": (file_with({"__metadata__": 7}), "__metadata__: .* 7"),
    "metadata holds a number": (file_with({"__metadata__": {"a": 1}}), "'a': .* 1"),
    "metadata holds an object": (file_with({"__metadata__": {"a": {}}}), "'a': .*{}"),
    "an empty name": (file_with({"": tensor()}, bytes(4)), "empty name"),
    "data but no tensors": (file_with({}, b"abcd"), "byte 0 .* 4 bytes"),
}

OF_TENSOR_W = {
    "a number for a tensor": (file_with({"w": 1}), "expected an object"),
    "a list for a tensor": (file_with({"w": [1]}), "expected an object"),
    "no dtype": (file_with({"w": {"shape": [4], "data_offsets": [0, 4]}}, bytes(4)), "expected an object with dtype"),
    "no shape": (file_with({"w": {"dtype": "U8", "data_offsets": [0, 4]}}, bytes(4)), "expected an object with dtype"),
    "no data_offsets": (file_with({"w": {"dtype": "U8", "shape": [4]}}, bytes(4)), "expected an object with dtype"),
    "an unknown dtype": (one(dtype="Q7"), "dtype 'Q7'.* F8_E4M3"),
    "a dtype in lower case": (one(dtype="u8"), "dtype 'u8'"),
    "a dtype that is a number": (one(dtype=8), "dtype 8"),
    "a dtype that is a list": (one(dtype=["U8"]), "dtype \\['U8'\\]"),
    "a dtype that is null": (one(dtype=None), "dtype None"),
    "a shape that is a number": (one(shape=4), "expected a list of integers"),
    "a shape that is null": (one(shape=None), "expected a list of integers"),
    "a size that is a text": (one(shape=["4"]), "expected a list of integers"),
    "a size that is true": (one(shape=[True, 4]), "expected a list of integers"),
    "a size that is 4.0": (one(shape=[4.0]), "expected a list of integers"),
    "a size that is 1e400": (
        file_of(b'{"w":{"dtype":"U8","shape":[1e400],"data_offsets":[0,4]}}', bytes(4)),
        "integers",
    ),
    "a size that is NaN": (file_of(b'{"w":{"dtype":"U8","shape":[NaN],"data_offsets":[0,4]}}', bytes(4)), "integers"),
    "a negative size": (one(shape=[-4]), "expected sizes of 0 or more"),
    "two negative sizes": (one(shape=[-2, -2]), "expected sizes of 0 or more"),
    "a size of 2**64": (one(shape=[2**64]), "2\\*\\*63 - 1"),
    "a product that is 4 modulo 2**64": (one(shape=[2**32, 2**32 + 1, 4]), "2\\*\\*63 - 1"),
    "an overflow hidden by a 0": (one(b"", shape=[2**40, 2**40, 0], offsets=[0, 0]), "2\\*\\*63 - 1"),
    "a thousand dimensions": (one(shape=[1] * 1000), "1000 dimensions"),
    "bytes of f64 above the file": (one(dtype="F64", shape=[2**62]), "takes 36893488147419103232 bytes"),
    "shape larger than its bytes": (one(shape=[5]), "takes 5 bytes.* 4"),
    "shape smaller than its bytes": (one(shape=[3]), "takes 3 bytes.* 4"),
    "dtype wider than its bytes": (one(dtype="F32"), "takes 16 bytes.* 4"),
    "f4 that ends within a byte": (one(dtype="F4", shape=[7]), "28 bits"),
    "f6 that ends within a byte": (one(dtype="F6_E3M2", shape=[5]), "30 bits"),
    "one offset": (one(offsets=[4]), "expected two integers"),
    "three offsets": (one(offsets=[0, 4, 8]), "expected two integers"),
    "offsets that are null": (one(offsets=None), "expected two integers"),
    "an offset that is a text": (one(offsets=[0, "4"]), "expected two integers"),
    "an offset that is false": (one(offsets=[False, 4]), "expected two integers"),
    "an offset that is 4.0": (one(offsets=[0, 4.0]), "expected two integers"),
    "offsets turned round": (one(offsets=[4, 0]), "0 <= begin <= end"),
    "a negative offset": (one(offsets=[-4, 0]), "0 <= begin <= end"),
    "an offset of 2**64": (one(offsets=[2**64, 2**64 + 4]), "0 <= begin <= end"),
    "an offset far outside": (one(offsets=[2**62, 2**62 + 4]), "byte 4611686018427387904"),
    "data that does not start at 0": (one(bytes(5), offsets=[1, 5]), "byte 0 .* byte 1"),
    "a hole": (two((0, 4), (5, 8), 8), "byte 4 .*'v'.* byte 5"),
    "an overlap": (two((0, 4), (3, 8), 8), "inside tensor 'v'"),
    "the same bytes twice": (two((0, 4), (0, 4), 4), "inside tensor 'v'"),
    "data one byte short": (one(b"abc"), "truncated"),
    "data absent": (one(b""), "truncated"),
    "data one byte long": (one(b"abcde"), "byte 4 .* 5 bytes"),
}

NAMES = {
    "escape": "w\x1b[2J",
    "line break": "w\n",
    "zero": "w\0",
    "delete": "w\x7f",
    "bidi": "w\u202e",
}


def refused(path: Path, content: bytes) -> str:
    """The sentence that a file of this content is refused with."""
    path.write_bytes(content)
    with pytest.raises(BadInput) as caught:
        read_header(path)
    sentence = str(caught.value)
    assert str(path) in sentence and sentence.endswith(".")
    assert len(sentence) < len(str(path)) + 500 and sentence.isprintable()
    return sentence


def matches(sentence: str, expected: str) -> bool:
    return re.search(expected, sentence) is not None


def test_the_file_that_the_attacks_vary_is_sound(tmp_path: Path) -> None:
    (tmp_path / "good").write_bytes(GOOD)
    assert list(read_header(tmp_path / "good").entries) == ["v", "w"]
    (tmp_path / "good").write_bytes(one())
    assert list(read_header(tmp_path / "good").entries) == ["w"]


@pytest.mark.parametrize("attack", WHOLE_FILE)
def test_whole_file(attack: str, tmp_path: Path) -> None:
    content, expected = WHOLE_FILE[attack]
    sentence = refused(tmp_path / "a.safetensors", content)
    assert matches(sentence, expected), sentence


@pytest.mark.parametrize("attack", OF_TENSOR_W)
def test_one_tensor(attack: str, tmp_path: Path) -> None:
    content, expected = OF_TENSOR_W[attack]
    sentence = refused(tmp_path / "a.safetensors", content)
    assert matches(sentence, expected) and re.search("tensor,? 'w'", sentence), sentence


@pytest.mark.parametrize("attack", NAMES)
def test_control_characters_in_a_name(attack: str, tmp_path: Path) -> None:
    sentence = refused(tmp_path / "a.safetensors", file_with({NAMES[attack]: tensor()}, b"abcd"))
    assert "control characters" in sentence


def test_a_name_of_a_million_characters_does_not_flood_the_message(tmp_path: Path) -> None:
    refused(tmp_path / "a.safetensors", file_with({"w" * 1_000_000: tensor(dtype="Q")}, b"abcd"))


def test_a_million_duplicates_are_found_fast(tmp_path: Path) -> None:
    members = b",".join(b'"%d":1' % (n // 2) for n in range(200_000))
    assert "appears twice" in refused(tmp_path / "a.safetensors", file_of(b"{" + members + b"}"))


def test_a_folder(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="not a regular file"):
        read_header(tmp_path)


def test_a_named_pipe_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BadInput, match="not a regular file"):
        read_header(tmp_path / "pipe")


def test_a_file_that_becomes_shorter_while_it_is_read() -> None:
    header = b'{"w":' + b" " * 300_000 + b"}"
    content = file_of(header)[:200_000]
    with pytest.raises(BadInput, match="truncated"):
        parse_header(lambda at, count: content[at : at + count], 8 + len(header), "a.safetensors")


@pytest.mark.parametrize("length", range(len(GOOD)))
def test_every_truncation(length: int) -> None:
    with pytest.raises(BadInput):
        parse_header(lambda at, count: GOOD[:length][at : at + count], length, "a.safetensors")


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 13), st.integers(0, 255)), min_size=1, max_size=4))
def test_flipped_header_bytes(flips: list[tuple[int, int]]) -> None:
    content = bytearray(GOOD)
    for at, byte in flips:
        content[at] = byte
    try:
        header = parse_header(lambda at, count: bytes(content[at : at + count]), len(content), "a.safetensors")
    except BadInput:
        return
    # What is still read is sound: the tensors lie in the file, without holes or overlaps.
    end = header.data_start
    for entry in header.entries.values():
        assert entry.offset == end
        end += entry.nbytes
    assert end == len(content)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes(content: bytes) -> None:
    with pytest.raises(BadInput):
        parse_header(lambda at, count: content[at : at + count], len(content), "a.safetensors")
