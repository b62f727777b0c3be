"""Where an output grows: `OUTPUT.partial` beside it, on the same file system.

    OUTPUT.partial/.journal       what is done (journal.py); also the lock: a second run cannot have it
    OUTPUT.partial/output/        the folder that becomes OUTPUT, or the file or files that get names beside it; all at
                                  their full size from the start
    OUTPUT.partial/replaced       an old output that has given up its name: the folder, or a folder of files
    OUTPUT.partial/report.json    the report; of a folder a second name of it, else until it is moved beside the file

The journal is made first and removed last: a folder without one is somebody else's, and is not touched. Everything is
opened without following links, and has to be a regular file or folder of this user (guarded.py).

A process may die at any moment. The next run's `claim` cuts off a torn or damaged line with all behind it, whose steps
are done again; what died while it published is put right by publishing.py. An output that was published under --verify
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
        self.is_folder = self.places.is_folder
        self.partial, self.grown = self.places.partial, self.places.grown
        self._destination = Destination(self.places, sources, named)
        self.unfinished: str | None = None
        self._journal: Journal | None = None
        self._files = OpenFiles(self.partial)
        self._replaces = False
        self._made: list[Path] = []

    def claim(self, fingerprint: str, steps: int, *, resume: bool, force: bool) -> dict[int, Error]:
        """Make or take over the partial output; the finished ones of so many steps. Raises `Surroundings`."""
        with surroundings(self.partial, "mend that and run again"):
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
        """Make the folder, or see that it is ours; lock it. What its journal says of so many steps."""
        names = self._make_folder()
        guarded.check(self.partial, self.partial.lstat(), self.partial)
        self._lock(is_new=JOURNAL not in names)
        begun = self._held().read(steps, alone=names <= {JOURNAL})
        if begun is None:
            raise self._not_ours("its journal is not one of this version of quant")
        for name in sorted(names & {GROWN, REPORT}):
            guarded.check_tree(self.partial / name, self.partial)
        return begun

    def _make_folder(self) -> set[str]:
        """The names in the work folder, which is made where it is not there."""
        if self.partial.is_symlink() or (self.partial.exists() and not self.partial.is_dir()):
            raise Surroundings(f"{self.partial}: is no folder, and the output has to grow there; remove it.")
        self._made = [folder for folder in self.partial.parents if not folder.exists()]
        self.partial.mkdir(parents=True, exist_ok=True)
        for folder in (self.partial, *self._made):
            sync(folder.parent)
        names = {path.name for path in self.partial.iterdir()}
        if strange := sorted(names - {JOURNAL, GROWN, REPLACED, REPORT}):
            raise Surroundings(f"{self.partial}: holds {strange[0]}, so it is no unfinished run; move it away.")
        if names and JOURNAL not in names:
            raise self._not_ours("it has no journal")
        return names

    def _not_ours(self, reason: str) -> Surroundings:
        return Surroundings(
            f"{self.partial}: is not an unfinished output of quant ({reason}), and an output would grow there. "
            "Move it away, or choose another OUTPUT."
        )

    def _lock(self, *, is_new: bool) -> None:
        """Open and lock the journal; is_new: there is none yet."""
        try:
            busy = f"{self.output}: another run is writing it; wait for it, or choose another output."
            self._journal = Journal.locked(self.partial, busy)
        except NoLocks:
            if is_new:
                self.discard()
            raise

    def _held(self) -> Journal:
        assert self._journal is not None, "claim comes first"
        return self._journal

    def _recovered(self, begun: Begun) -> Begun:
        """Put right what a process left that died while it published; what is still begun then."""
        # The names are those of the run that died, which may have cut its output otherwise.
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
        """Where an output file is once it is published."""
        return self.output / name if self.is_folder else self.places.final(name)

    @property
    def published(self) -> Path:
        """What a reader opens of the published output: the folder, the file, the first part."""
        return self.output if self.is_folder else self.places.final(self.parts[0])

    def _refuse_other(self, begun: Begun, fingerprint: str, *, resume: bool, force: bool) -> None:
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
        self._held().begin(fingerprint, self._replaces, self.parts)
        sync(self.partial)  # never is anything here without a journal that says whose it is
        self.grown.mkdir()
        sync(self.partial)

    def _clear(self) -> None:
        """Remove everything but the journal, first what says that an output is being published."""
        for path in (self.places.staged, self.places.replaced, self.grown):
            if is_there(path):
                guarded.remove(self.partial, path.name)
        sync(self.partial)

    def path(self, name: str) -> Path:
        """Where an output file grows."""
        return self.grown / name

    @property
    def opened(self) -> Path:
        """What a reader opens of the growing output: the folder, the file, the first part."""
        return self.grown if self.is_folder else self.grown / self.parts[0]

    def create(self, name: str, size: int) -> bool:
        """Make an output file at its full size, holes where nothing is written yet; whether it was there already."""
        with surroundings(self.path(name)):
            return self._files.resize(f"{GROWN}/{name}", size)

    def write(self, name: str, offset: int, data: memoryview | bytes) -> None:
        """Put bytes at their place; any thread may."""
        view = memoryview(data)
        if view.nbytes:
            with surroundings(self.path(name)):
                self._files.write(f"{GROWN}/{name}", offset, view.cast("B"))

    def finished(self, steps: Iterable[tuple[int, Error]], names: Iterable[str]) -> None:
        """Record finished steps once what they wrote in `names` is on disk."""
        for name in names:
            self._flush(name)
        with surroundings(self.partial / JOURNAL):
            for index, error in steps:
                numbers = [error.squared, error.reference, error.largest, error.saturated]
                if is_finite(numbers):  # else the step is done again: its line would say nothing
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
        """Give the complete output its final name; what it replaces stays until `discard`, in the work folder.

        to_confirm: until `confirm` is called, the next run takes the output back.
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
                raise Taken(f"{self.output}: is there meanwhile; move it away, then --resume goes on.") from error

    def confirm(self) -> None:
        """The published output is what was verified: it stays, whatever happens from now on."""
        with surroundings(self.partial / JOURNAL):
            self._held().append({"confirmed": True})
            self._held().sync()

    def take_back(self) -> None:
        """The published output back to where it grew, what it replaced back to its name."""
        with surroundings(self.output):
            take_back(self.places)
            sync(self.partial)
            sync(self.output.parent)

    def forget(self) -> None:
        """No step counts as finished any more: --resume does all of them again."""
        with surroundings(self.partial / JOURNAL):
            self._held().append({"forgotten": True})
            self._held().sync()

    @contextlib.contextmanager
    def beside_complete(self, fingerprint: str) -> Iterator[None]:
        """The work folder, locked, while an output that stands complete is looked at; at the end it is removed."""
        with surroundings(self.partial, "mend that and run again"):
            if self._journal is None:
                self._entered(0)
            self._start_afresh(fingerprint)
        try:
            yield
        finally:
            self.discard()

    def replace_report(self, report: bytes) -> None:
        """Another report for an output that stands complete."""
        with surroundings(self.report_path):
            written(self.places, self.places.staged, report)
            os.replace(self.places.staged, self.report_path)
            sync(self.report_path.parent)

    def discard(self, way_out: str = "remove it yourself") -> None:
        """Leave nothing behind, nor folders that were made for the output and are empty; the journal goes last."""
        with surroundings(self.partial, way_out):
            self._clear()
            (self.partial / JOURNAL).unlink(missing_ok=True)
            self.partial.rmdir()
            for folder in self._made:
                if not any(folder.iterdir()):
                    folder.rmdir()
        self.close()

    def close(self) -> None:
        """Let go of the lock; what is there stays, for `--resume`."""
        journal, self._journal = self._journal, None
        with surroundings(self.partial):
            try:
                self._files.close()
            finally:
                if journal is not None:
                    journal.close()


@contextlib.contextmanager
def surroundings(
    path: Path, way_out: str = "mend that, then --resume goes on where this run stopped"
) -> Iterator[None]:
    """Turn the system's errors into one sentence that names the path."""
    try:
        yield
    except OSError as error:
        raise Surroundings(f"{path}: {error.strerror or error}; {way_out}.") from error
