"""Byte-level BPE vocabularies (GPT-2's kind) from `tokenizer.json`.

Tokens stay as they are spelled there, bytes renamed to printable characters, which is how GGUF holds them too. Source
of what becomes of added tokens and holes: llama.cpp's conversion (`tokenizer.ggml.model` = gpt2).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from quantcli.containers.hostile import shown
from quantcli.errors import BadInput
from quantcli.tokenizers.tokenizer_json import BLANK, AddedToken, TokenizerJson, utf8

#: llama.cpp's token types.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)

#: SentencePiece's blank.
UNDERLINE = "\u2581"

#: Added tokens that some models do not mark as special though they are, by text or by their ends.
SPECIAL_TEXTS = ("<pad>", "<mask>", "<2mass>", "[@BOS@]")
SPECIAL_ENDS = (("<|", "|>"), ("<｜", "｜>"), ("<unused", ">"))


def looks_special(text: str) -> bool:
    """Whether llama.cpp takes an added token for a control token whatever its flag says."""
    return text in SPECIAL_TEXTS or any(text.startswith(start) and text.endswith(end) for start, end in SPECIAL_ENDS)


def added_type(text: str, special: bool) -> tuple[str, int]:
    """Text and type that GGUF gives an added token; blanks of user defined ones are plain."""
    if special or looks_special(text):
        return text, CONTROL
    return text.replace(UNDERLINE, " "), USER_DEFINED


def tokens_and_types(
    vocab: Mapping[str, int],
    added: Iterable[AddedToken],
    special_texts: frozenset[str],
    size: int | None,
    where: str,
) -> tuple[tuple[bytes, ...], tuple[int, ...], tuple[str, ...]]:
    """One token and type for each id below `size` (None: as many as there are), and warnings.

    Ids of no token become unused `[PADn]`. Added tokens that the model's embedding has no row for are dropped.
    special_texts: what tokenizer_config.json names as special. Raises `BadInput` for two tokens with one id, and for
    other tokens without a row.
    """
    beyond: dict[int, str] = {}
    by_id: dict[int, tuple[str, int]] = {}
    for text, number in vocab.items():
        _place(by_id, number, text, CONTROL if text in special_texts else NORMAL, where)
    for token in added:
        number = vocab.get(token.content, token.id)
        if number != token.id:
            raise BadInput(
                f"{where}: {shown(token.content)} has id {token.id} in added_tokens but {number} in model.vocab."
            )
        if token.content in vocab:
            by_id.pop(number, None)
        if size is not None and number >= size:
            beyond[number] = token.content
            continue
        text, kind = added_type(token.content, token.special or token.content in special_texts)
        _place(by_id, number, text, kind, where)
    if size is None:
        size = max(by_id, default=-1) + 1
    last = max(by_id, default=-1)
    if last >= size:
        raise BadInput(
            f"{where}: token {shown(by_id[last][0])} has id {last}, but config.json's vocab_size is {size}. "
            "The tokenizer and the model do not match."
        )
    entries = [by_id.get(number, (f"[PAD{number}]", UNUSED)) for number in range(size)]
    tokens = tuple(utf8(text, "the token", where) for text, _ in entries)
    return tokens, tuple(kind for _, kind in entries), without_row(beyond, size, where)


def without_row(added: Mapping[int, str], size: int, where: str) -> tuple[str, ...]:
    """A warning of added tokens, id -> text, whose ids are `size` and more.

    They were added without a larger embedding, as fine-tunes do with a padding token: nothing that the model computes
    has to do with them, and a file that had them would not load. llama.cpp's converter leaves them out of
    SentencePiece vocabularies and stops at them in others.
    """
    if not added:
        return ()
    first = f"{shown(added[min(added)])} (id {min(added)})"
    what = f"the added token {first}" if len(added) == 1 else f"{len(added)} added tokens (the first: {first})"
    verb, ending = ("has", "is") if len(added) == 1 else ("have", "are")
    return (
        f"{where}: {what} {verb} no row in the model's embedding (config.json's vocab_size is {size}) and {ending} "
        "dropped.",
    )


def merges(tokenizer: TokenizerJson) -> tuple[str, ...]:
    """Merges as GGUF spells them, `left right`, blanks inside a half written as the byte-level alphabet does."""
    return tuple(f"{left.replace(' ', BLANK)} {right.replace(' ', BLANK)}" for left, right in tokenizer.merges)


def _place(by_id: dict[int, tuple[str, int]], number: int, text: str, kind: int, where: str) -> None:
    there = by_id.setdefault(number, (text, kind))
    if there[0] != text:
        raise BadInput(f"{where}: tokens {shown(there[0])} and {shown(text)} both have id {number}.")
