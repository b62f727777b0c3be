"""Chat templates in their files."""

import json
import re
from pathlib import Path

import pytest

from quantcli.tokenizers import templates
from quantcli.tokenizers.files import Files
from tests.builders import tiny_llama
from tests.conversions import planned


def test_line_ends_are_those_of_text_mode(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_bytes(b"a\r\nb\rc\n")
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_bytes(b"t\r\n")
    assert templates.read(Files(tmp_path), {}) == ("a\nb\nc\n", {"tool_use": "t\n"})
    assert templates.read(Files(tmp_path), {"chat_template": "a\r\n"}) == ("a\r\n", {})


def both(folder: Path, config: str | None, jinja: str) -> Path:
    """A folder with two templates."""
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | ({"chat_template": config} if config else {})))
    (folder / "chat_template.jinja").write_text(jinja)
    return folder


@pytest.mark.parametrize("output", ["mlx", "out.gguf", "hf"])
def test_two_templates_are_a_warning_that_says_which_one_counts(tmp_path: Path, output: str) -> None:
    options = {"to": "hf"} if output == "hf" else {}
    folder = both(tiny_llama(tmp_path / "m"), "{{ a }}", "{{ b }}")
    (warning,) = planned(folder, tmp_path / output, **options).warnings
    assert re.search(r"transformers uses chat_template\.jinja;.*GGUF.*tokenizer_config\.json", warning)
    for config in ("{{ b }}", None):
        both(folder, config, "{{ b }}")
        assert planned(folder, tmp_path / output, **options).warnings == ()


def test_the_template_that_transformers_uses(tmp_path: Path) -> None:
    folder = both(tiny_llama(tmp_path / "m"), "{{ a }}", "{{ b }}")
    assert templates.used(Files(folder)) == ("{{ b }}", {})
    (folder / "chat_template.jinja").unlink()
    assert templates.used(Files(folder)) == ("{{ a }}", {})
