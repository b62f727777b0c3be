"""`--override-kv` held to the type of its key: a key that is known keeps its type, another integer is uint32.

llama-quantize writes every integer as uint32 of its magnitude, also in the place of a text or a number of another type,
which llama.cpp then does not load. Of a new key its bytes are kept, with a warning for what was negative.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantcli.errors import WrongUsage
from quantcli.models.keys import WINDOW_PATTERN
from quantcli.recipes.prune_keys import PER_LAYER
from quantcli.targets.gguf_key_types import RANGES, expected

#: The type of an integer before its key's type is known.
INTEGER = "int"

#: What an option calls a GGUF type.
WORDS = {
    **dict.fromkeys((*RANGES, INTEGER), "int"), "float32": "float", "float64": "float", "bool": "bool", "string": "str",
}  # fmt: skip


def replaced(
    keys: Mapping[str, tuple[str, Any]], given: Mapping[str, tuple[str, Any]]
) -> tuple[dict[str, tuple[str, Any]], list[str]]:
    """The given values in their keys' types, and warnings. Raises `WrongUsage` for one that does not fit its key."""
    found, warnings = {}, []
    for key, (kind, value) in given.items():
        known = _type(key, keys)
        if kind == INTEGER and known is None and value < 0:
            warnings.append(f"--override-kv {key}=int:{value} is written as {-value}: a new key is uint32.")
            value = -value
        found[key] = _fitted(key, kind, value, known)
    return found, warnings


def _fitted(key: str, kind: str, value: Any, known: str | None) -> tuple[str, Any]:
    """A value in the type that its key is known to have, None where it is not known."""
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


def _type(key: str, keys: Mapping[str, tuple[str, Any]]) -> str | None:
    """The GGUF type of a key: that of the file, else the one that it has elsewhere."""
    known, name = keys[key][0] if key in keys else None, key.partition(".")[2]
    if known is None:
        known = expected(key)
        if known == WINDOW_PATTERN.type and name == WINDOW_PATTERN.name:
            known = "uint32"  # llama.cpp reads a period as well as a list
    elif known.startswith("array") and name in PER_LAYER:
        element = known.removeprefix("array[").removesuffix("]")
        known = "uint32" if element in RANGES else element  # one number for all layers
    return known
