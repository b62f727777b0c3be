"""The checked parts of `tokenizer.json` that a vocabulary needs.

Source: the format of Hugging Face's tokenizers library: `model` (type, vocab, merges, flags), `added_tokens`,
`normalizer`, `pre_tokenizer`, `post_processor`, `decoder`. Merges are "left right" strings, or pairs (since tokens
may contain spaces).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from quantcli.containers.hostile import shown
from quantcli.containers.json_text import Reader
from quantcli.errors import BadInput

#: More ids than any tokenizer has; limits the memory that a hostile size can require.
MOST_TOKENS = 1 << 22

#: The byte-level alphabet's character for a space within half of a merge.
SPACE = "\u0120"


@dataclass(frozen=True)
class AddedToken:
    """A token that is matched before the text is split; `special` ones are skipped when ids are decoded."""

    id: int
    content: str
    special: bool


@dataclass(frozen=True)
class TokenizerJson:
    """The contents of a `tokenizer.json`.

    kind: the model's type (`BPE`). added: `added_tokens`. byte_level: text is bytes renamed to characters.
    """

    kind: str
    vocab: Mapping[str, int]
    merges: tuple[tuple[str, str], ...]
    added: tuple[AddedToken, ...]
    byte_level: bool
    byte_fallback: bool
    ignore_merges: bool
    normalizer: Mapping[str, Any] | None
    pre_tokenizer: Mapping[str, Any] | None
    post_processor: Mapping[str, Any] | None


def parse(data: Mapping[str, Any], where: str) -> TokenizerJson:
    """Return the checked parts of a `tokenizer.json` object. where: the file's name in errors. Raises `BadInput`."""
    read = Reader(data, where)
    model = read.part("model")
    kind = model.text("type", "BPE" if "merges" in model.values and "type" not in model.values else None)
    if kind != "BPE":  # other models have other forms of vocabulary; the caller names them in an error
        return TokenizerJson(kind, {}, (), (), False, False, False, None, None, None)
    decoder, pre_tokenizer = read.mapping("decoder"), read.mapping("pre_tokenizer")
    return TokenizerJson(
        kind=kind,
        vocab=_vocab(model),
        merges=tuple(_merge(entry, place, where) for place, entry in enumerate(model.elements("merges"))),
        added=_added(read),
        byte_level=_names(decoder, "ByteLevel", "decoders") or _names(pre_tokenizer, "ByteLevel", "pretokenizers"),
        byte_fallback=model.flag("byte_fallback", False),
        ignore_merges=model.flag("ignore_merges", False),
        normalizer=read.mapping("normalizer"),
        pre_tokenizer=pre_tokenizer,
        post_processor=read.mapping("post_processor"),
    )


def token_id(value: object, what: str, where: str) -> int:
    """Return a token's id. Raises `BadInput` for a value that cannot be one."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < MOST_TOKENS:
        raise BadInput(f"{where}: {what}: expected an id from 0 to {MOST_TOKENS - 1}, found {shown(value)}.")
    return value


def utf8(text: str, what: str, where: str) -> bytes:
    """Encode text. Raises `BadInput` for half a surrogate pair, which JSON can contain."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        raise BadInput(f"{where}: {what} {shown(text)} contains half a surrogate pair, which is not text.") from None


def _names(step: Mapping[str, Any] | None, kind: str, key: str) -> bool:
    if step is None:
        return False
    members = step.get(key)
    return step.get("type") == kind or (
        isinstance(members, list) and any(isinstance(m, Mapping) and m.get("type") == kind for m in members)
    )


def _vocab(model: Reader) -> dict[str, int]:
    vocab = model.part("vocab", needed=True)
    return {token: token_id(number, f"the token {shown(token)}", vocab.label) for token, number in vocab.values.items()}


def _merge(entry: object, place: int, where: str) -> tuple[str, str]:
    pair = entry.split(" ") if isinstance(entry, str) else entry
    if isinstance(pair, list) and len(pair) == 2:
        left, right = pair
        if isinstance(left, str) and isinstance(right, str) and left and right:
            return left, right
    raise BadInput(f"{where}: model.merges[{place}]: expected two tokens, found {shown(entry)}.")


def _added(read: Reader) -> tuple[AddedToken, ...]:
    entries = enumerate(read.elements("added_tokens"))
    return tuple(added_token(entry, None, f"added_tokens[{place}]", read.file) for place, entry in entries)


def added_token(entry: object, number: int | None, what: str, where: str) -> AddedToken:
    """Return an entry of `added_tokens`, or of `added_tokens_decoder` with its id as `number`. Raises `BadInput`."""
    if not isinstance(entry, Mapping) or not isinstance(entry.get("content"), str):
        raise BadInput(f"{where}: {what}: expected an object with a string as its content.")
    checked = token_id(entry.get("id") if number is None else number, what, where)
    return AddedToken(checked, entry["content"], Reader(entry, where, what).flag("special", False))
