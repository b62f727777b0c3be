"""What an architecture is: a table of tensors (names, role, operations) and what is special in its metadata.

A row's patterns have no suffix, `{i}` stands for the layer number, and every row counts for each of its suffixes:

    Tensor("model.layers.{i}.self_attn.q_proj", "blk.{i}.attn_q", "attn_q", ops=(PermuteRows("heads"),))
        model.layers.3.self_attn.q_proj.weight  <->  blk.3.attn_q.weight
        model.layers.3.self_attn.q_proj.bias    <->  blk.3.attn_q.bias

Operations are listed in the order that takes a Hugging Face tensor to GGUF; going back, their inverses run in reverse.
MLX names are Hugging Face's names for every family here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from quantcli.errors import BadInput
from quantcli.models.hyperparameters import Hyperparameters, from_config
from quantcli.tokenizers.conventions import PLAIN, Conventions

#: A layer number as one dotted component; without leading zeros, so that names map back to themselves.
LAYER = re.compile(r"(?<=\.)(0|[1-9][0-9]{0,8})(?=\.)")

Rows = NDArray[np.int64]


class Op(Protocol):
    """A row operation: `index(rows, h)[t]` is the Hugging Face row that GGUF row t comes from; `inverse` goes back."""

    def index(self, rows: int, hyperparameters: Hyperparameters) -> Rows: ...

    def inverse(self, rows: int, hyperparameters: Hyperparameters) -> Rows: ...


@dataclass(frozen=True)
class PermuteRows:
    """Rotary rows of each head from two halves (Hugging Face) to interleaved pairs (GGUF); of a vector, its elements.

        Hugging Face   0 1 2 3 | 4 5 6 7      a head of 8 rows: pair n is (n, n + 4)
        GGUF           0 4 1 5 2 6 3 7

    `heads` names the field of Hyperparameters that counts the heads: `heads` or `kv_heads`. Source: llama.cpp's
    converter.

    >>> PermuteRows.halves_to_pairs(8, 1).tolist()
    [0, 4, 1, 5, 2, 6, 3, 7]
    """

    heads: str

    @staticmethod
    def halves_to_pairs(rows: int, heads: int) -> Rows:
        return np.arange(rows, dtype=np.int64).reshape(heads, 2, -1).swapaxes(1, 2).reshape(-1)

    def index(self, rows: int, hyperparameters: Hyperparameters) -> Rows:
        heads: int = getattr(hyperparameters, self.heads)
        if rows % (2 * heads):
            raise BadInput(
                f"{rows} rows cannot be split into {heads} attention heads of two halves each: see config.json."
            )
        return self.halves_to_pairs(rows, heads)

    def inverse(self, rows: int, hyperparameters: Hyperparameters) -> Rows:
        return np.argsort(self.index(rows, hyperparameters), kind="stable")


@dataclass(frozen=True)
class Tensor:
    """One row of the table: `hf` and `gguf` name patterns, `role` in GGUF's vocabulary, `ops` from HF to GGUF."""

    hf: str
    gguf: str
    role: str
    ops: tuple[Op, ...] = ()
    suffixes: tuple[str, ...] = ("weight", "bias")
    optional: bool = False

    def gguf_rows(self, shape: tuple[int, ...], hyperparameters: Hyperparameters) -> Rows | None:
        """The Hugging Face row of each GGUF row (of a vector: elements) of a tensor; None where the order stays."""
        rows: Rows | None = None
        for op in self.ops:
            index = op.index(_row_count(shape), hyperparameters)
            rows = index if rows is None else rows[index]
        return rows

    def hf_rows(self, shape: tuple[int, ...], hyperparameters: Hyperparameters) -> Rows | None:
        """The other way: the GGUF row of each Hugging Face row."""
        rows: Rows | None = None
        for op in self.ops:
            inverse = op.inverse(_row_count(shape), hyperparameters)
            rows = inverse if rows is None else inverse[rows]
        return rows


def _row_count(shape: tuple[int, ...]) -> int:
    return shape[-1] if len(shape) == 1 else math.prod(shape[:-1])


@dataclass(frozen=True)
class Computed:
    """A GGUF tensor with no source tensor: `values(h)` is its float32 contents, None where this model has none."""

    gguf: str
    role: str
    values: Callable[[Hyperparameters], NDArray[np.float32] | None]


@dataclass(frozen=True)
class Architecture:
    """A family of models.

    name: ours. gguf: GGUF's `general.architecture`. model_types: of `config.json`, each with the defaults that its
    class in transformers assumes for keys that a file leaves out. tensors, computed: the table. dropped: source
    tensors that hold nothing (patterns without `{i}`'s number, in full). keys: metadata, without the architecture's
    prefix, that llama.cpp's converter adds after the common ones. states_head_dim: whether it writes head sizes that
    the config does not name. states_space_prefix: whether it writes `add_space_prefix` from tokenizer_config.json.
    vocabulary: what is special in its `tokenizer.*` keys.
    """

    name: str
    gguf: str
    model_types: Mapping[str, Mapping[str, Any]]
    tensors: tuple[Tensor, ...]
    computed: tuple[Computed, ...] = ()
    dropped: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    states_head_dim: bool = True
    states_space_prefix: bool = False
    vocabulary: Conventions = PLAIN

    def __hash__(self) -> int:
        return hash((self.name, self.gguf))

    @cached_property
    def _by_hf(self) -> dict[str, Tensor]:
        return {f"{row.hf}.{suffix}": row for row in self.tensors for suffix in row.suffixes}

    @cached_property
    def _by_gguf(self) -> dict[str, Tensor]:
        return {f"{row.gguf}.{suffix}": row for row in self.tensors for suffix in row.suffixes}

    @cached_property
    def _computed(self) -> dict[str, Computed]:
        return {row.gguf: row for row in self.computed}

    def to_gguf(self, name: str) -> tuple[str, Tensor] | None:
        """The GGUF name of a Hugging Face tensor, with its row; None for a name that the table does not know."""
        found = _find(self._by_hf, name)
        return None if found is None else (_fill(found[0].gguf, found[1], name), found[0])

    def to_hf(self, name: str) -> tuple[str, Tensor] | None:
        """The Hugging Face name of a GGUF tensor, with its row; None for unknown and for computed ones."""
        found = _find(self._by_gguf, name)
        return None if found is None else (_fill(found[0].hf, found[1], name), found[0])

    def role(self, name: str) -> str | None:
        """The role of a tensor named in either dialect, None for an unknown one."""
        found = _find(self._by_hf, name) or _find(self._by_gguf, name)
        if found is None:
            return self._computed[name].role if name in self._computed else None
        return found[0].role

    def layer(self, name: str) -> int | None:
        """The layer that a tensor named in either dialect belongs to, None for those outside the layers."""
        layer = _split(name)[1]
        return None if layer is None else int(layer)

    def missing(self, names: Collection[str], layers: int) -> str | None:
        """The first Hugging Face tensor that a model of so many layers cannot do without and that is not there."""
        wanted = (row.hf for row in self.tensors if "weight" in row.suffixes and not row.optional)
        for pattern in wanted:
            numbers = range(layers) if "{i}" in pattern else (0,)
            for number in numbers:
                name = f"{pattern.replace('{i}', str(number))}.weight"
                if name not in names:
                    return name
        return None

    def drops(self, name: str) -> bool:
        """Whether a Hugging Face tensor is one that no target needs (inverse frequencies that are computed anyway)."""
        return _split(name)[0] in self.dropped

    def hyperparameters(self, config: Mapping[str, Any], where: str = "config.json") -> Hyperparameters:
        """`from_config` with this family's defaults."""
        return from_config(config, self.name, self.model_types.get(str(config.get("model_type"))), where)


def _split(name: str) -> tuple[str, str | None]:
    """A name as (pattern with `{i}`, layer number as text)."""
    found = LAYER.search(name)
    if found is None:
        return name, None
    return f"{name[: found.start()]}{{i}}{name[found.end() :]}", found[0]


def _find(table: Mapping[str, Tensor], name: str) -> tuple[Tensor, str | None] | None:
    """The row of a name and its layer number; a name that spells `{i}` out is nobody's."""
    pattern, layer = _split(name)
    row = None if layer is None and "{" in name else table.get(pattern)
    return None if row is None else (row, layer)


def _fill(pattern: str, layer: str | None, name: str) -> str:
    """A row's pattern with the layer put in and the suffix of `name` put on."""
    suffix = name[name.rindex(".") :]
    return (pattern if layer is None else pattern.replace("{i}", layer)) + suffix
