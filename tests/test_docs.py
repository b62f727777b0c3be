"""README.md against the program: every command and exit code stands in it, and every option explains itself."""

import re
import typing
from pathlib import Path

import pytest
import typer

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


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_in_the_readme(command: str) -> None:
    assert re.search(rf"^\| `quant {command}\b.*` \| .+ \|$", section("Commands"), re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_and_option_explains_itself(command: str) -> None:
    assert COMMANDS[command].help
    assert [p.name for p in COMMANDS[command].params if p.param_type_name == "option" and not p.help] == []


def test_exit_codes_are_in_the_readme() -> None:
    table = {int(code) for code in re.findall(r"^\| (\d+) \|", section("Exit codes"), re.MULTILINE)}
    classes = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, errors.QuantError)]
    assert table == {0, 130} | {c.exit_code for c in classes}


def test_the_readme_leads_to_the_families() -> None:
    assert "(docs/families.md)" in README and "`quant architectures`" in README
