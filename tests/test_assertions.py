"""Every test can fail: it asserts, expects an error, or calls a function of the tests that does; or it says that
something is skipped.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

TESTS = Path(__file__).resolve().parent
#: Functions that fail a test, or say aloud that it is skipped.
FAILING = {"raises", "warns", "fail", "skip"}


def functions(sources: Iterable[str]) -> Iterator[ast.FunctionDef]:
    for source in sources:
        yield from (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef))


def called(function: ast.FunctionDef) -> set[str]:
    """The names of what a function calls; `assert`, `raise` and numpy's assert_... count as `assert`."""
    names = set()
    for node in ast.walk(function):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            names.add("assert" if name.startswith("assert_") else name)
        elif isinstance(node, ast.Assert | ast.Raise):
            names.add("assert")
    return names


def without_assertions(sources: Iterable[str]) -> list[str]:
    """The tests that neither assert nor call, through functions of these sources, anything that does."""
    calls = [(function.name, called(function)) for function in functions(sources)]
    failing = {"assert", *FAILING}
    while more := {name for name, names in calls if name not in failing and names & failing}:
        failing |= more
    return sorted({name for name, names in calls if name.startswith("test_") and not names & failing})


def test_every_test_asserts() -> None:
    assert without_assertions(path.read_text() for path in sorted(TESTS.rglob("*.py"))) == []


def test_a_test_that_asserts_nothing_is_found() -> None:
    helper = "def check(x):\n    assert x\n\ndef twice(x):\n    check(x)\n"
    tests = (
        "def test_a():\n    twice(1)\n\ndef test_b():\n    print(1)\n\ndef test_c():\n    with pytest.raises(E): f()\n"
    )
    assert without_assertions([helper, tests]) == ["test_b"]
