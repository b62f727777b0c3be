"""README.md against the program: every command, option and exit code stands in it, and its tour prints what it says."""

import os
import re
import shlex
import typing
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from quantcli import errors
from quantcli.cli.app import app

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
COMMANDS: dict[str, typing.Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def section(title: str) -> str:
    """The text below a heading, down to the next one of the same or a higher level; empty where there is none."""
    found = re.search(rf"^(#+) {re.escape(title)}$\n", README, re.MULTILINE)
    if not found:
        return ""
    rest = README[found.end() :]
    end = re.search(rf"^#{{1,{len(found[1])}}} ", rest, re.MULTILINE)
    return rest[: end.start()] if end else rest


def documented(command: str) -> set[str]:
    """The options in the first column of a command's table."""
    rows = re.findall(r"^\| (`-.*?) \|", section(f"`quant {command}`"), re.MULTILINE)
    return {option for row in rows for option in re.findall(r"(?<![\w-])--?[a-z][a-z-]*", row)}


def existing(command: str) -> set[str]:
    options = [p for p in COMMANDS[command].params if p.param_type_name == "option"]
    return {name for option in options for name in (*option.opts, *option.secondary_opts)} - {"--help"}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_and_option_is_in_the_readme(command: str) -> None:
    assert documented(command) == existing(command)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_and_option_explains_itself(command: str) -> None:
    assert COMMANDS[command].help
    assert [p.name for p in COMMANDS[command].params if p.param_type_name == "option" and not p.help] == []


def test_exit_codes_are_in_the_readme() -> None:
    table = {int(code) for code in re.findall(r"^\| (\d+) \|", section("Exit codes"), re.MULTILINE)}
    classes = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, errors.QuantError)]
    assert table == {0, 130} | {c.exit_code for c in classes}


def test_the_commands_of_the_makefile_are_in_the_readme() -> None:
    targets = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert targets is not None
    assert [t for t in targets[1].split() if f"make {t}" not in README] == []


def tour() -> list[tuple[str, str]]:
    """(command line, what it prints) of the code block under `A tour`."""
    block = re.search(r"```console\n(.*?)```", section("A tour"), re.DOTALL)
    assert block is not None
    steps = re.split(r"^\$ ", block[1], flags=re.MULTILINE)[1:]
    return [(line, said.rstrip("\n")) for line, _, said in (step.partition("\n") for step in steps)]


def test_the_tour_prints_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.symlink(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    for line, said in tour():
        program, *arguments = shlex.split(line)
        assert program == "quant"
        result = CliRunner().invoke(app, arguments)
        assert result.stdout.rstrip("\n") == said, f"$ {line}\n{result.stdout}{result.stderr}"


def test_the_readme_leads_to_the_families() -> None:
    assert "(docs/families.md)" in README and "`quant architectures`" in README
