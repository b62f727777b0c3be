"""Sizes of axes, and conditions under which a model has a tensor: what a table's rows require from a checkpoint.

(N_HEADS * HEAD_DIM, HIDDEN)   q_proj: num_attention_heads * head_dim rows, hidden_size columns
flag("attention_bias")         its bias exists if config.json sets attention_bias
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from quantcli.models.hyperparameters import Hyperparameters


@dataclass(frozen=True)
class Size:
    """The length of one axis.

    expression: the length in keys of config.json; empty for a constant. gguf: the same in keys of GGUF metadata, if the
    family's rows of keys do not translate it. each: the length in one layer, whose number is the second argument, if
    layers differ.

    >>> ((N_HEADS + N_KV_HEADS) * HEAD_DIM).expression
    '(num_attention_heads + num_key_value_heads) * head_dim'
    """

    expression: str
    of: Callable[[Hyperparameters], int]
    gguf: str = ""
    each: Callable[[Hyperparameters, int], int] | None = None

    def at(self, hyperparameters: Hyperparameters, layer: int | None) -> int:
        """Return the length in a layer. layer: None for a tensor outside the layers."""
        return self.of(hyperparameters) if self.each is None or layer is None else self.each(hyperparameters, layer)

    def __add__(self, other: Size) -> Size:
        stored = f"{self.stored} + {other.stored}" if self.gguf or other.gguf else ""
        made = Size(f"{self.expression} + {other.expression}", lambda h: self.of(h) + other.of(h), stored)
        return (
            replace(made, each=lambda h, layer: self.at(h, layer) + other.at(h, layer)) if _vary(self, other) else made
        )

    def __mul__(self, other: Size) -> Size:
        stored = f"{_factor(self.stored)} * {_factor(other.stored)}" if self.gguf or other.gguf else ""
        expression = f"{_factor(self.expression)} * {_factor(other.expression)}"
        made = Size(expression, lambda h: self.of(h) * other.of(h), stored)
        return (
            replace(made, each=lambda h, layer: self.at(h, layer) * other.at(h, layer)) if _vary(self, other) else made
        )

    def __rmul__(self, number: int) -> Size:
        return Size(str(number), lambda h: number) * self

    @property
    def stored(self) -> str:
        """The expression in keys of GGUF metadata."""
        return self.gguf or self.expression


def _vary(*sizes: Size) -> bool:
    """Return whether one of them differs between layers."""
    return any(size.each is not None for size in sizes)


def _factor(text: str) -> str:
    return f"({text})" if " + " in text or " - " in text else text


def setting(key: str, default: int | None = None, *, gguf: str = "") -> Size:
    """Return a size that is the value of one family's key."""
    return Size(key, lambda h: h.settings.integer(key, default, least=0), gguf)


#: Sizes in every family.
HIDDEN = Size("hidden_size", lambda h: h.embedding_length)
INNER = Size("intermediate_size", lambda h: h.feed_forward_length)
VOCAB = Size("vocab_size", lambda h: h.vocab_size)
N_HEADS = Size("num_attention_heads", lambda h: h.heads)
N_KV_HEADS = Size("num_key_value_heads", lambda h: h.kv_heads)
HEAD_DIM = Size("head_dim", lambda h: h.head_dim)
ONE = Size("", lambda h: 1)
#: Rows of the projections for all heads: queries, keys or values, and all three together.
QUERIES = N_HEADS * HEAD_DIM
KEYS = N_KV_HEADS * HEAD_DIM
QKV = (N_HEADS + 2 * N_KV_HEADS) * HEAD_DIM
#: Rotary frequencies of heads that are rotated completely, and of heads that are rotated in part.
FREQUENCIES = Size("head_dim / 2", lambda h: h.head_dim // 2)
PARTIAL_FREQUENCIES = Size("head_dim * partial_rotary_factor / 2", lambda h: h.rotary_dimensions // 2)

#: Sizes in families with experts.
N_EXPERTS = Size("num_experts", lambda h: h.experts)
EXPERT_INNER = setting("moe_intermediate_size")

#: The axes of a tensor in Hugging Face's arrangement; for experts stored one by one, their number comes first.
Axes = tuple[Size, ...]


@dataclass(frozen=True)
class Need:
    """A condition under which a layer has a tensor.

    keys: the keys of config.json that decide, as a clause; empty if nothing does. by_presence: GGUF has no key for it;
    if a file has one of the tensors that depend on it, it must have all of them. all_or_none: a model may lack all of
    the tensors, but not some. claim: the key of config.json that states whether it has them, which no runtime
    reads.
    """

    keys: str
    holds: Callable[[Hyperparameters, int], bool]
    by_presence: bool = False
    all_or_none: bool = False
    claim: str = ""


ALWAYS = Need("", lambda h, layer: True)
NEVER = Need("", lambda h, layer: False)


def flag(key: str, default: bool = False) -> Need:
    """Return the condition that config.json sets `key`; for GGUF it follows from the tensors."""
    return Need(key, lambda h, layer: h.settings.flag(key, default), by_presence=True)


#: Flags in most families.
ATTENTION_BIAS = flag("attention_bias")
MLP_BIAS = flag("mlp_bias")


def without(need: Need) -> Need:
    """Return the opposite condition."""
    return Need(need.keys, lambda h, layer: not need.holds(h, layer))
