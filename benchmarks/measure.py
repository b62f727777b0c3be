"""What one command costs: CPU time, wall time and peak memory, from the operating system's own account of it.

Only the standard library is imported: on Linux a child's peak memory starts at that of the process that made it, so
whoever measures has to be small.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

#: ru_maxrss counts kilobytes, on macOS bytes.
RSS_UNIT = 1 if sys.platform == "darwin" else 1024


@dataclass(frozen=True)
class Cost:
    """cpu: user and system seconds, children included; wall: seconds; peak: bytes resident at most."""

    cpu: float
    wall: float
    peak: int


@dataclass(frozen=True)
class Contender:
    """A command that takes part; `prepare` runs before each run of it, unmeasured."""

    name: str
    command: Sequence[str]
    prepare: Callable[[], None] = lambda: None


def run(command: Sequence[str], env: Mapping[str, str] | None = None) -> Cost:
    """Run a command to its end. Raises `SystemExit` with what it said where it fails."""
    with tempfile.TemporaryFile() as said:
        start = time.perf_counter()
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, env=env)
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode != 0:
            said.seek(0)
            text = said.read().decode(errors="replace")[-3000:]
            raise SystemExit(f"{' '.join(command)}\nended with {child.returncode}:\n{text}")
    return Cost(usage.ru_utime + usage.ru_stime, wall, usage.ru_maxrss * RSS_UNIT)


def alternate(contenders: Sequence[Contender], runs: int, say: Callable[[str], None]) -> dict[str, Cost]:
    """Each contender's medians over `runs` rounds; in a round each runs once, so that a busy moment hits all alike."""
    costs: dict[str, list[Cost]] = {contender.name: [] for contender in contenders}
    for number in range(runs):
        for contender in contenders:
            contender.prepare()
            cost = run(contender.command)
            costs[contender.name].append(cost)
            figures = f"{cost.cpu:.2f} CPU s, {cost.wall:.2f} s, {cost.peak / 1e6:.0f} MB"
            say(f"  {number + 1}/{runs} {contender.name}: {figures}")
    return {name: median(found) for name, found in costs.items()}


def median(costs: Sequence[Cost]) -> Cost:
    """Each figure's own median."""
    return Cost(
        statistics.median(c.cpu for c in costs),
        statistics.median(c.wall for c in costs),
        int(statistics.median(c.peak for c in costs)),
    )
