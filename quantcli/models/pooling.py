"""How a model that embeds texts pools its tokens: a number in GGUF, a word of sentence-transformers in a folder.

Source: gguf-py's PoolingType; sentence-transformers' Pooling.
"""

from __future__ import annotations

from quantcli.models.stored import Stored

KEY = "pooling_type"
#: Those that both have; 0 is none, 4 a classifier's score.
MODES = {1: "mean", 2: "cls", 3: "lasttoken"}


def pooling(file: Stored) -> str | None:
    """The word for a file's pooling, None where it names none or one that has no word."""
    return MODES[file.own.integer(KEY)] if file.own.values.get(KEY) in MODES else None
