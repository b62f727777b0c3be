"""What a source was when it was opened, so that a change during a run does not go unseen."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from quantcli.checkpoint import Checkpoint, Part
from quantcli.errors import Surroundings


@dataclass(frozen=True)
class Stamp:
    """A source file as it was: size, time of last change, SHA-256 of its header (all before the first tensor)."""

    path: Path
    size: int
    mtime_ns: int
    header_sha256: str | None = None


def stamps(source: Checkpoint) -> tuple[Stamp, ...]:
    """One for each file of the source: those with tensors (with the hash of their headers), config and sidecars."""
    starts: dict[Path, int] = {}
    for weight in source.weights.values():
        for part in (part for part in weight.parts.values() if isinstance(part, Part)):
            starts[part.file] = min(part.offset, starts.get(part.file, part.offset))
    others = [source.root / "config.json"] if source.root.is_dir() else []
    others += [*source.tokenizer_files, *source.sidecars, *source.settings, *([source.beside] if source.beside else [])]
    return tuple(_stamp(path, starts.get(path, 0)) for path in (*source.files, *others))


def _stamp(path: Path, header: int) -> Stamp:
    try:
        stat = path.stat()
        with open(path, "rb") as handle:
            digest = hashlib.sha256(handle.read(header)).hexdigest() if header else None
    except OSError as error:
        raise Surroundings(f"{path}: {error.strerror}.") from error
    return Stamp(path, stat.st_size, stat.st_mtime_ns, digest)


def check_unchanged(before: tuple[Stamp, ...]) -> None:
    """Raise `Surroundings` where a source file is not what it was when the plan was made."""
    for stamp in before:
        if _changed(stamp):
            raise Surroundings(
                f"{stamp.path}: has changed while it was converted; run again, with --force, once it is at rest."
            )


def _changed(stamp: Stamp) -> bool:
    try:
        stat = stamp.path.stat()
    except OSError:
        return True  # gone, or out of reach
    return (stat.st_size, stat.st_mtime_ns) != (stamp.size, stamp.mtime_ns)
