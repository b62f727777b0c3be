"""SHA-256 of whole files, several at a time."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from quantcli.convert.running.threads import in_threads
from quantcli.convert.running.workplace import surroundings

#: Bytes of a file that are read at a time.
READ_AT_ONCE = 1 << 20


def sha256_of(paths: Iterable[Path], threads: int) -> dict[Path, str]:
    """Path -> hex digest. Raises `Surroundings`; an interruption ends it within a block."""
    stop = threading.Event()

    def digest(path: Path) -> str:
        hashed, block = hashlib.sha256(), bytearray(READ_AT_ONCE)
        with surroundings(path), open(path, "rb", buffering=0) as handle:
            while not stop.is_set() and (count := handle.readinto(block)):
                hashed.update(memoryview(block)[:count])
        return hashed.hexdigest()

    with closing(in_threads(paths, digest, threads, stop)) as results:
        return dict(results)
