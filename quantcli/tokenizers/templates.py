"""Chat templates of a model folder.

Source: transformers. `tokenizer_config.json`'s `chat_template` (a string, or a list of `{name, template}` with one
named `default`), else `chat_template.jinja` with `additional_chat_templates/<name>.jinja` next to it, else
`chat_template.json`.
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from typing import Any

from quantcli.containers.json_text import Reader
from quantcli.errors import BadInput
from quantcli.tokenizers.files import SETTINGS, Files

ADDITIONAL = "additional_chat_templates"
JINJA = "chat_template.jinja"
#: Names of templates that llama.cpp has built in, which its converter writes instead of a template's text.
BUILT_IN = ("mistral-v1", "mistral-v3", "mistral-v3-tekken", "mistral-v7", "mistral-v7-tekken")


def read(files: Files, tokenizer_config: Mapping[str, Any]) -> tuple[str | None, dict[str, str]]:
    """Return the default template, and the named others (names with letters, digits and _ only). Raises `BadInput`."""
    value, where = tokenizer_config.get("chat_template"), SETTINGS
    if value is None and files.has(JINJA):
        others = {name.removesuffix(".jinja"): f"{ADDITIONAL}/{name}" for name in files.within(ADDITIONAL)}
        texts = {_name(name): _text(files, file) for name, file in sorted(others.items())}
        return _text(files, JINJA), texts
    if value is None and files.has("chat_template.json"):
        where, tokenizer_config = "chat_template.json", files.json("chat_template.json")
        value = tokenizer_config.get("chat_template")
    if value is None or isinstance(value, str):
        return value, {}
    if not isinstance(value, list):
        raise Reader(tokenizer_config, files.label(where)).refuse("chat_template", "expected a string or a list")
    named: dict[str, str] = {}
    for entry in value:
        name, text = (entry.get("name"), entry.get("template")) if isinstance(entry, Mapping) else (None, None)
        if not isinstance(name, str) or not isinstance(text, str):
            raise BadInput(f"{files.label(where)}: an entry of chat_template lacks a name or a template.")
        named[_name(name)] = text
    return named.pop("default", None), named


def used(files: Files) -> tuple[str | None, dict[str, str]]:
    """Return the templates that transformers uses: chat_template.jinja takes precedence over tokenizer_config.json."""
    settings = files.json(SETTINGS)
    return read(files, {} if files.has(JINJA) else settings)


def disagreement(files: Files) -> str | None:
    """Return a sentence that says that the two places of a template differ; None if they do not."""
    settings = files.json(SETTINGS)
    if settings.get("chat_template") is None or not files.has(JINJA):
        return None
    if read(files, settings)[0] == read(files, {})[0]:
        return None
    return (
        f"{files.label(JINJA)}: differs from the chat template in {SETTINGS}. transformers uses {JINJA}; a GGUF file "
        f"gets the one in {SETTINGS}, as llama.cpp's converter writes it."
    )


def _text(files: Files, name: str) -> str:
    """Return a template's text with "\\n" as line ends, as every reader gets it in Python's text mode."""
    return files.text(name).replace("\r\n", "\n").replace("\r", "\n")


def _name(name: str) -> str:
    """Return a template's name with "_" for characters that a GGUF key cannot have."""
    return "".join(c if c in string.ascii_letters + string.digits else "_" for c in name)
