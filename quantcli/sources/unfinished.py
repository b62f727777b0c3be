"""Sources that are unfinished: a work folder of quant, and tensor data that was never written."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from quantcli.checkpoint import Checkpoint, Part
from quantcli.containers.entries import is_there, real_path
from quantcli.containers.hostile import opened, reading
from quantcli.errors import Surroundings
from quantcli.virtual import stored_parts

#: The file that marks a work folder, and its first bytes.
JOURNAL = ".journal"
MAGIC = b"quant journal 1\n"
#: The ending of a work folder's name.
SUFFIX = ".partial"


def refuse_unfinished(paths: Iterable[Path]) -> None:
    """Raise `Surroundings` if a path, after following links, is in a work folder of quant."""
    for folder in {folder for real in map(real_path, paths) for folder in (real, *real.parents)}:
        if folder.name.endswith(SUFFIX) and _begins_with_magic(folder / JOURNAL):
            raise Surroundings(
                f"{folder}: is an unfinished output, which has zeros where nothing has been written yet. "
                "Finish it with --resume, then use the output."
            )


def _begins_with_magic(path: Path) -> bool:
    """Return whether a path is a regular file that begins like a journal of quant."""
    with reading(path):
        if not is_there(path) or not stat.S_ISREG(os.lstat(path).st_mode):
            return False
    with opened(path) as (read, _):
        return read(0, len(MAGIC)) == MAGIC


def hole_warnings(source: Checkpoint) -> tuple[str, ...]:
    """Return a warning for each file of a source with tensor data that was never written, and reads as zeros."""
    by_file: dict[Path, list[Part]] = {}
    for weight in source.weights.values():
        for part in stored_parts(weight):
            by_file.setdefault(part.file, []).append(part)
    return tuple(warning for file, parts in by_file.items() if (warning := _hole_warning(file, parts)))


def _hole_warning(file: Path, parts: list[Part]) -> str | None:
    parts = sorted((part for part in parts if part.nbytes), key=lambda part: part.offset)
    if not parts:
        return None
    with reading(file), open(file, "rb") as handle:
        holes = list(_holes(handle.fileno(), parts[0].offset, parts[-1].offset + parts[-1].nbytes))
    if not holes:
        return None
    first = next(p for p in parts if p.offset < holes[0][1] and holes[0][0] < p.offset + p.nbytes)
    return (
        f"{file}: {sum(stop - start for start, stop in holes)} bytes of tensor data were never written (holes in the "
        f"file, the first in {first.name}) and read as zeros. Check that the file is complete, or download it again."
    )


def _holes(descriptor: int, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Yield the ranges without data between two offsets; none if the file system does not report them."""
    while start < stop:
        try:
            hole = os.lseek(descriptor, start, os.SEEK_HOLE)
        except OSError:
            return  # beyond the end, or not supported
        if hole >= min(stop, os.fstat(descriptor).st_size):
            return
        try:
            start = min(os.lseek(descriptor, hole, os.SEEK_DATA), stop)
        except OSError:  # no data follows
            start = stop
        yield hole, start
