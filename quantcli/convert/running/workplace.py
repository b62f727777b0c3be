"""The work folder of an unfinished output: `OUTPUT.partial` next to it, on the same file system.

    OUTPUT.partial/.journal       the finished steps (journal.py); also the lock that keeps a second run out
    OUTPUT.partial/output/        the folder that becomes OUTPUT, or the files that get names next to it; all have their
                                  full size from the start
    OUTPUT.partial/replaced       an old output that has lost its name: the folder, or a folder of its files
    OUTPUT.partial/report.json    the report: of a folder, its second name; otherwise until it is moved next to the file

The journal is created first and removed last: a folder without one was not made by quant, and is not touched.
Everything is opened without following links, and must be a regular file or folder of this user (guarded.py).

A process may die at any moment. The next run's `claim` removes a torn or damaged line and all lines after it, whose
steps are done again; publishing.py recovers from a crash while publishing. An output that was published under --verify
and not confirmed is taken back first.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from quantcli.containers.entries import is_there
from quantcli.convert.running import guarded
from quantcli.convert.running.destination import Destination, Taken
from quantcli.convert.running.journal import Begun, Journal, NoLocks, is_finite
from quantcli.convert.running.open_files import OpenFiles
from quantcli.convert.running.places import GROWN, REPLACED, REPORT, Places, sync
from quantcli.convert.running.publishing import is_publishing, publish, recovered, stage, take_back, written
from quantcli.errors import Surroundings, WrongUsage
from quantcli.schemes.base import Error
from quantcli.sources.unfinished import JOURNAL


class BegunOtherwise(Surroundings):
    """The unfinished run that should be resumed has another fingerprint."""

    def __init__(self, message: str, fingerprint: str) -> None:
        super().__init__(message)
        self.fingerprint = fingerprint


class Workplace:
    """The unfinished output of one run; call `claim` first, `close` last.

    parts: names of the output's files in one folder, the first is the one that readers open; empty for a folder.
    sources: the files of SOURCE, which are never replaced, whatever an older report lists. named: every path that the
    options name.
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
        self.is_folder = self.places.is_folder
        self.partial, self.grown = self.places.partial, self.places.grown
        self._destination = Destination(self.places, sources, named)
        self.unfinished: str | None = None
        self._journal: Journal | None = None
        self._files = OpenFiles(self.partial)
        self._replaces = False
        self._made: list[Path] = []

    def claim(self, fingerprint: str, steps: int, *, resume: bool, force: bool) -> dict[int, Error]:
        """Create or take over the work folder; return the finished ones of that many steps. Raises `Surroundings`."""
        with surroundings(self.partial, "Check the disk and the permissions, then run the command again"):
            self._destination.refuse_loss(WrongUsage, deep=False)
            self._destination.refuse_loss_of_work()
            begun = self._recovered(self._entered(steps))
            self.unfinished = begun.fingerprint
            self._replaces = force or (resume and begun.replaces)
            try:
                self._destination.refuse(WrongUsage, replaces=self._replaces)
                self._refuse_other(begun, fingerprint, resume=resume, force=force)
            except (Surroundings, WrongUsage):
                if begun.fingerprint is None:
                    self.discard()
                raise
            if resume and begun.length:
                self._held().go_on(begun)
                return begun.done
            self._start_afresh(fingerprint)
            return {}

    def _entered(self, steps: int) -> Begun:
        """Create the folder, or check that it is quant's; lock it, and read its journal for that many steps."""
        names = self._make_folder()
        guarded.check(self.partial, self.partial.lstat(), self.partial)
        self._lock(is_new=JOURNAL not in names)
        begun = self._held().read(steps, alone=names <= {JOURNAL})
        if begun is None:
            raise self._not_ours("its journal is not from this version of quant")
        for name in sorted(names & {GROWN, REPORT}):
            guarded.check_tree(self.partial / name, self.partial)
        return begun

    def _make_folder(self) -> set[str]:
        """Create the work folder if it is missing; return the names in it."""
        if self.partial.is_symlink() or (self.partial.exists() and not self.partial.is_dir()):
            raise Surroundings(f"{self.partial}: is not a folder. Remove it: the unfinished output is written there.")
        self._made = [folder for folder in self.partial.parents if not folder.exists()]
        self.partial.mkdir(parents=True, exist_ok=True)
        for folder in (self.partial, *self._made):
            sync(folder.parent)
        names = {path.name for path in self.partial.iterdir()}
        if strange := sorted(names - {JOURNAL, GROWN, REPLACED, REPORT}):
            raise Surroundings(f"{self.partial}: contains {strange[0]}, so it is not an unfinished run. Move it away.")
        if names and JOURNAL not in names:
            raise self._not_ours("it has no journal")
        return names

    def _not_ours(self, reason: str) -> Surroundings:
        return Surroundings(
            f"{self.partial}: is not an unfinished output of quant ({reason}), but one would be written there. Move it "
            "away, or choose another OUTPUT."
        )

    def _lock(self, *, is_new: bool) -> None:
        """Open and lock the journal. is_new: there is none yet."""
        try:
            busy = f"{self.output}: another run is writing it. Wait for that run, or choose another OUTPUT."
            self._journal = Journal.locked(self.partial, busy)
        except NoLocks:
            if is_new:
                self.discard()
            raise

    def _held(self) -> Journal:
        assert self._journal is not None, "claim comes first"
        return self._journal

    def _recovered(self, begun: Begun) -> Begun:
        """Recover from a process that died while publishing; return what is still unfinished."""
        # The names are those of the run that died, which may have split its output differently.
        places = replace(self.places, parts=begun.parts or self.parts)
        publishes = is_publishing(places)
        if not recovered(places, begun.complete):
            return begun
        if publishes and begun.to_confirm and not begun.confirmed:
            take_back(places)
            return begun
        self._clear()
        return Begun()

    def final(self, name: str) -> Path:
        """Return the path of an output file after publication."""
        return self.output / name if self.is_folder else self.places.final(name)

    @property
    def published(self) -> Path:
        """The path that readers open: the folder, the file or the first part."""
        return self.output if self.is_folder else self.places.final(self.parts[0])

    def _refuse_other(self, begun: Begun, fingerprint: str, *, resume: bool, force: bool) -> None:
        """Raise `Surroundings` for an unfinished run that must not be discarded, or is not this one."""
        if begun.fingerprint is None or force:
            return
        if not resume:
            raise Surroundings(
                f"{self.partial}: contains an unfinished run. Use --resume to continue it, or --force to start again."
            )
        if begun.fingerprint != fingerprint:
            raise BegunOtherwise(
                f"{self.partial}: contains a run of another source, other options or another version of quant. Use "
                "--resume with the same source, options and version to continue it, or --force to start again.",
                begun.fingerprint,
            )

    def _start_afresh(self, fingerprint: str) -> None:
        self._clear()
        self._held().begin(fingerprint, self._replaces, self.parts)
        sync(self.partial)  # the folder never has other files without a journal
        self.grown.mkdir()
        sync(self.partial)

    def _clear(self) -> None:
        """Remove everything but the journal; first the files that mark an output as being published."""
        for path in (self.places.staged, self.places.replaced, self.grown):
            if is_there(path):
                guarded.remove(self.partial, path.name)
        sync(self.partial)

    def path(self, name: str) -> Path:
        """Return the path of an unfinished output file."""
        return self.grown / name

    @property
    def opened(self) -> Path:
        """The path that readers of the unfinished output open: the folder, the file or the first part."""
        return self.grown if self.is_folder else self.grown / self.parts[0]

    def create(self, name: str, size: int) -> bool:
        """Give an output file its full size, with holes for data; return whether it had the size already."""
        with surroundings(self.path(name)):
            return self._files.resize(f"{GROWN}/{name}", size)

    def write(self, name: str, offset: int, data: memoryview | bytes) -> None:
        """Write bytes at an offset, from any thread."""
        view = memoryview(data)
        if view.nbytes:
            with surroundings(self.path(name)):
                self._files.write(f"{GROWN}/{name}", offset, view.cast("B"))

    def finished(self, steps: Iterable[tuple[int, Error]], names: Iterable[str]) -> None:
        """Record finished steps after flushing the files in `names` that they wrote to."""
        for name in names:
            self._flush(name)
        with surroundings(self.partial / JOURNAL):
            for index, error in steps:
                numbers = [error.squared, error.reference, error.largest, error.saturated]
                if is_finite(numbers):  # otherwise the step is done again: JSON cannot hold its error
                    self._held().append({"step": index, "error": numbers})

    def _flush(self, name: str) -> None:
        with surroundings(self.path(name)):
            self._files.sync(f"{GROWN}/{name}")

    def seal(self, names: Iterable[str]) -> None:
        """Flush every file of the output to disk, and the folders that name them."""
        for name in names:
            self._flush(name)
        with surroundings(self.grown):
            for folder in sorted({self.grown, *(path.parent for path in self.grown.rglob("*"))}):
                sync(folder)
            sync(self.partial)

    def publish(self, report: bytes, *, to_confirm: bool = False) -> None:
        """Give the complete output its final name; an old output stays in the work folder until `discard`.

        to_confirm: until `confirm` is called, the next run takes the output back. Raises `Surroundings`.
        """
        with surroundings(self.output):
            self._destination.refuse(Surroundings, replaces=self._replaces)
            old = self._destination.old_files()
            stage(self.places, report)
            guarded.check_tree(self.grown, self.partial)
            self._held().append({"complete": True, "to_confirm": to_confirm})
            self._held().sync()
            try:
                publish(self.places, old, self._destination.check_old())
            except FileExistsError as error:
                raise Taken(f"{self.output}: was created during the run. Move it, then use --resume.") from error

    def confirm(self) -> None:
        """Record that the published output is what was verified, so that later runs keep it."""
        with surroundings(self.partial / JOURNAL):
            self._held().append({"confirmed": True})
            self._held().sync()

    def take_back(self) -> None:
        """Move the published output back to the work folder, and give the old output its name."""
        with surroundings(self.output):
            take_back(self.places)
            sync(self.partial)
            sync(self.output.parent)

    def forget(self) -> None:
        """Record that no step counts as finished, so that --resume does all of them again."""
        with surroundings(self.partial / JOURNAL):
            self._held().append({"forgotten": True})
            self._held().sync()

    @contextlib.contextmanager
    def beside_complete(self, fingerprint: str) -> Iterator[None]:
        """Hold a locked work folder while a complete output is checked; remove it at the end."""
        with surroundings(self.partial, "Check the disk and the permissions, then run the command again"):
            if self._journal is None:
                self._entered(0)
            self._start_afresh(fingerprint)
        try:
            yield
        finally:
            self.discard()

    def replace_report(self, report: bytes) -> None:
        """Replace the report of a complete output."""
        with surroundings(self.report_path):
            written(self.places, self.places.staged, report)
            os.replace(self.places.staged, self.report_path)
            sync(self.report_path.parent)

    def discard(self, hint: str = "Remove it yourself") -> None:
        """Remove the work folder and empty folders that were created for the output; the journal is removed last."""
        with surroundings(self.partial, hint):
            self._clear()
            (self.partial / JOURNAL).unlink(missing_ok=True)
            self.partial.rmdir()
            for folder in self._made:
                if not any(folder.iterdir()):
                    folder.rmdir()
        self.close()

    def close(self) -> None:
        """Release the lock; the work folder stays for `--resume`."""
        journal, self._journal = self._journal, None
        with surroundings(self.partial):
            try:
                self._files.close()
            finally:
                if journal is not None:
                    journal.close()


@contextlib.contextmanager
def surroundings(path: Path, hint: str = "Fix that, then use --resume to continue") -> Iterator[None]:
    """Turn errors of the system into `Surroundings` that name the path. hint: what to do, without a full stop."""
    try:
        yield
    except OSError as error:
        raise Surroundings(f"{path}: {error.strerror or error}. {hint}.") from error
