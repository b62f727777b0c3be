"""Runs that are killed at a change of the disk, in children of a process that has everything imported."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from quantcli.convert.running import run as runner
from tests.faults.disk import Call, intercepted, is_below
from tests.runs import run

#: A child that takes longer is stuck: it is ended, and the test fails.
SECONDS = 600


@dataclass(frozen=True)
class Target:
    """An output. options: fields of `Request`. old: those of another output that may stand there before."""

    name: str
    options: dict[str, Any]
    old: dict[str, Any] = field(default_factory=lambda: {"scheme": "bf16"})

    def run(self, source: Path, folder: Path, **options: Any) -> dict[str, Any]:
        return run(source, folder / self.name, **self.options, **options)

    def run_old(self, source: Path, folder: Path) -> dict[str, Any]:
        return run(source, folder / self.name, **{**self.options, **self.old})

    def partial(self, folder: Path) -> Path:
        return folder / f"{self.name}.partial"

    def everything(self, folder: Path) -> dict[str, bytes]:
        """Every file under the output's names, by path."""
        stem = self.name.removesuffix(".gguf")
        paths = [p for top in folder.glob(f"{stem}*") if top.suffix != ".partial" for p in (top, *top.rglob("*"))]
        return {str(p.relative_to(folder)): p.read_bytes() for p in paths if p.is_file()}

    def files(self, folder: Path) -> dict[str, bytes]:
        """Everything of the output but reports, by path."""
        return without_reports(self.everything(folder))


def without_reports(files: dict[str, bytes]) -> dict[str, bytes]:
    return {name: data for name, data in files.items() if "report" not in name}


TARGETS = {
    "mlx": Target("out", {"scheme": "affine4-g64"}),
    "hf": Target("out", {"to": "hf", "scheme": "f16", "shard_size": 40_000}),
    "gguf": Target("out.gguf", {"scheme": "q4_0"}),
    "split": Target("out.gguf", {"scheme": "q4_0", "shard_size": 30_000}, {"scheme": "bf16", "shard_size": 50_000}),
}


def forked(work: Callable[[], object]) -> int:
    """The process id of a child that does this, and then ends with exit code 0, or 1 where it fails."""
    child = os.fork()
    if child:
        return child
    signal.alarm(SECONDS)
    try:
        work()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def status_of(child: int) -> int:
    """Its exit code once it has ended, negative where a signal ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_after(changes: int, folder: Path, work: Callable[[], object]) -> bool:
    """Whether a child was killed after so many changes in a folder, or got to its end."""
    left = changes

    def kill(call: Call) -> Any:
        nonlocal left
        if call.is_change and is_below(call, folder):
            if left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
        return call.carry_out()

    def dying() -> None:
        with pytest.MonkeyPatch.context() as patch:
            at_once(patch)
            intercepted(patch, kill)
            work()

    status = status_of(forked(dying))
    assert status in (0, -signal.SIGKILL), status
    return status != 0


def at_once(patch: pytest.MonkeyPatch) -> None:
    """Journal every step by itself, and wait for no disk: a kill keeps the page cache."""
    patch.setattr(runner, "FLUSH_SECONDS", 0.0)
    patch.setattr(os, "fsync", lambda descriptor: None)


def changes_of(folder: Path, work: Callable[[], object]) -> int:
    """How many changes some work makes in a folder."""
    changes = 0

    def count(call: Call) -> Any:
        nonlocal changes
        changes += call.is_change and is_below(call, folder)
        return call.carry_out()

    with pytest.MonkeyPatch.context() as patch:
        at_once(patch)
        intercepted(patch, count)
        work()
    return changes
