"""A model's sizes and settings under standard names, read from `config.json` in both of its spellings.

The sizes that the tables of tensors work with are fields of their own; everything else that a family's metadata says
is read from `settings` by its key there. Source: the configuration classes of transformers 4 and 5 (the second writes
`dtype` for `torch_dtype` and nests the rope settings, see `rope`).
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

#: Field of Hyperparameters -> the keys of config.json that say it, first one first; a family can name others, or none
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
    """Standard names for what every dialect says about a model.

    architecture: the name of its `Architecture`. states_head_dim: the config itself, or its class, names `head_dim`
    (else it follows from the others). norm_eps: of whichever kind its norms are. sliding_window: tokens, None where
    every layer attends to all. dtype: our name, None where none is said. experts: 0 where there are none.
    nope_head_dim: of latent attention, the part of a head that is not rotated. settings: the whole config with its
    class's defaults, for what one family alone says.
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
        """How many elements of a head are rotated."""
        return int(self.head_dim * self.rope.partial)


def even_share(read: Reader) -> int:
    """The `head_dim` that most configuration classes compute where a file names none."""
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
    """Hyperparameters of a `config.json` object.

    defaults: what the model's configuration class in transformers assumes for keys that the file leaves out; a
    function computes it from the others. names: the keys of sizes that this family calls otherwise (see SIZES), and of
    `partial`, the share of a head that is rotated.
    Raises `BadInput` for a key that is missing or of the wrong type, naming it.
    """
    read = settled(config, defaults or {}, where)
    named = {**SIZES, **(names or {})}

    def size(field: str, default: int | None = None) -> int:
        return read.integer(read.first(*named[field]), default) if named[field] else 0

    heads = size("heads")
    head_dim = _head_dim(read, heads)
    kv_heads = size("kv_heads", heads)
    if kv_heads and heads % kv_heads:
        first, second = (_said(config, named[field]) for field in ("heads", "kv_heads"))
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


def _said(config: Mapping[str, Any], keys: Sequence[str]) -> str:
    """The one of these keys that a file has; the first where none is, or where its class computes it."""
    return next((key for key in keys if config.get(key) is not None), keys[0])


def _head_dim(read: Reader, heads: int) -> int:
    """The size of a head: said, or what is left for one; 0 without heads."""
    if read.has("head_dim"):
        return read.integer("head_dim")
    return even_share(read) if heads else 0


def settled(config: Mapping[str, Any], defaults: Mapping[str, Any], where: str) -> Reader:
    """The config with its class's defaults. A null is no absence: it sets aside a default that is not computed.

    Kinds of layers have the names that the tables know.
    """
    settled = {key: value for key, value in defaults.items() if not callable(value)}
    settled |= {**config, **respelled(config)}
    computed = {key: value for key, value in defaults.items() if callable(value) and settled.get(key) is None}
    return Reader(settled | {key: compute(Reader(settled, where)) for key, compute in computed.items()}, where)
