"""Runs of the command that are killed from outside at random moments lose nothing, and --resume completes them.

Each runs in a child forked from this process; half of them rest before every change of the disk, so that what takes
microseconds is hit too. `make test` tries a few, `make kills` two hundred.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from quantcli.cli.app import app
from quantcli.convert.running import run as runner
from quantcli.convert.running.journal import parsed
from tests.builders import tiny_llama
from tests.conversions import planned
from tests.faults.disk import Call, intercepted, is_below
from tests.kills.runs_that_die import TARGETS, forked, status_of
from tests.kills.standing import Scene, scene

#: Runs that are killed, and how many of them at least while their work folder is there.
KILLS, INSIDE = 200, 150
#: Seconds that a slow run rests before a change of the disk; the second number: before one of names.
NAP, LONG_NAP = 0.003, 0.015
#: Phases without anything that --resume goes on with, and that after everything.
NOT_BEGUN, AFTER = ("before its work folder", "without a journal"), "after its end"
#: Field of `Request` -> its option.
OPTIONS = {"scheme": "--scheme", "to": "--to", "shard_size": "--shard-size"}

Record = Callable[[str, object], None]


@dataclass(frozen=True)
class Command:
    """`quant convert` with the options of a scene. steps: of its plan. is_slow: it rests, and journals every step."""

    scene: Scene
    threads: int
    is_slow: bool
    steps: int

    def started(self, folder: Path, *flags: str, is_slow: bool = False) -> int:
        """The process id of a child that runs it with these flags."""
        target = self.scene.target
        words = [word for key, value in target.options.items() for word in (OPTIONS[key], str(value))]
        words += [*flags, *(["--verify"] if self.scene.check else []), "--threads", str(self.threads), "--quiet"]
        arguments = ["convert", str(self.scene.source), str(folder / target.name), *words]
        return forked(partial(_quant, arguments, folder if is_slow else None))

    def begun(self, folder: Path) -> int:
        """The process id of a child that runs what is to be killed."""
        self.scene.begin(folder)
        return self.started(folder, *(["--force"] if self.scene.force else []), is_slow=self.is_slow)

    def killed(self, folder: Path, moment: float) -> int:
        """Its exit status where it is killed once its work folder has been there for so many seconds."""
        child = self.begun(folder)
        while not self.scene.target.partial(folder).exists() and not os.waitid(os.P_PID, child, _LOOK):
            time.sleep(0.001)
        time.sleep(moment)
        os.kill(child, signal.SIGKILL)
        return status_of(child)

    def resume(self, folder: Path, *, has_begun: bool) -> None:
        """Go on, to the same bytes; where nothing was begun and an old output stands, by the same command again."""
        resumed = status_of(self.started(folder, "--resume"))
        if resumed == 5 and self.scene.force and not has_begun:
            resumed = status_of(self.started(folder, "--force"))
        assert resumed == 0
        self.scene.finished(folder)

    def lifetime(self, folder: Path) -> float:
        """Seconds that the work folder is there, of a run that is left alone."""
        child = self.begun(folder)
        seen = []
        while not os.waitid(os.P_PID, child, _LOOK):
            if self.scene.target.partial(folder).exists():
                seen.append(time.monotonic())
            time.sleep(0.001)
        assert status_of(child) == 0
        return seen[-1] - seen[0]

    def phase(self, folder: Path) -> str:
        """How far a run got that has been killed, by what it left."""
        partial, has_ended = self.scene.target.partial(folder), self.scene.standing(folder) == "new"
        if not partial.exists():
            return AFTER if has_ended else NOT_BEGUN[0]
        journal = partial / ".journal"
        begun = parsed(journal.read_bytes() if journal.exists() else b"", self.steps)
        if has_ended:
            return "to be confirmed" if begun.to_confirm and not begun.confirmed else "cleaning up"
        if begun.fingerprint is None:
            return NOT_BEGUN[1]
        if begun.complete:
            return "publishing"
        if len(begun.done) == self.steps:
            return "hashing and verifying"
        return "tensors being written" if any(partial.glob("output/**/*")) else "claimed"


#: To ask whether a child has ended, and leave its status where it is.
_LOOK = os.WEXITED | os.WNOHANG | os.WNOWAIT


def _quant(arguments: list[str], rests_in: Path | None) -> None:
    """The command; rests_in: a folder before whose changes it rests."""

    def rest(call: Call) -> Any:
        if call.is_change and is_below(call, rests_in or Path()):
            time.sleep(LONG_NAP if call.kind in ("rename", "unlink", "rmdir") else NAP)
        return call.carry_out()

    with pytest.MonkeyPatch.context() as patch:
        if rests_in is not None:
            patch.setattr(runner, "FLUSH_SECONDS", 0.0)
            intercepted(patch, rest)
        try:
            app(arguments)
        except SystemExit as end:
            os._exit(end.code if isinstance(end.code, int) else 1)


def kill_and_resume(folder: Path, source: Path, kills: int, inside: int, seed: int) -> Counter[str]:
    """Kill so many runs to every target, with and without --force, --verify, a second thread, naps, until `inside` of
    them had a work folder; the phases that they were in.
    """
    app(["convert", str(source), str(folder / "out.gguf"), "--quiet"], standalone_mode=False)  # imports everything
    draw, place = random.Random(seed), folder / "place"
    kinds = [*product(TARGETS, (False, True), (False, True), (1, 2), (False, True))]
    chosen = draw.sample(kinds, min(kills, len(kinds)))
    commands = [command_of(folder / str(i), source, *kind) for i, kind in enumerate(chosen)]
    lifetimes = [command.lifetime(place) for command in commands]
    phases: Counter[str] = Counter()
    while phases.total() < kills or phases.total() - phases[NOT_BEGUN[0]] - phases[AFTER] < inside:
        assert phases.total() < 3 * kills, phases
        turn = phases.total() % len(chosen)
        assert commands[turn].killed(place, draw.uniform(0, lifetimes[turn])) in (0, -signal.SIGKILL)
        phase = commands[turn].phase(place)
        phases[phase] += 1
        commands[turn].resume(place, has_begun=phase not in NOT_BEGUN)
    return phases


def command_of(folder: Path, source: Path, name: str, force: bool, check: bool, threads: int, is_slow: bool) -> Command:
    folder.mkdir()
    tried = scene(TARGETS[name], source, folder, force=force, check=check)
    steps = len(planned(source, folder / tried.target.name, **tried.target.options).steps)
    return Command(tried, threads, is_slow, steps)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tiny_llama(tmp_path / "source" / "tiny")


def test_a_few_kills(source: Path, tmp_path: Path) -> None:
    assert kill_and_resume(tmp_path, source, 4, 1, seed=1).total() >= 4


@pytest.mark.slow
def test_many_kills(source: Path, tmp_path: Path, record_property: Record) -> None:
    phases = kill_and_resume(tmp_path, source, KILLS, INSIDE, seed=2)
    record_property("killed", f"{phases.total()} runs: {dict(phases)}")
    assert {"tensors being written", "publishing", "cleaning up"} <= phases.keys()
