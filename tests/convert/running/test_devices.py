"""Runs with a GPU, which MLX's CPU stands for: bytes, report, memory, one evaluation at a time, and `--resume`."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from quantcli.arrays import Device
from quantcli.convert.running import run as runner
from quantcli.convert.running import threads, verify
from quantcli.convert.running.run import Resources
from quantcli.errors import Surroundings
from quantcli.schemes.mlx.affine import Affine
from tests.builders import tiny_llama
from tests.runs import GPU_QUANT, finish, quant, run, simulate_gpu, tree

#: Weights that a GPU makes under `auto` and ones that the CPU makes, in turns.
MIXED: dict[str, Any] = {"scheme": "affine4-g64", "dtype": "f16", "overrides": ("*_proj=mxfp8", "*up_proj=f16")}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("source") / "tiny", hidden_size=128)


@pytest.fixture
def with_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    simulate_gpu(monkeypatch)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_bytes_are_those_of_the_cpu(source: Path, tmp_path: Path, count: int) -> None:
    run(source, tmp_path / "cpu", **MIXED)
    for memory in (1 << 28, 1 << 15):
        report = run(
            source, tmp_path / "gpu", threads=count, memory=memory, device="auto", check=True, force=True, **MIXED
        )
        assert tree(tmp_path / "gpu") == tree(tmp_path / "cpu")
        made = {weight["scheme"]: weight["device"] for weight in report["weights"]}
        assert made == {"affine4-g64": "gpu", "mxfp8": "gpu", "f16": "cpu"}
        assert report["totals"]["devices"] == Counter(weight["device"] for weight in report["weights"])


def test_a_gguf_is_the_cpus_unless_asked(source: Path, tmp_path: Path) -> None:
    devices = {}
    for word in ("auto", "gpu"):
        report = run(source, tmp_path / word / "out.gguf", device=word, scheme="q4_0", pure=True, check=True)
        devices[word] = {weight["device"] for weight in report["weights"] if weight["scheme"] == "q4_0"}
    assert devices == {"auto": {"cpu"}, "gpu": {"gpu"}}


def test_a_requantized_weight_is_decoded_on_the_cpu(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(source, tmp_path / "q8", scheme="affine8-g64")
    seen: list[Device] = []
    real = Affine.decode

    def decode(self: Affine, parts: Any, device: Device = Device.CPU) -> Any:
        seen.append(device)
        return real(self, parts, device)

    monkeypatch.setattr(Affine, "decode", decode)
    for word, device in (("auto", Device.CPU), ("gpu", Device.MLX)):
        report = run(tmp_path / "q8", tmp_path / word, scheme="mxfp4", allow_requantize=True, device=word)
        assert {w["device"] for w in report["weights"] if w["route"] == "requantize"} == {"gpu"}
        assert set(seen) == {device}
        seen.clear()


def test_verify_encodes_where_the_step_did(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[tuple[str, Any]] = []

    def watched(where: str) -> Callable[..., Any]:
        real = runner.make

        def make(step: Any, *arguments: Any) -> Any:
            used.append((where, step.devices))
            return real(step, *arguments)

        return make

    monkeypatch.setattr(verify, "make", watched("verify"))
    monkeypatch.setattr(runner, "make", watched("run"))
    calls = counted(monkeypatch, Affine, "_encode_mlx")
    run(source, tmp_path / "out", device="auto", check=True, scheme="affine4-g64")
    of = {where: Counter(devices for place, devices in used if place == where) for where in ("run", "verify")}
    assert of["run"] == of["verify"] and len(calls) == 2 * sum(
        count for devices, count in of["run"].items() if devices.encoding is Device.MLX
    )


def counted(patch: pytest.MonkeyPatch, owner: Any, name: str) -> list[None]:
    """An entry for each call."""
    calls: list[None] = []
    real = getattr(owner, name)
    patch.setattr(owner, name, lambda *arguments: calls.append(None) or real(*arguments))
    return calls


class Watch:
    """How many are inside a function at a time, by a key of its arguments."""

    def __init__(self, key: Callable[..., Any]) -> None:
        self.key, self.inside, self.seen = key, Counter[Any](), list[Counter[Any]]()
        self.lock = threading.Lock()

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            key = self.key(*arguments)
            with self.lock:
                self.inside[key] += 1
                self.seen.append(self.inside.copy())
            try:
                time.sleep(0.002)
                return function(*arguments)
            finally:
                with self.lock:
                    self.inside[key] -= 1

        return call


def test_one_evaluation_at_a_time(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Watch(lambda scheme, *_: "gpu")
    monkeypatch.setattr(Affine, "_encode_mlx", gpu.around(Affine._encode_mlx))
    run(source, tmp_path / "out", device="auto", threads=5, memory=1 << 16, check=True, scheme="affine4-g64")
    assert len(gpu.seen) > 60 and max(seen["gpu"] for seen in gpu.seen) == 1


@pytest.mark.parametrize("count", [1, 2, 8])
def test_slabs_of_both_kinds_stay_within_the_memory(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    memory = 1 << 16
    work = Watch(lambda work, item: work.plan.steps[item[0]].devices.made_on)
    monkeypatch.setattr(runner._Work, "_one", work.around(runner._Work._one))
    run(source, tmp_path / "out", device="auto", threads=count, memory=memory, **MIXED)
    resources = Resources(memory, count)
    assert all(sum(n * resources.share(d) for d, n in seen.items()) <= memory for seen in work.seen)
    assert max(seen[Device.MLX] for seen in work.seen) == 3 and max(seen[Device.CPU] for seen in work.seen) <= count
    assert count == 1 or any(seen[Device.MLX] and seen[Device.CPU] for seen in work.seen)


def test_an_allowance_is_waited_for() -> None:
    allowance, order = threads.Allowance(10), list[str]()
    allowance.take(6)

    def take() -> None:
        allowance.take(5)
        order.append("taken")

    waiting = threading.Thread(target=take)
    waiting.start()
    time.sleep(0.05)
    order.append("given back")
    allowance.give_back(6)
    waiting.join(5)
    assert order == ["given back", "taken"]


def interrupted(source: Path, output: Path, **options: Any) -> None:
    left = [8]

    def stop(count: int, name: str) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(source, output, progress=stop, **options)


class TestResume:
    @pytest.mark.parametrize(
        ("name", "scheme", "begun", "other"),
        [
            ("out", "affine4-g64", "cpu", "auto"), ("out", "affine4-g64", "auto", "cpu"),
            ("out", "mxfp4", "cpu", "gpu"), ("out.gguf", "q4_0", "cpu", "gpu"), ("out.gguf", "q4_0", "gpu", "auto"),
        ],
    )  # fmt: skip
    @pytest.mark.usefixtures("with_gpu")
    def test_another_device_is_refused(
        self, source: Path, tmp_path: Path, name: str, scheme: str, begun: str, other: str
    ) -> None:
        interrupted(source, tmp_path / name, scheme=scheme, device=begun)
        with pytest.raises(Surroundings) as refused:
            run(source, tmp_path / name, scheme=scheme, device=other, resume=True)
        assert f"--resume --device {begun} " in str(refused.value) and "--force" in str(refused.value)
        run(source, tmp_path / name, scheme=scheme, device=begun, resume=True)
        run(source, tmp_path / "good" / name, scheme=scheme, device=begun)
        assert tree(tmp_path / name) == tree(tmp_path / "good" / name)

    def test_a_gpu_that_is_gone(self, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        interrupted(source, tmp_path / "out", scheme="affine4-g64", device="auto")
        monkeypatch.setattr(mx, "default_device", lambda: mx.Device(mx.DeviceType.cpu, 0))
        with pytest.raises(Surroundings) as refused:
            run(source, tmp_path / "out", scheme="affine4-g64", resume=True)
        assert "GPU" in str(refused.value) and "--force" in str(refused.value) and "--device" not in str(refused.value)

    @pytest.mark.usefixtures("with_gpu")
    def test_words_that_come_to_the_same_devices_are_the_same(self, source: Path, tmp_path: Path) -> None:
        interrupted(source, tmp_path / "out", scheme="affine4-g64", device="gpu")
        run(source, tmp_path / "out", scheme="affine4-g64", device="auto", resume=True)
        interrupted(source, tmp_path / "out.gguf", scheme="q4_0", device="auto")
        run(source, tmp_path / "out.gguf", scheme="q4_0", device="cpu", resume=True)

    @pytest.mark.usefixtures("with_gpu")
    def test_another_plan_is_not_taken_for_another_device(self, source: Path, tmp_path: Path) -> None:
        interrupted(source, tmp_path / "out", scheme="affine4-g64", device="auto")
        with pytest.raises(Surroundings, match="other options"):
            run(source, tmp_path / "out", scheme="affine8-g64", device="cpu", resume=True)

    def test_a_killed_process(self, source: Path, tmp_path: Path) -> None:
        """It ran on a GPU, which the next process does not have; one that has it goes on."""
        output = tmp_path / "out"
        arguments = ("convert", source, output, "-s", "affine4-g64", "--verify")
        process = quant(*arguments, "--threads", 1, nap=0.05, driver=GPU_QUANT)
        journal = tmp_path / "out.partial" / ".journal"
        while process.poll() is None and not (journal.exists() and journal.read_bytes().count(b"\n") > 3):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert finish(process)[0] == -signal.SIGKILL
        for options, driver in (((), None), (("--device", "cpu"), GPU_QUANT)):
            nap = {} if driver is None else {"nap": 0.0, "driver": driver}
            code, _, err = finish(quant(*arguments, "--resume", *options, **nap))
            assert code == 5 and ("--force" in err) and not output.exists(), err
        code, _, err = finish(quant(*arguments, "--resume", nap=0.0, driver=GPU_QUANT))
        assert code == 0, err
        run(source, tmp_path / "good", scheme="affine4-g64")
        assert tree(output) == tree(tmp_path / "good")
