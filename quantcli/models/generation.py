"""Sampling settings and token ids: `generation_config.json` and GGUF's `general.sampling.*`, both ways.

Source: llama.cpp's conversion (gguf-py's Metadata); transformers' GenerationConfig.
"""

from __future__ import annotations

from typing import Any

from quantcli.models.stored import Stored, decimal

#: generation_config.json's key -> GGUF's, after `general.sampling.`, and its type, in the order of writing.
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
#: Those that transformers' class has a place for.
PORTABLE = ("top_k", "top_p", "min_p", "temperature", "repetition_penalty")
#: Tokens that end an answer: a file's own end, the end of a turn, the end of a message.
ENDS = ("eos", "eot", "eom")


def generation_config(file: Stored) -> dict[str, Any]:
    """The object of generation_config.json: token ids, and sampling values where the file has some."""
    ends = list(dict.fromkeys(end for role in ENDS if (end := file.token(role)) is not None))
    made: dict[str, Any] = {
        "bos_token_id": file.token("bos"),
        "eos_token_id": (ends if len(ends) > 1 else ends[0]) if ends else None,
        "pad_token_id": file.token("padding"),
    }
    sampled = {}
    for key, name, kind in SAMPLING:
        stored = f"general.sampling.{name}"
        if key in PORTABLE and file.every.has(stored):
            read = file.every.number(stored)
            sampled[key] = decimal(read) if kind == "float32" else int(read)
    made |= {"do_sample": True} | sampled if sampled else {}
    return {key: made[key] for key in sorted(made) if made[key] is not None}
