"""Where an output grows, and the names that it gets."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from quantcli.containers.entries import is_there
from quantcli.sources.unfinished import SUFFIX

#: What stands in `OUTPUT.partial`; see workplace.py.
GROWN, REPLACED, REPORT = "output", "replaced", "report.json"


@dataclass(frozen=True)
class Places:
    """The paths of one output. report: where its report lies in the end. parts: the names of the files that it is, next
    to each other, the first the one that is opened; none: a folder.
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
        """The folder that becomes OUTPUT, or in which its files grow."""
        return self.partial / GROWN

    @property
    def replaced(self) -> Path:
        """The old folder, or that of the old files, once the new ones have their names."""
        return self.partial / REPLACED

    @property
    def staged(self) -> Path:
        """The report, until it has its name."""
        return self.partial / REPORT

    def final(self, name: str) -> Path:
        """The path that a file of the output gets."""
        return self.output.with_name(name)


def is_empty_folder(path: Path) -> bool:
    """Whether a path is a folder without anything in it, and no link to one."""
    return path.is_dir() and not path.is_symlink() and not any(path.iterdir())


def is_one(path: Path, other: Path) -> bool:
    """Whether two paths, links not followed, are the same file; False where one is not there."""
    are_there = is_there(path) and is_there(other)
    return are_there and os.path.samestat(os.lstat(path), os.lstat(other))


def is_regular(path: Path) -> bool:
    """Whether a path is a file, and no link to one."""
    return is_there(path) and stat.S_ISREG(os.lstat(path).st_mode)


@contextmanager
def opened_once(path: Path, flags: int) -> Iterator[int]:
    """Open for one piece of work: an output may have more shards than a process may have files open."""
    descriptor = os.open(path, flags, 0o644)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def sync(folder: Path) -> None:
    """Flush the names in a folder to disk."""
    with opened_once(folder, os.O_RDONLY) as descriptor:
        os.fsync(descriptor)
