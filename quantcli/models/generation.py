"""Sampling settings: `generation_config.json` and GGUF's `general.sampling.*`, both ways.

Source: llama.cpp's conversion (gguf-py's Metadata); transformers' GenerationConfig.
"""

from __future__ import annotations

from typing import Any

from quantcli.models.stored import Stored, decimal

#: generation_config.json's key, GGUF's after `general.sampling.`, and its type, in the order of writing.
SAMPLING = (
    ("sequence", "sequence", "string"),
    ("top_k", "top_k", "int32"),
    ("top_p", "top_p", "float32"),
    ("min_p", "min_p", "float32"),
    ("xtc_probability", "xtc_probability", "float32"),
    ("xtc_threshold", "xtc_threshold", "float32"),
    ("temperature", "temp", "float32"),
    ("penalty_last_n", "penalty_last_n", "int32"),
    ("repetition_penalty", "penalty_repeat", "float32"),
    ("mirostat", "mirostat", "int32"),
    ("mirostat_tau", "mirostat_tau", "float32"),
    ("mirostat_eta", "mirostat_eta", "float32"),
)


def sampling(file: Stored) -> dict[str, Any]:
    """Return the sampling values of a file under generation_config.json's keys, with `do_sample`; {} if it has none."""
    values = {}
    for key, name, kind in SAMPLING:
        stored = f"general.sampling.{name}"
        if file.every.has(stored):
            values[key] = _value(file, stored, kind)
    return {"do_sample": True} | values if values else {}


def _value(file: Stored, key: str, kind: str) -> Any:
    if kind == "string":
        return file.every.text(key, "")
    read = file.every.number(key)
    return decimal(read) if kind == "float32" else int(read)
