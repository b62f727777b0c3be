"""Signals: the first stops a run cleanly, the next ones do not disturb that, SIGKILL only costs what was in work."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quantcli.convert.running import conversion, interrupt, reference_readers
from quantcli.convert.running import run as runner
from tests.builders import tiny_llama
from tests.runs import beside, finish, quant, run, tree

TARGETS = [("out", "affine4-g64"), ("out.gguf", "q4_0")]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("source") / "tiny")


class TestSignals:
    @pytest.mark.parametrize("stage", ["write", "seal", "sha256_of", "check", "readers", "publish"])
    def test_at_any_stage(self, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
        """Ctrl-C and SIGTERM stop a run wherever it is; while the output gets its name they come too late."""
        owner, name = {
            "write": (runner, "write"), "seal": (conversion.Workplace, "seal"), "sha256_of": (conversion, "sha256_of"),
            "check": (conversion.verify, "check"), "readers": (reference_readers, "check"),
            "publish": (conversion.Workplace, "publish"),
        }[stage]  # fmt: skip
        before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
        for number in interrupt.SIGNALS:
            output = tmp_path / f"{number}.gguf"
            with monkeypatch.context() as patch:
                patch.setattr(owner, name, signalled(getattr(owner, name), number))
                if stage == "publish":
                    run(source, output, check=True)
                    assert output.exists() and not (tmp_path / f"{number}.gguf.partial").exists()
                    continue
                with pytest.raises(KeyboardInterrupt):
                    run(source, output, check=True)
            assert not output.exists() and (tmp_path / f"{number}.gguf.partial").is_dir()
            run(source, output, check=True, resume=True)
        assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before

    def test_an_ignored_signal_stays_ignored(self, source: Path, tmp_path: Path) -> None:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            run(source, tmp_path / "out", progress=lambda *_: os.kill(os.getpid(), signal.SIGINT))
        finally:
            signal.signal(signal.SIGINT, before)

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_says_how_to_go_on(self, source: Path, tmp_path: Path, number: signal.Signals) -> None:
        output = tmp_path / "out"
        process = quant("convert", source, output, "-s", "affine4-g64", "--threads", 1, nap=0.05)
        wait_for(tmp_path / "out.partial" / ".journal", process)
        time.sleep(0.4)
        for _ in range(3):  # impatience
            process.send_signal(number)
            time.sleep(0.01)
        code, _, err = finish(process)
        assert code == 130, err
        assert "--resume" in err and "out.partial" in err and "Traceback" not in err
        assert beside(output) == ["out.partial"]
        code, _, err = finish(quant("convert", source, output, "-s", "affine4-g64", "--resume"))
        assert code == 0, err
        run(source, tmp_path / "good", scheme="affine4-g64")
        assert tree(output) == tree(tmp_path / "good")


def signalled(function: Callable[..., Any], number: int) -> Callable[..., Any]:
    """`function`, in the middle of which a signal comes, twice."""

    def call(*arguments: Any, **options: Any) -> Any:
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)
        return function(*arguments, **options)

    return call


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    while not path.exists() and process.poll() is None:
        time.sleep(0.01)


def kill_and_resume(source: Path, folder: Path, number: signal.Signals, times: int, seed: int) -> None:
    """Kill runs at random moments; none leaves a half-made output, all are completed to the same bytes."""
    pick = random.Random(seed)
    good = {}
    for name, scheme in TARGETS:
        run(source, folder / "good" / name, scheme=scheme)
        good[name] = tree(folder / "good" / name)
    killed = 0
    for turn in range(times):
        name, scheme = TARGETS[turn % 2]
        output = folder / str(turn) / name
        threads = 1 + turn % 3
        arguments = ("convert", source, output, "-s", scheme, "--verify", "--threads", threads)
        process = quant(*arguments, nap=0.03 * threads)
        wait_for(output.with_name(f"{name}.partial") / ".journal", process)
        time.sleep(pick.uniform(0, 1.8))
        process.send_signal(number)
        code, _, err = finish(process)
        assert code in (0, 130 if number == signal.SIGINT else -number), err
        killed += code != 0
        assert not output.exists() or tree(output) == good[name]
        code, _, err = finish(quant(*arguments, "--resume"))
        assert code == 0 and tree(output) == good[name], err
    assert killed >= times // 2


def test_killed_and_interrupted(source: Path, tmp_path: Path) -> None:
    kill_and_resume(source, tmp_path / "kill", signal.SIGKILL, 2, 1)
    kill_and_resume(source, tmp_path / "stop", signal.SIGINT, 1, 2)


@pytest.mark.slow
def test_killed_twenty_times(source: Path, tmp_path: Path) -> None:
    kill_and_resume(source, tmp_path, signal.SIGKILL, 20, 3)


@pytest.mark.slow
def test_interrupted_ten_times(source: Path, tmp_path: Path) -> None:
    kill_and_resume(source, tmp_path, signal.SIGINT, 10, 4)
