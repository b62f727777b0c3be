"""Special tokens that llama.cpp assumes if a GGUF file names none.

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
    """Return whether llama.cpp puts a `bos` before a text by default."""
    if model == "bpe":
        return pre in SPLITTINGS and SPLITTINGS[pre].adds_bos
    return model in ("spm", "bert", "gemma4")


def assumed(model: str, pre: str | None, add: Mapping[str, bool], tokens: int) -> dict[str, int]:
    """Return the assumed special tokens, role -> id, for a vocabulary with a number of tokens.

    The `bos` of byte-level BPE is an ordinary token in most vocabularies: it counts only if it is put before a text.
    """
    ids = {role: number for role, number in IDS.get(model, {}).items() if number < tokens}
    if model == "bpe" and (pre in WITHOUT_BOS or not add.get("bos", adds_bos(model, pre))):
        ids.pop("bos", None)
    return ids
