"""Checkpoints to be changed: tiny models of every family, quantized ones, and the GGUF file made of each dense one.

Each plans without an error. A change is made to what was read of the headers, never to a file, so a plan takes a few
milliseconds: `Altered` is a folder whose config.json or tensors are other ones than those on the disk.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from quantcli.checkpoint import Checkpoint
from quantcli.containers import gguf, safetensors
from quantcli.containers.ggml_types import BY_ID
from quantcli.errors import BadInput
from quantcli.sources.detect import open_folder
from quantcli.sources.folder import LocalFolder
from quantcli.sources.gguf import from_header
from quantcli.sources.tensor_files import INDEX
from tests.conversions import converted
from tests.convert.test_golden_arch import CASES, DATA, reference, write_model

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Altered(LocalFolder):
    """A local folder with another config.json, and with other tensors: stored name -> (name, shape), None: left out."""

    config: Mapping[str, Any] | None = None
    tensors: Mapping[str, tuple[str, tuple[int, ...]] | None] = field(default_factory=dict)

    def names(self) -> list[str]:
        return [name for name in super().names() if name != INDEX]

    def read(self, name: str) -> bytes:
        if name == "config.json" and self.config is not None:
            return json.dumps(self.config).encode()
        return super().read(name)

    def header(self, name: str) -> safetensors.Header:
        header = super().header(name)
        entries = {}
        for key, entry in header.entries.items():
            other = self.tensors.get(key, (key, entry.shape))
            if other is not None:
                entries[other[0]] = replace(entry, shape=other[1])
        return replace(header, entries=entries)


@dataclass(frozen=True)
class Baseline:
    """A checkpoint on the disk and what can be changed in it: its settings, the shapes of its tensors by name."""

    path: Path
    settings: Mapping[str, Any]
    shapes: Shapes
    header: gguf.GgufFile | None = None

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def targets(self) -> tuple[str, ...]:
        """Those whose output is made anew; a copy from GGUF to GGUF refuses nothing."""
        return ("gguf", "mlx", "hf") if self.header is None else ("mlx", "hf")

    def opened(
        self,
        settings: Mapping[str, Any] | None = None,
        tensors: Mapping[str, tuple[str, tuple[int, ...]] | None] | None = None,
    ) -> Checkpoint:
        """The checkpoint with other settings, or other tensors (see `Altered`). Raises `QuantError`."""
        if self.header is None:
            return open_folder(Altered(self.path, settings, tensors or {}))
        header = self.header if settings is None else replace(self.header, metadata=dict(settings))
        listed = {}
        for name, tensor in header.tensors.items():
            other = (tensors or {}).get(name, (name, tensor.shape))
            if other is not None:
                block = BY_ID[tensor.type_id].block_size
                if other[1][-1:] and other[1][-1] % block:  # what the parser of headers says
                    raise BadInput(f"{name}: has rows of {other[1][-1]} values, expected a multiple of {block}.")
                listed[other[0]] = replace(tensor, name=other[0], shape=other[1])
        return from_header(replace(header, tensors=listed), self.path)


def read(path: Path) -> dict[str, Any]:
    """A JSON object."""
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def folder(path: Path) -> Baseline:
    """A folder as a baseline."""
    config = read(path / "config.json")
    shapes = {}
    for file in sorted(path.glob("*.safetensors")):
        shapes |= {name: entry.shape for name, entry in safetensors.read_header(file).entries.items()}
    return Baseline(path, config, shapes)


def dense(case: str, root: Path) -> Baseline:
    """A model of the committed cases, with its tokenizer."""
    path = root / case
    write_model(path, case, reference(case)["source"])
    kind = json.loads((DATA / "arch" / case / "reference.json").read_text())["tokenizer"]
    for file in (DATA / "tokenizers" / "kinds" / kind).glob("*.json"):
        shutil.copy(file, path)
    return folder(path)


def as_gguf(model: Baseline, root: Path) -> Baseline:
    """The GGUF file made of a folder."""
    path = root / f"{model.name}.gguf"
    converted(model.path, path, check=False, to="gguf", dtype="bf16")
    header = gguf.read(path)
    return Baseline(path, header.metadata, {name: t.shape for name, t in header.tensors.items()}, header)


def quantized(case: Path, root: Path) -> Baseline:
    """A quantized model of the reference data, with the tokenizer that all of them share."""
    path = root / case.name
    path.mkdir()
    for file in (*case.glob("*.json"), *case.glob("*.safetensors")):
        if not file.name.startswith(("truth", "case")):
            shutil.copy(file, path)
    for file in (case.parent.parent / "models" / "micro-llama").glob("tokenizer*"):
        shutil.copy(file, path)
    return folder(path)


__all__ = ["CASES", "Altered", "Baseline", "as_gguf", "dense", "folder", "quantized"]
