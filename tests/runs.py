"""Runs that are watched, slowed down, interrupted: what the tests of the runner share."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import pytest

from quantcli.convert.running.conversion import convert
from quantcli.convert.running.run import Resources
from tests.conversions import planned
from tests.faults.disk import CHANGES, Call, intercepted

ROOT = Path(__file__).resolve().parent.parent
DRIVERS = ROOT / "tests" / "convert" / "running"
SLOW_QUANT, GPU_QUANT = DRIVERS / "slow_quant.py", DRIVERS / "gpu_quant.py"


def quiet(count: int, name: str) -> None:
    """A progress that nobody looks at."""


def run(
    source: Path, output: Path, *, memory: int = 1 << 28, threads: int = 1, resume: bool = False,
    force: bool = False, check: bool = False, progress: Any = quiet, **options: Any,
) -> dict[str, Any]:  # fmt: skip
    """Convert; `options` are fields of `Request`; the report."""
    plan = planned(source, output, **options)
    return convert(plan, Resources(memory, threads), progress, resume=resume, force=force, check=check)


def interrupted(source: Path, output: Path, after: int = 8, **options: Any) -> None:
    """Convert until so many slabs are written, then stop; what is done stays in the work folder."""
    left = [after]

    def stop(count: int, name: str) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(source, output, progress=stop, **options)


def tree(output: Path) -> dict[str, bytes]:
    """The reproducible files of an output, by path relative to it: all but the report."""
    if output.is_file():
        return {"": output.read_bytes()}
    paths = [path for path in sorted(output.rglob("*")) if path.is_file() and path.name != "quant_report.json"]
    return {str(path.relative_to(output)): path.read_bytes() for path in paths}


def beside(output: Path) -> list[str]:
    """What stands in the output's folder."""
    return sorted(path.name for path in output.parent.iterdir())


def journal_entries(partial: Path) -> list[dict[str, Any]]:
    """The lines of a journal behind its magic line, without their checksums."""
    lines = (partial / ".journal").read_bytes().splitlines()[1:]
    return [json.loads(line.partition(b" ")[2]) for line in lines]


MAIN = "from quantcli.cli.app import main; main()"


def quant(
    *arguments: object, nap: float | None = None, driver: Path = SLOW_QUANT, script: str = MAIN, **options: Any
) -> subprocess.Popen[str]:
    """`quant` in a process of its own; with `nap`, resting that many seconds around every slab and every rename."""
    entry = ["-c", script] if nap is None else [str(driver), str(nap)]
    command = [sys.executable, *entry, *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.Popen(command, cwd=ROOT, text=True, **pipes)


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit code, stdout, stderr."""
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def simulate_gpu(patch: pytest.MonkeyPatch) -> None:
    """MLX's default device counts as a GPU; its CPU computes."""
    patch.setattr(mx, "default_device", lambda: SimpleNamespace(type=mx.DeviceType.gpu))


class Died(BaseException):
    """The power is gone: nothing is written from here on."""


class Power:
    """Lets `left` changes of the disk happen, then none; counts them."""

    def __init__(self, left: int, patch: pytest.MonkeyPatch) -> None:
        self.left = left
        intercepted(patch, self.spend)

    def spend(self, call: Call) -> Any:
        if call.kind in CHANGES:
            if self.left <= 0:
                self.end()
            self.left -= 1
        return call.carry_out()

    def end(self) -> None:
        raise Died


def dies_after(changes: int, *arguments: Any, **options: Any) -> bool:
    """Run until that many changes of the disk are made; whether it died of it."""
    with pytest.MonkeyPatch.context() as patch:
        Power(changes, patch)
        try:
            run(*arguments, **options)
        except Died:
            return True
    return False


def moments(*arguments: Any, **options: Any) -> Iterator[int]:
    """Every number of changes after which a run can die; `arguments` lead to a fresh place each time."""
    for changes in range(1000):
        if not dies_after(changes, *arguments, **options):
            return
        yield changes
    raise AssertionError("a tiny run changes the disk more than 1000 times")
