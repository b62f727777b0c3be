"""docs/families.md, and what the package says of the tests, are those that the tables and the tests' data give."""

from quantcli.convert.inspecting.architectures import TESTED, families
from quantcli.models import FAMILIES
from tools.families import DOCS, data, page


def test_the_record_of_the_tests_is_up_to_date() -> None:
    assert TESTED.read_text() == data(), "run `make families`"


def test_the_page_is_up_to_date() -> None:
    assert DOCS.read_text() == page(), "run `make families`"


def test_the_page_has_every_family_in_both_tables() -> None:
    lines = DOCS.read_text().splitlines()
    assert {family.name: sum(line.startswith(f"| {family.name} |") for line in lines) for family in FAMILIES} == {
        family.name: 2 for family in FAMILIES
    }


def test_every_family_without_towers_is_tested_against_the_converter() -> None:
    assert [family.name for family in families() if not family.towers and not family.tested.cases] == []
