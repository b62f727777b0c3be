"""A checkpoint folder, local: which files hold tensors, and what their headers say.

tensor_files.py chooses the files; an index that contradicts them is stale.
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

#: An array that says how others are stored is at most so large.
MAX_DESCRIBING = 16 << 20


CONFIG = "config.json"
#: Folders within folders are looked at to this depth.
DEEPEST = 8


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

    def size(self, name: str) -> int:
        """The bytes of a file."""

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
        return sorted(path.relative_to(self.root).as_posix() for path in self._files(self.root, ()))

    def _files(self, place: Path, above: tuple[Path, ...]) -> Iterator[Path]:
        """The files in a folder and below it; a link that leads up again is not followed."""
        try:
            entries = sorted(place.iterdir())
            found = [(entry, entry.is_file(), entry.is_dir()) for entry in entries]
        except OSError as error:
            raise Surroundings(
                f"{error.filename}: cannot be listed ({error.strerror}): mend its permissions."
            ) from error
        real = real_path(place)
        for entry, is_file, is_folder in found:
            if is_file:
                yield entry
            elif is_folder and len(above) < DEEPEST and real not in above and not entry.name.startswith("."):
                yield from self._files(entry, (*above, real))

    def read(self, name: str) -> bytes:
        with opened(self.path(name)) as (read, size):
            if size > MAX_BYTES:
                raise BadInput(f"{self.path(name)}: {size} bytes are too many for such a file (at most {MAX_BYTES}).")
            return read(0, size)

    def header(self, name: str) -> safetensors.Header:
        return safetensors.read_header(self.path(name))

    def path(self, name: str) -> Path:
        return self.root / name

    def size(self, name: str) -> int:
        try:
            return self.path(name).stat().st_size
        except OSError as error:
            raise Surroundings(f"{self.path(name)}: {error.strerror}: check the path and its permissions.") from error

    def odd(self, folders: Iterable[str]) -> list[str]:
        """What is neither a file nor a folder, here and in some sub-folders: dangling links, pipes, sockets."""
        places = [self.root, *(place for name in folders for place in (self.root / name).rglob("*") if place.is_dir())]
        places += [place for name in folders if (place := self.root / name).is_dir()]
        found = [path for place in places for path in place.iterdir() if not path.is_file() and not path.is_dir()]
        return sorted(str(path.relative_to(self.root)) for path in found)

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


def read_tensors(folder: Folder, only: str | None = None) -> Tensors:
    """The stored arrays of a folder (or of its one file `only`), every header read and checked."""
    if only is not None:
        return _whole(folder, Choice((only,)))
    names = set(folder.names())
    choice = choose(names, lambda: read_json(folder, INDEX), folder.label)
    if choice.weight_map is None:
        return _whole(folder, choice)
    headers = {name: folder.header(name) for name in choice.files}
    why = _contradiction(choice.weight_map, headers)
    other = None if why is None else contradicted(choice, names, why, folder.label)
    return _whole(folder, other) if other is not None else _by_index(folder, choice, headers)


def _whole(folder: Folder, choice: Choice) -> Tensors:
    """The tensors of files that no index divides."""
    parts: dict[str, Part] = {}
    metadata: dict[str, str] = {}
    for name in choice.files:
        path, header = folder.path(name), folder.header(name)
        metadata |= header.metadata
        for key, entry in header.entries.items():
            if key in parts:
                raise BadInput(
                    f"{path}: tensor {key} stands in {parts[key].file.name} too, and there is no {INDEX} to decide: "
                    "remove one of the files."
                )
            parts[key] = Part(key, entry.dtype, entry.shape, path, entry.offset)
    return Tensors(parts, tuple(folder.path(name) for name in choice.files), choice.warnings, metadata)


def _contradiction(weight_map: Mapping[str, str], headers: Mapping[str, safetensors.Header]) -> str | None:
    """What an index says that its files do not, as a clause: a tensor that is not there, one file with others."""
    key = next((key for key, name in weight_map.items() if key not in headers[name].entries), None)
    if key is not None:
        return f"places a tensor {shown(key)} in {weight_map[key]}, which has none"
    other = next((key for header in headers.values() for key in header.entries if key not in weight_map), None)
    return f"lacks a tensor {shown(other)}" if other is not None and len(headers) == 1 else None


def _by_index(folder: Folder, choice: Choice, headers: Mapping[str, safetensors.Header]) -> Tensors:
    """The tensors that an index places."""
    parts: dict[str, Part] = {}
    weight_map = choice.weight_map or {}
    for key, name in sorted(weight_map.items()):
        entry = headers[name].entries.get(key)
        if entry is None:
            raise BadInput(f"{folder.path(name)}: has no tensor {shown(key)}, which {INDEX} places there.")
        parts[key] = Part(key, entry.dtype, entry.shape, folder.path(name), entry.offset)
    stray = [key for name in choice.files for key in headers[name].entries if weight_map.get(key, name) != name]
    warnings = choice.warnings
    unnamed = [(key, name) for name in choice.files for key in headers[name].entries if key not in weight_map]
    for key, name in unnamed:
        entry = headers[name].entries[key]
        if key in parts:
            raise BadInput(
                f"{folder.path(name)}: tensor {key} stands in {parts[key].file.name} too: remove one of them."
            )
        parts[key] = Part(key, entry.dtype, entry.shape, folder.path(name), entry.offset)
    if unnamed:
        several = (
            shown(unnamed[0][0]) if len(unnamed) == 1 else f"{len(unnamed)} tensors, {shown(unnamed[0][0])} first,"
        )
        warnings += (f"{folder.label}/{INDEX}: does not name {several} in its files: read as the loaders do.",)
    if stray:
        warnings += (
            f"{len(stray)} tensors that {INDEX} does not place where they lie are left out, {stray[0]} the first.",
        )
    metadata = {key: text for name in choice.files for key, text in headers[name].metadata.items()}
    return Tensors(parts, tuple(folder.path(name) for name in choice.files), warnings, metadata)


def sidecars(folder: Folder, read: Collection[Path]) -> Sidecars:
    """The files next to those that are `read` as weights."""
    sizes = {name: folder.size(name) for name in folder.names()}
    return sort_out(sizes, [name for name in sizes if folder.path(name) in read])
