"""`--device`: which schemes are decoded and encoded on a GPU, and what is said of it before anything is written."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import pytest
from typer.testing import CliRunner

from quantcli.arrays import Device
from quantcli.cli.app import app
from quantcli.convert.inspecting.catalogue import SHAPE
from quantcli.convert.planning.devices import CHOICES, ON_CPU, available
from quantcli.convert.planning.routes import Route
from quantcli.convert.planning.steps import WeightStep
from quantcli.errors import Surroundings
from quantcli.schemes.base import Grade, Scheme
from quantcli.schemes.dense import Dense
from quantcli.schemes.listed import listed
from quantcli.schemes.mlx.global_scale import Nvfp4Experts
from tests.builders import tiny_awq, tiny_llama
from tests.conversions import planned
from tests.runs import simulate_gpu

CPU, GPU = Device.CPU, Device.MLX
SCHEMES = (*listed(SHAPE), Nvfp4Experts(8))

#: --device -> the families that a GPU encodes, and those that it decodes; all that is written of them.
PROMISED: dict[str, tuple[set[str], set[str]]] = {
    "cpu": (set(), set()),
    "auto": ({"mlx"}, set()),
    "gpu": ({"mlx", "ggml", "gpt-oss"}, {"mlx", "ggml", "gpt-oss"}),
}


def step(source: Scheme, target: Scheme, route: Route) -> WeightStep:
    form: Any = SimpleNamespace(source=SimpleNamespace(weight=SimpleNamespace(scheme=source)))
    draft: Any = SimpleNamespace(name="a.weight")
    return WeightStep(draft, form, target, route, Grade.LOSSY, "")


def device_of(scheme: Scheme, families: set[str]) -> Device:
    return GPU if scheme.family in families and not isinstance(scheme, Nvfp4Experts) else CPU


@pytest.mark.parametrize("word", PROMISED)
@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: f"{scheme.family}-{scheme.name}")
def test_each_scheme_has_the_promised_devices(scheme: Scheme, word: str) -> None:
    encodes, decodes = PROMISED[word]
    quantized = step(Dense("bf16"), scheme, Route.QUANTIZE).on(word).devices
    assert (quantized.decoding, quantized.encoding) == (CPU, device_of(scheme, encodes))
    dense = step(scheme, Dense("bf16"), Route.DEQUANTIZE).on(word).devices
    assert (dense.decoding, dense.encoding) == (device_of(scheme, decodes), CPU)
    again = step(scheme, scheme, Route.REQUANTIZE).on(word).devices
    assert (again.decoding, again.encoding) == (device_of(scheme, decodes), device_of(scheme, encodes))
    for route in (Route.COPY, Route.REPACK, Route.CAST):
        assert step(scheme, scheme, route).on("gpu").on(word).devices == ON_CPU


def test_a_scheme_whose_bytes_were_compared_is_decoded_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    q4_0 = next(scheme for scheme in SCHEMES if scheme.name == "q4_0")
    monkeypatch.setattr(type(q4_0), "gpu_bytes_equal", True)
    found = {word: step(q4_0, q4_0, Route.REQUANTIZE).on(word).devices for word in CHOICES}
    assert [found[w].decoding for w in ("cpu", "auto", "gpu")] == [CPU, GPU, GPU]
    assert found["auto"].encoding is CPU and found["auto"].made_on is GPU


def test_what_a_word_comes_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mx, "default_device", lambda: mx.Device(mx.DeviceType.cpu, 0))
    assert (available("cpu"), available("auto")) == ("cpu", "cpu")
    with pytest.raises(Surroundings) as refused:
        available("gpu")
    assert refused.value.exit_code == 5 and "--device cpu" in str(refused.value)
    simulate_gpu(monkeypatch)
    assert [available(word) for word in CHOICES] == list(CHOICES)


def test_steps_of_a_plan(tmp_path: Path) -> None:
    """Repacked and copied weights stay on the CPU next to ones that a GPU makes; a copy of a dense one too."""
    steps = planned(tiny_awq(tmp_path / "awq"), tmp_path / "out", device="gpu").steps
    assert {step.route for step in steps} == {Route.REPACK, Route.COPY}
    assert {step.devices for step in steps} == {ON_CPU}
    steps = planned(tiny_llama(tmp_path / "a"), tmp_path / "out", scheme="affine4-g64", device="auto").steps
    assert {(step.route, step.devices.made_on) for step in steps} == {(Route.QUANTIZE, GPU), (Route.COPY, CPU)}


class TestDryRun:
    def plan(self, tmp_path: Path, *options: str) -> tuple[dict[str, Any], str]:
        """As JSON, and as a table."""
        arguments = ["convert", str(tiny_llama(tmp_path / "a")), str(tmp_path / "out"), "--dry-run", *options]
        return json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout), CliRunner().invoke(
            app, arguments
        ).stdout

    def test_says_the_device_of_each_weight(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        simulate_gpu(monkeypatch)
        plan, table = self.plan(tmp_path, "-s", "mxfp4")
        assert {(w["route"], w["device"]) for w in plan["weights"]} == {("quantize", "gpu"), ("copy", "cpu")}
        assert plan["totals"]["devices"] == {"cpu": 5, "gpu": 16}
        head, *rows = table.splitlines()
        places = [head.index(title) for title in ("route", "device")]
        shown = {
            tuple(row[place:].split()[0] for place in places) for row in rows[: len(rows) - len(plan["files"]) - 1]
        }
        assert shown == {("quantize", "gpu"), ("copy", "cpu")}

    @pytest.mark.parametrize("options", [("-s", "mxfp4", "--device", "cpu"), ("--to", "hf")])
    def test_is_silent_of_the_cpu(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: Any) -> None:
        simulate_gpu(monkeypatch)
        plan, table = self.plan(tmp_path, *options)
        assert {w["device"] for w in plan["weights"]} == {"cpu"} and set(plan["totals"]["devices"]) == {"cpu"}
        assert "device" not in table and "grade" in table

    def test_is_silent_without_a_gpu(self, tmp_path: Path) -> None:
        plan, table = self.plan(tmp_path, "-s", "mxfp4")
        assert {w["device"] for w in plan["weights"]} == {"cpu"} and "device" not in table
