"""One conversion from plan to published output: claim, write, hash, verify, check the source again, rename."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantcli.arrays import has_gpu
from quantcli.convert.planning.named_files import named_files
from quantcli.convert.planning.steps import Plan
from quantcli.convert.running import complete, run, verify
from quantcli.convert.running import report as reports
from quantcli.convert.running.confirm import check_published
from quantcli.convert.running.destination import Taken
from quantcli.convert.running.fingerprint import begun_on, fingerprint
from quantcli.convert.running.hashing import sha256_of
from quantcli.convert.running.held_sources import HeldSources
from quantcli.convert.running.interrupt import stoppable
from quantcli.convert.running.run import Progress, Resources
from quantcli.convert.running.workplace import BegunOtherwise, Workplace, surroundings
from quantcli.errors import BadInput, NotPossible, QuantError, Surroundings, VerificationFailed
from quantcli.schemes.base import Error
from quantcli.sources.hub import cached_sha256
from quantcli.targets import TARGETS

if TYPE_CHECKING:
    from quantcli.convert.running.reference_readers import Opened

#: Left free on the output's disk beside the output itself: journal, report, folders.
SPARE_BYTES = 1 << 20


def convert(
    plan: Plan,
    resources: Resources,
    progress: Progress,
    *,
    resume: bool = False,
    force: bool = False,
    check: bool = False,
) -> dict[str, Any]:
    """Carry out a plan; the report. check: read the output back and hold it to the plan, in our own readers and
    in the formats' reference readers (`--verify`).

    Bad input and impossible requests leave nothing behind; trouble with the surroundings, a failed verification and an
    interruption leave `OUTPUT.partial`. The output has its final name only once it is complete. With `resume`, an
    output that the same plan has completed already is left as it is; with `check`, it is verified.
    """
    is_folder = TARGETS[plan.request.target]().is_folder
    parts = () if is_folder else [file.name for file in plan.files]
    place = Workplace(
        plan.request.output,
        reports.report_path(plan.request.output, is_folder),
        parts,
        plan.source.files,
        named_files(plan.source, plan.request, (stamp.path for stamp in plan.stamps)),
    )
    with (
        stoppable() as ignore_signals,
        contextlib.closing(place),
        contextlib.closing(HeldSources(plan.stamps)) as sources,
    ):
        key = fingerprint(plan)
        run_of = _Run(plan, place, sources, resources, key, check)
        try:
            done = place.claim(key, len(plan.steps), resume=resume, force=force)
        except Taken:
            report = run_of.of_complete() if resume else None
            if report is None:
                raise
            return report
        except BegunOtherwise as other:
            raise _on_its_device(plan, place, other) from None
        try:
            report = run_of.carried_out(progress, done)
            ignore_signals(True)
            place.publish(reports.as_bytes(report), to_confirm=check)
            if check:
                run_of.confirm(report, ignore_signals)
            place.discard("the output is complete, and --resume removes this folder")
        except QuantError as error:
            run_of.leave(error)
            raise
        except MemoryError as error:
            raise Surroundings(
                f"{place.output}: not enough memory; --resume with a lower --max-memory or fewer --threads goes on."
            ) from error
    return report


def _on_its_device(plan: Plan, place: Workplace, other: BegunOtherwise) -> Surroundings:
    """What to say of an unfinished run of another fingerprint: which device it was begun on, if that is all."""
    word = begun_on(plan, other.fingerprint)
    if word is None:
        return other
    if word != "cpu" and not has_gpu():
        return Surroundings(
            f"{place.partial}: was begun on a GPU, and MLX does not see one here. --force starts afresh on the CPU."
        )
    return Surroundings(
        f"{place.partial}: was begun on another device. --resume --device {word} goes on with it, "
        "--force starts afresh."
    )


@dataclass(frozen=True)
class _Run:
    """What the stages of one conversion share."""

    plan: Plan
    place: Workplace
    sources: HeldSources
    resources: Resources
    fingerprint: str
    check: bool

    def carried_out(self, progress: Progress, done: dict[int, Error]) -> dict[str, Any]:
        """Everything but the rename; the report."""
        _check_space(self.plan, self.place, begun=bool(done))
        errors = run.write(self.plan, self.place, done, self.resources, progress)
        self.place.seal(file.name for file in self.plan.files)
        return self._reported(errors, self.place.opened, self.place.path)

    def _reported(self, errors: dict[int, Error], opened: Path, path_of: Callable[[str], Path]) -> dict[str, Any]:
        """The report of an output whose files are at `path_of(name)`, with `check` verified first."""
        paths = {file.name: path_of(file.name) for file in self.plan.files}
        hashes = sha256_of(paths.values(), self.resources.threads, from_disk=self.check)
        sources: dict[Path, str] | None = None
        readers: tuple[Opened, ...] = ()
        if self.check:
            from quantcli.convert.running import reference_readers

            verify.check(self.plan, opened, errors, self.resources)
            readers = reference_readers.check(self.plan, path_of)
            sources = sha256_of((stamp.path for stamp in self.plan.stamps), self.resources.threads)
            _check_downloads(sources)
        self.sources.check()
        self.sources.close()
        named = {name: hashes[path] for name, path in paths.items()}
        report = reports.report(self.plan, errors, named, sources, readers)
        return report | {"fingerprint": self.fingerprint}

    def confirm(self, report: dict[str, Any], ignore_signals: Callable[[bool], None]) -> None:
        """Read what was published once more; where it is not what was verified, the old output comes back."""
        verified = {self.place.final(file["name"]): file["sha256"] for file in report["files"]}
        verified[self.place.report_path] = hashlib.sha256(reports.as_bytes(report)).hexdigest()
        try:
            ignore_signals(False)
            check_published(verified, self.resources.threads)
        except BaseException:
            ignore_signals(True)
            self.place.take_back()
            raise
        ignore_signals(True)
        self.place.confirm()

    def of_complete(self) -> dict[str, Any] | None:
        """The report of an output that such a run has completed, with `check` verified now; None without one."""
        files = {self.place.final(file.name): file.size for file in self.plan.files}
        with surroundings(self.place.output, "check the disk and run again"):
            report = complete.report_of(self.place.report_path, files, self.fingerprint)
        errors = complete.errors_of(report, self.plan) if report is not None else None
        if report is None or errors is None or self.place.unfinished not in (None, self.fingerprint):
            return None
        if not self.check:
            if self.place.unfinished is not None:
                self.place.discard()
            return complete.unread(report, self.place.output)
        with self.place.beside_complete(self.fingerprint):
            try:
                verified = self._reported(errors, self.place.published, self.place.final)
            except QuantError:
                self.sources.check()
                raise
            self.place.replace_report(reports.as_bytes(verified))
        return verified

    def leave(self, error: QuantError) -> None:
        """After a failure: nothing stays of what cannot be done; a source that changed explains any failure.

        What did not hold its promise is done again by --resume.
        """
        if isinstance(error, VerificationFailed):
            self.place.forget()
        self.sources.check()
        if isinstance(error, BadInput | NotPossible):
            self.place.discard()


def _check_space(plan: Plan, place: Workplace, begun: bool) -> None:
    """Refuse at once what cannot fit on the disk; of a resumed run, what its holes still need."""
    with surroundings(place.partial):
        free = shutil.disk_usage(place.partial).free
        used = sum(path.stat().st_blocks * 512 for path in place.partial.rglob("*") if path.is_file())
    need = max(0, plan.nbytes - used) + SPARE_BYTES
    if need <= free:
        return
    if not begun:
        place.discard()
    raise Surroundings(f"{place.output.parent}: the disk has {free} bytes free, the output needs {need}; make room.")


def _check_downloads(hashes: Mapping[Path, str]) -> None:
    """Raise `BadInput` where a file of the Hub's cache is not what the Hub gave."""
    for path, sha256 in hashes.items():
        if cached_sha256(path) not in (None, sha256):
            raise BadInput(f"{path}: has SHA-256 {sha256}, which is not the one it is named by; download it again.")
