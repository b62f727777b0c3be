"""Safetensors shards with their index and the small files next to them, common to MLX and HF folders.

Source: transformers' and mlx-lm's naming, `model.safetensors` or `model-00001-of-0000N.safetensors`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from quantcli.arrays import DTYPES
from quantcli.containers import safetensors
from quantcli.errors import NotPossible
from quantcli.schemes.base import PartSpec
from quantcli.sources.tensor_files import INDEX
from quantcli.targets.base import SHARD_SIZE, OutputFile, Placed


def part_name(weight: Placed, part: str) -> str:
    """Return a part's name in the file; a copied part keeps its name."""
    return weight.stored[part] if weight.stored else weight.scheme.tensor_name(weight.file_name or weight.name, part)


def renamed(weight: Placed, name: Callable[[str], str]) -> Placed:
    """Return the weight under the names of its file; copied parts keep theirs."""
    return replace(weight, file_name=name(weight.name))


def spec_bytes(spec: PartSpec) -> int:
    """Return the stored size of a part, in bytes."""
    return math.prod(spec.shape) * DTYPES[spec.dtype].bits // 8


def shards(
    placed: Sequence[Placed], shard_size: int | None, metadata: Mapping[str, str]
) -> tuple[list[OutputFile], dict[str, str]]:
    """Return the shard files, filled in order of name up to `shard_size` bytes, and the index's weight map."""
    most = shard_size or SHARD_SIZE
    groups: list[list[Placed]] = []
    filled = 0
    for weight in sorted(placed, key=lambda w: w.name):
        size = sum(spec_bytes(spec) for spec in weight.scheme.layout(weight.shape).values())
        if not groups or (filled + size > most and groups[-1]):
            groups.append([])
            filled = 0
        groups[-1].append(weight)
        filled += size
    files: list[OutputFile] = []
    where: dict[str, str] = {}
    for number, group in enumerate(groups, 1):
        name = "model.safetensors" if len(groups) == 1 else f"model-{number:05d}-of-{len(groups):05d}.safetensors"
        file, names = _shard(name, group, metadata)
        twice = next((n for n in names if n in where), None)
        if twice:
            raise NotPossible(f"two weights of the output would both be stored as {twice}. Rename one in the source.")
        where |= dict.fromkeys(names, name)
        files.append(file)
    return files, dict(sorted(where.items()))


def _shard(name: str, group: Sequence[Placed], metadata: Mapping[str, str]) -> tuple[OutputFile, list[str]]:
    owners: dict[str, tuple[str, str]] = {}
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
    for weight in group:
        for part, spec in weight.scheme.layout(weight.shape).items():
            stored = part_name(weight, part)
            if stored in owners:
                raise NotPossible(
                    f"two weights of the output would both be stored as {stored}. Rename one in the source."
                )
            owners[stored] = (weight.name, part)
            tensors[stored] = (spec.dtype, spec.shape)
    header, offsets = safetensors.layout(tensors, metadata)
    slots = {owners[stored]: offset for stored, offset in offsets.items()}
    return OutputFile(name, safetensors.file_size(header, tensors), ((0, header),), slots), sorted(tensors)


def index_file(where: Mapping[str, str], placed: Sequence[Placed]) -> OutputFile:
    """Return `model.safetensors.index.json`."""
    total = sum(spec_bytes(spec) for w in placed for spec in w.scheme.layout(w.shape).values())
    parameters = sum(math.prod(w.shape) for w in placed)
    return json_file(
        INDEX, {"metadata": {"total_size": total, "total_parameters": parameters}, "weight_map": dict(where)}
    )


def json_file(name: str, value: Mapping[str, Any]) -> OutputFile:
    """Return a JSON file of the output."""
    data = (json.dumps(value, indent=4, ensure_ascii=False) + "\n").encode()
    return OutputFile(name, len(data), ((0, data),))
