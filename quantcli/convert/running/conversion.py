"""One conversion from plan to published output: claim, write, hash, verify, check the source again, rename."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantcli.arrays import has_gpu
from quantcli.convert.planning.named_files import named_files
from quantcli.convert.planning.stamps import check_unchanged
from quantcli.convert.planning.steps import Plan
from quantcli.convert.running import report as reports
from quantcli.convert.running import run, verify
from quantcli.convert.running.destination import Taken
from quantcli.convert.running.fingerprint import begun_on, fingerprint
from quantcli.convert.running.hashing import sha256_of
from quantcli.convert.running.interrupt import stoppable
from quantcli.convert.running.run import Progress, Resources
from quantcli.convert.running.workplace import BegunOtherwise, Workplace, surroundings
from quantcli.errors import BadInput, NotPossible, QuantError, Surroundings
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
    output that the same plan has completed already is left as it is, and its report is given.
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
    key = fingerprint(plan)
    with stoppable() as ignore_signals, contextlib.closing(place):
        try:
            done = place.claim(key, resume=resume, force=force)
        except Taken:
            complete = reports.of_complete(place.report_path, plan, key) if resume else None
            if complete is None or (check and not complete.get("verified")):
                raise
            return complete
        except BegunOtherwise as other:
            raise _on_its_device(plan, place, other) from None
        try:
            report = _carry_out(plan, resources, progress, place, done, check) | {"fingerprint": key}
            ignore_signals()
            place.publish(reports.as_bytes(report))
        except QuantError as error:
            _leave(plan, place, error)
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


def _carry_out(
    plan: Plan, resources: Resources, progress: Progress, place: Workplace, done: dict[int, Error], check: bool
) -> dict[str, Any]:
    """Everything but the rename; the report."""
    _check_space(plan, place, begun=bool(done))
    errors = run.write(plan, place, done, resources, progress)
    place.seal(file.name for file in plan.files)
    hashes = sha256_of((place.path(file.name) for file in plan.files), resources.threads)
    named = {file.name: hashes[place.path(file.name)] for file in plan.files}
    sources: dict[Path, str] | None = None
    readers: tuple[Opened, ...] = ()
    if check:
        from quantcli.convert.running import reference_readers

        verify.check(plan, place.opened, errors, resources)
        readers = reference_readers.check(plan, place.path)
        sources = sha256_of((stamp.path for stamp in plan.stamps), resources.threads)
        _check_downloads(sources)
    check_unchanged(plan.stamps)
    return reports.report(plan, errors, named, sources, readers)


def _leave(plan: Plan, place: Workplace, error: QuantError) -> None:
    """After a failure: nothing stays of what cannot be done; a source that changed meanwhile explains any failure."""
    check_unchanged(plan.stamps)
    if isinstance(error, BadInput | NotPossible):
        place.discard()


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
