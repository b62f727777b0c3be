"""SHA-256 of files, several at a time."""

from __future__ import annotations

import fcntl
import hashlib
import os
import sys
import threading
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from quantcli.convert.running.threads import in_threads
from quantcli.convert.running.workplace import surroundings

#: Bytes of a file that are read at a time.
READ_AT_ONCE = 1 << 20


def sha256_of(paths: Iterable[Path], threads: int, *, from_disk: bool = False) -> dict[Path, str]:
    """Return path -> hex digest. Raises `Surroundings`; an interruption ends it within a block.

    from_disk: read synced files from the disk, not from the page cache.
    """
    stop = threading.Event()

    def digest(path: Path) -> str:
        hashed, block = hashlib.sha256(), bytearray(READ_AT_ONCE)
        with surroundings(path), open(path, "rb", buffering=0) as handle:
            if from_disk:
                _pass_cache(handle.fileno())
            while not stop.is_set() and (count := handle.readinto(block)):
                hashed.update(memoryview(block)[:count])
        return hashed.hexdigest()

    with closing(in_threads(paths, digest, threads, stop)) as results:
        return dict(results)


def _pass_cache(descriptor: int) -> None:
    """Ask the system to serve the next reads from the disk, not from its cache."""
    if sys.platform == "darwin":
        fcntl.fcntl(descriptor, fcntl.F_NOCACHE, 1)
    else:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
