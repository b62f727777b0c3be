"""docs/repacks.md is the one that the code generates."""

from tools.repacks import DOCS, page


def test_the_page_is_up_to_date() -> None:
    assert DOCS.read_text() == page(), "run `make docs`"
