"""The tokenizers that files of ranks are made for: tiktoken's library and mistral-common."""

import unicodedata
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.tokenizers.ranked import PATTERNS

Encode = Callable[[str], list[int]]

#: Released classes that bring a text into Unicode NFC before they give it to tiktoken.
COMPOSES = ("hunyuan", "qwen")


def original(folder: Path, name: str, special: Mapping[str, int], composes: bool = True) -> Encode:
    """The encoder of a folder. special: the tokens that a class adds. composes: as `COMPOSES` says, else never."""
    if (folder / "tekken.json").is_file():
        from mistral_common.tokens.tokenizers.tekken import Tekkenizer

        tekken: Any = Tekkenizer.from_file(folder / "tekken.json")
        return lambda text: list(tekken.encode(text, bos=False, eos=False))
    import tiktoken
    from tiktoken.load import load_tiktoken_bpe

    (file,) = [*folder.glob("*.tiktoken"), *folder.glob("tiktoken.model")]
    ranks = load_tiktoken_bpe(str(file))
    made = tiktoken.Encoding(name, pat_str=PATTERNS[name], mergeable_ranks=ranks, special_tokens=dict(special))

    def encode(text: str) -> list[int]:
        composed = unicodedata.normalize("NFC", text) if composes and name in COMPOSES else text
        return list(made.encode(composed, allowed_special="all"))

    return encode
