"""That compiling is told of where it takes long, once a scheme, and never on stdout."""

import importlib
import logging
import threading
from types import SimpleNamespace

import pytest

from quantcli.cli.output import Output
from quantcli.kernels import compiling

EVENT = SimpleNamespace(
    data={"dispatcher": SimpleNamespace(py_func=SimpleNamespace(__module__="quantcli.kernels.ggml.k_quants.q6_k"))}
)


class Timer:
    """A timer that goes off at once where it has at most `soon` seconds to wait."""

    soon = 0.0

    def __init__(self, seconds: float, call: object, given: tuple[str, ...] = ()) -> None:
        self.seconds, self.call, self.given, self.daemon = seconds, call, given, False

    def start(self) -> None:
        if self.seconds <= self.soon:
            self.call(*self.given)  # type: ignore[operator]

    def cancel(self) -> None:
        pass


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, to be set."""
    now = [0.0]
    monkeypatch.setattr(compiling, "monotonic", lambda: now[0])
    monkeypatch.setattr(compiling, "threading", SimpleNamespace(Timer=Timer))
    return now


def compile_for(watch: compiling.Watch, clock: list[float], seconds: float) -> None:
    """A kernel, and within it another."""
    watch.on_start(EVENT)
    watch.on_start(EVENT)
    watch.on_end(EVENT)
    clock[0] += seconds
    watch.on_end(EVENT)


def test_short_ones_add_up_to_one_line(
    clock: list[float], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    watch = compiling.Watch("once; cached")
    monkeypatch.setattr(Timer, "soon", 0.5)
    with Output().log_notes(), compiling.on_behalf_of("q4_k"):
        compile_for(watch, clock, 0.25)
        assert capsys.readouterr().err == ""
        compile_for(watch, clock, 0.25)
        compile_for(watch, clock, 2)  # the third has half a second left
        compile_for(watch, clock, 2)
    assert capsys.readouterr() == ("", "compiling CPU kernels for q4_k (once; cached)\n")


def test_without_a_scheme_the_file_is_named(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, compiling.LOG)
    watch = compiling.Watch("once; cached")
    watch.spent["q6_k"] = 1.0 - 1e-9
    Timer.soon = 1e-6
    compile_for(watch, clock, 1)
    assert caplog.messages == ["compiling CPU kernels for q6_k (once; cached)"]


@pytest.mark.parametrize(("out", "said"), [(Output(as_json=True), "a note\n"), (Output(quiet=True), "")])
def test_never_on_stdout_nothing_when_quiet(out: Output, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    log = logging.getLogger(compiling.LOG)
    with out.log_notes():
        log.info("a note")
    log.info("nobody asked")
    assert capsys.readouterr() == ("", said)


def test_numba_tells(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    import numba

    importlib.import_module("quantcli.kernels.compile")  # it registers with numba

    heard = threading.Event()
    monkeypatch.setattr(compiling, "SECONDS", 1e-9)
    monkeypatch.setattr(compiling.Watch, "_say", lambda self, scheme: scheme == "made_up" and heard.set())

    def tripled(x: int) -> int:
        return 3 * x

    with compiling.on_behalf_of("made_up"):
        assert numba.njit(tripled)(14) == 42
    assert heard.wait(10)
