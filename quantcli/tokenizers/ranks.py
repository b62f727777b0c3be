"""Byte-level BPE as ranks: byte strings in the order in which they are made, the form of tiktoken and Tekken.

    ranks     bytes -> place in the order; the neighbours whose joined bytes have the lowest rank are joined first
    GGUF      tokens with their bytes renamed to printable characters, and pairs to join, best first

The pairs are rebuilt from the ranks, in one of two ways: the two parts of a token that remain when all lower ranks are
joined (tiktoken's files), or all pairs of tokens that make it (Tekken). Source: llama.cpp's conversion
(`QwenModel.bpe`), gguf-py's `MistralVocab`.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Iterator, Mapping

from quantcli.containers.hostile import shown
from quantcli.errors import BadInput, NotPossible

#: Limit for the sum of all squared lengths, the cost of rebuilding the pairs: 7 million for Tekken's 130,072 tokens.
MOST_STEPS = 1 << 28

_PLAIN = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
#: Byte -> its character in GPT-2's alphabet: itself if it is printable, else one from U+0100 on.
ALPHABET = {
    **{byte: chr(byte) for byte in _PLAIN},
    **{byte: chr(0x100 + place) for place, byte in enumerate(sorted({*range(256)} - {*_PLAIN}))},
}


def spelled(token: bytes) -> str:
    """Return a token as GGUF spells it.

    >>> spelled(b" caf\\xc3\\xa9")
    'ĠcafÃ©'
    """
    return token.decode("latin-1").translate(ALPHABET)


def decoded(text: str | bytes, where: str) -> bytes:
    """Decode base64. where: the place, for errors. Raises `BadInput` for other text and for an empty token."""
    try:
        token = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise BadInput(f"{where}: {shown(text)} is not base64.") from None
    if not token:
        raise BadInput(f"{where}: the token is empty.")
    return token


def check_lengths(ranks: Mapping[bytes, int], where: str) -> None:
    """Raise `BadInput` for tokens so long that rebuilding the pairs would take hours."""
    if sum(len(token) ** 2 for token in ranks) > MOST_STEPS:
        longest = max(map(len, ranks))
        raise BadInput(f"{where}: is not a vocabulary: its {len(ranks)} tokens are too long (up to {longest} bytes).")


def last_pairs(ranks: Mapping[bytes, int]) -> Iterator[tuple[bytes, bytes]]:
    """Yield the pair from which each token is joined, in the order of the ranks; nothing for tokens without a pair."""
    for token, rank in ranks.items():
        parts = _joined(token, rank, ranks) if len(token) > 1 else []
        if len(parts) == 2:
            yield parts[0], parts[1]


def _joined(token: bytes, rank: int, ranks: Mapping[bytes, int]) -> list[bytes]:
    """Return the parts of a token's bytes that remain when all pairs with ranks below `rank` are joined."""
    parts = [token[at : at + 1] for at in range(len(token))]
    while len(parts) > 2:
        joined = [ranks.get(parts[at] + parts[at + 1], rank) for at in range(len(parts) - 1)]
        lowest = min(joined)
        if lowest >= rank:
            break
        at = joined.index(lowest)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts


def all_pairs(ranks: Mapping[bytes, int]) -> Iterator[tuple[bytes, bytes]]:
    """Yield all pairs of tokens that make each token, in the order of the tokens' ranks, then of the pairs' ranks."""
    for token in ranks:
        cuts = ((token[:at], token[at:]) for at in range(1, len(token)))
        pairs = [pair for pair in cuts if pair[0] in ranks and pair[1] in ranks]
        yield from sorted(pairs, key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))


def merges(pairs: Iterable[tuple[bytes, bytes]], where: str) -> tuple[str, ...]:
    """Return pairs as GGUF spells them. Raises `NotPossible` if there are none: llama.cpp would not load the file."""
    made = tuple(f"{spelled(left)} {spelled(right)}" for left, right in pairs)
    if not made:
        raise NotPossible(
            f"{where}: no token is the concatenation of two others, but GGUF requires at least one such merge."
        )
    return made
