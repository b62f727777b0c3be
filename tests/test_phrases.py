"""Phrases that are never right are in no message, help text or document; docs/style.md names them as examples."""

import re
from pathlib import Path

import pytest

from tools.messages import LIST, ROOT

PHRASES = ("unless said", "apart by", "nought", "Likewise.", "has 1 dimensions", "nobody says", "is told by", "mend")
WHOLE_WORDS = re.compile(r"(?<!\w)(?:" + "|".join(map(re.escape, PHRASES)) + r")(?!\w)")
TEXTS = [LIST, ROOT / "README.md", *(page for page in sorted((ROOT / "docs").glob("*.md")) if page.name != "style.md")]


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_no_phrase_is_there(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert [line for line in lines if WHOLE_WORDS.search(line)] == []


def test_phrases_are_found_as_whole_words() -> None:
    assert WHOLE_WORDS.findall("mend it. Likewise.\nmended, amend, recommend; 8 bits unless said") == [
        "mend", "Likewise.", "unless said",
    ]  # fmt: skip
