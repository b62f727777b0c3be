"""CONTRIBUTING.md and the hooks of pre-commit against the Makefile."""

from __future__ import annotations

import re

from tests.test_layout import ROOT

MAKEFILE = (ROOT / "Makefile").read_text()


def recipe(target: str) -> list[str]:
    """The commands of a target, with the programs of .venv spelled out."""
    found = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
    return [line.strip().replace("$(BIN)", ".venv/bin") for line in found[1].splitlines()] if found else []


def test_every_command_of_the_makefile_is_explained() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text()
    targets = re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    assert targets is not None
    assert [name for name in targets[1].split() if not re.search(rf"\bmake {name}\b", page)] == []
    assert [name for name in re.findall(r"`make ([\w-]+)`", page) if name not in targets[1].split()] == []


def test_hooks_are_local_and_are_what_make_check_runs() -> None:
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    assert set(re.findall(r"repo: *(.+)", hooks)) == {"local"}
    entries = re.findall(r"entry: *(.+)", hooks)
    assert entries == [line.removesuffix(" .") for line in recipe("check") if line.startswith(".venv/bin/")]
    assert len(entries) == 3
