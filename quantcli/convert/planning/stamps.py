"""The state of a source's files when it was opened, so that a change during a run is noticed."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from quantcli.checkpoint import Checkpoint, Part
from quantcli.containers.hostile import reading
from quantcli.errors import Surroundings


@dataclass(frozen=True)
class Stamp:
    """The state of a source file: size, modification time, SHA-256 of its header (all before the first tensor).

    identity: device, inode and ctime, which identify the file only within one run: a copy, another mount and another
    machine have others.
    """

    path: Path
    size: int
    mtime_ns: int
    header_sha256: str | None
    identity: tuple[int, int, int]

    def is_of(self, status: os.stat_result) -> bool:
        """Return whether a file with this status is the one that was stamped, unchanged."""
        return (status.st_size, status.st_mtime_ns, identity(status)) == (self.size, self.mtime_ns, self.identity)


def identity(status: os.stat_result) -> tuple[int, int, int]:
    """Return device, inode and ctime."""
    return status.st_dev, status.st_ino, status.st_ctime_ns


def stamps(source: Checkpoint) -> tuple[Stamp, ...]:
    """Return a stamp for each file of the source: with tensors (hashing their headers), config.json and sidecars.

    Raises `Surroundings` if one has changed since the source was opened.
    """
    starts: dict[Path, int] = {}
    for weight in source.weights.values():
        for part in (part for part in weight.parts.values() if isinstance(part, Part)):
            starts[part.file] = min(part.offset, starts.get(part.file, part.offset))
    others = [source.root / "config.json"] if source.root.is_dir() else []
    others += [*source.tokenizer_files, *source.sidecars, *source.settings, *([source.beside] if source.beside else [])]
    found = tuple(_stamp(path, starts.get(path, 0)) for path in (*source.files, *others))
    for stamp in found:
        if stamp.path in source.statuses and not stamp.is_of(source.statuses[stamp.path]):
            raise Surroundings(f"{stamp.path}: changed after it was opened. Run again once nothing writes to it.")
    return found


def _stamp(path: Path, header: int) -> Stamp:
    with reading(path), open(path, "rb") as handle:
        status = os.fstat(handle.fileno())
        digest = hashlib.sha256(handle.read(header)).hexdigest() if header else None
    return Stamp(path, status.st_size, status.st_mtime_ns, digest, identity(status))
