"""The journal of an unfinished output: the finished steps, so that --resume does the rest. It is also the lock.

    quant journal 1                                                        the magic line: this is a work folder
    0f3c... {"fingerprint": "...", "replaces": false, "parts": ["x.gguf"]} the start: the plan, whether an old output
    81d2... {"fingerprint": "...", "replaces": false, "parts": ["x.gguf"]} may be replaced, parts of a GGUF file; twice
    6ba9... {"step": 12, "error": [0.1, 20.5, 0.01, 0]}                    a finished step: its data was on disk before
                                                                           this line was written
    e417... {"complete": true, "to_confirm": true}                         everything is on disk, only renames are left;
                                                                           under --verify the files are read once more
    29a0... {"confirmed": true}                                            ... which has been done
    c05e... {"forgotten": true}                                            verification failed: earlier lines are void

Each line begins with a checksum of the line and of the checksum before it. The journal ends at the first line that does
not match: a torn line, a flipped bit, a line from another file. The start is written twice, so that one damaged line
does not hide that quant made the folder, and that an old output may be replaced.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quantcli.containers.json_text import load_object
from quantcli.convert.running.guarded import open_file
from quantcli.errors import BadInput, Surroundings
from quantcli.schemes.base import Error
from quantcli.sources.unfinished import JOURNAL, MAGIC

#: A journal has about a hundred bytes per step; the rest of a larger file is not read.
MOST_BYTES = 256 << 20
#: Hexadecimal digits of a checksum.
DIGITS = 16
#: Errors of `flock` on file systems without locks.
WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


@dataclass(frozen=True)
class Begun:
    """The contents of a journal up to its first damaged line.

    length: bytes up to there; chain: the last checksum. If a line of the start is damaged, length is 0 and no step
    counts as finished.
    """

    fingerprint: str | None = None
    replaces: bool = False
    parts: tuple[str, ...] = ()
    done: dict[int, Error] = field(default_factory=dict)
    complete: bool = False
    to_confirm: bool = False
    confirmed: bool = False
    length: int = 0
    chain: bytes = b""


class Journal:
    """The open journal of a work folder, locked."""

    def __init__(self, folder: Path, descriptor: int) -> None:
        self.path, self._descriptor = folder / JOURNAL, descriptor
        self._chain = b""

    @classmethod
    def locked(cls, folder: Path, busy: str) -> Journal:
        """Open and lock the journal of a work folder, creating it if missing.

        Raises `Surroundings`, with the message `busy` if it is locked.
        """
        descriptor = open_file(folder, JOURNAL, os.O_RDWR | os.O_CREAT)
        journal = cls(folder, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The run that held it may have ended and removed it since it was opened.
            if not journal.path.exists() or not os.path.samestat(journal.path.lstat(), os.fstat(descriptor)):
                raise Surroundings(busy)
        except BaseException as error:
            journal.close()
            if isinstance(error, BlockingIOError):
                raise Surroundings(busy) from error
            if isinstance(error, OSError) and error.errno in WITHOUT_LOCKS:
                raise NoLocks(
                    f"{folder}: the file system does not support flock ({error.strerror}), which keeps two runs from "
                    "writing the same output. Choose an OUTPUT on another file system, or mount this one with file "
                    "locking."
                ) from error
            raise
        return journal

    def read(self, steps: int, *, alone: bool) -> Begun | None:
        """Return its contents for a plan with that many steps, None if quant did not write it.

        alone: nothing else is in the folder, so that an empty or torn journal is accepted.
        """
        data = os.pread(self._descriptor, MOST_BYTES, 0)
        begun = parsed(data, steps)
        is_ours = begun.fingerprint is not None or data.startswith(MAGIC) or (alone and is_torn(data))
        return begun if is_ours else None

    def begin(self, fingerprint: str, replaces: bool, parts: Iterable[str]) -> None:
        """Start a new journal; it is on disk on return."""
        entry = _encoded({"fingerprint": fingerprint, "replaces": replaces, "parts": list(parts)})
        self._cut(0, MAGIC)
        first = _line(MAGIC, entry)
        second = _line(first[:DIGITS], entry)
        self._chain = second[:DIGITS]
        self._write(MAGIC + first + second)
        self.sync()

    def go_on(self, begun: Begun) -> None:
        """Continue the journal after its last good line."""
        os.pwrite(self._descriptor, MAGIC, 0)
        self._cut(begun.length, begun.chain)

    def append(self, entry: Mapping[str, object]) -> None:
        """Add a line without syncing it."""
        line = _line(self._chain, _encoded(entry))
        self._chain = line[:DIGITS]
        self._write(line)

    def _cut(self, length: int, chain: bytes) -> None:
        os.ftruncate(self._descriptor, length)
        os.lseek(self._descriptor, length, os.SEEK_SET)
        self._chain = chain

    def _write(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._descriptor, data) :]

    def sync(self) -> None:
        """Flush all lines to disk."""
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Release the lock."""
        os.close(self._descriptor)


class NoLocks(Surroundings):
    """The file system of a work folder has no locks."""


def _encoded(entry: Mapping[str, object]) -> bytes:
    return json.dumps(entry, allow_nan=False).encode()


def _line(chain: bytes, text: bytes) -> bytes:
    """Return a line that follows one with the checksum `chain`."""
    return hashlib.sha256(chain + text).hexdigest()[:DIGITS].encode() + b" " + text + b"\n"


def is_torn(data: bytes) -> bool:
    """Return whether a journal holds only what a power cut leaves of its first line: part of it, or zeros."""
    return MAGIC.startswith(data) or not data.strip(b"\0")


def parsed(data: bytes, steps: int) -> Begun:
    """Parse the text of a journal for a plan with that many steps."""
    begun = _beginning(data[len(MAGIC) :])
    if not begun.length:
        return begun
    done: dict[int, Error] = {}
    flags: set[str] = set()
    length, chain = begun.length, begun.chain
    for line in data[length:].splitlines(keepends=True):
        entry = _checked(line, chain)
        if entry is not None and entry.get("forgotten") is True:
            done, flags = {}, set()
        elif entry is None or not (_take_step(entry, steps, done) or _take_flags(entry, flags)):
            break
        length, chain = length + len(line), line[:DIGITS]
    return Begun(
        begun.fingerprint, begun.replaces, begun.parts, done, "complete" in flags, "to_confirm" in flags,
        "confirmed" in flags, length, chain,
    )  # fmt: skip


def _beginning(data: bytes) -> Begun:
    """Parse the first two lines, which are equal; length is 0 if one of them is damaged."""
    for text in _candidates(data):
        first = _line(MAGIC, text)
        second = _line(first[:DIGITS], text)
        both = data[: len(first)] == first, data[len(first) : len(first) + len(second)] == second
        if any(both) and (entry := _object(text)):
            return Begun(
                str(entry.get("fingerprint")), entry.get("replaces") is True, _names(entry.get("parts")),
                length=len(MAGIC) + len(first) + len(second) if all(both) else 0, chain=second[:DIGITS],
            )  # fmt: skip
    return Begun()


def _candidates(data: bytes) -> Iterator[bytes]:
    """Yield candidates for the text of the first two lines, in case a flipped bit made or removed a newline."""
    end = -1
    for _ in range(3):
        end = data.find(b"\n", end + 1)
        if end < 0:
            return
        lines = data[: end + 1]
        half = len(lines) // 2
        yield from (line[DIGITS + 1 : -1] for line in (lines, lines[:half], lines[half:]))


def _checked(line: bytes, chain: bytes) -> dict[str, Any] | None:
    """Return the object of a line that follows one with the checksum `chain`, None if it does not match."""
    text = line[DIGITS + 1 : -1]
    return _object(text) if line == _line(chain, text) else None


def _object(text: bytes) -> dict[str, Any] | None:
    with contextlib.suppress(BadInput):
        return load_object(text, JOURNAL)
    return None


def _names(parts: Any) -> tuple[str, ...]:
    """Return names of files in one folder; none if one of them is anything else."""
    is_sound = isinstance(parts, list) and all(isinstance(n, str) and n and Path(n).name == n for n in parts)
    return tuple(parts) if is_sound else ()


def _take_step(entry: Mapping[str, Any], steps: int, done: dict[int, Error]) -> bool:
    """Add a finished step to `done`; return whether the entry is one."""
    index, error = entry.get("step"), entry.get("error")
    if type(index) is not int or not 0 <= index < steps or not isinstance(error, list) or len(error) != 4:
        return False
    if not is_finite(error):
        return False
    done[index] = Error(*error[:3], saturated=int(error[3]))
    return True


def is_finite(error: Iterable[Any]) -> bool:
    """Return whether the numbers of an error can be written to a line."""
    return all(type(value) in (int, float) and 0 <= value <= sys.float_info.max for value in error)


def _take_flags(entry: Mapping[str, Any], flags: set[str]) -> bool:
    """Add the flags of a line without a step; return whether it has any."""
    given = {name for name in ("complete", "to_confirm", "confirmed") if entry.get(name) is True}
    if "complete" in given:
        flags.clear()
    flags |= given
    return bool(given)
