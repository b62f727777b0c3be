"""docs/commands.md is the one that the command line gives, and has every option."""

import typer

from quantcli.cli.app import app
from tools.commands import DOCS, page, table


def test_the_page_is_up_to_date() -> None:
    assert DOCS.read_text() == page(), "run `make docs`"


def test_every_option_and_argument_has_a_row() -> None:
    sections = DOCS.read_text().split("\n## ")[1:]
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert [section.partition("\n")[0] for section in sections] == [f"`quant {name}`" for name in commands]
    for section, command in zip(sections, commands.values(), strict=True):
        names = {name for p in command.params if p.param_type_name == "option" for name in p.opts}
        arguments = {p.metavar.strip("[]") for p in command.params if p.param_type_name == "argument"}
        rows = [line.partition(" | ")[0] for line in section.splitlines() if line.startswith("| `")]
        assert {word for row in rows for word in row.strip("|` ").split("`, `")} == names | arguments


def test_a_bar_does_not_end_a_cell() -> None:
    assert table(("a", "b"), [("`x|y`", "c")]).splitlines()[-1] == r"| `x\|y` | c |"
