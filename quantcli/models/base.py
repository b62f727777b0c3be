"""Description of an architecture: a table of tensors (names in three dialects, operations) and rows of metadata keys.

A row's patterns have no suffix, `{i}` is the layer, `{e}` the expert, and every row describes a tensor for each of its
suffixes (`""`: the patterns are complete names):

    Tensor("model.layers.{i}.self_attn.q_proj", "blk.{i}.attn_q", ops=(PermuteRows("heads"),))
        model.layers.3.self_attn.q_proj.weight  <->  blk.3.attn_q.weight
        model.layers.3.self_attn.q_proj.bias    <->  blk.3.attn_q.bias

    Tensor("layers.{i}.experts.{e}.up_proj", "blk.{i}.ffn_up_exps", mlx="layers.{i}.switch_mlp.up_proj")
        a dialect whose pattern has `{e}` stores one tensor per expert, one without stacks them: (experts, out, in)

    Tensor("layers.{i}.experts.gate_up_proj", "blk.{i}.ffn_up_exps", (Share(1, 2),), read_only=True)
        an alternative to the row above in Hugging Face folders, which is read and not written

Operations are listed in the order that leads from Hugging Face's arrangement to GGUF's (`mlx_ops`: to MLX's); the
reverse follows from them. Rows that share a Hugging Face pattern split that tensor, each with a `Take` or a `Share`. A
row's axes are in Hugging Face's arrangement; the shapes in the other dialects follow from the operations.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantcli.models.harmless import Harmless
from quantcli.models.hyperparameters import Hyperparameters, from_config
from quantcli.models.keys import COMMON, Key
from quantcli.models.layouts import Layout
from quantcli.models.limits import Limit
from quantcli.models.multimodal import Multimodal
from quantcli.models.ops import MoveAxis, Op
from quantcli.models.sixteen_bits import BOTH, SixteenBits
from quantcli.models.sizes import ALWAYS, NEVER, Axes, Need
from quantcli.models.stored import Setting, Stored
from quantcli.tokenizers.conventions import PLAIN, Conventions

#: Layer and expert numbers as dotted components; without leading zeros, so that names round-trip.
NUMBER = re.compile(r"(?<=\.)(0|[1-9][0-9]{0,8})(?=\.)")

#: The kinds of rope scaling that mlx-lm's rope_utils.initialize_rope supports.
EVERY_KIND = ("linear", "llama3", "yarn", "longrope")

#: The dialects that tensors are named in, as `Checkpoint.names` has them.
DIALECTS = ("hf", "gguf", "mlx")


@dataclass(frozen=True)
class Tensor:
    """One row of the table.

    mlx: its pattern in MLX folders; None: as in Hugging Face's. optional: models may lack it. f32: it stays float32 in
    every dialect; mlx_casts: except in MLX, where mlx-lm casts it with the rest of the model. absent_in: the dialects
    whose runtimes compute without it. companion: a GGUF pattern; if several rows have one GGUF name, this row applies
    if a tensor of that pattern exists too. read_only: Hugging Face folders may have this tensor instead of the one in
    the row with the same GGUF pattern, or instead of that row's part of a shared one; `hf` is its complete name, `ops`
    lead from it to GGUF's arrangement. also: other layouts in which GGUF files store it.

    shape: the axes of its weight in Hugging Face's arrangement; a bias has all but the last one. If Hugging Face's
    pattern has `{e}`, the first axis counts the experts. needed: for an optional one, which layers have it, None if
    that is up to the checkpoint. bias: which layers have a bias.
    """

    hf: str
    gguf: str
    ops: tuple[Op, ...] = ()
    suffixes: tuple[str, ...] = ("weight", "bias")
    mlx: str | None = None
    mlx_ops: tuple[Op, ...] = ()
    optional: bool = False
    f32: bool = False
    mlx_casts: bool = False
    absent_in: tuple[str, ...] = ()
    companion: str | None = None
    read_only: bool = False
    also: tuple[Layout, ...] = ()
    shape: Axes = field(default=(), compare=False)
    needed: Need | None = field(default=None, compare=False)
    bias: Need = field(default=NEVER, compare=False)

    @property
    def role(self) -> str:
        """The tensor's function in GGUF's vocabulary: `attn_q`, `ffn_down_exps`."""
        return self.gguf.removeprefix("blk.{i}.").removesuffix(".weight").removesuffix(".bias")

    def pattern(self, dialect: str) -> str:
        """Return the pattern of names in a dialect, without suffix."""
        return {"hf": self.hf, "gguf": self.gguf, "mlx": self.mlx or self.hf}[dialect]

    def axes(self, suffix: str) -> Axes:
        """Return the axes of the tensor with a suffix, in Hugging Face's arrangement."""
        return self.shape[:-1] if suffix == "bias" and len(self.shape) > 1 else self.shape

    def need(self, suffix: str) -> Need | None:
        """Return which layers have the tensor with a suffix; None if that is up to the checkpoint."""
        if suffix == "bias":
            return self.bias
        return self.needed if self.optional else ALWAYS

    def stays_f32(self, dialect: str) -> bool:
        """Return whether it is float32 in a dialect, regardless of the other tensors' dtype."""
        return self.f32 and not (self.mlx_casts and dialect == "mlx")

    def ops_to(self, dialect: str) -> tuple[Op, ...]:
        """Return the operations from Hugging Face's arrangement to a dialect's."""
        return {"hf": (), "gguf": self.ops, "mlx": self.mlx_ops}[dialect]


@dataclass(frozen=True)
class Found:
    """A tensor's name as its parts: row, suffix, layer and expert (None: it has no such number)."""

    row: Tensor
    suffix: str
    layer: int | None = None
    expert: int | None = None

    def name(self, dialect: str, expert: int | None = None) -> str:
        """Return the name in a dialect. expert: its number if the dialect names experts; None: `self.expert`."""
        pattern = self.row.pattern(dialect)
        layer, number = str(self.layer), str(self.expert if expert is None else expert)
        filled = pattern.replace("{i}", layer).replace("{e}", number)
        is_complete = not self.suffix or (self.row.read_only and dialect == "hf")
        return filled if is_complete else f"{filled}.{self.suffix}"


@lru_cache(maxsize=1 << 14)
def _numbered(name: str) -> tuple[str, int | None, int | None]:
    """Return a name's pattern, layer and expert; the pattern of a name that no table can have is empty."""
    numbers = NUMBER.findall(name)
    if "{" in name or len(numbers) > 2:
        return "", None, None
    pattern = name
    for mark in ("{i}", "{e}")[: len(numbers)]:
        pattern = NUMBER.sub(mark, pattern, count=1)
    layer, expert = (*map(int, numbers), None, None)[:2]
    return pattern, layer, expert


@dataclass(frozen=True)
class Computed:
    """A GGUF tensor without a source tensor: `values(h)` is its float32 contents, None if this model has none.

    shape: its axes. A file has all computed tensors of a table, or none.
    """

    gguf: str
    values: Callable[[Hyperparameters], NDArray[np.float32] | None]
    shape: Axes = ()

    @property
    def role(self) -> str:
        return self.gguf.removesuffix(".weight")


@dataclass(frozen=True)
class Architecture:
    """A family of models: its tables, and what transformers, llama.cpp and mlx-lm know about it.

    name: our name.
    gguf: GGUF's `general.architecture`.
    model_types: the values of config.json's `model_type` -> what its class in transformers assumes for missing keys.
    tensors, computed: the table of tensors.
    mtp: the dialects that keep the layers for multi-token prediction, which have `eh_proj` and numbers from
        num_hidden_layers on. None: the family has no such layers, and no dialect keeps them.
    mtp_module: the prefix of their names in Hugging Face folders that have a module for them (see `prediction`); the
        table has names of layers.
    mlx_schemes: role -> the scheme, or `dense`, that mlx-lm gives its module regardless of the model's scheme.
    when: which of several families with one `gguf` a file belongs to, by its metadata (the architecture's keys without
        their prefix).
    states_space_prefix: whether llama.cpp's converter writes `add_space_prefix` from tokenizer_config.json.
    names: sizes (see `hyperparameters.SIZES`) -> config.json's keys, if they differ from other families'.
    foremost, keys, further: the metadata before `general.type`, before and after `general.file_type`.
    states_file_type: whether `general.file_type` is written.

    For a config.json rebuilt from GGUF:
    classes: model type -> the class in `architectures`.
    kind: the model type of a file; None: the first of `classes`.
    settings: keys of config.json in addition to those that the rows of metadata name.
    expects: further keys for which llama.cpp has a value built in; a tuple if several values mean it.
    harmless: further keys that change nothing in this family.
    constants: keys of metadata with one value for the family's classes and no key in config.json; a file with another
        value is another model.

    aliases: further classes that `architectures` may name for one of these model types.
    vocabulary: the conventions of its `tokenizer.*` keys.
    headless: the dialects whose runtimes always use the embedding as the output matrix.
    sixteen_bits: the 16-bit dtypes in which its runtimes compute correctly.
    stores_head: the dialects whose runtimes load no model without an output matrix, even a tied one.
    gguf_yarn: the settings of YaRN that llama.cpp reads (see `built_in`).
    limits: what else the runtimes require.

    For mlx-lm's class:
    mlx_keys: settings that it requires, though transformers' class assumes or computes them.
    mlx_names: its names of settings that transformers 5 renamed.
    mlx_nulls: settings that it requires, even as null.
    mlx_config: further settings, made from a config.json.
    mlx_scaling: the kinds of rope scaling that it computes.
    mlx_reads_activation: whether it reads the activation's name.
    mlx_unread: keys of metadata -> whether it ignores the setting in a config.json rebuilt from them.
    mlx_ties: the model types whose output matrix it ties by default, while transformers' class does not.

    multimodal: models with towers whose text model is of this family.
    in_towers: the table for such text models, if their releases store them differently.
    """

    name: str
    gguf: str
    model_types: Mapping[str, Mapping[str, Any]]
    tensors: tuple[Tensor, ...]
    computed: tuple[Computed, ...] = ()
    mtp: tuple[str, ...] | None = None
    mtp_module: str = ""
    mlx_schemes: Mapping[str, str] = field(default_factory=dict)
    when: Callable[[Mapping[str, Any]], bool] | None = None
    states_space_prefix: bool = False
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    foremost: tuple[Key, ...] = ()
    keys: tuple[Key, ...] = COMMON
    further: tuple[Key, ...] = ()
    states_file_type: bool = True
    classes: Mapping[str, str] = field(default_factory=dict)
    kind: Callable[[Stored], str] | None = None
    settings: tuple[Setting, ...] = ()
    expects: tuple[Setting, ...] = ()
    harmless: Mapping[str, Harmless] = field(default_factory=dict)
    constants: Mapping[str, Any | Callable[[Hyperparameters], Any]] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()
    vocabulary: Conventions = PLAIN
    headless: tuple[str, ...] = ()
    sixteen_bits: SixteenBits = BOTH
    stores_head: tuple[str, ...] = ()
    limits: tuple[Limit, ...] = ()
    gguf_yarn: tuple[str, ...] = ()
    mlx_keys: tuple[str, ...] = ()
    mlx_names: Mapping[str, str] = field(default_factory=dict)
    mlx_nulls: tuple[str, ...] = ()
    mlx_config: Callable[[Mapping[str, Any]], dict[str, Any]] | None = None
    mlx_scaling: tuple[str, ...] = ()
    mlx_reads_activation: bool = False
    mlx_unread: Mapping[str, Callable[[Mapping[str, Any]], bool]] = field(default_factory=dict)
    mlx_ties: tuple[str, ...] = ()
    multimodal: tuple[Multimodal, ...] = ()
    in_towers: tuple[Tensor, ...] = ()

    def __hash__(self) -> int:
        return hash((self.name, self.gguf))

    @cached_property
    def _rows(self) -> dict[str, dict[str, list[tuple[Tensor, str]]]]:
        """Dialect -> pattern with its suffix -> the rows with that pattern and suffix."""
        tables: dict[str, dict[str, list[tuple[Tensor, str]]]] = {dialect: {} for dialect in DIALECTS}
        for dialect, table in tables.items():
            for row in self.tensors:
                for suffix in row.suffixes if dialect == "hf" or not row.read_only else ():
                    pattern = row.hf if row.read_only else f"{row.pattern(dialect)}.{suffix}".removesuffix(".")
                    table.setdefault(pattern, []).append((row, suffix))
        return tables

    @cached_property
    def _layouts(self) -> dict[str, list[tuple[Tensor, str, Layout]]]:
        """GGUF pattern with its suffix -> the rows that files may store under it, with the layout."""
        table: dict[str, list[tuple[Tensor, str, Layout]]] = {}
        for row in self.tensors:
            for layout, suffix in product(row.also, row.suffixes):
                for pattern in layout.patterns:
                    table.setdefault(f"{pattern}.{suffix}".removesuffix("."), []).append((row, suffix, layout))
        return table

    def find(self, name: str, dialect: str) -> list[Found]:
        """Return the rows of the table for a name in a dialect: several if they share the tensor, [] if unknown."""
        pattern, layer, expert = _numbered(name)
        return [Found(row, suffix, layer, expert) for row, suffix in self._rows[dialect].get(pattern, ())]

    def written(self, row: Tensor) -> Tensor:
        """Return the row that is written: the row itself, or the one that a read-only row is an alternative to."""
        return next(r for r in self.tensors if r.gguf == row.gguf and not r.read_only) if row.read_only else row

    def find_layouts(self, name: str) -> list[tuple[Found, Layout]]:
        """Return the rows that a GGUF tensor stores in another layout than the table's, with that layout."""
        pattern, layer, expert = _numbered(name)
        return [(Found(row, suffix, layer, expert), layout) for row, suffix, layout in self._layouts.get(pattern, ())]

    def around(self) -> Architecture:
        """Return the family with the table for text models in models with towers."""
        return replace(self, tensors=self.in_towers) if self.in_towers else self

    def agrees(self, one: str, other: str) -> bool:
        """Return whether two dialects have the same names and arrangements for all tensors."""
        return all(
            row.pattern(one) == row.pattern(other) and row.ops_to(one) == row.ops_to(other) for row in self.tensors
        ) and (self.mtp is None or one == other)

    def dialect(self, shapes: Mapping[str, tuple[int, ...]]) -> str:
        """Return the dialect of a folder's tensors (name -> shape): "mlx" if a name exists only in MLX's, else "hf".

        If names do not decide, the shapes of most convolutions do.
        """
        if any(self._is_mlx(name) for name in shapes):
            return "mlx"
        moved = [MoveAxis.is_done(shape) for name, shape in shapes.items() if self._tells_by_shape(name)]
        return "mlx" if 2 * sum(moved) > len(moved) else "hf"

    def _is_mlx(self, name: str) -> bool:
        rows = self.find(name, "mlx")
        return bool(rows) and rows[0].row.pattern("mlx") != rows[0].row.hf and not self.find(name, "hf")

    def _tells_by_shape(self, name: str) -> bool:
        return any(isinstance(op, MoveAxis) for found in self.find(name, "mlx") for op in found.row.mlx_ops)

    def to_gguf(self, name: str) -> tuple[str, Tensor] | None:
        """Return the GGUF name of a folder's tensor and its row (the first of several); None for an unknown name."""
        rows = self.find(name, "hf") or self.find(name, "mlx")
        return (rows[0].name("gguf"), rows[0].row) if rows else None

    def role(self, name: str) -> str | None:
        """Return the role of a tensor named in any dialect, None for an unknown one."""
        found = next((found for dialect in DIALECTS if (found := self.find(name, dialect))), None)
        return found[0].row.role if found else next((c.role for c in self.computed if c.gguf == name), None)

    def layer(self, name: str) -> int | None:
        """Return the layer of a tensor named in any dialect, None for tensors outside the layers."""
        match = NUMBER.search(name)
        return int(match[0]) if match else None

    def hyperparameters(self, config: Mapping[str, Any], where: str = "config.json") -> Hyperparameters:
        """Read hyperparameters with this family's defaults and names: see `from_config`."""
        return from_config(config, self.name, self.model_types.get(str(config.get("model_type"))), where, self.names)
