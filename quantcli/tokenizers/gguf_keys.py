"""The `tokenizer.*` keys of a GGUF file that a model folder can store, and those that it does not need.

Any other key is dropped with a warning that names it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from quantcli.containers.gguf_values import ArrayValue, Value
from quantcli.containers.hostile import shown
from quantcli.tokenizers.stored import ADDED, GGML, OLDER, SPECIAL, STEPS, TEMPLATE

#: Keys that `stored.from_metadata` reads.
READ = frozenset(
    (
        *(f"{GGML}{name}" for name in ("model", "pre", "tokens", "token_type", "scores", "merges", "add_space_prefix")),
        f"{GGML}suppress_tokens",
        *(f"{GGML}{role}_token_id" for role in (*SPECIAL, *OLDER)),
        *(f"{GGML}add_{role}_token" for role in ADDED),
        *(f"{GGML}normalizer.{step}" for step in STEPS),
        TEMPLATE,
    )
)


@dataclass(frozen=True)
class Harmless:
    """The reason why a key changes nothing in a folder. values: a test of the values for which that holds."""

    reason: str
    values: Callable[[Any], bool] = lambda value: True


def _is_off(value: Any) -> bool:
    return value is False


def _is_empty(value: Any) -> bool:
    return isinstance(value, ArrayValue) and value.length == 0


#: llama.cpp also writes the last three for models that do not use them.
HARMLESS: Mapping[str, Harmless] = {
    "tokenizer.chat_templates": Harmless("lists the other chat templates, each of which has its own key"),
    "tokenizer.huggingface.json": Harmless("a tokenizer.json, which llama.cpp does not read; it reads the other keys"),
    "tokenizer.rwkv.world": Harmless("RWKV's vocabulary as text, which llama.cpp does not read"),
    "tokenizer.ggml.token_type_count": Harmless(
        "the number of segments of BERT models; models that generate text have none"
    ),
    "tokenizer.ggml.remove_extra_whitespaces": Harmless("llama.cpp's default is off", _is_off),
    "tokenizer.ggml.precompiled_charsmap": Harmless("an empty map changes no character", _is_empty),
}

#: The most names in one warning.
MOST = 8


def dropped(metadata: Mapping[str, Value], where: str) -> list[str]:
    """Return a warning that names the tokenizer's keys that a folder cannot store; [] if there are none."""
    lost = [key for key, value in metadata.items() if key.startswith("tokenizer.") and not _is_known(key, value)]
    pre, model = (metadata.get(f"{GGML}{name}") for name in ("pre", "model"))
    if pre is not None and model is not None and model.value == "llama" and pre.value != "default":
        lost.append(f"{GGML}pre")  # llama.cpp itself ignores it
    if not lost:
        return []
    names = ", ".join(f"{key} ({_shown(metadata[key])})" for key in lost[:MOST])
    more = f" and {len(lost) - MOST} more" if len(lost) > MOST else ""
    return [f"{where}: tokenizer keys that a folder cannot store are dropped ({len(lost)}): {names}{more}."]


def _is_known(key: str, value: Value) -> bool:
    if key in READ or key.startswith(f"{TEMPLATE}."):
        return True
    return key in HARMLESS and HARMLESS[key].values(value.value)


def _shown(value: Value) -> str:
    return f"{value.value.length} values" if isinstance(value.value, ArrayValue) else shown(value.value)
