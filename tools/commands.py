"""docs/commands.md: the arguments and options of every command, from the command line itself (`make docs`)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import typer

from quantcli.cli.app import app

DOCS = Path(__file__).resolve().parent.parent / "docs" / "commands.md"

HEAD = """\
# Commands

Written by `make docs` from the command line. `quant COMMAND --help` prints the same.
"""

#: The heading of options that name none.
GENERAL = "Options"
#: A default that the help itself states, since it is computed.
STATED = re.compile(r"\s*\[default: ([^\]]+)\]")


def page() -> str:
    """Return the text of docs/commands.md."""
    commands: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    return HEAD + "".join(line for name, command in commands.items() for line in section(name, command))


def section(name: str, command: Any) -> Iterator[str]:
    """Yield the parts of a command's text: usage, arguments, a table for each heading of its options, and examples."""
    context = command.make_context(name, [], resilient_parsing=True)
    shown = [parameter for parameter in command.params if not parameter.hidden]
    usage = " ".join(piece.strip("{}") for piece in command.collect_usage_pieces(context))
    yield f"\n## `quant {name}`\n\n{_prose(command.help)}\n\n```sh\nquant {name} {usage}\n```\n"
    arguments = [parameter for parameter in shown if parameter.param_type_name == "argument"]
    if arguments:
        rows = [(f"`{argument.metavar.strip('[]{}')}`", argument.help) for argument in arguments]
        yield "\n" + table(("argument", "what it is"), rows)
    headings: dict[str, list[Any]] = {}
    for option in shown:
        if option.param_type_name == "option":
            headings.setdefault(option.rich_help_panel or GENERAL, []).append(option)
    for heading, options in headings.items():
        yield f"\n### {heading}\n\n" + table(("option", "value", "default", "what it does"), map(_row, options))
    if command.epilog:
        yield f"\n### Examples\n\n```sh\n{command.epilog.strip()}\n```\n"


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [titles, ["---"] * len(titles), *rows]
    return "".join(f"| {' | '.join(map(_cell, line))} |\n" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", r"\|")


def _row(option: Any) -> tuple[str, str, str, str]:
    names = ", ".join(f"`{name}`" for name in sorted((*option.opts, *option.secondary_opts), key=len, reverse=True))
    takes_value = not option.is_flag and not option.count
    text = _prose(option.help or "")
    stated = STATED.search(text)
    default = stated[1] if stated else f"`{option.default}`" if takes_value and _is_default(option.default) else ""
    return names, f"`{option.metavar}`" if takes_value and option.metavar else "", default, STATED.sub("", text)


def _is_default(value: object) -> bool:
    return isinstance(value, str | int | float) and value != ""


def _prose(text: str) -> str:
    """Return a help text on one line."""
    return " ".join(text.split())


def write() -> None:
    """Write docs/commands.md."""
    DOCS.write_text(page())


if __name__ == "__main__":
    write()
