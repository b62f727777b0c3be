"""Differences between the settings of two checkpoints.

two GGUF files      every key, by value and type
two folders         every file: `compare_folders`
one of each         every setting that both dialects hold: `compare_dialects`
"""

from __future__ import annotations

from quantcli.checkpoint import Checkpoint
from quantcli.convert.comparing.dialects import compare_dialects
from quantcli.convert.comparing.folders import compare_folders
from quantcli.convert.comparing.values import Found, differing_keys


def compare_settings(a: Checkpoint, b: Checkpoint) -> Found:
    """Compare all settings except the tokenizer's. Raises `BadInput`, `NotPossible`."""
    if a.names != b.names:
        return compare_dialects(a, b)
    if a.names == "hf":
        return compare_folders(a, b)
    sides = ({k: v for k, v in side.metadata.items() if not k.startswith("tokenizer.")} for side in (a, b))
    return Found(differing_keys(*sides))
