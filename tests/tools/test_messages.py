"""tests/data/messages.txt lists every text that the source has for people, and is up to date.

That it misses none is also held where messages are provoked: tests/test_advice.py and tests/attacks (`unexplained`).
"""

import ast
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from quantcli.cli.app import app
from tests.explained import unexplained
from tools.messages import LIST, Text, files, is_prose, page, texts, tree_of

COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def pieces(text: Text) -> Iterator[str]:
    """The literal pieces of a text, and of those that its fields may be."""
    for one in text.within():
        yield from (part for part in one.parts if isinstance(part, str))


def raised(tree: ast.AST) -> Iterator[str]:
    """The texts in expressions that are raised; arguments of calls in them, which are words of the code, aside."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            for argument in node.exc.args:
                yield from (n.value for n in ast.walk(argument) if isinstance(n, ast.Constant) and is_text(n.value))


def is_text(value: object) -> bool:
    return isinstance(value, str) and is_prose(value)


def test_the_list_is_up_to_date() -> None:
    assert LIST.read_text() == page(), "run `make messages`"


def test_every_text_that_is_raised_is_listed() -> None:
    for name in files():
        listed = {piece for text in texts(name) for piece in pieces(text)}
        missing = [text for text in raised(tree_of(name)) if not any(text in piece for piece in listed)]
        assert missing == [], name


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_text_is_listed(command: str) -> None:
    helps = [
        COMMANDS[command].help,
        COMMANDS[command].epilog,
        *(getattr(p, "help", None) for p in COMMANDS[command].params),
    ]
    assert unexplained("\n".join(" ".join(text.split()) for text in helps if text)) == []


def test_a_text_that_is_not_in_the_source_is_not_explained() -> None:
    sound = "error: no tensor is called lm_head.weight in the file of a friend."
    assert unexplained(f"warning: -v\n{sound}") == [sound]
