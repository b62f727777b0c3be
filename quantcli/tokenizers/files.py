"""The small files of a tokenizer in a model folder."""

from __future__ import annotations

import fnmatch
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantcli.containers.entries import is_there
from quantcli.containers.hostile import opened
from quantcli.containers.json_text import MAX_BYTES, load_object
from quantcli.errors import BadInput

JSON, MODEL, SETTINGS = "tokenizer.json", "tokenizer.model", "tokenizer_config.json"
RANKS, TEKKEN = "tiktoken.model", "tekken.json"
#: Patterns of the files of a tokenizer, including chat templates.
TOKENIZER = (
    JSON, SETTINGS, f"{MODEL}*", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "vocab.txt", "merges.txt", "chat_template.json", "chat_template.jinja",
    "additional_chat_templates/*.jinja", TEKKEN, "*.tiktoken", RANKS, "spiece.model",
    "sentencepiece.bpe.model", "bpe.codes", "tokenization_*.py",
)  # fmt: skip


def is_tokenizers(name: str) -> bool:
    """Return whether a file in a model folder is part of its tokenizer.

    >>> is_tokenizers("tokenizer.model.v3"), is_tokenizers("config.json")
    (True, False)
    """
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in TOKENIZER)


@dataclass(frozen=True)
class Files:
    """A model folder whose files are read by known names. tokenizer: another folder with the tokenizer's files."""

    root: Path
    tokenizer: Path | None = None

    def path(self, name: str) -> Path:
        """Return the path of a file."""
        return (self.tokenizer if self.tokenizer is not None and is_tokenizers(name) else self.root) / name

    def label(self, name: str) -> str:
        """Return the name of a file for errors."""
        return str(self.path(name))

    def has(self, name: str) -> bool:
        """Return whether a file exists. Raises `BadInput` if something else has its name."""
        path = self.path(name)
        if not path.is_file() and is_there(path) and not path.is_dir():
            what = "a link to a file that does not exist" if path.is_symlink() else "not a regular file"
            raise BadInput(f"{path}: is {what}. Remove it, or replace it with a regular file.")
        return path.is_file()

    def within(self, folder: str, suffix: str = ".jinja") -> list[str]:
        """Return the sorted names of the files in a subfolder that end in `suffix`."""
        path = self.path(f"{folder}/x{suffix}").parent
        return sorted(name for name in os.listdir(path) if name.endswith(suffix)) if path.is_dir() else []

    def ending(self, suffix: str) -> list[str]:
        """Return the sorted names of the tokenizer's files in the folder itself that end in `suffix`."""
        path = self.path(f"x{suffix}").parent
        return sorted(name for name in os.listdir(path) if name.endswith(suffix) and (path / name).is_file())

    def bytes(self, name: str) -> bytes:
        """Read a complete file. Raises `BadInput` for one that is larger than any such file."""
        with opened(self.path(name)) as (read, size):
            if size > MAX_BYTES:
                raise BadInput(f"{self.label(name)}: is {size} bytes; the limit is {MAX_BYTES}.")
            return read(0, size)

    def text(self, name: str) -> str:
        """Read a UTF-8 file. Raises `BadInput` for other text."""
        try:
            return self.bytes(name).decode("utf-8")
        except UnicodeDecodeError as error:
            raise BadInput(f"{self.label(name)}: is not UTF-8 text (byte {error.start}).") from None

    def json(self, name: str) -> dict[str, Any]:
        """Read a JSON object; {} if the file does not exist."""
        return load_object(self.bytes(name), self.label(name)) if self.has(name) else {}
