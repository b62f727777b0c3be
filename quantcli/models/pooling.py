"""Pooling of token vectors in models that embed texts: a number in GGUF, a word of sentence-transformers in a folder.

Source: gguf-py's PoolingType; sentence-transformers' Pooling.
"""

from __future__ import annotations

from quantcli.models.stored import Stored

KEY = "pooling_type"
#: GGUF's number -> sentence-transformers' word. 0 is no pooling, 4 a classifier's score; both have no word.
MODES = {1: "mean", 2: "cls", 3: "lasttoken"}


def pooling(file: Stored) -> str | None:
    """Return the word for a file's pooling, None if it has none or one without a word."""
    return MODES[file.own.integer(KEY)] if file.own.values.get(KEY) in MODES else None
