"""A GGUF model as the rows see it that rebuild its `config.json`: own keys without their prefix, tensors by name."""

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

#: The names of a layer's tensors.
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
        """A number as its writer spelled it: the shortest decimal that float32 rounds to the stored value."""
        value = self.own.optional_number(key)
        return None if value is None else decimal(value)

    def integer(self, key: str, default: int | None = None, least: int = 1) -> int:
        return self.own.integer(key, default, least)

    def holds(self, tensor: str) -> bool:
        return tensor in self.tensors

    @property
    def layers(self) -> int:
        return self.own.integer("block_count", most=LONGEST)

    @cached_property
    def _ends(self) -> tuple[int, int]:
        """How many layers come before those for multi-token prediction, and how many there are of the latter.

        These have `nextn.eh_proj`, whatever the key counts; layers that it counts may also be left out of a file.
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
        """The layers for multi-token prediction that the file counts, which alone puts the key into no config.json."""
        return Reader(self.own.values, self.own.label).integer("nextn_predict_layers", 0, least=0)

    @property
    def trunk(self) -> int:
        """The layers without those for multi-token prediction."""
        return self._ends[0]

    @property
    def predicting(self) -> int:
        """The layers for multi-token prediction; 0 where the file does not count them."""
        return self._ends[1]

    @property
    def heads(self) -> int:
        """The heads of q, where they differ those of the first layer."""
        return self._first("attention.head_count")

    @property
    def kv_heads(self) -> int:
        """The heads of k and v, where they differ those of the first layer."""
        key = "attention.head_count_kv"
        return self._first(key) if self.own.has(key) else self.heads

    def _first(self, key: str) -> int:
        """A key's value in the first layer; unlike `each`, one value for all layers needs no number of layers."""
        is_list = self.own.has(key) and isinstance(self.own.values[key], list)
        return self.each(key)[0] if is_list else self.own.integer(key)

    def each(self, key: str) -> tuple[int, ...]:
        """A key's value in each layer, of a key with one value or with a list; empty where the file lacks it."""
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
        """The size of a head, which follows from the others where it is not said."""
        return self.own.integer("attention.key_length", max(1, self.own.integer("embedding_length") // self.heads))

    def rotary_share(self) -> float:
        """The share of a head that is rotated."""
        return self.own.integer("rope.dimension_count", self.head_dim) / self.head_dim

    def vocab_size(self) -> int:
        """Rows of the token embedding, else what the metadata says, else how many tokens there are."""
        tokens = self.every.values.get("tokenizer.ggml.tokens")
        count = tokens.length if isinstance(tokens, ArrayValue) else len(tokens) if isinstance(tokens, list) else None
        shape = self.tensors.get("token_embd.weight")
        return self.own.integer("vocab_size", count) if shape is None else shape[0]

    def windows(self, period: int = 0) -> tuple[bool, ...]:
        """Which layers attend to a window only; empty where the file has no pattern and the family no period.

        A number is a period: the last of so many layers attends to all, with 0 none does. period: llama.cpp's own.
        """
        if isinstance(self.own.values.get(WINDOWS, []), list):
            pattern = self.own.flags(WINDOWS)
            if pattern and len(pattern) not in (self.layers, self.trunk):
                is_counted = len(pattern) == self.layers - self.counted
                nor = f", and tensor blk.{len(pattern)}.nextn.eh_proj.weight is missing" if is_counted else ""
                count = f"{WINDOWS} has {len(pattern)} values, but block_count is {self.layers}"
                raise BadInput(f"{self.own.label}: {count}{nor}.")
        else:
            pattern, period = (), self.own.integer(WINDOWS, least=0, most=LONGEST)
            if not period:
                return (True,) * self.trunk
        return pattern[: self.trunk] or tuple(layer % period < period - 1 for layer in range(self.trunk * bool(period)))


@dataclass(frozen=True)
class Setting:
    """One key of a rebuilt config.json: a constant, or what a function reads; a function's `OMITTED` is left out."""

    name: str
    value: Any | Callable[[Stored], Any]

    def of(self, file: Stored) -> Any:
        return self.value(file) if callable(self.value) else self.value


class PerLayer(list[Any]):
    """A setting with a value for each layer; config.json may go on for layers that a model does without."""


class Omitted:
    """The value of a setting that a model does without."""


OMITTED = Omitted()


def has(pattern: str) -> Callable[[Stored], bool]:
    """Whether the first layer has a tensor: a bias, a norm. `pattern` is its name after `blk.0.`, suffix included."""
    return lambda file: file.holds(f"blk.0.{pattern}")


def kinds_of_layers(file: Stored, period: int = 0) -> Any:
    """`layer_types` of a stored pattern of windows, else of llama.cpp's own period."""
    pattern = file.windows(period)
    return ["sliding_attention" if window else "full_attention" for window in pattern] if pattern else OMITTED


def unusual_kinds(usual: int, *, optional: bool = False) -> Callable[[Stored], Any]:
    """`layer_types` where they are not those of the class, whose every so many layers attend to all.

    optional: llama.cpp has no windows where the file names no size.
    """

    def kinds(file: Stored) -> Any:
        if optional and not file.own.has("attention.sliding_window"):
            return ["full_attention"] * file.trunk
        made = kinds_of_layers(file, usual)
        plain = replace(file, own=Reader({"block_count": file.trunk}))
        return OMITTED if made == kinds_of_layers(plain, usual) else made

    return kinds


def period_of_windows(usual: int, *, optional: bool = False) -> Callable[[Stored], Any]:
    """`sliding_window_pattern` as a number; a pattern that has none is left to `layer_types`. optional: as above."""

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
    """The reader of values where only metadata is at hand."""
    raise BadInput(f"{name}: the model's settings depend on its values, which were not read.")


def stored(
    metadata: Mapping[str, Any],
    tensors: Mapping[str, Shape],
    values: Callable[[str], Sequence[float]] = nothing,
    where: str = "GGUF metadata",
) -> Stored:
    """The view of a file's metadata (key -> value, or `Value`). Raises `BadInput` where no architecture is named."""
    plain = {key: _plain(value) for key, value in metadata.items()}
    name = Reader(plain, where).text("general.architecture", "")
    if not name:
        raise BadInput(f"{where}: general.architecture is missing; reading the model requires it.")
    own = {key.removeprefix(f"{name}."): value for key, value in plain.items() if key.startswith(f"{name}.")}
    return Stored(Reader(settled(own), where, name), Reader(plain, where), tensors, values)


#: A pattern of layers with a sliding window: a list, or a period.
WINDOWS = "attention.sliding_window_pattern"
#: Keys with one value for the model, or a list with one for each layer.
PER_LAYER = (
    "feed_forward_length", "attention.head_count", "attention.head_count_kv", "expert_feed_forward_length",
    "expert_used_count",
)  # fmt: skip
#: Keys of which llama.cpp takes a 0 as if they were not there. Its model saver writes them for every architecture.
ZERO_IS_NONE = (
    "attention.q_lora_rank", "attention.scale", "attention.sliding_window", "attn_logit_softcapping", "embedding_scale",
    "expert_count", "expert_gating_func", "expert_group_count", "expert_group_used_count", "expert_used_count",
    "expert_weights_scale", "final_logit_softcapping", "logit_scale", "residual_scale",
)  # fmt: skip


def settled(own: Mapping[str, Any]) -> dict[str, Any]:
    """The keys as rows read them: a list of equal values is one value, 0 of what a model does without is no key."""
    found = {key: value for key, value in own.items() if key not in ZERO_IS_NONE or value not in (0, [0])}
    for key in PER_LAYER:
        each = found.get(key)
        if isinstance(each, list) and each and len(each) == own.get("block_count") and each.count(each[0]) == len(each):
            found[key] = each[0]
    pattern = found.get(WINDOWS)
    if isinstance(pattern, list) and all(type(value) is int and value in (0, 1) for value in pattern):
        found[WINDOWS] = [bool(value) for value in pattern]
    return found


#: A list of texts of a model's settings; longer ones are a vocabulary's.
SHORT = 16


def _plain(value: Any) -> Any:
    """A value as Python has it; long arrays, the vocabulary's, stay as they are."""
    value = value.value if isinstance(value, Value) else value
    if isinstance(value, ArrayValue) and value.length <= (SHORT if value.element == "string" else LONGEST):
        return value.decode()
    return value


def decimal(value: float) -> float:
    """The shortest decimal that float32 rounds to `value`; a value that is no float32 stays.

    >>> decimal(9.999999974752427e-07), decimal(500000.0), decimal(0.1)
    (1e-06, 500000.0, 0.1)
    """
    narrow = np.float32(value)
    return float(str(narrow)) if float(narrow) == value else value
