"""Sizes of axes, and when a model has a tensor: what the rows of a table expect of a checkpoint.

(N_HEADS * HEAD_DIM, HIDDEN)   q_proj: num_attention_heads * head_dim rows, hidden_size columns
flag("attention_bias")       its bias is there where config.json says so
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from quantcli.models.hyperparameters import Hyperparameters


@dataclass(frozen=True)
class Size:
    """The length of one axis.

    said: the keys of config.json that make it, as an expression; empty for a constant. gguf: the same in keys of GGUF
    metadata, where these are not simply those that the family's rows of keys name. each: the length in one layer, of
    which the second argument is the number, where layers differ.

    >>> ((N_HEADS + N_KV_HEADS) * HEAD_DIM).said
    '(num_attention_heads + num_key_value_heads) * head_dim'
    """

    said: str
    of: Callable[[Hyperparameters], int]
    gguf: str = ""
    each: Callable[[Hyperparameters, int], int] | None = None

    def at(self, hyperparameters: Hyperparameters, layer: int | None) -> int:
        """The length in a layer; None: of a tensor outside the layers."""
        return self.of(hyperparameters) if self.each is None or layer is None else self.each(hyperparameters, layer)

    def __add__(self, other: Size) -> Size:
        stored = f"{self.stored} + {other.stored}" if self.gguf or other.gguf else ""
        made = Size(f"{self.said} + {other.said}", lambda h: self.of(h) + other.of(h), stored)
        return (
            replace(made, each=lambda h, layer: self.at(h, layer) + other.at(h, layer)) if _vary(self, other) else made
        )

    def __mul__(self, other: Size) -> Size:
        stored = f"{_factor(self.stored)} * {_factor(other.stored)}" if self.gguf or other.gguf else ""
        made = Size(f"{_factor(self.said)} * {_factor(other.said)}", lambda h: self.of(h) * other.of(h), stored)
        return (
            replace(made, each=lambda h, layer: self.at(h, layer) * other.at(h, layer)) if _vary(self, other) else made
        )

    def __rmul__(self, number: int) -> Size:
        return Size(str(number), lambda h: number) * self

    @property
    def stored(self) -> str:
        return self.gguf or self.said


def _vary(*sizes: Size) -> bool:
    """Whether one of them differs from layer to layer."""
    return any(size.each is not None for size in sizes)


def _factor(text: str) -> str:
    return f"({text})" if " + " in text or " - " in text else text


def setting(key: str, default: int | None = None, *, gguf: str = "") -> Size:
    """A size that one family's config.json says under `key`."""
    return Size(key, lambda h: h.settings.integer(key, default, least=0), gguf)


#: Of every family.
HIDDEN = Size("hidden_size", lambda h: h.embedding_length)
INNER = Size("intermediate_size", lambda h: h.feed_forward_length)
VOCAB = Size("vocab_size", lambda h: h.vocab_size)
N_HEADS = Size("num_attention_heads", lambda h: h.heads)
N_KV_HEADS = Size("num_key_value_heads", lambda h: h.kv_heads)
HEAD_DIM = Size("head_dim", lambda h: h.head_dim)
ONE = Size("", lambda h: 1)
#: Rows that make all heads' queries, all heads' keys or values, and all three.
QUERIES = N_HEADS * HEAD_DIM
KEYS = N_KV_HEADS * HEAD_DIM
QKV = (N_HEADS + 2 * N_KV_HEADS) * HEAD_DIM
#: Rotary frequencies of whole heads, and of heads that are rotated in part.
FREQUENCIES = Size("head_dim / 2", lambda h: h.head_dim // 2)
PARTIAL_FREQUENCIES = Size("head_dim * partial_rotary_factor / 2", lambda h: h.rotary_dimensions // 2)

#: Of families with experts.
N_EXPERTS = Size("num_experts", lambda h: h.experts)
EXPERT_INNER = setting("moe_intermediate_size")

#: The axes of a tensor, in Hugging Face's arrangement; of experts stored one by one, their number first.
Axes = tuple[Size, ...]


@dataclass(frozen=True)
class Need:
    """When a layer has a tensor; `said`: the keys of config.json that decide, as a clause, empty where it always has.

    by_presence: GGUF has no key for it. There the tensors say it: where one of those that hang on it is stored, all
    have to be. all_or_none: a model may do without them, but not without some; claim: the key of config.json that says
    whether it does, and that no runtime reads.
    """

    said: str
    holds: Callable[[Hyperparameters, int], bool]
    by_presence: bool = False
    all_or_none: bool = False
    claim: str = ""


ALWAYS = Need("", lambda h, layer: True)
NEVER = Need("", lambda h, layer: False)


def flag(key: str, default: bool = False) -> Need:
    """Where config.json says `key`, which for GGUF follows from the tensors."""
    return Need(key, lambda h, layer: h.settings.flag(key, default), by_presence=True)


#: The flags of most families.
ATTENTION_BIAS = flag("attention_bias")
MLP_BIAS = flag("mlp_bias")


def without(need: Need) -> Need:
    """The opposite."""
    return Need(need.said, lambda h, layer: not need.holds(h, layer))
