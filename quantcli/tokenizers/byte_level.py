"""Byte-level BPE vocabularies (GPT-2's kind) from `tokenizer.json`.

Tokens keep the file's spelling, with bytes renamed to printable characters, which GGUF uses too. Source for added
tokens and holes: llama.cpp's conversion (`tokenizer.ggml.model` = gpt2).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from quantcli.containers.hostile import shown
from quantcli.errors import BadInput
from quantcli.tokenizers.tokenizer_json import SPACE, AddedToken, TokenizerJson, utf8

#: llama.cpp's token types.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)

#: SentencePiece's character for a space.
UNDERLINE = "\u2581"

#: Added tokens that are special although some models do not mark them so: texts, and pairs of start and end.
SPECIAL_TEXTS = ("<pad>", "<mask>", "<2mass>", "[@BOS@]")
SPECIAL_ENDS = (("<|", "|>"), ("<｜", "｜>"), ("<unused", ">"))


def looks_special(text: str) -> bool:
    """Return whether llama.cpp treats an added token as a control token regardless of its flag."""
    return text in SPECIAL_TEXTS or any(text.startswith(start) and text.endswith(end) for start, end in SPECIAL_ENDS)


def added_type(text: str, special: bool) -> tuple[str, int]:
    """Return the text and type of an added token in GGUF; user-defined tokens have plain spaces."""
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
    """Return one token and type for each id below `size` (None: all ids), and warnings.

    Ids without a token become unused `[PADn]`. Added tokens without a row in the model's embedding are dropped.
    special_texts: the special tokens in tokenizer_config.json. Raises `BadInput` for two tokens with one id, and for
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
    """Return a warning about added tokens (id -> text) whose ids are `size` or more.

    They were added without enlarging the embedding, as fine-tunes do with a padding token: the model never uses them,
    and a file with them would not load. llama.cpp's converter drops them from SentencePiece vocabularies and fails for
    others.
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
    """Return merges as GGUF spells them, `left right`; a space within a half as the byte-level alphabet's character."""
    return tuple(f"{left.replace(' ', SPACE)} {right.replace(' ', SPACE)}" for left, right in tokenizer.merges)


def _place(by_id: dict[int, tuple[str, int]], number: int, text: str, kind: int, where: str) -> None:
    there = by_id.setdefault(number, (text, kind))
    if there[0] != text:
        raise BadInput(f"{where}: tokens {shown(there[0])} and {shown(text)} both have id {number}.")
