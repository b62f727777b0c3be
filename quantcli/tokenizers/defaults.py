"""Special tokens that llama.cpp assumes where a GGUF file names none.

Source: llama.cpp's src/llama-vocab.cpp (the defaults of each kind of vocabulary).
"""

from __future__ import annotations

from collections.abc import Mapping

from quantcli.tokenizers.splittings import SPLITTINGS

#: Vocabulary.model -> role -> id; models that are not listed have no default.
IDS: Mapping[str, Mapping[str, int]] = {
    "bpe": {"bos": 11, "eos": 11},
    "spm": {"bos": 1, "eos": 2, "unknown": 0},
    "bert": {"bos": 101, "unknown": 100, "seperator": 102, "padding": 0, "mask": 103},
    "t5": {"eos": 1, "unknown": 2, "padding": 0},
    "plamo2": {"bos": 1, "eos": 2, "unknown": 0, "padding": 3},
}

#: Pre-tokenizers of byte-level BPE without a default `bos`.
WITHOUT_BOS = ("chatglm-bpe", "glm4", "glm5")


def adds_bos(model: str, pre: str | None) -> bool:
    """Whether a `bos` is put in front of a text where the file does not say."""
    if model == "bpe":
        return pre in SPLITTINGS and SPLITTINGS[pre].adds_bos
    return model in ("spm", "bert", "gemma4")


def assumed(model: str, pre: str | None, add: Mapping[str, bool], tokens: int) -> dict[str, int]:
    """Role -> id of the special tokens that are assumed in a vocabulary of so many tokens.

    The `bos` of byte-level BPE is an ordinary token in most vocabularies: it counts only where it is put in front.
    """
    found = {role: number for role, number in IDS.get(model, {}).items() if number < tokens}
    if model == "bpe" and (pre in WITHOUT_BOS or not add.get("bos", adds_bos(model, pre))):
        found.pop("bos", None)
    return found
