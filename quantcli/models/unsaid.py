"""GGUF keys of the architecture that the rebuilt config.json does not state.

A key is accounted for if config.json has its value, if a row or function has read it, if metadata made from the
rebuilt config.json would have it again, or if it is in the table of harmless keys. All others are named in a warning.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from quantcli.containers.hostile import shown
from quantcli.models.base import Architecture
from quantcli.models.harmless_gguf import is_close, is_harmless, is_unknown
from quantcli.models.hyperparameters import Hyperparameters
from quantcli.models.keys import Key
from quantcli.models.stored import Stored

#: The most characters of a key in a message.
LONGEST_KEY = 120


@dataclass(frozen=True)
class Unsaid:
    """A key with its value, and the value in the folder's model, None if it has none."""

    key: str
    value: Any
    instead: Any = None

    def __str__(self) -> str:
        has = "" if self.instead is None else f" (the folder's model has {shown(self.instead)})"
        return f"{self.key[:LONGEST_KEY]} is {shown(self.value)}{has}"


#: Values that follow from the other settings in every architecture. A file with other values is another model.
FOLLOWS = (
    Key("vocab_size", "uint32", lambda h: h.vocab_size),
    Key("embedding_length_out", "uint32", lambda h: h.embedding_length),
    Key("attention.head_count_kv", "uint32", lambda h: h.kv_heads),
    Key("attention.key_length", "uint32", lambda h: h.head_dim),
    Key("attention.value_length", "uint32", lambda h: h.head_dim),
    Key("rope.dimension_count", "uint32", lambda h: h.rotary_dimensions),
    Key("rope.freq_base", "float32", lambda h: h.rope.theta),
    Key("rope.freq_base_swa", "float32", lambda h: h.rope.local_theta or h.rope.theta),
    Key("hidden_activation", "string", lambda h: h.settings.values.get("hidden_act")),
)
#: Sizes of layers with a window, which equal those of the other layers in all classes of the families.
OF_WINDOWS = {
    "attention.key_length_swa": "attention.key_length",
    "attention.value_length_swa": "attention.value_length",
    "rope.dimension_count_swa": "rope.dimension_count",
}
#: Counts of layers -> whether the folder agrees; layers that no folder has are named when they are dropped.
COUNTED: Mapping[str, Callable[[Stored, Mapping[str, Any]], bool]] = {
    "block_count": lambda file, config: file.trunk == config.get("num_hidden_layers"),
    "nextn_predict_layers": lambda file, config: file.layers - file.trunk >= file.counted,
}


def unsaid(
    file: Stored, architecture: Architecture, config: Mapping[str, Any], hyperparameters: Hyperparameters
) -> tuple[list[Unsaid], list[str]]:
    """Return the keys that are not accounted for, with unknown ones of `general.*`, and the keys that change nothing.

    The latter are in the table of harmless keys or repeat what follows from other keys. hyperparameters: read from
    `config`.
    """
    own = file.own.values
    keys = (*architecture.foremost, *architecture.keys, *architecture.further)
    rows = {row.name: row for row in (*FOLLOWS, *reversed(keys))}  # the first of two rows for one key counts
    prefix = f"{architecture.gguf}."
    lost, idle = [], [key for key in file.every.values if key.startswith(prefix) and key[len(prefix) :] not in own]
    for name, value in own.items():
        row = rows.get(name) or rows.get(OF_WINDOWS.get(name, name))
        also = [other for other in rows.values() if other.otherwise == name and other.name not in own]
        if name in COUNTED and COUNTED[name](file, config):
            continue
        stated = [config[one.back] for one in (row, *also) if one and one.back is not None and one.back in config]
        is_constant = name in architecture.constants
        if name not in OF_WINDOWS and not is_constant and any(_same(value, one) for one in stated):
            continue
        instead = stated[0] if stated and not is_constant else _instead(name, row, architecture, hyperparameters)
        is_written = is_constant and name in rows  # a value that is harmless elsewhere is another model here
        if _same(value, instead) or (not is_written and is_harmless(name, value, file)):
            idle.append(f"{prefix}{name}")
        elif stated or is_constant or row in FOLLOWS or name not in file.own.read:
            lost.append(Unsaid(f"{prefix}{name}", value, instead))
    lost += [Unsaid(key, value) for key, value in file.every.values.items() if is_unknown(key)]
    return lost, idle


def _instead(name: str, row: Key | None, architecture: Architecture, h: Hyperparameters) -> Any:
    """Return the value in the folder's model of a key that config.json has no key for; None if there is none."""
    if name in architecture.constants:
        constant = architecture.constants[name]
        return constant(h) if callable(constant) else constant
    return None if row is None else row.value(h)


def _same(value: Any, other: Any) -> bool:
    if isinstance(value, list | tuple) and isinstance(other, list | tuple):
        return len(value) == len(other) and all(map(_same, value, other))
    if isinstance(value, bool) or isinstance(other, bool) or not isinstance(value, int | float):
        return type(value) is type(other) and bool(value == other)
    return is_close(value, other)
