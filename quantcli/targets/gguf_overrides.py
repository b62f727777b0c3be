"""`--override-kv` held to the type of its key: a key that is known keeps its type, another integer is uint32.

llama-quantize writes every integer as uint32 of its magnitude, also in the place of a text or a number of another type,
which llama.cpp then does not load.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from quantcli.errors import WrongUsage
from quantcli.models import FAMILIES
from quantcli.recipes.prune_keys import PER_LAYER

#: The type of an integer before its key's type is known.
INTEGER = "int"

#: Integer types of GGUF: the least and the greatest value.
RANGES = {f"uint{bits}": (0, 2**bits - 1) for bits in (8, 16, 32, 64)} | {
    f"int{bits}": (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in (8, 16, 32, 64)
}

#: What an option calls a GGUF type.
WORDS = {
    **dict.fromkeys((*RANGES, INTEGER), "int"), "float32": "float", "float64": "float", "bool": "bool", "string": "str",
}  # fmt: skip

#: Types of keys that a file may lack, beside those of the architectures' tables.
OF_KEYS = {
    "general.architecture": "string", "general.type": "string", "general.name": "string", "general.basename": "string",
    "tokenizer.ggml.model": "string", "tokenizer.ggml.pre": "string", "tokenizer.chat_template*": "string",
    "tokenizer.ggml.*_token_id": "uint32", "tokenizer.ggml.add_*": "bool",
}  # fmt: skip


def fitted(key: str, given: tuple[str, Any], keys: Mapping[str, tuple[str, Any]]) -> tuple[str, Any]:
    """A given value in its key's type, among `keys` or in general. Raises `WrongUsage` for one that does not fit it.

    >>> fitted("a.b", ("int", 7), {}), fitted("a.b", ("int", -7), {"a.b": ("int16", 0)})
    (('uint32', 7), ('int16', -7))
    """
    kind, value = given
    known = keys[key][0] if key in keys else _usual(key)
    if known is not None and known.startswith("array") and key.partition(".")[2] in PER_LAYER:
        element = known.removeprefix("array[").removesuffix("]")
        known = "uint32" if element in RANGES else element  # one number for all layers
    text = f"{key}={WORDS[kind]}:{str(value).lower() if kind == 'bool' else value}"[:100]
    if known is not None and WORDS.get(known) != WORDS[kind]:
        hint = f"Write {key}={WORDS[known]}:VALUE." if known in WORDS else "An option cannot set it."
        raise WrongUsage(f"--override-kv {text!r}: {key} is {known}. {hint}")
    if kind != INTEGER:
        return kind, value
    written = known or "uint32"
    least, greatest = RANGES[written]
    if not least <= value <= greatest:
        raise WrongUsage(f"--override-kv {text!r}: {key} is {written}, which holds {least} to {greatest}.")
    return written, value


def _usual(key: str) -> str | None:
    """The type of a key that is known from elsewhere."""
    for family in FAMILIES:
        for row in (*family.foremost, *family.keys, *family.further):
            if key == f"{family.gguf}.{row.name}":
                return row.type
    return next((kind for pattern, kind in OF_KEYS.items() if fnmatchcase(key, pattern)), None)
