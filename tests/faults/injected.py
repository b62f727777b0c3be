"""Conversions of which one call of the disk fails, in children of a process that has everything imported.

`Case.points`: the calls that an undisturbed run makes below the folder of source and output, each with each error that
it may give; of those that change nothing, and come from one place in the package, the first and the last.

`Case.fault`: what is wrong when a call gives its error. None where all is as it has to be: exit 5; one sentence that
names the error, a path and what to do; the old or the new output complete; the same bytes as those of an undisturbed
run once the run is repeated, with --resume where it has begun.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import json
import os
import re
import shutil
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer

from quantcli.cli import convert as command
from quantcli.cli.command import ORDER
from quantcli.convert.running import fingerprint
from quantcli.convert.running.journal import parsed
from quantcli.sources.unfinished import JOURNAL
from tests.faults.disk import Call, intercepted
from tests.kills.runs_that_die import Target, at_once, forked, status_of

#: A short write, which is no error: another call writes the rest.
SHORT = "short"
FULL = ("ENOSPC", "EDQUOT")
#: Kind of call -> what it may give. EROFS stays: every later change fails too, as on a disk that has become read-only.
ERRORS = {
    "open": ("EIO",),
    "read": ("EIO",),
    "list": ("EIO",),
    "stat": ("EIO",),
    "flock": ("EIO",),
    "write": ("EIO", "EROFS", *FULL, SHORT),
    "fsync": ("EIO", "EROFS", *FULL),
    "mkdir": ("EIO", "EROFS", *FULL),
    "rename": ("EIO", "EROFS", *FULL),
    "unlink": ("EIO", "EROFS"),
    "rmdir": ("EIO", "EROFS"),
    "close": ("EIO", *FULL),
}
#: Of a call that makes a file, and of one that closes a file that was only read.
MAKES, READS = ("EIO", "EROFS", *FULL), ("EIO",)

#: What `fault` says where threads have taken turns in another order, so that a call was not made.
UNREACHED = "not reached"

#: Versions of packages take their time to find, and do not change.
VERSION = functools.cache(fingerprint.version)


@dataclass(frozen=True)
class Point:
    """A call of a run, and the error that it gives. path: relative to the folder of the case; number: of the calls of
    this name about this path.
    """

    kind: str
    name: str
    path: str
    number: int
    error: str

    def __str__(self) -> str:
        return f"{self.error} at {self.name} {self.number} of {self.path}"


@dataclass(frozen=True)
class Case:
    """A target, with or without an old output. folder: holds the source and all that the runs write; verify: with
    --verify.
    """

    target: Target
    source: Path
    folder: Path
    force: bool
    verify: bool = False

    @property
    def place(self) -> Path:
        """Where the run of a point writes."""
        return self.folder / "run"

    def prepare(self) -> None:
        """Make the output without a fault, and the old one."""
        self.target.run(self.source, self.folder / "good")
        (self.folder / "before").mkdir()
        if self.force:
            self.target.run_old(self.source, self.folder / "before")

    @cached_property
    def good(self) -> dict[str, bytes]:
        return self.target.files(self.folder / "good")

    @cached_property
    def old(self) -> dict[str, bytes]:
        return self.target.files(self.folder / "before")

    def afresh(self) -> None:
        shutil.rmtree(self.place, ignore_errors=True)
        shutil.copytree(self.folder / "before", self.place)

    def convert(self, **options: Any) -> None:
        """The command `quant convert`, but for the reading of its line."""
        given = {key: str(value) if key == "shard_size" else value for key, value in self.target.options.items()}
        context: Any = SimpleNamespace(meta={ORDER: []})
        output = self.place / self.target.name
        command.convert(
            context, str(self.source), output, **given, **options, verify=self.verify, threads=1, quiet=True
        )

    def conversion(self, point: Point | None, **options: Any) -> tuple[int, str, bool]:
        """Exit code, stderr (with a traceback where there is one), and whether the fault has come, of a conversion in a
        child.
        """
        told = self.folder / "told"

        def work() -> None:
            injection = _Injection(point, self.folder)
            with pytest.MonkeyPatch.context() as patch:
                at_once(patch)
                patch.setattr(fingerprint, "version", VERSION)
                if point is not None:
                    intercepted(patch, injection)
                code, err = ended(partial(self.convert, **options))
            told.write_text(json.dumps([code, err, injection.is_hit]))

        told.unlink(missing_ok=True)
        assert status_of(forked(work)) == 0
        code, err, is_hit = json.loads(told.read_text())
        return code, err, is_hit

    def points(self) -> list[Point]:
        """What may fail in an undisturbed run. With an old output, those calls are left out by which the source is read
        before anything is written: they are the same without one.
        """
        self.afresh()
        calls: list[_Seen] = []
        writable: set[str] = set()

        def noting(call: Call) -> Any:
            if call.kind == "open" and call.flags & (os.O_WRONLY | os.O_RDWR):
                writable.add(call.path)
            is_change = call.is_change or (call.kind == "close" and call.path in writable)
            calls.append(_Seen(call, relative(call, self.folder), is_change, _site()))
            return call.carry_out()

        with pytest.MonkeyPatch.context() as patch:
            at_once(patch)
            intercepted(patch, noting)
            code, err = ended(partial(self.convert, force=self.force))
        assert code == 0, err
        assert self.target.files(self.place) == self.good
        return list(self._points(calls))

    def _points(self, calls: Sequence[_Seen]) -> Iterator[Point]:
        numbers: Counter[tuple[str, str]] = Counter()
        first = next(i for i, seen in enumerate(calls) if seen.is_change)
        lasts = {seen.key: i for i, seen in enumerate(calls)}
        firsts = {seen.key: i for i, seen in reversed([*enumerate(calls)])}
        chosen = {*firsts.values(), *lasts.values()}
        for i, seen in enumerate(calls):
            if seen.path is None:
                continue
            call, key = seen.call, (seen.call.name, seen.path)
            numbers[key] += 1
            is_known = self.force and i < first and Path(call.path).is_relative_to(self.source)
            if is_known or not (seen.is_change or i in chosen):
                continue
            for error in seen.errors:
                yield Point(call.kind, call.name, seen.path, numbers[key], error)

    def fault(self, point: Point) -> str | None:
        """What is wrong when the call of a point fails."""
        self.afresh()
        code, err, is_hit = self.conversion(point, force=self.force)
        if code == 0:
            return self._fault_without_error(point, is_hit)
        work_folder = self.target.partial(self.place)
        wrong = _fault_of_message(point, code, err, self.folder) or self._fault_of_files()
        if wrong:
            return wrong
        resumes = "--resume" in err or has_begun(work_folder) or self.target.files(self.place) == self.good
        code, again, _ = self.conversion(None, resume=resumes, force=self.force and not resumes)
        if code or self.target.files(self.place) != self.good or work_folder.exists():
            return f"{'--resume' if resumes else 'again'}: exit {code}: {again}; before: {err}"
        return None

    def _fault_without_error(self, point: Point, is_hit: bool) -> str | None:
        if self.target.files(self.place) != self.good:
            return "exit 0, and the output is not what it has to be"
        if self.target.partial(self.place).exists():
            return "exit 0, and the work folder is there"
        if not is_hit:
            return UNREACHED
        return None if point.error == SHORT else "exit 0"

    def _fault_of_files(self) -> str | None:
        """Whether neither output is complete; of the old one, some files may be away in the work folder."""
        found = self.target.files(self.place)
        kept = self.target.partial(self.place) / "replaced"
        away = {name: kept / name.removeprefix(f"{self.target.name}{os.sep}") for name in self.old}
        is_old = all(
            data == found.get(name) or (away[name].is_file() and away[name].read_bytes() == data)
            for name, data in self.old.items()
        )
        is_new = all(data == found.get(name) for name, data in self.good.items())
        return None if is_old or is_new else f"neither output is complete: {sorted(found)}"


@dataclass(frozen=True)
class _Seen:
    """A call of an undisturbed run. site: the lines of the package that it comes from."""

    call: Call
    path: str | None
    is_change: bool
    site: tuple[tuple[str, int], ...]

    @property
    def key(self) -> tuple[object, ...]:
        return self.call.name, self.site

    @property
    def errors(self) -> tuple[str, ...]:
        if self.call.kind == "open" and self.is_change:
            return MAKES
        return READS if self.call.kind == "close" and not self.is_change else ERRORS[self.call.kind]


def _site() -> tuple[tuple[str, int], ...]:
    lines = ((frame.f_code.co_filename, line) for frame, line in traceback.walk_stack(None))
    return tuple(line for line in lines if f"{os.sep}quantcli{os.sep}" in line[0])


def ended(work: Callable[[], None]) -> tuple[int, str]:
    """Exit code and stderr of a command, with a traceback where there is one."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8") for _ in range(2))
    code = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            work()
        except typer.Exit as end:
            code = end.exit_code
        except BaseException:
            traceback.print_exc()
            code = 1
    err.seek(0)
    return code, err.read()


def has_begun(work_folder: Path) -> bool:
    """Whether the journal of a work folder says what it is that was begun."""
    journal = work_folder / JOURNAL
    return journal.exists() and parsed(journal.read_bytes(), 0).fingerprint is not None


class _Injection:
    """Carries calls out, but for the one that fails; of EROFS, but for every change from that on."""

    def __init__(self, point: Point | None, folder: Path) -> None:
        self.point, self.folder = point, folder
        self.left = point.number if point else 0
        self.is_hit = False

    def __call__(self, call: Call) -> Any:
        point = self.point
        assert point is not None
        if self.is_hit:
            return self._fail(call, point) if point.error == "EROFS" and call.is_change else call.carry_out()
        if call.name != point.name or relative(call, self.folder) != point.path:
            return call.carry_out()
        self.left -= 1
        if self.left:
            return call.carry_out()
        self.is_hit = True
        if call.name in ("write", "pwrite") and point.error in (SHORT, *FULL):
            descriptor, data, *offset = call.arguments
            written = call.real(descriptor, memoryview(data)[: (len(data) + 1) // 2], *offset)
            if point.error == SHORT:
                return written
        elif point.error == SHORT:
            return call.carry_out()
        if call.kind == "close":
            call.carry_out()  # Linux closes a descriptor whatever close says
        return self._fail(call, point)

    def _fail(self, call: Call, point: Point) -> None:
        """Raise what `os` raises: with a path only where it was called with one."""
        number = getattr(errno, point.error)
        first = call.arguments[0] if call.arguments else None
        names = () if first is None or isinstance(first, int) else (os.fsdecode(first),)
        raise OSError(number, os.strerror(number), *names)


def relative(call: Call, folder: Path) -> str | None:
    """The path of a call in a folder; None of one that is elsewhere."""
    for path in (call.path, call.other):
        if path and Path(path).is_relative_to(folder):
            return str(Path(path).relative_to(folder))
    return None


def _fault_of_message(point: Point, code: int, err: str, folder: Path) -> str | None:
    lines = [line for line in err.splitlines() if not line.startswith("warning: ")]
    if code != 5 or len(lines) != 1:
        return f"exit {code}: {err}"
    if str(folder) not in err:
        return f"no path: {err}"
    words = re.escape(os.strerror(getattr(errno, point.error)))
    return None if re.search(rf"{words}\)?[.;:] \w.*\.$", err.strip()) else f"no error and way out: {err}"
