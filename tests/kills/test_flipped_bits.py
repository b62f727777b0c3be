"""Flipped bits: in the journals of killed runs, which --resume goes on from, and in outputs, which --verify reads.

`make test` tries a sample, `make kills` all of them.
"""

from __future__ import annotations

import random
import shutil
from functools import partial
from pathlib import Path

import pytest

from quantcli.errors import VerificationFailed
from tests.kills.runs_that_die import TARGETS, Target, changes_of, killed_after

#: Of each target, with and without --force: 504 in all.
JOURNALS = 63
#: Of each target.
OUTPUTS = 2000


pytestmark = pytest.mark.usefixtures("quick")


def flipped(path: Path, draw: random.Random) -> int:
    """Flip a bit of a file; which one."""
    data = bytearray(path.read_bytes())
    bit = draw.randrange(len(data) * 8)
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)
    return bit


def journals(source: Path, folder: Path, target: Target, *, force: bool, count: int, seed: int) -> None:
    """Kill runs at random changes of the disk, flip a bit of what they leave as a journal, resume: the same bytes."""
    draw = random.Random(seed)
    target.run(source, folder / "good")
    good = target.files(folder / "good")
    (folder / "before").mkdir()
    if force:
        target.run_old(source, folder / "before")
    shutil.copytree(folder / "before", folder / "counted")
    changes = changes_of(folder / "counted", lambda: target.run(source, folder / "counted", force=force))
    tried = 0
    while tried < count:
        place = folder / str(tried)
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(folder / "before", place)
        check = draw.random() < 0.25
        died = draw.randrange(changes)
        killed_after(died, place, partial(target.run, source, place, force=force, check=check))
        journal = target.partial(place) / ".journal"
        if not journal.exists() or not journal.stat().st_size:
            continue
        bit = flipped(journal, draw)
        target.run(source, place, resume=True)
        assert target.files(place) == good, (died, bit, check)
        assert not target.partial(place).exists()
        shutil.rmtree(place)
        tried += 1


def outputs(source: Path, folder: Path, target: Target, *, count: int, seed: int) -> None:
    """Flip a bit of a complete output; --resume --verify finds it."""
    draw = random.Random(seed)
    target.run(source, folder)
    good = target.files(folder)
    sizes = [len(data) for data in good.values()]
    for _ in range(count):
        name = draw.choices(list(good), sizes)[0]
        bit = flipped(folder / name, draw)
        with pytest.raises(VerificationFailed):
            target.run(source, folder, resume=True, check=True)
            pytest.fail(f"{name}: bit {bit} was not found")
        (folder / name).write_bytes(good[name])
    assert target.run(source, folder, resume=True, check=True)["verified"]


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("name", TARGETS)
def test_some_journals(source: Path, tmp_path: Path, name: str, force: bool) -> None:
    journals(source, tmp_path, TARGETS[name], force=force, count=2, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("name", TARGETS)
def test_all_journals(source: Path, tmp_path: Path, name: str, force: bool) -> None:
    journals(source, tmp_path, TARGETS[name], force=force, count=JOURNALS, seed=2)


@pytest.mark.parametrize("name", TARGETS)
def test_some_outputs(source: Path, tmp_path: Path, name: str) -> None:
    outputs(source, tmp_path, TARGETS[name], count=6, seed=3)


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_all_outputs(source: Path, tmp_path: Path, name: str) -> None:
    outputs(source, tmp_path, TARGETS[name], count=OUTPUTS, seed=4)
