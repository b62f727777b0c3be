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

#: Bytes needed on the output's disk in addition to the output: for journal, report and folders.
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
    """Run a plan and return the report. check: read the output back and compare it with the plan (`--verify`).

    Bad input and impossible requests leave nothing behind; errors of the surroundings, a failed verification and an
    interruption leave `OUTPUT.partial`. An incomplete output never has its final name. With `resume`, an output that
    the same plan has already completed is left unchanged; with `check`, it is verified. Raises `QuantError`.
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
            place.discard("The output is complete, and --resume removes this folder")
        except QuantError as error:
            run_of.leave(error)
            raise
        except MemoryError as error:
            raise Surroundings(
                f"{place.output}: not enough memory. Use --resume with a lower --max-memory or fewer --threads."
            ) from error
    return report


def _on_its_device(plan: Plan, place: Workplace, other: BegunOtherwise) -> Surroundings:
    """Return the error for an unfinished run with another fingerprint, which may only have another device."""
    word = begun_on(plan, other.fingerprint)
    if word is None:
        return other
    if word != "cpu" and not has_gpu():
        return Surroundings(
            f"{place.partial}: contains a run that was started on a GPU, but MLX finds none on this machine. Use "
            "--force to start again on the CPU."
        )
    return Surroundings(
        f"{place.partial}: contains a run that was started on another device. Use --resume --device {word} to "
        "continue it, or --force to start again."
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
        """Write, seal, hash and verify the output; return the report."""
        _check_space(self.plan, self.place, begun=bool(done))
        errors = run.write(self.plan, self.place, done, self.resources, progress)
        self.place.seal(file.name for file in self.plan.files)
        return self._reported(errors, self.place.opened, self.place.path)

    def _reported(self, errors: dict[int, Error], opened: Path, path_of: Callable[[str], Path]) -> dict[str, Any]:
        """Return the report of an output whose files are at `path_of(name)`; with `check`, verify it first."""
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
        """Read the published output once more; if it is not what was verified, put the old output back."""
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
        """Return the report of an output that the same run has completed, None if there is none.

        With `check`, verify the output first.
        """
        files = {self.place.final(file.name): file.size for file in self.plan.files}
        with surroundings(self.place.output, "Check the disk and run again"):
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
        """Clean up after a failure: discard what cannot be done; a changed source explains any failure.

        After a failed verification, --resume does all steps again.
        """
        if isinstance(error, VerificationFailed):
            self.place.forget()
        self.sources.check()
        if isinstance(error, BadInput | NotPossible):
            self.place.discard()


def _check_space(plan: Plan, place: Workplace, begun: bool) -> None:
    """Raise `Surroundings` if the output, or the rest of a resumed one, cannot fit on the disk."""
    with surroundings(place.partial):
        free = shutil.disk_usage(place.partial).free
        used = sum(path.stat().st_blocks * 512 for path in place.partial.rglob("*") if path.is_file())
    need = max(0, plan.nbytes - used) + SPARE_BYTES
    if need <= free:
        return
    if not begun:
        place.discard()
    raise Surroundings(
        f"{place.output.parent}: the disk has {free} bytes free; the output needs {need}. Free some space."
    )


def _check_downloads(hashes: Mapping[Path, str]) -> None:
    """Raise `BadInput` if a file in the Hub's cache does not have the hash that the Hub gave."""
    for path, sha256 in hashes.items():
        if cached_sha256(path) not in (None, sha256):
            raise BadInput(f"{path}: is damaged: its SHA-256 is {sha256}, not the one from the Hub. Download it again.")
