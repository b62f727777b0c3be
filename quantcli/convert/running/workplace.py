"""Where an output grows: `OUTPUT.partial` beside it, on the same file system.

    OUTPUT.partial/.journal       what is done (journal.py); also the lock: a second run cannot have it
    OUTPUT.partial/output/        the folder that becomes OUTPUT, or the file or files that get names beside it; all at
                                  their full size from the start
    OUTPUT.partial/replaced       an old folder, between the two renames that put the new one into its place; of a split
                                  GGUF a folder of old parts, while the new ones get their names
    OUTPUT.partial/report.json    a GGUF file's report, until it is moved beside the file

The journal is made first and removed last: a folder without one is somebody else's, and is not touched. Everything is
opened without following links, and has to be a regular file or folder of this user (guarded.py).

OUTPUT appears by one rename, when all of it is on disk. The parts of a split GGUF get their names from the last to the
first, and an old part 1 goes before any of them: as long as there is no part 1, no loader takes what is there for a
model. A process may die at any moment; the next run's `claim` then finds one of these, and none of them is a half-made
OUTPUT:

    a torn or damaged line            is cut off with all behind it, their steps are done again
    `replaced` and no OUTPUT          died between the two renames: the old folder is put back, --resume renames again
    a last line and some parts moved  died between parts: they go back into `output`, old ones to their names
    published, but not confirmed      under --verify: the new output goes back into `output`, the old one to its name
    published, or `replaced` and nothing in `output`
                                      died while it tidied: what is left is removed
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from quantcli.convert.running import guarded
from quantcli.convert.running.journal import Begun, Journal, NoLocks, is_finite
from quantcli.convert.running.old_output import is_report, old_parts, old_report, strange, written_files
from quantcli.convert.running.open_files import OpenFiles
from quantcli.errors import Surroundings
from quantcli.schemes.base import Error
from quantcli.sources.unfinished import JOURNAL, SUFFIX

GROWN, REPLACED, REPORT = "output", "replaced", "report.json"


class Taken(Surroundings):
    """Something stands under the output's name."""


class BegunOtherwise(Surroundings):
    """An unfinished run is there that is to be resumed, and has another fingerprint."""

    def __init__(self, message: str, fingerprint: str) -> None:
        super().__init__(message)
        self.fingerprint = fingerprint


class Workplace:
    """The growing output of one run; `claim` comes first, `close` last.

    parts: names of the files that the output is, beside each other, the first the one that is opened; none: a folder.
    sources: files that stay, whatever an older report says of them.
    """

    def __init__(
        self, output: Path, report_path: Path, parts: Sequence[str] = (), sources: Iterable[Path] = ()
    ) -> None:
        self.output, self.report_path, self.parts = output, report_path, tuple(parts)
        self.sources = {path.resolve() for path in sources}
        self.is_folder = not parts
        self.partial = output.with_name(f"{output.name}{SUFFIX}")
        self.grown = self.partial / GROWN
        self.unfinished: str | None = None
        self._journal: Journal | None = None
        self._files = OpenFiles(self.partial)
        self._replaces = False
        self._made: list[Path] = []

    def claim(self, fingerprint: str, steps: int, *, resume: bool, force: bool) -> dict[int, Error]:
        """Make or take over the partial output; the finished ones of so many steps. Raises `Surroundings`."""
        with surroundings(self.partial, "mend that and run again"):
            begun = self._recovered(self._entered(steps))
            self.unfinished = begun.fingerprint
            self._replaces = force or (resume and begun.replaces)
            try:
                self._refuse_taken()
                self._refuse_other(begun, fingerprint, resume=resume, force=force)
            except Surroundings:
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
        if begun.to_confirm and not begun.confirmed:
            self._unpublish(begun.parts)
            return begun
        if self.is_folder:
            is_published = not self.grown.exists()
            is_complete = begun.complete or os.path.lexists(self.partial / REPLACED)
            self._put_back(self.partial / REPLACED, self.output, may_stand=is_published)
        else:
            # The names are those of the run that died, which may have cut its output otherwise.
            moved = [name for name in begun.parts if not (self.grown / name).exists() and self._final(name).exists()]
            is_published = not any((self.grown / name).exists() for name in begun.parts)
            is_complete = begun.complete or (bool(moved) and (self.partial / REPORT).exists())
            if is_complete and not is_published:
                self._unpublish(begun.parts)
        if not is_complete or not is_published:
            return begun
        if (self.partial / REPORT).exists() and all(
            self._final(n).exists() for n in begun.parts or (self.output.name,)
        ):
            os.replace(self.partial / REPORT, self.report_path)
        self._clear()
        return Begun()

    def _put_back(self, old: Path, place: Path, *, may_stand: bool = False) -> None:
        """An old output back to its name; `may_stand`: something may have this name, then the old one stays."""
        if not os.path.lexists(old):
            return
        if not os.path.lexists(place):
            os.rename(old, place)
        elif not may_stand:
            raise Surroundings(
                f"{old}: is the output that was to be replaced, but {place} is there again; move one away."
            )

    def _unpublish(self, parts: Iterable[str]) -> None:
        """What has its name already back to where it grew; then what it replaced back to its name, part 1 last."""
        old = self.partial / REPLACED
        if self.is_folder:
            if not self.grown.exists() and self.output.exists():
                os.rename(self.output, self.grown)
            self._put_back(old, self.output)
            return
        if not (self.partial / REPORT).exists() and self.report_path.exists():
            os.rename(self.report_path, self.partial / REPORT)
        for name in parts:
            if not os.path.lexists(self.grown / name) and os.path.lexists(self._final(name)):
                os.rename(self._final(name), self.grown / name)
        if old.is_dir():
            for path in sorted(old.iterdir(), reverse=True):
                self._put_back(path, self._final(path.name))

    def _final(self, name: str) -> Path:
        return self.output.with_name(name)

    def final(self, name: str) -> Path:
        """Where an output file is once it is published."""
        return self.output / name if self.is_folder else self._final(name)

    @property
    def published(self) -> Path:
        """What a reader opens of the published output: the folder, the file, the first part."""
        return self.output if self.is_folder else self._final(self.parts[0])

    def _finals(self) -> list[Path]:
        """Every name that this output takes: OUTPUT always, so that a report tells of all that it seems to; of an older
        output that it replaces all parts, however it was cut.
        """
        ask = self._replaces and not self.is_folder
        older = [p for p in old_parts(self.report_path, self.output) if p.resolve() not in self.sources] if ask else []
        return list(dict.fromkeys([*map(self._final, self.parts), self.output, *older]))

    def _refuse_taken(self) -> None:
        """Raise `Taken` where the output's names are not free, nor may be taken."""
        if self.report_path.is_dir():
            raise Taken(f"{self.report_path}: is a folder, and the report has to go there; move it away.")
        if not self.is_folder and not self._replaces and not is_report(self.report_path):
            raise Taken(f"{self.report_path}: exists and is no report of ours, but one has to go there; move it away.")
        for place in self._finals():
            if os.path.lexists(place) and not (self.is_folder and _is_empty_folder(place) and not place.is_mount()):
                self._refuse_place(place)

    def _refuse_place(self, place: Path) -> None:
        """Raise `Taken` where what stands there may not be replaced."""
        if place.is_mount():
            raise Taken(f"{place}: is a mount point, which cannot be replaced by a rename; choose a name inside it.")
        if not self._replaces:
            raise Taken(f"{place}: exists already; choose another name, or --force to replace it.")
        if place.is_dir() != self.is_folder:
            kind = "a folder" if place.is_dir() else "a file"
            raise Taken(f"{place}: is {kind}, which this output would not be; remove it yourself.")
        if self.is_folder and not (place / "config.json").is_file():
            raise Taken(f"{place}: has no config.json, so it is no model folder; --force replaces only those.")
        if self.is_folder and (odd := strange(place, written_files(old_report(self.report_path)))):
            raise Taken(f"{odd}: is no file of a model, and --force would delete it; move it away.")

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
        _sync(self.partial)  # never is anything here without a journal that says whose it is
        self.grown.mkdir()
        _sync(self.partial)

    def _clear(self) -> None:
        """Remove everything but the journal."""
        for path in self.partial.iterdir():
            if path.name != JOURNAL:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        _sync(self.partial)

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
                _sync(folder)
            _sync(self.partial)

    def publish(self, report: bytes, *, to_confirm: bool = False) -> None:
        """Give the complete output its final name; what it replaces stays until `discard`, in the work folder.

        to_confirm: until `confirm` is called, the next run takes the output back.
        """
        with surroundings(self.output):
            self._refuse_taken()
        staged = self.grown / self.report_path.name if self.is_folder else self.partial / REPORT
        with surroundings(self.output):
            self._stage(staged, report)
            guarded.check_tree(self.grown, self.partial)
            self._held().append({"complete": True, "to_confirm": to_confirm})
            self._held().sync()
            self._rename() if self.is_folder else self._rename_files(staged, keep=to_confirm)
            _sync(self.output.parent)

    def _stage(self, path: Path, data: bytes) -> None:
        """Write a file in the work folder, and bring it and its name to disk."""
        name = str(path.relative_to(self.partial))
        descriptor = guarded.open_file(self.partial, name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        with open(descriptor, "wb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        _sync(path.parent)

    def confirm(self) -> None:
        """The published output is what was verified: it stays, whatever happens from now on."""
        with surroundings(self.partial / JOURNAL):
            self._held().append({"confirmed": True})
            self._held().sync()

    def take_back(self) -> None:
        """The published output back to where it grew, what it replaced back to its name."""
        with surroundings(self.output):
            self._unpublish(self.parts)
            _sync(self.partial)
            _sync(self.output.parent)

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
        staged = self.grown / REPORT
        with surroundings(self.report_path):
            self._stage(staged, report)
            os.replace(staged, self.report_path)
            _sync(self.report_path.parent)

    def _rename(self) -> None:
        if os.path.lexists(self.output) and not _is_empty_folder(self.output):
            os.rename(self.output, self.partial / REPLACED)
        os.rename(self.grown, self.output)

    def _rename_files(self, report: Path, *, keep: bool) -> None:
        """No report ever stands beside a file that it does not describe. keep: what is replaced, even one file."""
        first, *others = self.parts
        if keep or len(self._finals()) > 1:
            self._put_away()
        self.report_path.unlink(missing_ok=True)
        for name in reversed(others):
            os.replace(self.grown / name, self._final(name))
        if others:
            _sync(self.output.parent)
        os.replace(self.grown / first, self._final(first))
        os.replace(report, self.report_path)

    def _put_away(self) -> None:
        """The old report, old parts, 1 first, so that old and new ones are never taken for one model."""
        (self.partial / REPLACED).mkdir(exist_ok=True)
        for place in (self.report_path, *self._finals()):
            if os.path.lexists(place):
                os.rename(place, self.partial / REPLACED / place.name)
        _sync(self.output.parent)

    def discard(self) -> None:
        """Leave nothing behind, nor folders that were made for the output and are empty; the journal goes last."""
        with surroundings(self.partial, "remove it yourself"):
            self._clear()
            (self.partial / JOURNAL).unlink(missing_ok=True)
            self.partial.rmdir()
            for folder in self._made:
                if not any(folder.iterdir()):
                    folder.rmdir()
        self.close()

    def close(self) -> None:
        """Let go of the lock; what is there stays, for `--resume`."""
        self._files.close()
        if self._journal is not None:
            self._journal.close()
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


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink() and not any(path.iterdir())


@contextlib.contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    """Open for one piece of work: an output may have more shards than a process may have files open."""
    descriptor = os.open(path, flags, 0o644)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _sync(folder: Path) -> None:
    with _opened(folder, os.O_RDONLY) as descriptor:
        os.fsync(descriptor)
