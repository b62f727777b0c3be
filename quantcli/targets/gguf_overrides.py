"""Types of `--override-kv` values: a known key keeps its type, any other integer is uint32.

llama-quantize writes every integer as uint32 of its magnitude, also in the place of a text or a number of another type,
which llama.cpp then does not load. Of a new key its bytes are kept, with a warning for what was negative.

A key that the file has in a type which llama.cpp does not read gets the right one. Without a value it keeps its own:

    tokenizer.ggml.token_type  array[uint32]                       a warning
    --override-kv tokenizer.ggml.token_type=int:  array[int32]     the same numbers
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantcli.containers.gguf_values import ArrayValue
from quantcli.containers.hostile import shown
from quantcli.errors import WrongUsage
from quantcli.models.keys import WINDOW_PATTERN
from quantcli.recipes.prune_keys import PER_LAYER
from quantcli.targets.gguf_key_types import RANGES, expected, refused

#: The type of an integer before its key's type is known.
INTEGER = "int"

#: How text is cut before merges: byte-level BPE alone has a choice.
MODEL, PRE = "tokenizer.ggml.model", "tokenizer.ggml.pre"

#: What an option calls a GGUF type.
WORDS = {
    **dict.fromkeys((*RANGES, INTEGER), "int"), "float32": "float", "float64": "float", "bool": "bool", "string": "str",
}  # fmt: skip


def replaced(
    keys: Mapping[str, tuple[str, Any]], given: Mapping[str, tuple[str, Any]]
) -> tuple[dict[str, tuple[str, Any]], list[str]]:
    """Return the given values in their keys' types, and warnings. Raises `WrongUsage` for a value that does not fit."""
    found, warnings = {}, []
    for key, (kind, value) in given.items():
        known = _type(key, keys)
        if value is None:
            found[key] = _rewritten(key, kind, keys, known)
            continue
        if kind == INTEGER and known is None and value < 0:
            warnings.append(
                f"--override-kv {key}=int:{value} is written as {-value}, because a new integer key is uint32 (as "
                "llama-quantize writes it)."
            )
            value = -value
        found[key] = _fitted(key, kind, value, known)
    return found, warnings


def doubts(keys: Mapping[str, tuple[str, Any]]) -> list[str]:
    """Return warnings about keys whose type llama.cpp does not accept, and about a missing pre-tokenizer."""
    found = {key: wanted for key, (kind, _) in keys.items() if (wanted := refused(key, kind)) is not None}
    missing = []
    if keys.get(MODEL, ("", None))[1] == "gpt2" and not keys.get(PRE, ("", None))[1]:
        missing.append(
            f"key {PRE!r} is missing, so llama.cpp splits text by its rule `default`, which is wrong for most models. "
            f"Set the model's rule, such as llama-bpe or qwen2, with --override-kv {PRE}=str:NAME."
        )
    return missing + [
        f"key {shown(key)}: expected {wanted}, found {keys[key][0]}, so llama.cpp does not load the "
        f"file.{_hint(key, wanted)}"
        for key, wanted in found.items()
    ]


def _hint(key: str, wanted: str) -> str:
    """Return a sentence on how to set the type of a key; empty for types that no option can set."""
    word = WORDS.get(_element(wanted))
    return "" if word in (None, "str") else f" Use --override-kv '{key}={word}:' to write its value as {wanted}."


def _element(kind: str) -> str:
    """The type of an array's elements, any other type itself."""
    return kind.removeprefix("array[").removesuffix("]")


def _rewritten(key: str, kind: str, keys: Mapping[str, tuple[str, Any]], known: str | None) -> tuple[str, Any]:
    """The stored value of a key in the type that it should have. Raises `WrongUsage` where it has none, or no place."""
    text = f"--override-kv {f'{key}={WORDS[kind]}:'[:100]!r}"
    if key not in keys:
        raise WrongUsage(f"{text}: the file has no such key, so the option needs a value.")
    stored, value = keys[key]
    wanted = expected(key) or stored
    if WORDS.get(_element(wanted)) != WORDS[kind]:
        raise WrongUsage(f"{text}: the type of {key} is {wanted}.")
    numbers = value.decode() if isinstance(value, ArrayValue) else value
    if isinstance(numbers, list) != wanted.startswith("array["):
        raise WrongUsage(f"{text}: {key} is stored as {stored}, which cannot be converted to {wanted}.")
    listed = numbers if isinstance(numbers, list) else [numbers]
    least, greatest = RANGES.get(_element(wanted), (0, 0))
    for number in listed:
        if not isinstance(number, int | float) or (
            kind == INTEGER and (number != int(number) or not least <= number <= greatest)
        ):
            raise WrongUsage(f"{text}: the stored value {shown(number)} does not fit {_element(wanted)}.")
    made = [{INTEGER: int, "float32": float, "bool": bool}[kind](number) for number in listed]
    return wanted, made if isinstance(numbers, list) else made[0]


def _fitted(key: str, kind: str, value: Any, known: str | None) -> tuple[str, Any]:
    """A value in the type that its key is known to have, None where it is not known."""
    text = f"{key}={WORDS[kind]}:{str(value).lower() if kind == 'bool' else value}"[:100]
    if known is not None and WORDS.get(known) != WORDS[kind]:
        hint = f"Write {key}={WORDS[known]}:VALUE." if known in WORDS else "No option can set such a key."
        raise WrongUsage(f"--override-kv {text!r}: the type of {key} is {known}. {hint}")
    if kind != INTEGER:
        return kind, value
    written = known or "uint32"
    least, greatest = RANGES[written]
    if not least <= value <= greatest:
        raise WrongUsage(
            f"--override-kv {text!r}: expected a number from {least} to {greatest}, the range of {written}."
        )
    return written, value


def _type(key: str, keys: Mapping[str, tuple[str, Any]]) -> str | None:
    """The GGUF type of a key: that of the file, else the one that it has elsewhere."""
    known, name = keys[key][0] if key in keys else None, key.partition(".")[2]
    if known is None or refused(key, known) is not None:
        known = expected(key)
        if known == WINDOW_PATTERN.type and name == WINDOW_PATTERN.name:
            known = "uint32"  # llama.cpp reads a period as well as a list
    elif known.startswith("array") and name in PER_LAYER:
        element = known.removeprefix("array[").removesuffix("]")
        known = "uint32" if element in RANGES else element  # one number for all layers
    return known
