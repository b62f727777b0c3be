"""The README's table of repacks is the one that the code generates."""

from pathlib import Path

from tools.repacks import table, weight_of

ROOT = Path(__file__).resolve().parent.parent.parent


def test_readme_has_the_generated_table() -> None:
    assert table(weight_of(ROOT / "examples" / "demo-qwen3")) in (ROOT / "README.md").read_text()
