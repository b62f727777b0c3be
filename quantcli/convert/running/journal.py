"""The journal of an unfinished output: what is done of it, so that --resume does the rest. Also its lock.

    quant journal 1                                                        the magic line: this is a work folder
    0f3c... {"fingerprint": "...", "replaces": false, "parts": ["x.gguf"]} the beginning: the plan carried out, whether
    81d2... {"fingerprint": "...", "replaces": false, "parts": ["x.gguf"]} an old output may go, parts of a GGUF; twice
    6ba9... {"step": 12, "error": [0.1, 20.5, 0.01, 0]}                    a finished step: its data was on disk before
                                                                           this line was written
    e417... {"complete": true, "to_confirm": true}                         all is on disk, only names are to change;
                                                                           under --verify the files are read once more
    29a0... {"confirmed": true}                                            ... which has been done
    c05e... {"forgotten": true}                                            verification failed: no line before counts

Each line begins with a checksum of the line and of the checksum before it. At the first line that does not fit, the
journal ends: a torn one, a flipped bit, a line from elsewhere. The beginning stands twice, so that one damaged line
does not hide that the folder is ours, and that an old output may be replaced.
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

#: A journal has some hundred bytes a step; of a larger file the rest is not read.
MOST_BYTES = 256 << 20
#: Hexadecimal digits of a checksum.
DIGITS = 16
#: What `flock` says where a file system has none.
WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


@dataclass(frozen=True)
class Begun:
    """What a journal says, up to its first bad line.

    length: bytes up to there; chain: the last checksum. Both are those of the beginning where one of its lines is
    damaged: then nothing counts as done.
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
        """The journal of a work folder, made where there is none. Raises `Surroundings`, with `busy` for a lock."""
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
                    f"{folder}: the file system has no working flock ({error.strerror}), which keeps two runs from "
                    "writing one output. Choose an OUTPUT on another file system, or mount this one with locks."
                ) from error
            raise
        return journal

    def read(self, steps: int, *, alone: bool) -> Begun | None:
        """What it says, of a plan with so many steps; None where it is none of ours.

        alone: nothing else is in the folder, so that an empty or torn one counts as ours.
        """
        data = os.pread(self._descriptor, MOST_BYTES, 0)
        begun = parsed(data, steps)
        is_ours = begun.fingerprint is not None or data.startswith(MAGIC) or (alone and is_torn(data))
        return begun if is_ours else None

    def begin(self, fingerprint: str, replaces: bool, parts: Iterable[str]) -> None:
        """Start afresh; on disk when this returns."""
        entry = _encoded({"fingerprint": fingerprint, "replaces": replaces, "parts": list(parts)})
        self._cut(0, MAGIC)
        first = _line(MAGIC, entry)
        second = _line(first[:DIGITS], entry)
        self._chain = second[:DIGITS]
        self._write(MAGIC + first + second)
        self.sync()

    def go_on(self, begun: Begun) -> None:
        """Take the journal up behind its last good line."""
        os.pwrite(self._descriptor, MAGIC, 0)
        self._cut(begun.length, begun.chain)

    def append(self, entry: Mapping[str, object]) -> None:
        """Add a line, not synced."""
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
        """Bring all lines to disk."""
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Let go of the lock."""
        os.close(self._descriptor)


class NoLocks(Surroundings):
    """The file system of a work folder has no locks."""


def _encoded(entry: Mapping[str, object]) -> bytes:
    return json.dumps(entry, allow_nan=False).encode()


def _line(chain: bytes, text: bytes) -> bytes:
    """A line of the journal behind one with the checksum `chain`."""
    return hashlib.sha256(chain + text).hexdigest()[:DIGITS].encode() + b" " + text + b"\n"


def is_torn(data: bytes) -> bool:
    """Whether a journal holds only what a power cut leaves of its first line: part of it, or zeros."""
    return MAGIC.startswith(data) or not data.strip(b"\0")


def parsed(data: bytes, steps: int) -> Begun:
    """What the text of a journal says, of a plan with so many steps."""
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
    """What the first two lines say, which are alike; without length where only one of them is sound."""
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
    """What may be the text of the first line or of the second, wherever a flipped bit has made or unmade a newline."""
    end = -1
    for _ in range(3):
        end = data.find(b"\n", end + 1)
        if end < 0:
            return
        lines = data[: end + 1]
        half = len(lines) // 2
        yield from (line[DIGITS + 1 : -1] for line in (lines, lines[:half], lines[half:]))


def _checked(line: bytes, chain: bytes) -> dict[str, Any] | None:
    """The object of a line behind one with the checksum `chain`; None where they do not fit."""
    text = line[DIGITS + 1 : -1]
    return _object(text) if line == _line(chain, text) else None


def _object(text: bytes) -> dict[str, Any] | None:
    with contextlib.suppress(BadInput):
        return load_object(text, JOURNAL)
    return None


def _names(parts: Any) -> tuple[str, ...]:
    """Names of files beside each other; none where one is something else."""
    is_sound = isinstance(parts, list) and all(isinstance(n, str) and n and Path(n).name == n for n in parts)
    return tuple(parts) if is_sound else ()


def _take_step(entry: Mapping[str, Any], steps: int, done: dict[int, Error]) -> bool:
    """Add a finished step to `done`; whether the entry is one."""
    index, error = entry.get("step"), entry.get("error")
    if type(index) is not int or not 0 <= index < steps or not isinstance(error, list) or len(error) != 4:
        return False
    if not is_finite(error):
        return False
    done[index] = Error(*error[:3], saturated=int(error[3]))
    return True


def is_finite(error: Iterable[Any]) -> bool:
    """Whether the numbers of an error can stand in a line."""
    return all(type(value) in (int, float) and 0 <= value <= sys.float_info.max for value in error)


def _take_flags(entry: Mapping[str, Any], flags: set[str]) -> bool:
    """Add what a line without a step says; whether it says anything."""
    found = {name for name in ("complete", "to_confirm", "confirmed") if entry.get(name) is True}
    if "complete" in found:
        flags.clear()
    flags |= found
    return bool(found)
