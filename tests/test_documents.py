"""The Markdown documents: console blocks print what they show, links lead somewhere, and prose is wrapped."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tools.consoles import BLOCK, ROOT, documents, rewritten

#: Written for readers of the repository: at its root, in docs/, and next to what they describe.
FOLDERS = ("benchmarks", "examples", "quantcli")
PAGES = sorted({*documents(), *ROOT.glob("*.md"), *(page for name in FOLDERS for page in ROOT.glob(f"{name}/**/*.md"))})
#: Written by programs, which do not wrap lines.
GENERATED = ("commands.md", "families.md", "repacks.md")
COLUMNS = 100
WEB_LINK = re.compile(r"https://[\w-]+(\.[\w-]+)+(/[\w./#?=&%~+@-]*)?")


def shown(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def without_code(text: str) -> str:
    """A document without its code blocks and code spans."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`\n]*`", "", text)


def anchors(text: str) -> set[str]:
    """The fragments that a document's headings have on a forge: lower case, punctuation dropped, `-` for spaces."""
    blocks = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#+ (.+)$", blocks, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def broken_links(path: Path, text: str) -> list[str]:
    """The links of a document at `path` that lead to no file, to no heading of it, or are no sound web address."""
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(text)):
        file, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", target):
            broken += [] if WEB_LINK.fullmatch(target) else [target]
            continue
        page = path.parent / file if file else path
        if not page.exists() or (anchor and anchor not in anchors(text if page == path else page.read_text())):
            broken.append(target)
    return broken


def long_lines(text: str) -> list[str]:
    """The lines of prose that are longer than COLUMNS; tables and code cannot be wrapped, nor can one long word."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE).splitlines()
    return [line for line in prose if len(line) > COLUMNS and " " in line.strip() and not line.startswith("|")]


@pytest.mark.parametrize("path", [page for page in documents() if BLOCK.search(page.read_text())], ids=shown)
def test_console_blocks_print_what_they_show(path: Path, tmp_path: Path) -> None:
    text = path.read_text()
    assert rewritten(text, tmp_path) == text, "run `python -m tools.consoles`"


@pytest.mark.parametrize("path", PAGES, ids=shown)
def test_links_lead_somewhere(path: Path) -> None:
    assert broken_links(path, path.read_text()) == []


@pytest.mark.parametrize("path", [page for page in documents() if page.name not in GENERATED], ids=shown)
def test_prose_is_wrapped(path: Path) -> None:
    assert long_lines(path.read_text()) == []


def test_every_document_is_listed_in_the_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text()
    assert [page.name for page in (ROOT / "docs").glob("*.md") if f"]({page.name})" not in index] == ["index.md"]


def test_these_checks_can_fail() -> None:
    here = ROOT / "README.md"
    text = "# A b: c\n[1](#a-b-c) [2](#x) [3](gone.md) [4](docs/index.md#gone) [5](https://a.org/b#c) `[6](gone)`"
    text += " [7](https:/a.org)\n"
    assert broken_links(here, text) == ["#x", "gone.md", "docs/index.md#gone", "https:/a.org"]
    assert anchors("## `a_b` next to c\n```\n# no\n```\n") == {"a_b-next-to-c"}
    assert long_lines("a " * 51 + "\n| " + "a " * 51 + "\n```\n" + "a " * 51 + "\n```\n" + "a" * 101) == ["a " * 51]
