"""The protocol buffer in tokenizer.model: what is read of it, and that nothing else gets through."""

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantcli.errors import BadInput
from quantcli.tokenizers import load
from quantcli.tokenizers.sentencepiece import BPE, Piece, parse_model

MODEL = Path(__file__).resolve().parent.parent / "data" / "tokenizers" / "small-spm" / "tokenizer.model"


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def message(number: int, payload: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def piece(text: bytes, score: float = 0.0, kind: int = 1) -> bytes:
    return message(1, message(1, text) + b"\x15" + struct.pack("<f", score) + b"\x18" + varint(kind))


def test_fields() -> None:
    data = piece(b"<unk>", kind=2) + piece(b"ab", -1.5) + piece("\u2581x".encode(), -2, 4) + piece(b"<0x0A>", 0, 6)
    data += message(2, b"\x18\x02" + message(1, b"input.txt") + b"\x51" + bytes(8)) + message(3, b"\x18\x00")
    model = parse_model(data, "m")
    assert model.pieces == (
        Piece(b"<unk>", 0.0, 2),
        Piece(b"ab", -1.5, 1),
        Piece("\u2581x".encode(), -2.0, 1),
        Piece(b"<0x0A>", 0.0, 6),
    )
    assert (model.model_type, model.add_dummy_prefix) == (BPE, False)


def test_a_real_model() -> None:
    model = parse_model(MODEL.read_bytes(), "m")
    assert len(model.pieces) == 432
    assert model.pieces[:4] == (
        Piece(b"<unk>", 0, 2),
        Piece(b"<s>", 0, 3),
        Piece(b"</s>", 0, 3),
        Piece(b"<0x00>", 0, 6),
    )
    assert (model.model_type, model.add_dummy_prefix) == (BPE, True)


@pytest.mark.parametrize(
    ("data", "message_"),
    [
        (b"", "no pieces"),
        (message(2, b""), "no pieces"),
        (b"\x08\x01", "field 1 .*message"),
        (b"\x0a\x05ab", "reaches beyond the end"),
        (b"\x0a" + varint(1 << 62), "reaches beyond the end"),
        (b"\x0a" + b"\xff" * 12, "more than ten bytes"),
        (b"\x0a", "ends inside a number"),
        (b"\x0b", "wire type 3"),
        (b"\x0f", "wire type 7"),
        (b"\x0d\x00", "reaches beyond the end"),
        (piece(b"\xff"), "piece 0: its text is not UTF-8"),
        (piece(b"a") + piece(b"a", float("nan")), "piece 1: .*score.*nan"),
        (piece(b"a", float("inf")), "piece 0: .*score.*inf"),
        (piece(b"a", kind=9), "text, score or type"),
        (message(1, b"\x08\x01"), "text, score or type"),
        (message(1, message(2, b"abcde")), "text, score or type"),
        (message(1, message(3, b"a")), "text, score or type"),
        (piece(b"a") + message(2, message(3, b"a")), "model_type"),
        (piece(b"a") + message(3, message(3, b"a")), "add_dummy_prefix"),
    ],
)
def test_what_is_no_model(data: bytes, message_: str) -> None:
    with pytest.raises(BadInput, match=message_):
        parse_model(data, "m")


@given(st.binary(max_size=64), st.integers(0, 6000), st.integers(0, 255))
def test_any_bytes_give_a_model_or_bad_input(data: bytes, place: int, byte: int) -> None:
    spoilt = bytearray(MODEL.read_bytes())
    spoilt[place % len(spoilt)] = byte
    for attempt in (data, bytes(spoilt), bytes(spoilt[:place])):
        try:
            parse_model(attempt, "m")
        except BadInput as error:
            assert str(error).startswith("m")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (b"\x18\x01\x20\x00", ()),  # add_dummy_prefix, no remove_extra_whitespaces
        (b"\x18\x01\x20\x01", ("removes spaces",)),
        (b"\x18\x01", ("removes spaces",)),  # the default
        (b"\x12\x03abc\x20\x00", ("replaces characters",)),
        (b"\x12\x03abc", ("replaces characters", "removes spaces")),
    ],
)
def test_a_normalizer_that_llama_cpp_does_not_have_is_named(
    tmp_path: Path, spec: bytes, words: tuple[str, ...]
) -> None:
    """In a folder without a tokenizer.json, which would say what is done to a text."""
    whole = MODEL.read_bytes()
    (tmp_path / "tokenizer.model").write_bytes(whole + b"\x1a" + bytes([len(spec)]) + spec)
    found = load(tmp_path, {"bos_token_id": 1, "eos_token_id": 2}).warnings
    assert len(found) == bool(words)
    assert all("tokenizer.model: " in found[0] and word in found[0] for word in words)
