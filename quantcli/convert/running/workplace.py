"""Where an output grows: `OUTPUT.partial` beside it, on the same file system.

    OUTPUT.partial/.journal       what is done, a JSON object a line; also the lock: a second run cannot have it
    OUTPUT.partial/output/        the folder that becomes OUTPUT, or the file or files that get names beside it; all at
                                  their full size from the start
    OUTPUT.partial/replaced       an old output that has given up its name: the folder, or a folder of files
    OUTPUT.partial/report.json    the report; of a folder a second name of it, else until it is moved beside the file

    {"fingerprint": "...", "replaces": false}   first line: the plan carried out, and whether an old output may go
    {"step": 12, "error": [0.1, 20.5, 0.01]}    a finished step: its data was on disk before this line was written
    {"complete": true, "parts": ["x.gguf"]}     last line: all is on disk, only names are to change (parts: of a GGUF)

A process may die at any moment. The next run's `claim` cuts off a torn last line, whose step is done again; what died
while it published is put right by publishing.py.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quantcli.convert.running.destination import Destination, Taken
from quantcli.convert.running.places import GROWN, JOURNAL, REPLACED, REPORT, Places, opened_once, sync
from quantcli.convert.running.publishing import publish, recovered, stage
from quantcli.errors import Surroundings, WrongUsage
from quantcli.schemes.base import Error


class BegunOtherwise(Surroundings):
    """An unfinished run is there that is to be resumed, and has another fingerprint."""

    def __init__(self, message: str, fingerprint: str) -> None:
        super().__init__(message)
        self.fingerprint = fingerprint


class Workplace:
    """The growing output of one run; `claim` comes first, `close` last.

    parts: names of the files that the output is, beside each other, the first the one that is opened; none: a folder.
    sources: the files of SOURCE, which stay, whatever an older report says of them. named: every path that the options
    name.
    """

    def __init__(
        self,
        output: Path,
        report_path: Path,
        parts: Sequence[str] = (),
        sources: Iterable[Path] = (),
        named: Iterable[Path] = (),
    ) -> None:
        self.places = Places(output, report_path, tuple(parts))
        self.output, self.report_path, self.parts = output, report_path, tuple(parts)
        self.partial, self.grown = self.places.partial, self.places.grown
        self._destination = Destination(self.places, sources, named)
        self._journal: int | None = None
        self._replaces = False
        self._made: list[Path] = []

    def claim(self, fingerprint: str, *, resume: bool, force: bool) -> dict[int, Error]:
        """Make or take over the partial output; the finished steps of an earlier run. Raises `Surroundings`."""
        with surroundings(self.partial, "mend that and run again"):
            self._destination.refuse_loss(WrongUsage, deep=False)
            self._destination.refuse_loss_of_work()
            self._make_folders()
            self._lock()
            begun = self._recovered(_read_journal(self.partial / JOURNAL))
            self._replaces = force or (resume and begun.replaces)
            try:
                self._destination.refuse(WrongUsage, replaces=self._replaces)
                self._refuse_other(begun, fingerprint, resume=resume, force=force)
            except (Surroundings, WrongUsage):
                if begun.fingerprint is None:
                    self.discard()
                raise
            if begun.fingerprint and resume:
                os.ftruncate(self._lock_held(), begun.length)
                return begun.done
            self._start_afresh(fingerprint)
            return {}

    def _make_folders(self) -> None:
        if self.partial.is_symlink() or (self.partial.exists() and not self.partial.is_dir()):
            raise Surroundings(f"{self.partial}: is no folder, and the output has to grow there; remove it.")
        self._made = [folder for folder in self.partial.parents if not folder.exists()]
        self.partial.mkdir(parents=True, exist_ok=True)
        ours = {JOURNAL, GROWN, REPLACED, REPORT}
        strange = sorted(path.name for path in self.partial.iterdir() if path.name not in ours)
        if strange:
            raise Surroundings(f"{self.partial}: holds {strange[0]}, so it is no unfinished run; move it away.")

    def _lock(self) -> None:
        path = self.partial / JOURNAL
        journal = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            fcntl.flock(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The run that held it may have ended and removed it since it was opened.
            is_there = path.exists() and os.path.samestat(path.stat(), os.fstat(journal))
        except BlockingIOError:
            is_there = False
        if not is_there:
            os.close(journal)
            raise Surroundings(f"{self.output}: another run is writing it; wait for it, or choose another output.")
        self._journal = journal

    def _lock_held(self) -> int:
        assert self._journal is not None, "claim comes first"
        return self._journal

    def _recovered(self, begun: _Begun) -> _Begun:
        """Put right what a process left that died while it published; what is still begun then."""
        if not recovered(self.places, begun.parts or self.parts, begun.complete):
            return begun
        self._clear()
        return _Begun()

    def _refuse_other(self, begun: _Begun, fingerprint: str, *, resume: bool, force: bool) -> None:
        """Raise `Surroundings` where an unfinished run is there that is not to be thrown away, or is not this one."""
        if begun.fingerprint is None or force:
            return
        if not resume:
            raise Surroundings(
                f"{self.partial}: an unfinished run is there; --resume goes on with it, --force starts afresh."
            )
        if begun.fingerprint != fingerprint:
            raise BegunOtherwise(
                f"{self.partial}: was begun from another source, with other options or by another version; "
                "--resume with those goes on with it, --force starts afresh.",
                begun.fingerprint,
            )

    def _start_afresh(self, fingerprint: str) -> None:
        self._clear()
        self._append({"fingerprint": fingerprint, "replaces": self._replaces})
        os.fsync(self._lock_held())
        self.grown.mkdir()
        sync(self.partial)

    def _clear(self) -> None:
        """Remove everything but the lock."""
        for path in self.partial.iterdir():
            if path.name != JOURNAL:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        os.ftruncate(self._lock_held(), 0)

    def path(self, name: str) -> Path:
        """Where an output file grows."""
        return self.grown / name

    @property
    def opened(self) -> Path:
        """What a reader opens of the growing output: the folder, the file, the first part."""
        return self.grown if self.places.is_folder else self.grown / self.parts[0]

    def create(self, name: str, size: int) -> bool:
        """Make an output file at its full size, holes where nothing is written yet; whether it was there already."""
        path = self.path(name)
        with surroundings(path):
            was_there = path.is_file() and path.stat().st_size == size
            path.parent.mkdir(parents=True, exist_ok=True)
            with opened_once(path, os.O_WRONLY | os.O_CREAT) as descriptor:
                os.ftruncate(descriptor, size)
            return was_there

    def write(self, name: str, offset: int, data: memoryview | bytes) -> None:
        """Put bytes at their place; any thread may."""
        view = memoryview(data)
        if not view.nbytes:
            return
        view = view.cast("B")
        with surroundings(self.path(name)), opened_once(self.path(name), os.O_WRONLY) as descriptor:
            while view:
                written = os.pwrite(descriptor, view, offset)
                view, offset = view[written:], offset + written

    def finished(self, steps: Iterable[tuple[int, Error]], names: Iterable[str]) -> None:
        """Record finished steps once what they wrote in `names` is on disk."""
        for name in names:
            self._flush(name)
        with surroundings(self.partial / JOURNAL):
            for index, error in steps:
                self._append({"step": index, "error": [error.squared, error.reference, error.largest, error.saturated]})

    def _flush(self, name: str) -> None:
        with surroundings(self.path(name)), opened_once(self.path(name), os.O_RDWR) as descriptor:
            os.fsync(descriptor)

    def _append(self, entry: dict[str, object]) -> None:
        line = json.dumps(entry).encode() + b"\n"
        while line:
            line = line[os.write(self._lock_held(), line) :]

    def seal(self, names: Iterable[str]) -> None:
        """Flush every file of the output to disk, and the folders that name them."""
        for name in names:
            self._flush(name)
        with surroundings(self.grown):
            for folder in sorted({self.grown, *(path.parent for path in self.grown.rglob("*"))}):
                sync(folder)
            sync(self.partial)

    def publish(self, report: bytes) -> None:
        """Give the complete output its final name; an old one goes only once that is on disk."""
        with surroundings(self.output):
            self._destination.refuse(Surroundings, replaces=self._replaces)
            old = self._destination.old_files()
            stage(self.places, report)
            self._append({"complete": True, "parts": self.parts})
            os.fsync(self._lock_held())
            try:
                publish(self.places, old, self._destination.check_old())
            except FileExistsError as error:
                raise Taken(f"{self.output}: is there meanwhile; move it away, then --resume goes on.") from error
        self.discard()

    def discard(self) -> None:
        """Leave nothing behind, nor folders that were made for the output and are empty."""
        with surroundings(self.partial, "remove it yourself"):
            shutil.rmtree(self.partial)
            for folder in self._made:
                if not any(folder.iterdir()):
                    folder.rmdir()

    def close(self) -> None:
        """Let go of the lock; what is there stays, for `--resume`."""
        if self._journal is not None:
            os.close(self._journal)
            self._journal = None


@contextlib.contextmanager
def surroundings(
    path: Path, way_out: str = "mend that, then --resume goes on where this run stopped"
) -> Iterator[None]:
    """Turn the system's errors into one sentence that names the path."""
    try:
        yield
    except OSError as error:
        raise Surroundings(f"{path}: {error.strerror or error}; {way_out}.") from error


@dataclass(frozen=True)
class _Begun:
    """What a journal says: up to a line that is torn (its writer was killed) or the last, `length` bytes of it."""

    fingerprint: str | None = None
    replaces: bool = False
    done: dict[int, Error] = field(default_factory=dict)
    length: int = 0
    complete: bool = False
    parts: tuple[str, ...] = ()


def _read_journal(path: Path) -> _Begun:
    lines = path.read_bytes().splitlines(keepends=True)
    first = _parsed(lines[0]) if lines else None
    if first is None or not isinstance(first.get("fingerprint"), str):
        return _Begun()
    done: dict[int, Error] = {}
    length = len(lines[0])
    parts: tuple[str, ...] | None = None
    for line in lines[1:]:
        entry = _parsed(line)
        parts = _completed(entry)
        if entry is None or not _is_step(entry):
            break
        done[entry["step"]] = Error(*entry["error"][:3], saturated=int(entry["error"][3]))
        length += len(line)
    return _Begun(first["fingerprint"], first.get("replaces") is True, done, length, parts is not None, parts or ())


def _completed(entry: dict[str, Any] | None) -> tuple[str, ...] | None:
    """The names of the parts in a journal's last line; None of any other line."""
    if entry is None or entry.get("complete") is not True:
        return None
    parts = entry.get("parts")
    is_sound = isinstance(parts, list) and all(isinstance(n, str) and n and Path(n).name == n for n in parts)
    return tuple(parts) if is_sound and parts is not None else None


def _parsed(line: bytes) -> dict[str, Any] | None:
    """The object of a whole line; None of a torn one."""
    try:
        entry = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None


def _is_step(entry: dict[str, Any]) -> bool:
    error = entry.get("error")
    return (
        isinstance(entry.get("step"), int)
        and isinstance(error, list)
        and len(error) == 4
        and all(isinstance(value, int | float) for value in error)
    )
