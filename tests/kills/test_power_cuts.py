"""A power cut loses nothing: of every prefix of a run's changes, whatever part of what was not synced is on the disk.

Afterwards the old output stands or the new one, and the next command makes the bytes of an undisturbed run. SIGKILL
keeps the page cache, so tests that kill cannot find a missing fsync. `make test` tries a sample, `make kills` all.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quantcli.convert.running import publishing, renames, workplace
from quantcli.convert.running.open_files import OpenFiles
from quantcli.errors import Surroundings
from tests.faults.disk import intercepted
from tests.kills.power import Recorder, lay_out, states
from tests.kills.runs_that_die import TARGETS
from tests.kills.standing import Scene, scene
from tests.runs import Died

Record = Callable[[str, object], None]


pytestmark = pytest.mark.usefixtures("quick")


def recorded(tried: Scene, folder: Path, dies_after: int | None = None) -> Recorder:
    """The changes of a run; with `dies_after`, of one that was killed after so many, and of what goes on with it."""
    tried.begin(folder)
    recorder = Recorder(folder, dies_after)
    with pytest.MonkeyPatch.context() as patch:
        intercepted(patch, recorder)
        if dies_after is not None:
            with pytest.raises(Died):
                tried.run(folder)
            recorder.left = None
            tried.go_on(folder)
        else:
            tried.run(folder)
    tried.finished(folder)
    shutil.rmtree(folder)
    return recorder


def cut(
    tried: Scene, folder: Path, recorder: Recorder, draw: random.Random, *, most: int, begin: int = 0, sample: int = 0
) -> Counter[str]:
    """Cut the power after each change from `begin` on, or in a sample of states; what stands there then."""
    seen: Counter[str] = Counter()
    every = [*states(recorder, most, draw, begin)]
    for number, state in draw.sample(every, sample) if sample else every:
        lay_out(state, folder)
        word = tried.standing(folder)
        assert word == "new" or number < len(recorder.changes), "the command had ended"
        seen[word] += 1
        tried.go_on(folder)
        tried.finished(folder)
        shutil.rmtree(folder)
    return seen


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("name", TARGETS)
def test_some_cuts(source: Path, tmp_path: Path, name: str, force: bool) -> None:
    tried, draw = scene(TARGETS[name], source, tmp_path, force=force, check=force), random.Random(name)
    recorder = recorded(tried, tmp_path / "place")
    cut(tried, tmp_path / "place", recorder, draw, most=8, sample=4)


@pytest.mark.slow
@pytest.mark.parametrize("check", [False, True])
@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("name", TARGETS)
def test_all_cuts(source: Path, tmp_path: Path, record_property: Record, name: str, force: bool, check: bool) -> None:
    tried, draw = scene(TARGETS[name], source, tmp_path, force=force, check=check), random.Random(name)
    recorder = recorded(tried, tmp_path / "place")
    seen = cut(tried, tmp_path / "place", recorder, draw, most=16)
    record_property("power cut in", f"{len(recorder.changes)} changes, {seen.total()} states; then stood {dict(seen)}")
    assert seen["new"] and seen["old" if force else "neither"] and seen.total() > len(recorder.changes)


@pytest.mark.slow
@pytest.mark.parametrize("lacking", ["swaps", "swaps and links"])
@pytest.mark.parametrize("name", TARGETS)
def test_cuts_where_a_file_system_lacks(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Record, name: str, lacking: str
) -> None:
    """While the output gets its name; what goes on runs where nothing is lacking."""
    tried, draw = scene(TARGETS[name], source, tmp_path, force=True, check=True), random.Random(name)
    with monkeypatch.context() as patch:
        patch.setattr(renames, "flagged_rename", _refuse)
        if "links" in lacking:
            patch.setattr(os, "link", _refuse)
        recorder = recorded(tried, tmp_path / "place")
    seen = cut(tried, tmp_path / "place", recorder, draw, most=8, begin=len(recorder.changes) - 40)
    record_property("power cut without", f"{lacking} in {seen.total()} states; then stood {dict(seen)}")
    assert seen["old"] and seen["new"]


def _refuse(*arguments: Any, **options: Any) -> None:
    raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))


@pytest.mark.slow
@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("name", TARGETS)
def test_cuts_of_runs_that_go_on_with_a_killed_one(
    source: Path, tmp_path: Path, record_property: Record, name: str, force: bool
) -> None:
    """What the killed run wrote is in the page cache, and nothing says that it is on the disk."""
    tried, draw = scene(TARGETS[name], source, tmp_path, force=force, check=force), random.Random(name)
    changes = len(recorded(tried, tmp_path / "place").changes)
    seen: Counter[str] = Counter()
    for died in [*draw.sample(range(changes // 2), 2), *draw.sample(range(changes // 2, changes - 1), 6)]:
        recorder = recorded(tried, tmp_path / "place", died)
        seen += cut(tried, tmp_path / "place", recorder, draw, most=4, begin=died)
    record_property("power cut in", f"8 resumed runs, {seen.total()} states; then stood {dict(seen)}")
    assert seen["new"]


@pytest.mark.parametrize("owners", [(publishing, workplace), (OpenFiles,)], ids=["folders", "files"])
def test_a_missing_flush_is_found(source: Path, tmp_path: Path, owners: tuple[object, ...]) -> None:
    tried = scene(TARGETS["gguf"], source, tmp_path, force=True, check=False)
    with pytest.MonkeyPatch.context() as patch:
        for owner in owners:
            patch.setattr(owner, "sync", lambda *arguments: None)
        recorder = recorded(tried, tmp_path / "place")
    with pytest.raises((AssertionError, Surroundings)):
        cut(tried, tmp_path / "place", recorder, random.Random(1), most=2, begin=len(recorder.changes) // 2)


@pytest.mark.parametrize("name", TARGETS)
def test_folders_made_for_an_output_are_on_disk_when_the_command_ends(source: Path, tmp_path: Path, name: str) -> None:
    """Before: a power cut afterwards could take them away, with the output in them."""
    (tmp_path / "place").mkdir()
    recorder, target = Recorder(tmp_path / "place"), TARGETS[name]
    with pytest.MonkeyPatch.context() as patch:
        intercepted(patch, recorder)
        target.run(source, tmp_path / "place" / "new" / "folder")
    ends = [state for _, state in states(recorder, 8, random.Random(1), begin=len(recorder.changes) - 1)]
    assert ends and all(any(path.startswith("new/folder/out") for path in state) for state in ends)
