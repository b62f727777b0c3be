"""GGUF files in tests taken apart and put together in another layout, rows as bytes, without the package's models."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantcli.containers import gguf, gguf_write


@dataclass(frozen=True)
class Raw:
    """A stored tensor: its type, its shape, and its rows' bytes (of a vector an entry is a row): (.., bytes a row)."""

    type: str
    shape: tuple[int, ...]
    rows: NDArray[np.uint8]


Tensors = dict[str, Raw]
Keys = dict[str, tuple[str, Any]]


def load(path: Path) -> tuple[Keys, Tensors]:
    """The metadata and the tensors of a file."""
    header, data = gguf.read(path), path.read_bytes()
    tensors = {}
    for name, info in header.tensors.items():
        assert info.type_name is not None and info.nbytes is not None
        raw = np.frombuffer(data, np.uint8, info.nbytes, info.offset)
        lines = info.shape if len(info.shape) == 1 or name.endswith(".bias") else info.shape[:-1]
        tensors[name] = Raw(info.type_name, info.shape, raw.reshape(*lines, -1))
    return {key: (value.type, value.value) for key, value in header.metadata.items()}, tensors


def save(path: Path, keys: Mapping[str, tuple[str, Any]], tensors: Tensors) -> Path:
    """A file of these; returns `path`."""
    start, offsets, size = gguf_write.header(keys, [(name, raw.shape, raw.type) for name, raw in tensors.items()])
    data = bytearray(size)
    data[: len(start)] = start
    for name, raw in tensors.items():
        data[offsets[name] : offsets[name] + raw.rows.size] = raw.rows.tobytes()
    path.write_bytes(data)
    return path


def rewritten(source: Path, output: Path, *changes: Callable[[Tensors], Tensors], **keys: Any) -> Path:
    """The file with changed tensors; keys: metadata of its architecture, `__` for a dot, None: without it."""
    metadata, tensors = load(source)
    for change in changes:
        tensors = change(tensors)
    architecture = metadata["general.architecture"][1]
    for key, typed in keys.items():
        name = f"{architecture}.{key.replace('__', '.')}"
        metadata.pop(name, None)
        if typed is not None:
            metadata[name] = typed
    return save(output, metadata, tensors)


def joined(parts: list[Raw], axis: int) -> Raw:
    """Tensors one after another along an axis of their rows."""
    rows = np.concatenate([part.rows for part in parts], axis=axis)
    width = parts[0].shape[len(parts[0].rows.shape) - 1 :]
    return replace(parts[0], shape=(*rows.shape[:-1], *width), rows=rows)


def fused(*roles: str, into: str, axis: int = 0) -> Callable[[Tensors], Tensors]:
    """A change: in every layer the tensors of these roles become one, rows one after another."""

    def change(tensors: Tensors) -> Tensors:
        made: Tensors = {}
        for name, raw in tensors.items():
            layer, _, rest = name.rpartition(f".{roles[0]}.")
            members = [f"{layer}.{role}.{rest}" for role in roles]
            if layer and all(member in tensors for member in members):
                made[f"{layer}.{into}.{rest}"] = joined([tensors[member] for member in members], axis)
            elif not any(f".{role}." in name for role in roles) or not name.startswith("blk."):
                made[name] = raw
        return made

    return change


def split_rows(role: str, heights: Mapping[str, int]) -> Callable[[Tensors], Tensors]:
    """A change: in every layer a tensor's rows become tensors of their own, role -> its rows."""

    def change(tensors: Tensors) -> Tensors:
        made: Tensors = {}
        for name, raw in tensors.items():
            if f".{role}." not in name:
                made[name] = raw
                continue
            start = 0
            for other, height in heights.items():
                rows = raw.rows[start : start + height]
                made[name.replace(f".{role}.", f".{other}.")] = Raw(raw.type, (height, *raw.shape[1:]), rows)
                start += height
        return made

    return change


def experts_apart(tensors: Tensors) -> Tensors:
    """A change: stacked experts become one tensor each, as llama.cpp's converter wrote them before April 2024."""
    made: Tensors = {}
    for name, raw in tensors.items():
        if "_exps." not in name:
            made[name] = raw
            continue
        for expert in range(raw.shape[0]):
            single = Raw(raw.type, raw.shape[1:], raw.rows[expert])
            made[name.replace("_exps.", f".{expert}.")] = single
    return made


def values(raw: Raw) -> NDArray[np.float32]:
    """The values of a float32 tensor."""
    assert raw.type == "f32"
    assert raw.rows.size == 4 * math.prod(raw.shape)
    return np.frombuffer(raw.rows.tobytes(), "<f4").reshape(raw.shape)


def of_values(array: NDArray[Any]) -> Raw:
    """A float32 tensor."""
    rows = np.frombuffer(np.ascontiguousarray(array, "<f4").tobytes(), np.uint8)
    return Raw("f32", array.shape, rows.reshape(*array.shape[:-1], -1))
