"""The source that the tests here convert; what they have counted is printed at the end of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.builders import tiny_llama
from tests.kills.runs_that_die import at_once


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("source") / "tiny", num_hidden_layers=1)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    at_once(monkeypatch)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    lines = [
        f"{report.nodeid.rpartition('/')[2]}: {name} {value}"
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", None) == "call"
        for name, value in report.user_properties
    ]
    if lines:
        terminalreporter.section("counted")
    for line in sorted(lines):
        terminalreporter.line(line)
