"""What a source was when it was opened, and what makes two runs the same run."""

from __future__ import annotations

import contextlib
import hashlib
import json
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import quantcli
from quantcli.checkpoint import Checkpoint
from quantcli.errors import Surroundings

if TYPE_CHECKING:
    from quantcli.convert.plan import Plan

#: Packages whose versions a resumed run must share with its beginning.
COMPUTES = ("mlx", "numba", "numpy")


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
        for part in weight.parts.values():
            starts[part.file] = min(part.offset, starts.get(part.file, part.offset))
    others = [source.root / "config.json"] if source.root.is_dir() else []
    return tuple(_stamp(path, starts.get(path, 0)) for path in (*source.files, *others, *source.sidecars))


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


def fingerprint(plan: Plan) -> str:
    """SHA-256 over the sources, the options that shape the output, the plan and the versions of what computes it."""
    request = asdict(plan.request) | {"output": plan.request.output.name}
    value = {
        "versions": versions(),
        "sources": [[s.path.name, s.size, s.mtime_ns, s.header_sha256] for s in plan.stamps],
        "request": request,
        "steps": [[s.name, s.scheme.family, repr(s.scheme), s.route, s.via] for s in plan.steps],
        "files": [[f.name, f.size, [hashlib.sha256(blob).hexdigest() for _, blob in f.blobs]] for f in plan.files],
    }
    return hashlib.sha256(json.dumps(value, default=str, sort_keys=True).encode()).hexdigest()


def versions() -> dict[str, str]:
    """Of this project and of what does the arithmetic."""
    found = {"quantcli": quantcli.__version__}
    for name in COMPUTES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
