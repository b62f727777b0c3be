"""Chat templates in their files."""

from pathlib import Path

from quantcli.tokenizers import templates
from quantcli.tokenizers.files import Files


def test_line_ends_are_those_of_text_mode(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_bytes(b"a\r\nb\rc\n")
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_bytes(b"t\r\n")
    assert templates.read(Files(tmp_path), {}) == ("a\nb\nc\n", {"tool_use": "t\n"})
    assert templates.read(Files(tmp_path), {"chat_template": "a\r\n"}) == ("a\r\n", {})
