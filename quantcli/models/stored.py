"""A view of a GGUF file for rebuilding its `config.json`: the architecture's keys without prefix, tensors by name."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from quantcli.containers.gguf_values import ArrayValue, Value
from quantcli.containers.json_text import LONGEST, Reader
from quantcli.errors import BadInput

Shape = tuple[int, ...]

#: The prefix of a layer's tensors.
LAYER = re.compile(r"blk\.[0-9]{1,9}\.")


@dataclass(frozen=True)
class Stored:
    """Metadata and tensors of a GGUF file.

    own: the architecture's keys without their prefix. every: all keys under their names. tensors: shapes, rows first.
    values: reads a tensor's float32 values, for those that hold settings (rope factors).
    """

    own: Reader
    every: Reader
    tensors: Mapping[str, Shape]
    values: Callable[[str], Sequence[float]]

    def number(self, key: str) -> float | None:
        """Return a number as the shortest decimal that rounds to the stored float32 value; None if it is missing."""
        value = self.own.optional_number(key)
        return None if value is None else decimal(value)

    def integer(self, key: str, default: int | None = None, least: int = 1) -> int:
        """Return an integer of the architecture. Raises `BadInput` if it is missing without a default, or < `least`."""
        return self.own.integer(key, default, least)

    def holds(self, tensor: str) -> bool:
        """Return whether the file has a tensor."""
        return tensor in self.tensors

    @property
    def layers(self) -> int:
        """The number of layers, with those for multi-token prediction."""
        return self.own.integer("block_count", most=LONGEST)

    @cached_property
    def _ends(self) -> tuple[int, int]:
        """The number of layers before those for multi-token prediction, and the number of the latter.

        The latter have `nextn.eh_proj`; a file may also lack layers that its key counts.
        """
        stated = self.counted
        if not self.tensors:
            return max(self.layers - stated, 0), stated
        numbers = {name: int(name.split(".", 2)[1]) for name in self.tensors if LAYER.match(name)}
        present = set(numbers.values())
        predicting = {number for name, number in numbers.items() if ".nextn.eh_proj." in name}
        first = self.layers
        while first > 1 and (first - 1 in predicting or (first - 1 not in present and self.layers - first < stated)):
            first -= 1
        return first, len([number for number in predicting if first <= number < self.layers]) if stated else 0

    @property
    def counted(self) -> int:
        """The number of layers for multi-token prediction in the metadata; reading it does not mark the key as read."""
        return Reader(self.own.values, self.own.label).integer("nextn_predict_layers", 0, least=0)

    @property
    def trunk(self) -> int:
        """The number of layers without those for multi-token prediction."""
        return self._ends[0]

    @property
    def predicting(self) -> int:
        """The number of layers for multi-token prediction; 0 if the metadata do not count them."""
        return self._ends[1]

    @property
    def heads(self) -> int:
        """The number of query heads, in the first layer if layers differ."""
        return self._first("attention.head_count")

    @property
    def kv_heads(self) -> int:
        """The number of key and value heads, in the first layer if layers differ."""
        key = "attention.head_count_kv"
        return self._first(key) if self.own.has(key) else self.heads

    def _first(self, key: str) -> int:
        """Return a key's value in the first layer, without needing the number of layers for a single value."""
        is_list = self.own.has(key) and isinstance(self.own.values[key], list)
        return self.each(key)[0] if is_list else self.own.integer(key)

    def each(self, key: str) -> tuple[int, ...]:
        """Return a key's value in each layer, from one value or a list; () if it is missing. Raises `BadInput`."""
        if not self.own.has(key):
            return ()
        if not isinstance(self.own.values[key], list):
            return (self.own.integer(key),) * self.trunk
        values = self.own.integers(key)
        if len(values) not in (self.layers, self.trunk):
            raise BadInput(
                f"{self.own.label}: {key}: expected {self.layers} values (block_count), found {len(values)}."
            )
        if not all(values):
            raise self.own.refuse(key, "expected numbers above 0")
        return values[: self.trunk]

    @property
    def head_dim(self) -> int:
        """The size of a head; computed from other sizes if the file has no key for it."""
        return self.own.integer("attention.key_length", max(1, self.own.integer("embedding_length") // self.heads))

    def rotary_share(self) -> float:
        """Return the share of a head that is rotated."""
        return self.own.integer("rope.dimension_count", self.head_dim) / self.head_dim

    def vocab_size(self) -> int:
        """Return the number of rows of the token embedding, else the metadata's key, else the number of tokens."""
        tokens = self.every.values.get("tokenizer.ggml.tokens")
        count = tokens.length if isinstance(tokens, ArrayValue) else len(tokens) if isinstance(tokens, list) else None
        shape = self.tensors.get("token_embd.weight")
        return self.own.integer("vocab_size", count) if shape is None else shape[0]

    def windows(self, period: int = 0) -> tuple[bool, ...]:
        """Return which layers attend to a window; () if the file has no pattern and the family no period.

        The file's pattern is a list or a period: the last layer of each period attends to all, with 0 none does.
        period: the one that llama.cpp has built in. Raises `BadInput`.
        """
        if isinstance(self.own.values.get(WINDOWS, []), list):
            pattern = self.own.flags(WINDOWS)
            if pattern and len(pattern) not in (self.layers, self.trunk):
                is_counted = len(pattern) == self.layers - self.counted
                missing = f", and tensor blk.{len(pattern)}.nextn.eh_proj.weight is missing" if is_counted else ""
                count = f"{WINDOWS}: expected {self.layers} values (block_count), found {len(pattern)}"
                raise BadInput(f"{self.own.label}: {count}{missing}.")
        else:
            pattern, period = (), self.own.integer(WINDOWS, least=0, most=LONGEST)
            if not period:
                return (True,) * self.trunk
        return pattern[: self.trunk] or tuple(layer % period < period - 1 for layer in range(self.trunk * bool(period)))


@dataclass(frozen=True)
class Setting:
    """A key of a rebuilt config.json: a constant, or a function of the file that may return `OMITTED`."""

    name: str
    value: Any | Callable[[Stored], Any]

    def of(self, file: Stored) -> Any:
        """Return the value for a file, `OMITTED` for none."""
        return self.value(file) if callable(self.value) else self.value


class PerLayer(list[Any]):
    """A setting with a value for each layer; config.json may have more values, for layers that the model lacks."""


class Omitted:
    """The value of a setting that config.json does not get."""


OMITTED = Omitted()


def has(pattern: str) -> Callable[[Stored], bool]:
    """Return a test of whether the first layer has a tensor. pattern: its name after `blk.0.`, with its suffix."""
    return lambda file: file.holds(f"blk.0.{pattern}")


def kinds_of_layers(file: Stored, period: int = 0) -> Any:
    """Return `layer_types` from a stored pattern of windows, else from llama.cpp's built-in period."""
    pattern = file.windows(period)
    return ["sliding_attention" if window else "full_attention" for window in pattern] if pattern else OMITTED


def unusual_kinds(usual: int, *, optional: bool = False) -> Callable[[Stored], Any]:
    """Return a function that makes `layer_types`, if they are not the class's default.

    usual: the default's period; the last layer of each attends to all. optional: without a window's size, llama.cpp has
    no windows.
    """

    def kinds(file: Stored) -> Any:
        if optional and not file.own.has("attention.sliding_window"):
            return ["full_attention"] * file.trunk
        made = kinds_of_layers(file, usual)
        plain = replace(file, own=Reader({"block_count": file.trunk}))
        return OMITTED if made == kinds_of_layers(plain, usual) else made

    return kinds


def period_of_windows(usual: int, *, optional: bool = False) -> Callable[[Stored], Any]:
    """Return a function that makes `sliding_window_pattern`, a period; `OMITTED` for a pattern without one.

    usual, optional: as in `unusual_kinds`.
    """

    def period(file: Stored) -> Any:
        if optional and not file.own.has("attention.sliding_window"):
            return 1
        windows = file.windows(usual)
        if windows == tuple(layer % usual < usual - 1 for layer in range(len(windows))):
            return usual
        first = windows.index(False) + 1 if False in windows else len(windows) + 1
        return first if windows == tuple(layer % first < first - 1 for layer in range(len(windows))) else OMITTED

    return period


def nothing(name: str) -> Sequence[float]:
    """Raise `BadInput`: the reader of values if only metadata are available."""
    raise BadInput(f"{name}: the model's settings depend on its values, which were not read.")


def stored(
    metadata: Mapping[str, Any],
    tensors: Mapping[str, Shape],
    values: Callable[[str], Sequence[float]] = nothing,
    where: str = "GGUF metadata",
) -> Stored:
    """Return the view of a file. metadata: key -> value, or `Value`. Raises `BadInput` without an architecture."""
    plain = {key: _plain(value) for key, value in metadata.items()}
    name = Reader(plain, where).text("general.architecture", "")
    if not name:
        raise BadInput(f"{where}: general.architecture is missing; reading the model requires it.")
    own = {key.removeprefix(f"{name}."): value for key, value in plain.items() if key.startswith(f"{name}.")}
    return Stored(Reader(settled(own), where, name), Reader(plain, where), tensors, values)


#: A pattern of layers with a sliding window: a list, or a period.
WINDOWS = "attention.sliding_window_pattern"
#: Keys with one value for the model, or a list with one value per layer.
PER_LAYER = (
    "feed_forward_length", "attention.head_count", "attention.head_count_kv", "expert_feed_forward_length",
    "expert_used_count",
)  # fmt: skip
#: Keys that llama.cpp ignores if they are 0. Its model saver writes them for every architecture.
ZERO_IS_NONE = (
    "attention.q_lora_rank", "attention.scale", "attention.sliding_window", "attn_logit_softcapping", "embedding_scale",
    "expert_count", "expert_gating_func", "expert_group_count", "expert_group_used_count", "expert_used_count",
    "expert_weights_scale", "final_logit_softcapping", "logit_scale", "residual_scale",
)  # fmt: skip


def settled(own: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys in the form that rows read: equal values of all layers as one, keys that 0 disables removed."""
    made = {key: value for key, value in own.items() if key not in ZERO_IS_NONE or value not in (0, [0])}
    for key in PER_LAYER:
        each = made.get(key)
        if isinstance(each, list) and each and len(each) == own.get("block_count") and each.count(each[0]) == len(each):
            made[key] = each[0]
    pattern = made.get(WINDOWS)
    if isinstance(pattern, list) and all(type(value) is int and value in (0, 1) for value in pattern):
        made[WINDOWS] = [bool(value) for value in pattern]
    return made


#: The longest list of strings that is a setting; longer ones are vocabularies.
SHORT = 16


def _plain(value: Any) -> Any:
    """Return a value as a Python object; long arrays (the vocabulary) unchanged."""
    value = value.value if isinstance(value, Value) else value
    if isinstance(value, ArrayValue) and value.length <= (SHORT if value.element == "string" else LONGEST):
        return value.decode()
    return value


def decimal(value: float) -> float:
    """Return the shortest decimal that rounds to `value` in float32; other numbers than float32's unchanged.

    >>> decimal(9.999999974752427e-07), decimal(500000.0), decimal(0.1)
    (1e-06, 500000.0, 0.1)
    """
    narrow = np.float32(value)
    return float(str(narrow)) if float(narrow) == value else value
