"""Malformed inputs for the command line: each a set of changes to a small sound folder, and the exit code it deserves.

The sound folders are a dense llama, the same in MLX's 4-bit layout, and the same in AutoAWQ's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from tests.builders import BF16, LLAMA, byte_level_tokenizer, llama_tensors, safetensors_bytes

SMALL = (Path(__file__).resolve().parent.parent / "data" / "gguf" / "small.gguf").read_bytes()
MODEL, CONFIG, INDEX = "model.safetensors", "config.json", "model.safetensors.index.json"
TOKENIZER, SETTINGS = "tokenizer.json", "tokenizer_config.json"
Q = "model.layers.0.self_attn.q_proj"

#: Marks a key or file that is taken away.
GONE = object()


@dataclass(frozen=True)
class Case:
    """What differs from `base` (file -> bytes, None: taken away), and what the commands are to answer.

    inspect: the exit code of `inspect`, where it is another: it reads headers and no tokenizer.
    """

    files: Mapping[str, bytes | None]
    code: int = 3
    inspect: int | None = None
    base: str = "dense"
    source: str = ""
    output: str = "out"
    options: tuple[str, ...] = ()


def as_json(value: object) -> bytes:
    return json.dumps(value).encode()


@cache
def sound(base: str) -> dict[str, bytes]:
    """The files of a folder that converts."""
    words = {
        TOKENIZER: as_json(byte_level_tokenizer()),
        SETTINGS: as_json({"bos_token": "<|begin|>", "eos_token": "<|end|>"}),
    }
    return {MODEL: safetensors_bytes(tensors(base)), CONFIG: as_json(config(base)), **words}


def config(base: str) -> dict[str, Any]:
    settings = {
        "dense": {},
        "mlx": {"quantization": {"group_size": 64, "bits": 4}},
        "awq": {"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 64, "zero_point": True}},
    }[base]
    return {**deepcopy(LLAMA), **settings}


@cache
def tensors(base: str) -> dict[str, np.ndarray]:
    dense = llama_tensors(LLAMA)
    made: dict[str, np.ndarray] = {}
    for name, values in dense.items():
        module, is_linear = name.removesuffix(".weight"), "proj" in name
        rows, columns = values.shape if is_linear else (0, 0)
        if base == "mlx" and is_linear:
            scales = np.full((rows, columns // 64), 0.01, BF16)
            words = np.full((rows, columns // 8), 0x76543210, np.uint32)
            made |= {f"{module}.weight": words, f"{module}.scales": scales, f"{module}.biases": scales}
        elif base == "awq" and is_linear:
            packed = np.full((columns, rows // 8), 0x76543210, np.int32)
            scales = np.full((columns // 64, rows), 0.01, np.float16)
            made |= {
                f"{module}.qweight": packed,
                f"{module}.scales": scales,
                f"{module}.qzeros": packed[: columns // 64],
            }
        else:
            made[name] = values
    return made


def with_tensors(base: str, **changes: np.ndarray | None) -> dict[str, bytes | None]:
    """The tensor file with parts of the first q_proj replaced; `x__y` is the whole name x.y."""
    named = {part.replace("__", ".") if "__" in part else f"{Q}.{part}": array for part, array in changes.items()}
    merged = {**tensors(base), **named}
    return {MODEL: safetensors_bytes({name: array for name, array in merged.items() if array is not None})}


def header() -> tuple[dict[str, Any], bytes]:
    """The header and the data of the dense folder's tensor file."""
    raw = sound("dense")[MODEL]
    length = int.from_bytes(raw[:8], "little")
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def file_of(text: bytes, data: bytes, length: int | None = None) -> dict[str, bytes | None]:
    return {MODEL: (len(text) if length is None else length).to_bytes(8, "little") + text + data}


def entry(**changes: Any) -> dict[str, bytes | None]:
    """The tensor file with members of q_proj's entry in the header replaced."""
    members, data = header()
    members[f"{Q}.weight"] = {k: v for k, v in {**members[f"{Q}.weight"], **changes}.items() if v is not GONE}
    return file_of(as_json(members), data)


def renamed(name: str) -> dict[str, bytes | None]:
    members, data = header()
    members[name] = members.pop(f"{Q}.weight")
    return file_of(json.dumps(members).encode(), data)


def changed(file: str, *path: str | int, to: Any) -> dict[str, bytes | None]:
    """A JSON file with one member replaced or, with GONE, taken away."""
    value = json.loads(sound("dense")[file])
    inner = value
    for step in path[:-1]:
        inner = inner[step]
    if to is GONE:
        del inner[path[-1]]
    else:
        inner[path[-1]] = to
    return {file: as_json(value)}
