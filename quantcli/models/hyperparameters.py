"""A model's sizes and settings under standard names, read from `config.json` in both of its spellings.

The sizes that the tables of tensors use are fields; all other settings are read from `settings` by their keys in
config.json. Source: the configuration classes of transformers 4 and 5 (5 writes `dtype` for `torch_dtype` and nests the
rope settings, see `rope`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from quantcli.arrays import TORCH_DTYPES
from quantcli.containers.json_text import Reader
from quantcli.errors import BadInput
from quantcli.models.layer_spellings import respelled
from quantcli.models.rope import PARTIAL, Rope, rope_of

#: Field of Hyperparameters -> its keys in config.json, the preferred one first. A family can name other keys, or none
#: for a size that it does not have.
SIZES = {
    "layers": ("num_hidden_layers", "n_layer"),
    "context_length": ("max_position_embeddings",),
    "embedding_length": ("hidden_size",),
    "feed_forward_length": ("intermediate_size",),
    "heads": ("num_attention_heads",),
    "kv_heads": ("num_key_value_heads",),
}
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")
NORM_EPS = ("rms_norm_eps", "norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon", "layernorm_epsilon")


@dataclass(frozen=True)
class Hyperparameters:
    """Sizes and settings of a model that every dialect has, under standard names.

    architecture: the name of its `Architecture`. states_head_dim: config.json or its class has `head_dim` (else it is
    computed from other sizes). norm_eps: the epsilon of its norms, of either kind. sliding_window: in tokens, None if
    every layer attends to all. dtype: our name, None if config.json has none. experts: 0 if there are none.
    nope_head_dim: in latent attention, the number of elements of a head that are not rotated. settings: config.json
    with its class's defaults, for settings of single families.
    """

    architecture: str
    layers: int
    context_length: int
    embedding_length: int
    feed_forward_length: int
    heads: int
    kv_heads: int
    head_dim: int
    norm_eps: float
    vocab_size: int
    rope: Rope
    tie_embeddings: bool = False
    states_head_dim: bool = False
    sliding_window: int | None = None
    dtype: str | None = None
    experts: int = 0
    nope_head_dim: int = 0
    settings: Reader = field(default=Reader({}), compare=False, repr=False)

    @property
    def rotary_dimensions(self) -> int:
        """The number of elements of a head that are rotated."""
        return int(self.head_dim * self.rope.partial)


def even_share(read: Reader) -> int:
    """Return hidden_size / num_attention_heads, which most configuration classes assume if head_dim is missing.

    Raises `BadInput` if that is not an integer.
    """
    hidden, heads = read.integer("hidden_size"), read.integer("num_attention_heads")
    if hidden % heads:
        raise BadInput(
            f"{read.label}: head_dim is missing, and hidden_size {hidden} is not a multiple of num_attention_heads "
            f"{heads}."
        )
    return hidden // heads


def from_config(
    config: Mapping[str, Any],
    architecture: str = "",
    defaults: Mapping[str, Any | Callable[[Reader], Any]] | None = None,
    where: str = "config.json",
    names: Mapping[str, tuple[str, ...]] | None = None,
) -> Hyperparameters:
    """Read the hyperparameters of a `config.json` object.

    defaults: what the model's configuration class in transformers assumes for missing keys; a function computes a value
    from the other keys. names: the family's keys of sizes that differ from SIZES, and of `partial`, the share of a head
    that is rotated. Raises `BadInput` naming a key that is missing or has the wrong type.
    """
    read = settled(config, defaults or {}, where)
    named = {**SIZES, **(names or {})}

    def size(field: str, default: int | None = None) -> int:
        return read.integer(read.first(*named[field]), default) if named[field] else 0

    heads = size("heads")
    head_dim = _head_dim(read, heads)
    kv_heads = size("kv_heads", heads)
    if kv_heads and heads % kv_heads:
        first, second = (_stated(config, named[field]) for field in ("heads", "kv_heads"))
        raise BadInput(f"{where}: {first} {heads} is not a multiple of {second} {kv_heads}.")
    states_head_dim = read.has("head_dim")
    context = size("context_length")
    slides = read.flag("use_sliding_window", True) or "use_sliding_window" not in (defaults or {})
    own_eps = [key for key in NORM_EPS if key in (defaults or {})]
    dtype = read.text("torch_dtype", read.text("dtype", ""))
    return Hyperparameters(
        architecture=architecture,
        layers=size("layers"),
        context_length=context,
        embedding_length=size("embedding_length"),
        feed_forward_length=size("feed_forward_length"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        norm_eps=read.number(read.first(*own_eps, *NORM_EPS)),
        vocab_size=read.integer("vocab_size"),
        rope=rope_of(read, context, named.get("partial", PARTIAL)),
        tie_embeddings=read.flag("tie_word_embeddings", False),
        states_head_dim=states_head_dim,
        sliding_window=(read.optional_integer("sliding_window", least=0) or None) if slides else None,
        dtype=TORCH_DTYPES.get(dtype),
        experts=read.integer(read.first(*EXPERTS), 0, least=0),
        nope_head_dim=read.integer("qk_nope_head_dim", 0, least=0),
        settings=read,
    )


def _stated(config: Mapping[str, Any], keys: Sequence[str]) -> str:
    """Return the first of these keys that a file has; the first of all if it has none."""
    return next((key for key in keys if config.get(key) is not None), keys[0])


def _head_dim(read: Reader, heads: int) -> int:
    """Return the size of a head: the stated one, else an equal share of hidden_size; 0 without heads."""
    if read.has("head_dim"):
        return read.integer("head_dim")
    return even_share(read) if heads else 0


def settled(config: Mapping[str, Any], defaults: Mapping[str, Any], where: str) -> Reader:
    """Return the config with its class's defaults, and kinds of layers under the names that the tables use.

    A null is not a missing key: it overrides a default, unless that is computed.
    """
    settled = {key: value for key, value in defaults.items() if not callable(value)}
    settled |= {**config, **respelled(config)}
    computed = {key: value for key, value in defaults.items() if callable(value) and settled.get(key) is None}
    return Reader(settled | {key: compute(Reader(settled, where)) for key, compute in computed.items()}, where)
