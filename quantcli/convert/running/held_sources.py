"""The source's files during a run: they stay open, so that a replaced file is noticed."""

from __future__ import annotations

import os
import resource
from collections.abc import Sequence
from pathlib import Path

from quantcli.containers.entries import leads_somewhere
from quantcli.containers.hostile import reading
from quantcli.convert.planning.stamps import Stamp
from quantcli.errors import Surroundings


class HeldSources:
    """Open source files with their stamps. An open file keeps its inode: no other file gets its number."""

    def __init__(self, stamps: Sequence[Stamp]) -> None:
        self.stamps = tuple(stamps)
        self._open: dict[Path, int] = {}
        # The output's files and those that workers read need descriptors too.
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4
        for stamp in self.stamps:
            with reading(stamp.path):
                if not leads_somewhere(stamp.path):
                    continue  # gone: `check` says so
                descriptor = os.open(stamp.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            if descriptor >= most:
                os.close(descriptor)
                break
            self._open[stamp.path] = descriptor

    def check(self) -> None:
        """Raise `Surroundings` if a file has changed since the plan was made."""
        for stamp in self.stamps:
            if self._has_changed(stamp):
                raise Surroundings(
                    f"{stamp.path}: changed during conversion. Run again with --force once nothing writes to it."
                )

    def _has_changed(self, stamp: Stamp) -> bool:
        with reading(stamp.path):
            if not leads_somewhere(stamp.path):
                return True
            seen = [os.stat(stamp.path)]
            if stamp.path in self._open:
                seen.append(os.fstat(self._open[stamp.path]))
        return not all(map(stamp.is_of, seen))

    def close(self) -> None:
        """Close the files."""
        while self._open:
            path, descriptor = self._open.popitem()
            with reading(path):
                os.close(descriptor)
