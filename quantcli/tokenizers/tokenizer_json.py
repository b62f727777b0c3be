"""`tokenizer.json`, the part of it that a vocabulary needs, checked.

Source: the format of Hugging Face's tokenizers library: `model` (type, vocab, merges, flags), `added_tokens`,
`normalizer`, `pre_tokenizer`, `post_processor`, `decoder`. Merges are "left right" strings, or pairs (since tokens
may hold blanks).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from quantcli.containers.hostile import shown
from quantcli.errors import BadInput

#: More ids than any tokenizer has; bounds what a hostile size can make us build.
MOST_TOKENS = 1 << 22

#: A blank inside half of a merge, as byte-level alphabets write it.
BLANK = "\u0120"


@dataclass(frozen=True)
class AddedToken:
    """A token that is matched before the model sees the text; `special` ones are skipped when text is shown."""

    id: int
    content: str
    special: bool


@dataclass(frozen=True)
class TokenizerJson:
    """What a `tokenizer.json` says. kind: the model's type (`BPE`). byte_level: text is bytes renamed to characters."""

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
    """The checked parts of a `tokenizer.json` object; `where` names the file in errors. Raises `BadInput`."""
    model = part(data, "model", where) or {}
    kind = model.get("type", "BPE" if "merges" in model else None)
    if not isinstance(kind, str):
        raise BadInput(f"{where}: model.type is {shown(kind)}; it has to be a string such as BPE.")
    if kind != "BPE":  # other models spell their vocabulary otherwise, and are refused by name
        return TokenizerJson(kind, {}, (), (), False, False, False, None, None, None)
    decoder = part(data, "decoder", where)
    pre_tokenizer = part(data, "pre_tokenizer", where)
    return TokenizerJson(
        kind=kind,
        vocab=_vocab(model.get("vocab"), where),
        merges=_merges(model.get("merges"), where),
        added=_added(data.get("added_tokens"), where),
        byte_level=_names(decoder, "ByteLevel", "decoders") or _names(pre_tokenizer, "ByteLevel", "pretokenizers"),
        byte_fallback=flag(model, "byte_fallback", f"{where}: model"),
        ignore_merges=flag(model, "ignore_merges", f"{where}: model"),
        normalizer=part(data, "normalizer", where),
        pre_tokenizer=pre_tokenizer,
        post_processor=part(data, "post_processor", where),
    )


def part(data: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any] | None:
    """The object under `key`, None where it is absent or null."""
    value = data.get(key)
    if value is not None and not isinstance(value, Mapping):
        raise BadInput(f"{where}: {key} is {shown(value)}; it has to be an object.")
    return value


def flag(data: Mapping[str, Any], key: str, where: str) -> bool:
    value = data.get(key)
    if value is not None and not isinstance(value, bool):
        raise BadInput(f"{where}: {key} is {shown(value)}; it has to be true or false.")
    return bool(value)


def token_id(value: object, what: str, where: str) -> int:
    """A token's id as a number that can be one."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < MOST_TOKENS:
        raise BadInput(
            f"{where}: {what} has the id {shown(value)}; it has to be a whole number from 0 to {MOST_TOKENS - 1}."
        )
    return value


def utf8(text: str, what: str, where: str) -> bytes:
    """`text` as bytes; half a surrogate pair, which JSON can spell, is an error."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        raise BadInput(f"{where}: {what} {shown(text)} holds half a surrogate pair, which is no text.") from None


def _names(step: Mapping[str, Any] | None, kind: str, inner: str) -> bool:
    if step is None:
        return False
    members = step.get(inner)
    return step.get("type") == kind or (
        isinstance(members, list) and any(isinstance(m, Mapping) and m.get("type") == kind for m in members)
    )


def _vocab(value: object, where: str) -> dict[str, int]:
    if not isinstance(value, Mapping):
        raise BadInput(f"{where}: model.vocab is {shown(value)}; it has to be an object of tokens and ids.")
    return {token: token_id(number, f"model.vocab: the token {shown(token)}", where) for token, number in value.items()}


def _merges(value: object, where: str) -> tuple[tuple[str, str], ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise BadInput(f"{where}: model.merges is {shown(value)}; it has to be a list.")
    return tuple(_merge(entry, place, where) for place, entry in enumerate(value))


def _merge(entry: object, place: int, where: str) -> tuple[str, str]:
    pair = entry.split(" ") if isinstance(entry, str) else entry
    if isinstance(pair, list) and len(pair) == 2:
        left, right = pair
        if isinstance(left, str) and isinstance(right, str) and left and right:
            return left, right
    raise BadInput(f"{where}: model.merges[{place}] is {shown(entry)}; it has to name two tokens.")


def _added(value: object, where: str) -> tuple[AddedToken, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise BadInput(f"{where}: added_tokens is {shown(value)}; it has to be a list.")
    return tuple(added_token(entry, None, f"added_tokens[{place}]", where) for place, entry in enumerate(value))


def added_token(entry: object, number: int | None, what: str, where: str) -> AddedToken:
    """One entry of `added_tokens`, or of `added_tokens_decoder` with its id given as `number`."""
    if not isinstance(entry, Mapping) or not isinstance(entry.get("content"), str):
        raise BadInput(f"{where}: {what} is no object with a string as its content.")
    found = token_id(entry.get("id") if number is None else number, what, where)
    return AddedToken(found, entry["content"], flag(entry, "special", f"{where}: {what}"))
