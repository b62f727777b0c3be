"""Every case of tests/data/arch is what the pinned converter makes of it, and what the table of cases says."""

from __future__ import annotations

from pathlib import Path

from tests.convert.test_golden_arch import CASES as COMMITTED
from tests.convert.test_golden_arch import DATA
from tests.peers.pinned import peer

peer("torch")
peer("transformers")

from tests.peers.arch_checkpoint import from_folder, from_table  # noqa: E402
from tests.peers.arch_table import ROWS  # noqa: E402
from tests.peers.make_arch import differences, made  # noqa: E402


def changed(name: str, texts: dict[str, str]) -> list[str]:
    """What the files of a case would change."""
    found = [text for text in differences(DATA / "arch" / name, texts) if not text.endswith(": the same")]
    return found if "error" not in texts else [texts["error"]]


def test_committed_cases_are_what_the_converter_makes(tmp_path: Path) -> None:
    checkpoints = {name: from_folder(DATA / "arch" / name) for name in COMMITTED}
    found = {name: changed(name, texts) for name, texts in made(tmp_path, checkpoints)}
    assert found == {name: [] for name in COMMITTED}


def test_rows_of_the_table_are_the_committed_cases(tmp_path: Path) -> None:
    rows = {name: from_table(ROWS[name]) for name in ROWS if name in COMMITTED}
    assert {"qwen2", "deepseek_v3"} <= {*rows}
    found = {name: changed(name, texts) for name, texts in made(tmp_path, rows)}
    assert found == {name: [] for name in rows}
