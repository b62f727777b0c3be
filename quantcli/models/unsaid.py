"""Keys of a GGUF's architecture that the rebuilt config.json does not say.

A key is accounted for if config.json takes its value back, if a row or function has read it, if the metadata made of
the rebuilt config.json would have it again, or if it stands in the table of harmless keys. All others are named.
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

#: Characters of a key that a message shows.
LONGEST_KEY = 120


@dataclass(frozen=True)
class Unsaid:
    """A key with its value, and what the folder's model has instead; None: nothing of the kind."""

    key: str
    value: Any
    instead: Any = None

    def __str__(self) -> str:
        has = "" if self.instead is None else f" (the folder's model has {shown(self.instead)})"
        return f"{self.key[:LONGEST_KEY]} is {shown(self.value)}{has}"


#: What follows from the other settings, for every architecture. A file that says otherwise means another model.
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
#: Sizes of layers with a window, which no class of the families has otherwise than those of the other layers.
OF_WINDOWS = {
    "attention.key_length_swa": "attention.key_length",
    "attention.value_length_swa": "attention.value_length",
    "rope.dimension_count_swa": "rope.dimension_count",
}
#: Counts of layers: whether those that no folder has are named where they are left out.
COUNTED: Mapping[str, Callable[[Stored, Mapping[str, Any]], bool]] = {
    "block_count": lambda file, config: file.trunk == config.get("num_hidden_layers"),
    "nextn_predict_layers": lambda file, config: file.layers - file.trunk >= file.counted,
}


def unsaid(
    file: Stored, architecture: Architecture, config: Mapping[str, Any], hyperparameters: Hyperparameters
) -> tuple[list[Unsaid], list[str]]:
    """The keys that are not accounted for, unknown ones of `general.*` too, and those that change nothing.

    The second are those of the table of harmless keys, and those that repeat what follows from the others.
    hyperparameters: of `config`.
    """
    own = file.own.values
    stated = (*architecture.foremost, *architecture.keys, *architecture.further)
    rows = {row.name: row for row in (*FOLLOWS, *reversed(stated))}  # of a key that is written at one of two places
    prefix = f"{architecture.gguf}."
    found, idle = [], [key for key in file.every.values if key.startswith(prefix) and key[len(prefix) :] not in own]
    for name, value in own.items():
        row = rows.get(name) or rows.get(OF_WINDOWS.get(name, name))
        also = [other for other in rows.values() if other.otherwise == name and other.name not in own]
        if name in COUNTED and COUNTED[name](file, config):
            continue
        said = [config[one.back] for one in (row, *also) if one and one.back is not None and one.back in config]
        is_constant = name in architecture.constants
        if name not in OF_WINDOWS and not is_constant and any(_same(value, one) for one in said):
            continue
        instead = said[0] if said and not is_constant else _instead(name, row, architecture, hyperparameters)
        is_written = is_constant and name in rows  # what a default means elsewhere is another model here
        if _same(value, instead) or (not is_written and is_harmless(name, value, file)):
            idle.append(f"{prefix}{name}")
        elif said or is_constant or row in FOLLOWS or name not in file.own.read:
            found.append(Unsaid(f"{prefix}{name}", value, instead))
    found += [Unsaid(key, value) for key, value in file.every.values.items() if is_unknown(key)]
    return found, idle


def _instead(name: str, row: Key | None, architecture: Architecture, h: Hyperparameters) -> Any:
    """What the folder's model has for a key that config.json has no key for; None: nothing."""
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
