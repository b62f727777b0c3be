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
from tests.runs import Power, run

#: A child that takes longer has got stuck: it is ended, and the test fails.
SECONDS = 120


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

    def files(self, folder: Path) -> dict[str, bytes]:
        """Everything of the output but reports, by path."""
        stem = self.name.removesuffix(".gguf")
        paths = [p for top in folder.glob(f"{stem}*") if top.suffix != ".partial" for p in (top, *top.rglob("*"))]
        return {str(p.relative_to(folder)): p.read_bytes() for p in paths if p.is_file() and "report" not in p.name}


TARGETS = {
    "mlx": Target("out", {"scheme": "affine4-g64"}),
    "hf": Target("out", {"to": "hf", "scheme": "f16", "shard_size": 40_000}),
    "gguf": Target("out.gguf", {"scheme": "q4_0"}),
    "split": Target("out.gguf", {"scheme": "q4_0", "shard_size": 30_000}, {"scheme": "bf16", "shard_size": 50_000}),
}


class _Kill(Power):
    """Lets so many changes of the disk happen, then kills this process."""

    def end(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def in_child(work: Callable[[], object]) -> int:
    """The exit status of a forked child that does this: -9 where it was killed."""
    child = os.fork()
    if not child:
        signal.alarm(SECONDS)
        try:
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_after(changes: int, work: Callable[[], object]) -> bool:
    """Whether a child was killed before its change number `changes`, or got to its end."""

    def dying() -> None:
        with pytest.MonkeyPatch.context() as patch:
            at_once(patch)
            _Kill(changes, patch)
            work()

    status = in_child(dying)
    assert status in (0, -signal.SIGKILL), status
    return status != 0


def at_once(patch: pytest.MonkeyPatch) -> None:
    """Journal every step by itself, and wait for no disk: a kill keeps the page cache."""
    patch.setattr(runner, "FLUSH_SECONDS", 0.0)
    patch.setattr(os, "fsync", lambda descriptor: None)


def changes_of(work: Callable[[], object]) -> int:
    """How many changes of the disk some work makes."""
    with pytest.MonkeyPatch.context() as patch:
        at_once(patch)
        most = 1 << 20
        power = Power(most, patch)
        work()
        return most - power.left
