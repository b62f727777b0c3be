"""What the table of advised commands is made of, and the messages of the package that name an option."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent.parent / "quantcli"
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
#: What takes the place of a value in the text of an f-string.
HOLE = "\0"


@dataclass(frozen=True)
class Row:
    """A message, the command that provokes it, and those that it advises, each of which exits with 0.

    module: below quantcli/. fragment: a part of the message as the source has it, HOLE for values, of one message
    alone. It is the whole where it is options alone or starts with "=". Commands are those of a shell, {NAME} an
    input of `inputs.py` or a path in the test's folder: {out}, {gguf}, {out2}, {gguf2}, {tmp}. code: of the provoking
    command, 0 for a warning or a note. before, after: what is done before the first command and between the two.
    patch: what is changed while the first command runs; stays_patched: and the others, too.
    """

    module: str
    fragment: str
    provoking: str
    advised: str | tuple[str, ...]
    code: int = 2
    before: Callable[[Path], None] | None = None
    after: Callable[[Path], None] | None = None
    patch: Callable[[pytest.MonkeyPatch, Path], None] | None = None
    stays_patched: bool = False

    @property
    def commands(self) -> tuple[str, ...]:
        return (self.advised,) if isinstance(self.advised, str) else self.advised

    def is_of(self, site: Site) -> bool:
        """Whether a site is the message of this row."""
        return self.module == site.module and is_in(self.fragment, site.text)


@dataclass(frozen=True)
class Site:
    """A text of the package that names an option; HOLE for each value in it."""

    module: str
    line: int
    text: str

    @property
    def pieces(self) -> list[str]:
        """What a message has of the text whatever its values."""
        return [piece for piece in re.split(f"{HOLE}+", self.text) if len(piece.strip()) > 3]

    def __str__(self) -> str:
        return f"{self.module}:{self.line}: {self.text.replace(HOLE, '{}')!r}"


def is_name(text: str) -> bool:
    """Whether a text is options alone, which other texts are made with."""
    return re.fullmatch(rf"({OPTION.pattern}(, )?)+", text) is not None


def is_in(fragment: str, text: str) -> bool:
    """Whether a row's fragment is that of a text."""
    if fragment.startswith("=") or is_name(fragment):
        return fragment.removeprefix("=") == text
    return fragment in text


def sites() -> Iterator[Site]:
    """Every text of the package that names an option; docstrings and what `--help` prints are none."""
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text())
        silent = {id(node) for node in _silent(tree)}
        for node in ast.walk(tree):
            text = _text(node)
            if id(node) not in silent and text is not None and OPTION.search(text):
                yield Site(path.relative_to(PACKAGE).as_posix(), getattr(node, "lineno", 0), text)


def _silent(tree: ast.AST) -> Iterator[ast.AST]:
    """Docstrings, arguments of typer's functions, and the pieces of f-strings, which count as a whole."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr):
            yield node.value  # a docstring
        elif isinstance(node, ast.Call) and ast.unparse(node.func).startswith("typer."):
            yield from ast.walk(node)
        elif isinstance(node, ast.JoinedStr):
            yield from (piece for piece in node.values if isinstance(piece, ast.Constant))


def _text(node: ast.AST) -> str | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(str(v.value) if isinstance(v, ast.Constant) else HOLE for v in node.values)
    return None
