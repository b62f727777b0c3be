"""SentencePiece vocabularies: `tokenizer.model`, or a `tokenizer.json` that was made from one.

`tokenizer.model` is a protocol buffer message (sentencepiece_model.proto). These fields are read:

    ModelProto      1 pieces: SentencePiece, repeated   2 trainer_spec: TrainerSpec   3 normalizer_spec: NormalizerSpec
    SentencePiece   1 piece: string   2 score: float
                    3 type: 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte
    TrainerSpec     3 model_type: 1 unigram, 2 bpe, 3 word, 4 char
    NormalizerSpec  2 precompiled_charsmap: bytes   3 add_dummy_prefix: bool   4 remove_extra_whitespaces: bool

Wire format: a field is a varint key (number << 3 | wire type), then a varint (0), 8 bytes (1), a length and bytes
(2), or 4 bytes (5). Source: protobuf's encoding specification; types and scores as llama.cpp's conversion gives them.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from quantcli.containers.hostile import shown
from quantcli.errors import BadInput
from quantcli.tokenizers.byte_level import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, added_type, without_row
from quantcli.tokenizers.tokenizer_json import MOST_TOKENS, AddedToken, TokenizerJson, utf8

UNIGRAM, BPE = 1, 2

#: A piece's type in the file -> llama.cpp's type (user-defined pieces become normal ones).
TYPES = {1: NORMAL, 2: UNKNOWN, 3: CONTROL, 4: NORMAL, 5: UNUSED, 6: BYTE}

#: llama.cpp's scores for ids without a piece, and for added tokens.
HOLE_SCORE, ADDED_SCORE = -10000.0, -1000.0

#: A byte as SentencePiece spells it.
SPELLED_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")


@dataclass(frozen=True)
class Piece:
    """A token: its text, its score and llama.cpp's number of its type."""

    text: bytes
    score: float
    type: int


@dataclass(frozen=True)
class Model:
    """The contents of a `tokenizer.model`.

    pieces: by id. model_type: the kind of training. add_dummy_prefix: a space is put before every text. normalizes:
    characters are replaced according to a table. trims: spaces at both ends, and repeated ones, are dropped.
    """

    pieces: tuple[Piece, ...]
    model_type: int
    add_dummy_prefix: bool
    normalizes: bool = False
    trims: bool = False


def parse_model(data: bytes, where: str) -> Model:
    """Parse the message in a `tokenizer.model`. Raises `BadInput` for other data."""
    pieces: list[Piece] = []
    model_type, normalizer = UNIGRAM, b""
    for number, value in _fields(data, where):
        if number in (1, 2, 3) and not isinstance(value, bytes):
            raise BadInput(f"{where}: is not a SentencePiece model: field {number} is not a message.")
        if number == 1 and isinstance(value, bytes):
            pieces.append(_piece(value, f"{where}: piece {len(pieces)}"))
        elif number == 2 and isinstance(value, bytes):
            model_type = _number(value, 3, UNIGRAM, f"{where}: trainer_spec.model_type")
        elif number == 3 and isinstance(value, bytes):
            normalizer = value
    if not pieces:
        raise BadInput(f"{where}: is not a SentencePiece model: it has no pieces.")
    prefix = bool(_number(normalizer, 3, 1, f"{where}: normalizer_spec.add_dummy_prefix"))
    trims = bool(_number(normalizer, 4, 1, f"{where}: normalizer_spec.remove_extra_whitespaces"))
    normalizes = bool(dict(_fields(normalizer, where)).get(2))
    return Model(tuple(pieces), model_type, prefix, normalizes, trims)


def _number(data: bytes, field: int, default: int, where: str) -> int:
    """Return an integer field of a message. Raises `BadInput` for another type."""
    value = dict(_fields(data, where)).get(field, default)
    if not isinstance(value, int):
        raise BadInput(f"{where}: is not a number, so this is not a SentencePiece model.")
    return value


def _piece(data: bytes, where: str) -> Piece:
    fields = dict(_fields(data, where))
    text, score, kind = fields.get(1, b""), fields.get(2, b"\0\0\0\0"), fields.get(3, 1)
    if not isinstance(text, bytes) or not isinstance(score, bytes) or len(score) != 4 or kind not in TYPES:
        raise BadInput(f"{where}: text, score or type has the wrong form, so this is not a SentencePiece model.")
    try:
        text.decode("utf-8")
    except UnicodeDecodeError:
        raise BadInput(f"{where}: its text is not UTF-8.") from None
    number: float = struct.unpack("<f", score)[0]
    if not math.isfinite(number):
        raise BadInput(f"{where}: expected a finite score, found {number}.")
    return Piece(text, number, TYPES[int(kind)])


def _fields(data: bytes, where: str) -> Iterator[tuple[int, int | bytes]]:
    """Yield the fields of a message: wire type 0 as int, all others as bytes. Raises `BadInput`."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at, where)
        wire = key & 7
        if wire == 0:
            value, at = _varint(data, at, where)
            yield key >> 3, value
            continue
        if wire not in (1, 2, 5):
            raise BadInput(f"{where}: is not a SentencePiece model: the field at byte {at} has wire type {wire}.")
        length, at = _varint(data, at, where) if wire == 2 else ({1: 8, 5: 4}[wire], at)
        if length > len(data) - at:
            raise BadInput(f"{where}: is truncated: a field of {length} bytes reaches beyond the end.")
        yield key >> 3, data[at : at + length]
        at += length


def _varint(data: bytes, at: int, where: str) -> tuple[int, int]:
    value = 0
    for count in range(10):
        if at + count >= len(data):
            raise BadInput(f"{where}: is truncated: it ends inside a number.")
        byte = data[at + count]
        value |= (byte & 127) << 7 * count
        if byte < 128:
            return value, at + count + 1
    raise BadInput(f"{where}: is not a SentencePiece model: the number at byte {at} has more than ten bytes.")


def from_json(tokenizer: TokenizerJson, where: str) -> tuple[Piece, ...]:
    """Return the pieces of a `tokenizer.json` with byte fallback.

    The file has no scores. llama.cpp's SentencePiece code merges the pair whose result has the highest score, leftmost
    first, so a piece's score is minus the rank of the first merge that makes it, which keeps the order of the merges.
    """
    rank: dict[str, int] = {}
    for place, (left, right) in enumerate(tokenizer.merges):
        rank.setdefault(left + right, place)
    by_id: dict[int, Piece] = {}
    for text, number in tokenizer.vocab.items():
        kind = BYTE if SPELLED_BYTE.fullmatch(text) else NORMAL
        score = float(-rank[text]) if text in rank else float(-len(rank) if kind == NORMAL else 0)
        if number in by_id:
            raise BadInput(f"{where}: two tokens in model.vocab have id {number}; the second is {shown(text)}.")
        by_id[number] = Piece(utf8(text, "the token", where), score, kind)
    hole = Piece(b"", HOLE_SCORE, UNUSED)
    return tuple(by_id.get(number, hole) for number in range(max(by_id, default=-1) + 1))


def table(
    pieces: tuple[Piece, ...], added: Mapping[int, AddedToken], size: int | None, where: str
) -> tuple[tuple[Piece, ...], tuple[str, ...]]:
    """Return one piece for each id below `size` (None: all ids), with added tokens, and warnings.

    An id without a piece becomes an unused `[PADn]`; pieces and added tokens with larger ids are dropped, with a
    warning for each kind.
    """
    if size is None:
        size = max(len(pieces), *(number + 1 for number in added), 0)
    if size > MOST_TOKENS:
        raise BadInput(f"{where}: vocab_size is {size}; the limit is {MOST_TOKENS}.")
    out = [Piece(b"[PAD%d]" % number, HOLE_SCORE, UNUSED) for number in range(size)]
    for number, piece in enumerate(pieces[:size]):
        out[number] = piece if piece.text or piece.type != UNUSED else out[number]
    for number, token in added.items():
        if number < size:
            text, kind = added_type(token.content, token.special)
            out[number] = Piece(utf8(text, "the added token", where), ADDED_SCORE, kind)
    warnings = without_row({n: token.content for n, token in added.items() if n >= size}, size, where)
    beyond = sum(number not in added and bool(pieces[number].text) for number in range(size, len(pieces)))
    if beyond:
        warnings += (f"{where}: {beyond} tokens with ids beyond config.json's vocab_size {size} are dropped.",)
    return tuple(out), warnings


def added_from(entries: Mapping[str, Any], where: str) -> dict[int, AddedToken]:
    """Return the tokens in `added_tokens.json` (text -> id), none of them marked as special. Raises `BadInput`."""
    tokens: dict[int, AddedToken] = {}
    for text, number in entries.items():
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < MOST_TOKENS:
            raise BadInput(
                f"{where}: {shown(text)}: expected an id from 0 to {MOST_TOKENS - 1}, found {shown(number)}."
            )
        tokens[number] = AddedToken(number, text, False)
    return tokens
