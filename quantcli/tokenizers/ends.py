"""Tokens that end an answer: llama.cpp's end-of-generation set of a vocabulary.

The set has the tokens that a file names for certain roles (`eos`, `eot`, `eom`, three of fill-in-the-middle) and tokens
with certain texts, of any type. A role without a key is looked up by text too; all tokens that are found by text become
control tokens. Two families are exceptions: if `<|call|>` ends an answer, `<|end|>` only ends one message of several;
if `<|tool_response>` does, `</s>` is an ordinary token.

Source: llama.cpp's src/llama-vocab.cpp (`llama_vocab_is_eog`, and how its set is made).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from quantcli.checkpoint import Vocabulary

_DEEPSEEK_END = "<｜end▁of▁sentence｜>"

#: Role -> the texts by which its token is found if a file has no key for it.
BY_TEXT: Mapping[str, tuple[str, ...]] = {
    "eot": (
        "<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>", "<EOT>", "_<EOT>",
        "[EOT]", _DEEPSEEK_END, "<end_of_utterance>",
    ),
    "eom": ("<|eom_id|>",),
    "fim_pre": (
        "<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<｜fim▁begin｜>", "<PRE>", "▁<PRE>", "<|code_prefix|>",
        "<|prefix|>",
    ),
    "fim_suf": (
        "<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<｜fim▁hole｜>", "<SUF>", "▁<SUF>", "<|code_suffix|>",
        "<|suffix|>",
    ),
    "fim_mid": (
        "<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<｜fim▁end｜>", "<MID>", "▁<MID>", "<|code_middle|>",
        "<|middle|>",
    ),
    "fim_pad": ("<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"),
    "fim_rep": ("<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"),
    "fim_sep": ("<|file_sep|>",),
}  # fmt: skip

#: Tokens with these texts always end an answer.
ENDS = (
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>",
    "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>", "<end_of_utterance>",
    "<eos>", "<turn|>", "<|tool_response>", _DEEPSEEK_END, "[e~[",
)  # fmt: skip

#: Roles whose tokens end an answer.
ENDING_ROLES = ("eos", "eot", "eom", "fim_pad", "fim_rep", "fim_sep")

#: A text -> sets of texts; if all texts of one set end an answer, the key does not.
EXCEPTIONS: Mapping[str, tuple[frozenset[str], ...]] = {
    "<|end|>": (
        frozenset(("<|return|>", "<|call|>")), frozenset(("<|return|>", "<|calls|>")),
        frozenset(("<|call|>", "<|flush|>")), frozenset(("<|calls|>", "<|flush|>")),
    ),
    "</s>": (frozenset(("<|tool_response>",)), frozenset(("<|plamo:eos|>",))),
}  # fmt: skip

_TEXTS = {*ENDS, *(text for texts in BY_TEXT.values() for text in texts), "<|plamo:eos|>"}
_ENCODED = {text.encode(): text for text in _TEXTS}


@dataclass(frozen=True)
class Ends:
    """The ids of tokens that end an answer, and of those that their text makes control or ordinary tokens.

    ambiguous: texts of which llama.cpp uses one, the first in its hash table, which depends on the standard library of
    the build. All of them are in `ids`.
    """

    ids: frozenset[int]
    controls: frozenset[int]
    ordinary: frozenset[int]
    ambiguous: tuple[str, ...]


def of(vocabulary: Vocabulary) -> Ends:
    """Return the end-of-generation set of a vocabulary; ids of special tokens without a token are ignored."""
    count = len(vocabulary.tokens)
    return find(texts_of(vocabulary), {role: n for role, n in vocabulary.special.items() if 0 <= n < count})


def texts_of(vocabulary: Vocabulary) -> dict[str, int]:
    """Return the ids of the tokens whose texts are in the tables."""
    return {text: n for n, token in enumerate(vocabulary.tokens) if (text := _ENCODED.get(token)) is not None}


def find(texts: Mapping[str, int], special: Mapping[str, int]) -> Ends:
    """Return the end-of-generation set from ids by text and by role.

    texts: at least the tokens whose texts are in the tables. special: role -> id.
    """
    by_role = {
        role: [text for text in known if text in texts] for role, known in BY_TEXT.items() if role not in special
    }
    ends = {texts[text] for text in ENDS if text in texts}
    controls = ends.union(texts[text] for names in by_role.values() for text in names)
    ends |= {special[role] for role in ENDING_ROLES if role in special}
    ends |= {texts[text] for role in ENDING_ROLES for text in by_role.get(role, ())}
    for text, sets in EXCEPTIONS.items():
        ending = {other for other, number in texts.items() if number in ends}
        if text in ending and any(others <= ending for others in sets):
            ends.remove(texts[text])
    ordinary = {texts[text] for text in ("</s>",) if text in texts} - ends
    ambiguous = tuple(
        text for role in ("fim_pad", "fim_rep") if len(by_role.get(role, ())) > 1 for text in by_role[role]
    )
    return Ends(frozenset(ends), frozenset(controls - ordinary), frozenset(ordinary), ambiguous)
