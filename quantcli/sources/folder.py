"""A checkpoint folder, local: which files hold tensors, and what their headers say.

A folder's tensors are those of its index; without one those of `model*.safetensors`, else of its only `*.safetensors`.
Source: how transformers and mlx-lm choose their files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from quantcli.arrays import Array
from quantcli.checkpoint import Part
from quantcli.containers import safetensors
from quantcli.containers.hostile import opened, shown
from quantcli.containers.json_text import MAX_BYTES, load_object
from quantcli.errors import BadInput, NotPossible, Surroundings

INDEX = "model.safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt")
#: An error lists so many files at most.
MOST_LISTED = 16

#: An array that says how others are stored is at most so large.
MAX_DESCRIBING = 16 << 20

#: Files that belong to a model beside its tensors and its config, copied byte for byte to folder targets.
SIDECARS = (
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "vocab.txt", "merges.txt", "chat_template.jinja", "chat_template.json", "generation_config.json",
    "preprocessor_config.json", "processor_config.json",
)  # fmt: skip

#: optimum-quanto's file of which modules are quantized, of which config.json says nothing.
QMAP = "quanto_qmap.json"
#: Files in which quantizers repeat config.json's `quantization_config`, or say what it would.
SETTINGS = ("quantize_config.json", "quantization_config.json", "hf_quant_config.json", "quant_config.json", QMAP)


class Folder(Protocol):
    """What a source needs of a folder, here or on the Hub. `label` names it in errors."""

    @property
    def label(self) -> str: ...

    def names(self) -> list[str]:
        """Files, as paths relative to the folder, with forward slashes."""

    def read(self, name: str) -> bytes:
        """A small file, whole."""

    def header(self, name: str) -> safetensors.Header:
        """The header of a safetensors file."""

    def path(self, name: str) -> Path:
        """Where the file lies, for parts to be read from."""

    def array(self, part: Part) -> Array:
        """A small stored array that says how others are stored, as a matrix (see `Part.read`)."""


@dataclass(frozen=True)
class LocalFolder:
    """A folder on this machine."""

    root: Path

    @property
    def label(self) -> str:
        return str(self.root)

    def names(self) -> list[str]:
        try:
            entries = sorted(self.root.iterdir())
            found = [p.name for p in entries if p.is_file()]
            found += [f"{d.name}/{p.name}" for d in entries if d.is_dir() for p in d.iterdir() if p.is_file()]
        except OSError as error:
            raise Surroundings(
                f"{error.filename}: cannot be listed ({error.strerror}): mend its permissions."
            ) from error
        return sorted(found)

    def read(self, name: str) -> bytes:
        with opened(self.path(name)) as (read, size):
            if size > MAX_BYTES:
                raise BadInput(f"{self.path(name)}: {size} bytes are too many for such a file (at most {MAX_BYTES}).")
            return read(0, size)

    def header(self, name: str) -> safetensors.Header:
        return safetensors.read_header(self.path(name))

    def path(self, name: str) -> Path:
        return self.root / name

    def array(self, part: Part) -> Array:
        check_describing(part)
        return part.read()


def check_describing(part: Part) -> None:
    """Refuse to read an array that is too large to be a description; raises `BadInput`."""
    if part.nbytes > MAX_DESCRIBING:
        raise BadInput(f"{part.file}: tensor {part.name}: has {part.nbytes} bytes, too many for what it should say.")


def read_json(folder: Folder, name: str) -> dict[str, Any]:
    """A JSON object of the folder; raises `BadInput`."""
    return load_object(folder.read(name), f"{folder.label}/{name}")


@dataclass(frozen=True)
class Tensors:
    """All stored arrays of a folder by name, the files that hold them, and the text in those files' headers."""

    parts: Mapping[str, Part]
    files: tuple[Path, ...]
    warnings: tuple[str, ...]
    metadata: Mapping[str, str] = field(default_factory=dict)


def tensor_files(names: list[str], label: str) -> list[str]:
    """The safetensors files of a folder without an index; raises with the reason where the choice is not plain."""
    here = [name for name in names if name.endswith(".safetensors") and "/" not in name]
    model = [name for name in here if name.startswith("model")]
    if model or len(here) == 1:
        return _complete(model or here, label)
    if here:
        listed = ", ".join(here[:MOST_LISTED]) + (", ..." if len(here) > MOST_LISTED else "")
        raise BadInput(f"{label}: has no {INDEX} and several safetensors files ({listed}): name one, or add the index.")
    pickles = [name for name in names if name.endswith(PICKLES)]
    if pickles:
        raise NotPossible(f"{label}: has only pickled tensors ({pickles[0]}): save the model as safetensors first.")
    raise BadInput(f"{label}: has no *.safetensors file, which a model folder has.")


def _complete(files: list[str], label: str) -> list[str]:
    """The files; raises where their names say that there are more of them."""
    for name in files:
        numbered = re.fullmatch(r"(.+)-(\d{5})-of-(\d{5})\.safetensors", name)
        if numbered and int(numbered[3]) <= 99_999:
            wanted = [f"{numbered[1]}-{n:05d}-of-{numbered[3]}.safetensors" for n in range(1, int(numbered[3]) + 1)]
            missing = next((other for other in wanted if other not in files), None)
            if missing:
                raise BadInput(f"{label}: {name} is there but {missing} is not: get the missing shards.")
    return files


def read_tensors(folder: Folder, only: str | None = None) -> Tensors:
    """The stored arrays of a folder (or of its one file `only`), every header read and checked."""
    names = folder.names()
    if only is None and INDEX in names:
        return _by_index(folder, set(names))
    parts: dict[str, Part] = {}
    metadata: dict[str, str] = {}
    files = [only] if only else tensor_files(names, folder.label)
    for name in files:
        path, header = folder.path(name), folder.header(name)
        metadata |= header.metadata
        for key, entry in header.entries.items():
            if key in parts:
                raise BadInput(
                    f"{path}: tensor {key} stands in {parts[key].file.name} too, and there is no {INDEX} to decide: "
                    "remove one of the files."
                )
            parts[key] = Part(key, entry.dtype, entry.shape, path, entry.offset)
    return Tensors(parts, tuple(folder.path(name) for name in files), (), metadata)


def _by_index(folder: Folder, names: set[str]) -> Tensors:
    label = f"{folder.label}/{INDEX}"
    mapping = read_json(folder, INDEX).get("weight_map")
    if not isinstance(mapping, dict) or not mapping:
        raise BadInput(f"{label}: `weight_map` is {shown(mapping)}, an object of tensors and their files is needed.")
    for key, name in mapping.items():
        _check_file_name(name, key, label)
        if name not in names:
            raise BadInput(
                f"{label}: tensor {shown(key)} should be in {shown(name)}, which is not there: download it again."
            )
    files = sorted(set(mapping.values()))
    headers = {name: folder.header(name) for name in files}
    parts: dict[str, Part] = {}
    for key, name in sorted(mapping.items()):
        entry = headers[name].entries.get(key)
        if entry is None:
            raise BadInput(f"{folder.path(name)}: has no tensor {shown(key)}, which {INDEX} places there.")
        parts[key] = Part(key, entry.dtype, entry.shape, folder.path(name), entry.offset)
    stray = [key for name in files for key in headers[name].entries if mapping.get(key) != name]
    warnings: tuple[str, ...] = ()
    if stray:
        warnings = (
            f"{len(stray)} tensors that {INDEX} does not place where they lie are left out, {stray[0]} the first.",
        )
    metadata = {key: text for name in files for key, text in headers[name].metadata.items()}
    return Tensors(parts, tuple(folder.path(name) for name in files), warnings, metadata)


def _check_file_name(name: object, key: str, label: str) -> None:
    if not isinstance(name, str) or not name.endswith(".safetensors"):
        raise BadInput(f"{label}: tensor {shown(key)} is placed in {shown(name)}, which is no safetensors file name.")
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or len(path.parts) > 2:
        raise BadInput(f"{label}: tensor {shown(key)} is placed in {shown(name)}, a path that leads out of the folder.")


def sidecars(folder: Folder) -> tuple[Path, ...]:
    """The files of `SIDECARS` (and further chat templates) that the folder has, in sorted order."""
    names = folder.names()
    found = [
        n
        for n in names
        if n in SIDECARS or (n.endswith(".jinja") and PurePosixPath(n).parent.name in ("", "additional_chat_templates"))
    ]
    return tuple(folder.path(name) for name in sorted(set(found)))


def settings_files(folder: Folder) -> tuple[Path, ...]:
    """The files of `SETTINGS` that the folder has."""
    return tuple(folder.path(name) for name in sorted(set(SETTINGS).intersection(folder.names())))
