"""The paths of an unfinished output, and its final names."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from quantcli.containers.entries import is_there
from quantcli.sources.unfinished import SUFFIX

#: Names in `OUTPUT.partial`; see workplace.py.
GROWN, REPLACED, REPORT = "output", "replaced", "report.json"


@dataclass(frozen=True)
class Places:
    """The paths of one output. report: the final path of its report.

    parts: the names of its files in one folder, the first is the one that readers open; empty for a folder.
    """

    output: Path
    report: Path
    parts: tuple[str, ...] = ()

    @property
    def is_folder(self) -> bool:
        return not self.parts

    @property
    def partial(self) -> Path:
        return self.output.with_name(f"{self.output.name}{SUFFIX}")

    @property
    def grown(self) -> Path:
        """The folder that becomes OUTPUT, or in which its files are written."""
        return self.partial / GROWN

    @property
    def replaced(self) -> Path:
        """The old folder, or a folder of the old files, once the new ones have their names."""
        return self.partial / REPLACED

    @property
    def staged(self) -> Path:
        """The path of the report before it gets its name."""
        return self.partial / REPORT

    def final(self, name: str) -> Path:
        """Return the final path of a file of the output."""
        return self.output.with_name(name)


def is_empty_folder(path: Path) -> bool:
    """Return whether a path is an empty folder, and not a link to one."""
    return path.is_dir() and not path.is_symlink() and not any(path.iterdir())


def is_one(path: Path, other: Path) -> bool:
    """Return whether two paths are the same file, without following links; False if one does not exist."""
    both_exist = is_there(path) and is_there(other)
    return both_exist and os.path.samestat(os.lstat(path), os.lstat(other))


def is_regular(path: Path) -> bool:
    """Return whether a path is a file, and not a link to one."""
    return is_there(path) and stat.S_ISREG(os.lstat(path).st_mode)


@contextmanager
def opened_once(path: Path, flags: int) -> Iterator[int]:
    """Open a file for one operation: an output may have more shards than a process may have files open."""
    descriptor = os.open(path, flags, 0o644)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def sync(folder: Path) -> None:
    """Flush the names in a folder to disk."""
    with opened_once(folder, os.O_RDONLY) as descriptor:
        os.fsync(descriptor)
