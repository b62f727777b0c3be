"""Advice that can be followed: each message that names an option has a row, and what it advises exits with 0.

The rows are in tests/advice, the texts of the package are found by tests/advice/row.py.
"""

from __future__ import annotations

import re
import shlex
from collections import Counter
from pathlib import Path

import pytest
from typer.testing import CliRunner

from quantcli.cli.app import app
from tests.advice import models, names, plans, runs, usage
from tests.advice.inputs import INPUTS
from tests.advice.row import Row, Site, sites
from tests.explained import unexplained
from tests.hub_models import whole
from tests.hub_server import Hub, blob
from tests.sources.conftest import hub  # noqa: F401, a fixture

ROWS = (*usage.ROWS, *plans.ROWS, *runs.ROWS, *models.ROWS)
ALL = (*ROWS, *usage.HUB_ROWS)
SITES = tuple(sites())
PATHS = {"out": "out", "gguf": "out.gguf", "tmp": ".", **{f"out{n}": f"out{n}" for n in (2, 3)}}
PATHS |= {f"gguf{n}": f"out{n}.gguf" for n in (2, 3)}


class Inputs(dict[str, Path]):
    """Input -> its path; each is made when it is first asked for."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = root

    def __missing__(self, name: str) -> Path:
        (self.root / name / "in").mkdir(parents=True)
        self[name] = INPUTS[name](self.root / name / "in")
        return self[name]


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return Inputs(tmp_path_factory.mktemp("inputs"))


def run(command: str, inputs: Inputs, folder: Path) -> tuple[int, str]:
    """Exit code of a command and all that it prints."""
    command = re.sub(r"\{(gguf|out)\}([23])", r"{\1\2}", command)
    wanted = set(re.findall(r"{(\w+)}", command))
    known = {name: folder / path for name, path in PATHS.items()} | {n: inputs[n] for n in wanted - PATHS.keys()}
    result = CliRunner().invoke(app, shlex.split(command.format_map(known)))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def said_by(row: Row) -> list[Site]:
    return [site for site in SITES if row.is_of(site)]


def test_every_message_that_names_an_option_has_a_row() -> None:
    missing = [str(site) for site in SITES if not any(row.is_of(site) for row in ALL) and not names.is_silent(site)]
    assert missing == []


def test_every_row_is_of_a_message() -> None:
    assert [f"{row.module}: {row.fragment}" for row in ALL if not said_by(row)] == []
    assert [entry for entry in names.ENTRIES if not any(names.is_of(entry, site) for site in SITES)] == []


def test_no_row_is_of_two_messages() -> None:
    several = {f"{row.module}: {row.fragment}": {site.text for site in said_by(row)} for row in ALL}
    assert {row: texts for row, texts in several.items() if len(texts) > 1} == {}


def test_a_row_and_a_name_are_not_the_same() -> None:
    twice = Counter(str(site) for site in SITES if names.is_silent(site) and any(row.is_of(site) for row in ALL))
    assert twice == {}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.module}: {row.fragment}"[:60])
def test_the_advised_command_works(row: Row, inputs: Inputs, tmp_path: Path) -> None:
    follow(row, inputs, tmp_path)


@pytest.mark.parametrize("row", usage.HUB_ROWS, ids=lambda row: row.fragment)
def test_the_advised_revision_works(row: Row, hub: Hub, inputs: Inputs, tmp_path: Path) -> None:  # noqa: F811
    hub.add("org/model", {"config.json": blob(b"{}"), "model.safetensors": whole("a")}, "main", "v1")
    follow(row, inputs, tmp_path)


def follow(row: Row, inputs: Inputs, folder: Path) -> None:
    """Provoke the message, which has all of its text, and run what it advises."""
    if row.before is not None:
        row.before(folder)
    with pytest.MonkeyPatch.context() as patch:
        if row.patch is not None:
            row.patch(patch, folder)
        code, said = run(row.provoking, inputs, folder)
        assert code == row.code, said
        assert unexplained(said, row.provoking) == []
        assert any(all(blanks_made_one(p) in blanks_made_one(said) for p in site.pieces) for site in said_by(row)), said
        if row.after is not None:
            row.after(folder)
        if not row.stays_patched:
            patch.undo()
        for command in row.commands:
            code, said = run(command, inputs, folder)
            assert code == 0, f"{command}\n{said}"


def blanks_made_one(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()
