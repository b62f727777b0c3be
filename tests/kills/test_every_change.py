"""A run killed after every change of the disk loses nothing, and --resume makes the bytes of an undisturbed run.

Every second time the command is first repeated without an option; every third time the resumed run is killed too.
`make test` tries a sample, `make kills` every change.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from itertools import count
from pathlib import Path

import pytest

from tests.kills.runs_that_die import TARGETS, changes_of, killed_after
from tests.kills.standing import Scene, scene

Record = Callable[[str, object], None]


pytestmark = pytest.mark.usefixtures("quick")


def killed(tried: Scene, folder: Path, numbers: Iterable[int], seed: int) -> Counter[str]:
    """Kill a run after each of these numbers of changes, up to its end; what stood under the output's names then."""
    draw = random.Random(seed)
    seen: Counter[str] = Counter()
    for number in numbers:
        tried.begin(folder)
        if not killed_after(number, folder, partial(tried.run, folder)):
            tried.finished(folder)
            break
        seen[tried.standing(folder)] += 1
        if number % 2:
            tried.run_without_options(folder)
        if number % 3 == 0 and tried.target.partial(folder).exists():
            killed_after(draw.randrange(60), folder, partial(tried.go_on, folder))
            tried.standing(folder)
        tried.go_on(folder)
        tried.finished(folder)
    return seen


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("name", TARGETS)
def test_after_some_changes(source: Path, tmp_path: Path, name: str, force: bool) -> None:
    tried = scene(TARGETS[name], source, tmp_path, force=force, check=force)
    tried.begin(tmp_path / "place")
    changes = changes_of(tmp_path / "place", lambda: tried.run(tmp_path / "place"))
    killed(tried, tmp_path / "place", sorted(random.Random(name).sample(range(changes), 2)), seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("check", [False, True])
@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("name", TARGETS)
def test_after_every_change(
    source: Path, tmp_path: Path, record_property: Record, name: str, force: bool, check: bool
) -> None:
    tried = scene(TARGETS[name], source, tmp_path, force=force, check=check)
    seen = killed(tried, tmp_path / "place", count(), seed=2)
    record_property("killed after each of", f"{seen.total()} changes; then stood {dict(seen)}")
    assert seen.total() > 80 and seen["new"] and seen["old" if force else "neither"]
