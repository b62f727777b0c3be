"""Any call of the disk may fail: no output is lost, the message says where and what to do, and a second run makes good.

`make test` tries 60 points, `make faults` every one.
"""

from __future__ import annotations

import os
import random
import resource
from collections import defaultdict
from pathlib import Path

import pytest

from tests.builders import tiny_llama
from tests.faults.injected import UNREACHED, Case, Point
from tests.kills.runs_that_die import TARGETS
from tests.runs import finish, quant

#: Name -> target, whether there is an old output, whether with --verify, how many points `make test` tries.
CASES = {
    "mlx": ("mlx", False, False, 7),
    "mlx --force": ("mlx", True, False, 7),
    "mlx --force --verify": ("mlx", True, True, 4),
    "hf": ("hf", False, False, 7),
    "hf --force": ("hf", True, False, 7),
    "gguf": ("gguf", False, False, 7),
    "gguf --force": ("gguf", True, False, 7),
    "split": ("split", False, False, 7),
    "split --force": ("split", True, False, 7),
}


def prepared(name: str, folder: Path) -> Case:
    target, force, verify, _ = CASES[name]
    case = Case(TARGETS[target], tiny_llama(folder / "source", num_hidden_layers=1), folder, force, verify)
    case.prepare()
    return case


def drawn(points: list[Point], draw: random.Random) -> Point:
    """Some point, of each kind of call as often."""
    kinds = defaultdict(list)
    for point in points:
        kinds[point.kind].append(point)
    return draw.choice(kinds[draw.choice(sorted(kinds))])


@pytest.mark.parametrize("name", CASES)
def test_some_calls_fail(tmp_path: Path, name: str) -> None:
    case, draw = prepared(name, tmp_path), random.Random(1)
    points, left = case.points(), CASES[name][-1]
    while left:
        point = drawn(points, draw)
        wrong = case.fault(point)
        assert wrong in (None, UNREACHED), f"{point}: {wrong}"
        left -= wrong is None


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_every_call_fails(tmp_path: Path, name: str) -> None:
    case = prepared(name, tmp_path)
    points = case.points()
    faults = {str(point): wrong for point in points if (wrong := case.fault(point))}
    unreached = [point for point, wrong in faults.items() if wrong == UNREACHED]
    assert len(points) > 500 and len(unreached) < len(points) / 20
    assert not {point: wrong for point, wrong in faults.items() if wrong != UNREACHED}


@pytest.mark.parametrize("name", ["mlx", "gguf"])
def test_an_error_of_the_system_in_a_process(tmp_path: Path, name: str) -> None:
    """Files may not become larger than this: a real error of a real write, with an old output."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    source, target = tiny_llama(tmp_path / "source", num_hidden_layers=1), TARGETS[name]
    target.run(source, tmp_path / "good")
    target.run_old(source, tmp_path)
    old = target.files(tmp_path)
    words = ["convert", source, tmp_path / target.name, "-s", target.options["scheme"]]
    # Python would cut its compiled modules off at this size too, and read them the next time.
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    code, _, err = finish(quant(*words, "--force", preexec_fn=limit, env=environment))
    assert code == 5 and err.count("error: ") == 1 and "Traceback" not in err
    assert f"{target.name}.partial" in err and "File too large" in err and "--resume" in err
    assert target.files(tmp_path) == old
    code, _, err = finish(quant(*words, "--resume"))
    assert code == 0, err
    assert target.files(tmp_path) == target.files(tmp_path / "good")
    assert not target.partial(tmp_path).exists()
