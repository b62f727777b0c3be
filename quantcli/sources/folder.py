"""Checkpoint folders on this machine: their tensor files and the headers of these.

tensor_files.py chooses the files; an index that contradicts their headers is out of date.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from quantcli.arrays import Array
from quantcli.checkpoint import Part
from quantcli.containers import safetensors
from quantcli.containers.entries import real_path
from quantcli.containers.hostile import opened, shown
from quantcli.containers.json_text import MAX_BYTES, load_object
from quantcli.errors import BadInput, Surroundings
from quantcli.sources.sidecars import Sidecars, sort_out
from quantcli.sources.tensor_files import INDEX, Choice, choose, contradicted
from quantcli.sources.wording import counted, where

#: The most bytes of an array that describes how others are stored.
MAX_DESCRIBING = 16 << 20


CONFIG = "config.json"
#: How many levels of subfolders are listed.
DEEPEST = 8


class Folder(Protocol):
    """What a source needs from a folder, on this machine or on the Hub. label: its name in errors."""

    @property
    def label(self) -> str: ...

    def names(self) -> list[str]:
        """Return the files, as paths relative to the folder, with forward slashes."""

    def read(self, name: str) -> bytes:
        """Read a small file."""

    def header(self, name: str) -> safetensors.Header:
        """Read the header of a safetensors file."""

    def path(self, name: str) -> Path:
        """Return the path of a file, from which parts are read."""

    def size(self, name: str) -> int:
        """Return the bytes of a file."""

    def array(self, part: Part) -> Array:
        """Read a small array that describes how others are stored, as a matrix (see `Part.read`)."""


@dataclass(frozen=True)
class LocalFolder:
    """A folder on this machine."""

    root: Path

    @property
    def label(self) -> str:
        return str(self.root)

    def names(self) -> list[str]:
        return sorted(path.relative_to(self.root).as_posix() for path in self._files(self.root, ()))

    def _files(self, place: Path, above: tuple[Path, ...]) -> Iterator[Path]:
        """Yield the files in a folder and its subfolders; a link to a folder above is not followed."""
        try:
            entries = sorted(place.iterdir())
            kinds = [(entry, entry.is_file(), entry.is_dir()) for entry in entries]
        except OSError as error:
            raise Surroundings(
                f"{error.filename}: cannot be read ({error.strerror}). Check its permissions."
            ) from error
        real = real_path(place)
        for entry, is_file, is_folder in kinds:
            if is_file:
                yield entry
            elif is_folder and len(above) < DEEPEST and real not in above and not entry.name.startswith("."):
                yield from self._files(entry, (*above, real))

    def read(self, name: str) -> bytes:
        with opened(self.path(name)) as (read, size):
            if size > MAX_BYTES:
                raise BadInput(f"{self.path(name)}: is {size} bytes; the limit is {MAX_BYTES}.")
            return read(0, size)

    def header(self, name: str) -> safetensors.Header:
        return safetensors.read_header(self.path(name))

    def path(self, name: str) -> Path:
        return self.root / name

    def size(self, name: str) -> int:
        try:
            return self.path(name).stat().st_size
        except OSError as error:
            raise Surroundings(
                f"{self.path(name)}: cannot be read ({error.strerror}). Check the path and its permissions."
            ) from error

    def odd(self, folders: Iterable[str]) -> list[str]:
        """Return the entries of this folder and of `folders` in it that are neither files nor folders.

        They are dangling links, pipes or sockets.
        """
        places = [self.root, *(place for name in folders for place in (self.root / name).rglob("*") if place.is_dir())]
        places += [place for name in folders if (place := self.root / name).is_dir()]
        odd = [path for place in places for path in place.iterdir() if not path.is_file() and not path.is_dir()]
        return sorted(str(path.relative_to(self.root)) for path in odd)

    def array(self, part: Part) -> Array:
        check_describing(part)
        return part.read()


def check_describing(part: Part) -> None:
    """Raise `BadInput` for an array that is too large to describe how others are stored."""
    if part.nbytes > MAX_DESCRIBING:
        raise BadInput(f"{where(part)}: is {part.nbytes} bytes; the limit for such a tensor is {MAX_DESCRIBING}.")


def read_json(folder: Folder, name: str) -> dict[str, Any]:
    """Read a JSON object from a file of the folder. Raises `BadInput`."""
    return load_object(folder.read(name), f"{folder.label}/{name}")


@dataclass(frozen=True)
class Tensors:
    """All stored arrays of a folder by name, the files that hold them, and the metadata in those files' headers."""

    parts: Mapping[str, Part]
    files: tuple[Path, ...]
    warnings: tuple[str, ...]
    metadata: Mapping[str, str] = field(default_factory=dict)


def read_tensors(folder: Folder, only: str | None = None) -> Tensors:
    """Read the headers of a folder's tensor files (or of one of them, `only`). Raises `BadInput`."""
    if only is not None:
        return _whole(folder, Choice((only,)))
    names = set(folder.names())
    choice = choose(names, lambda: read_json(folder, INDEX), folder.label)
    if choice.weight_map is None:
        return _whole(folder, choice)
    headers = {name: folder.header(name) for name in choice.files}
    problem = _contradiction(choice.weight_map, headers)
    other = None if problem is None else contradicted(choice, names, problem, folder.label)
    return _whole(folder, other) if other is not None else _by_index(folder, choice, headers)


def _whole(folder: Folder, choice: Choice) -> Tensors:
    """Return all tensors of the chosen files, whatever an index says."""
    parts: dict[str, Part] = {}
    metadata: dict[str, str] = {}
    for name in choice.files:
        path, header = folder.path(name), folder.header(name)
        metadata |= header.metadata
        for key, entry in header.entries.items():
            if key in parts:
                raise BadInput(
                    f"{path}: tensor {key} appears in {parts[key].file.name} too, and there is no {INDEX} to decide. "
                    "Remove one of the files."
                )
            parts[key] = Part(key, entry.dtype, entry.shape, path, entry.offset)
    return Tensors(parts, tuple(folder.path(name) for name in choice.files), choice.warnings, metadata)


def _contradiction(weight_map: Mapping[str, str], headers: Mapping[str, safetensors.Header]) -> str | None:
    """Return how an index contradicts the headers of its files, as a clause; None if it does not.

    A tensor is missing from its file, or the only file has tensors that the index does not list.
    """
    key = next((key for key, name in weight_map.items() if key not in headers[name].entries), None)
    if key is not None:
        return f"says that tensor {shown(key)} is in {weight_map[key]}, which does not have it"
    other = next((key for header in headers.values() for key in header.entries if key not in weight_map), None)
    return f"does not list tensor {shown(other)}" if other is not None and len(headers) == 1 else None


def _by_index(folder: Folder, choice: Choice, headers: Mapping[str, safetensors.Header]) -> Tensors:
    """Return the tensors of an index, and those of its files that it does not list."""
    parts: dict[str, Part] = {}
    weight_map = choice.weight_map or {}
    for key, name in sorted(weight_map.items()):
        entry = headers[name].entries.get(key)
        if entry is None:
            raise BadInput(
                f"{folder.path(name)}: tensor {shown(key)} is missing; {INDEX} says that it is in this file."
            )
        parts[key] = Part(key, entry.dtype, entry.shape, folder.path(name), entry.offset)
    stray = [key for name in choice.files for key in headers[name].entries if weight_map.get(key, name) != name]
    warnings = choice.warnings
    unnamed = [(key, name) for name in choice.files for key in headers[name].entries if key not in weight_map]
    for key, name in unnamed:
        entry = headers[name].entries[key]
        if key in parts:
            raise BadInput(
                f"{folder.path(name)}: tensor {key} appears in {parts[key].file.name} too. Remove one of them."
            )
        parts[key] = Part(key, entry.dtype, entry.shape, folder.path(name), entry.offset)
    if unnamed:
        subject = counted("tensor", [shown(key) for key, _ in unnamed])
        warnings += (f"{folder.label}/{INDEX}: {subject} not listed, but stored in its files. Loaders read them too.",)
    if stray:
        subject = counted("tensor", stray)
        warnings += (f"{folder.label}/{INDEX}: {subject} stored in another file too. Such copies are ignored.",)
    metadata = {key: text for name in choice.files for key, text in headers[name].metadata.items()}
    return Tensors(parts, tuple(folder.path(name) for name in choice.files), warnings, metadata)


def sidecars(folder: Folder, read: Collection[Path]) -> Sidecars:
    """Return the folder's other files, next to those that are `read` as weights."""
    sizes = {name: folder.size(name) for name in folder.names()}
    return sort_out(sizes, [name for name in sizes if folder.path(name) in read])
