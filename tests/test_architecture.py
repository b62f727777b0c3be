"""ARCHITECTURE.md against the package: its list of packages is the tested one, and what it names exists."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.test_layout import ORDER, PACKAGE, ROOT, shown, texts

PAGE = (ROOT / "ARCHITECTURE.md").read_text()
#: Folders of the package that paths on the page may start in, the package itself first.
BASES = (".", "quantcli", "quantcli/convert")


def packages(page: str) -> list[str]:
    """The entries of the page's list of packages, in its order."""
    return re.findall(r"^  (\w+)(?:/|\.py) ", page, re.MULTILINE)


def unknown_files(page: str, files: Iterable[str]) -> list[str]:
    """The Python files that a text names, with any of their folders, and that are none of `files`."""
    named = re.findall(r"(?<![\w/*])[\w/]+\.py\b", page)
    return sorted({name for name in named if not any(f"/{file}".endswith(f"/{name}") for file in files)})


def unknown_folders(page: str) -> list[str]:
    """The folders in backquotes that are neither in the repository nor in the package."""
    named = re.findall(r"`((?:\w+/)+)`", page)
    return sorted({name for name in named if not any((ROOT / base / name).is_dir() for base in BASES)})


def named_tests(page: str) -> list[str]:
    """The tests that a text names, as pytest does."""
    return re.findall(r"`(tests/[\w/]+\.py(?:::\w+)+)`", page)


def defined(source: str) -> Iterator[str]:
    """The tests of a module: functions, and methods of classes, as pytest names them behind the file."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef):
            yield node.name
        elif isinstance(node, ast.ClassDef):
            yield from (f"{node.name}::{name}" for name in defined("\n".join(map(ast.unparse, node.body))))


def missing(names: Iterable[str], root: Path = ROOT) -> list[str]:
    """Those of the tests that do not exist."""
    split = [(name, *name.split("::", 1)) for name in names]
    return [
        name
        for name, file, test in split
        if not (root / file).is_file() or test not in defined((root / file).read_text())
    ]


def test_the_list_of_packages_is_the_one_that_imports_are_tested_against() -> None:
    assert packages(PAGE) == list(ORDER)


def test_the_page_names_files_and_folders_that_exist() -> None:
    files = [shown(path) for path in texts() if path.suffix == ".py"]
    assert unknown_files(PAGE, files) == []
    assert unknown_folders(PAGE) == []


def test_the_page_names_tests_that_exist() -> None:
    assert len(named_tests(PAGE)) > 30
    assert missing(named_tests(PAGE)) == []


def test_every_invariant_names_its_test() -> None:
    section = PAGE.split("\n## Invariants\n")[1].split("\n## ")[0]
    invariants = re.split(r"^- ", section, flags=re.MULTILINE)[1:]
    assert len(invariants) > 20
    assert [text for text in invariants if not named_tests(text)] == []


def test_the_registries_that_the_page_names_exist() -> None:
    named = re.findall(r"`([A-Z]{4,})` in `([\w/]+\.py)`", PAGE)
    assert len(named) >= 5
    for constant, file in named:
        path = next(ROOT / base / file for base in BASES if (ROOT / base / file).is_file())
        assert re.search(rf"^{constant}\b", path.read_text(), re.MULTILINE), (constant, file)


def test_the_links_of_the_page_lead_somewhere() -> None:
    headings = {re.sub(r"\W+", "-", title.lower()) for title in re.findall(r"^#+ (.+)$", PAGE, re.MULTILINE)}
    for target in re.findall(r"\]\(([^)]+)\)", PAGE):
        assert target[1:] in headings if target.startswith("#") else (ROOT / target).exists(), target


def test_these_checks_can_fail() -> None:
    assert packages("  cli/   x\n  errors.py  y\n    a/ z") == ["cli", "errors"]
    assert unknown_files("run.py, running/run.py `x*.py` gone.py n.py", ["a/running/run.py"]) == ["gone.py", "n.py"]
    assert unknown_folders("`quantcli/`, `schemes/ggml/`, `planning/`, `gone/`") == ["gone/"]
    here = shown(Path(__file__))
    assert missing([f"{here}::test_these_checks_can_fail", f"{here}::test_gone", "tests/gone.py::test_x"]) == [
        f"{here}::test_gone", "tests/gone.py::test_x",
    ]  # fmt: skip
    assert list(defined("def f(): ...\nclass A:\n    def g(self): ...")) == ["f", "A::g"]
    assert PACKAGE.is_dir()
