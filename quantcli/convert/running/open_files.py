"""The files of an unfinished output, each open from its first write to its fsync.

The kernel may report a failed write only once, and only to those who had the file open. So a file stays open until it
is synced, and one whose fsync failed is never synced again: data that the kernel dropped would then count as written.
"""

from __future__ import annotations

import os
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from quantcli.convert.running.guarded import folder_of, open_file
from quantcli.errors import Surroundings


@dataclass
class _File:
    """An open file. users: those who write or sync it now. changes: counts writes. syncing: one syncs it at a time."""

    descriptor: int
    users: int = 0
    changes: int = 0
    syncing: threading.Lock = field(default_factory=threading.Lock)


class OpenFiles:
    """Writes to files below the work folder `root`, from any thread. Names are paths relative to it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._lock = threading.Lock()
        self._files: dict[str, _File] = {}
        self._failed: dict[str, OSError] = {}
        # Descriptors above this are few: such a file is synced and closed after each write.
        self._highest = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2

    def resize(self, name: str, size: int) -> bool:
        """Give a file that size, with holes where nothing is written yet; return whether it had the size already."""
        if self._size(name) == size:
            return True
        with self._used(name) as descriptor:
            os.ftruncate(descriptor, size)
        return False

    def _size(self, name: str) -> int | None:
        with suppress(FileNotFoundError), folder_of(self.root, name) as (folder, last):
            return os.stat(last, dir_fd=folder, follow_symlinks=False).st_size
        return None

    def write(self, name: str, offset: int, view: memoryview) -> None:
        """Write bytes at an offset."""
        with self._used(name) as descriptor:
            while view:
                written = os.pwrite(descriptor, view, offset)
                view, offset = view[written:], offset + written

    def sync(self, name: str) -> None:
        """Flush a file to disk and close it. Raises `Surroundings` if any of its data was lost."""
        with self._lock:
            file = self._opened(name)
            file.users += 1
        try:
            with file.syncing:
                self._refuse_failed(name)
                changes = file.changes
                try:
                    os.fsync(file.descriptor)
                except OSError as error:
                    self._failed[name] = error
                    self._refuse_failed(name)
        finally:
            with self._lock:
                file.users -= 1
        with self._lock:
            if not file.users and file.changes == changes and self._files.get(name) is file:
                os.close(self._files.pop(name).descriptor)

    def _refuse_failed(self, name: str) -> None:
        if error := self._failed.get(name):
            raise Surroundings(
                f"{self.root / name}: the last writes did not reach the disk ({error.strerror or error}). Check the "
                "disk, then use --resume to write the lost part again."
            ) from error

    @contextmanager
    def _used(self, name: str) -> Iterator[int]:
        """Yield the descriptor of a file while it is changed."""
        with self._lock:
            file = self._opened(name)
            file.users, file.changes = file.users + 1, file.changes + 1
        try:
            yield file.descriptor
        finally:
            with self._lock:
                file.users -= 1
        if file.descriptor >= self._highest:
            self.sync(name)

    def _opened(self, name: str) -> _File:
        if name not in self._files:
            self._files[name] = _File(open_file(self.root, name, os.O_RDWR | os.O_CREAT))
        return self._files[name]

    def close(self) -> None:
        """Close all files, without syncing them."""
        with self._lock:
            while self._files:
                os.close(self._files.popitem()[1].descriptor)
