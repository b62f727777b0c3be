"""Interface of a target: drafts of tensors before their schemes are chosen, files afterwards.

checkpoint -> Target.drafts -> (the plan decides a scheme for each) -> Target.files -> every output byte's place
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from quantcli.arrays import FLOATS, TORCH_DTYPES
from quantcli.checkpoint import Checkpoint, Passed
from quantcli.dtypes import DENSE_DTYPES
from quantcli.models.translate import Arranged
from quantcli.recipes.base import Subject
from quantcli.recipes.llama_cpp import never
from quantcli.schemes.base import Grade, Scheme
from quantcli.schemes.dense import Dense


@dataclass(frozen=True)
class Form:
    """A way to store a weight without changing its codes.

    source: what is stored of it. grade: what this alone does to its values. companions: names of the constants that are
    stored next to it in this form only.
    """

    source: Arranged
    grade: Grade = Grade.EXACT
    companions: tuple[str, ...] = ()


class Layout:
    """How a target stores a weight. This is the layout of most weights; formats with a special one override it."""

    def forms(self, source: Arranged) -> tuple[Form, ...]:
        """Return the ways to keep its codes, the preferred one first; the last is `source` unchanged."""
        return (Form(source),)

    def holders(self, holders: Sequence[Scheme]) -> Sequence[Scheme]:
        """Return the schemes that may hold kept codes. holders: those of the target."""
        return holders

    def dense(self, source: Arranged) -> Arranged:
        """Return the weight to decode when it becomes dense."""
        return source


COMMON_LAYOUT = Layout()


@dataclass(frozen=True)
class WeightDraft:
    """A weight of the output, made from one of the source, before its scheme is chosen.

    subject: what recipes see of it. source: where its rows come from. layout: how the target stores it.
    dense: the dtype it has when nothing quantizes it. stays: why nothing may, or None.
    fixed: it has the dtype `dense` whatever is asked. own: the scheme that the target's own tool gives it when all of
    the model gets one. scales: the dtype of its scales if it is quantized, None: as `dense`. extra: of a tensor that is
    kept with the layout of the source's quantizer only, why other outputs do without it. uncovered: of a matrix of a
    layer that users expect to be quantized with the others, why it is not. spared: why a scheme for the whole model
    leaves it dense, though one for this weight alone does not. wide: scales of its own that are f16 become f32.
    """

    name: str
    subject: Subject
    source: Arranged
    dense: str
    stays: str | None = None
    fixed: bool = False
    own: str | None = None
    scales: str | None = None
    wide: bool = False
    layout: Layout = COMMON_LAYOUT
    extra: str | None = None
    uncovered: str | None = None
    spared: str | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.source.shape

    @property
    def scheme(self) -> Scheme:
        """The scheme that the source stores it in."""
        return self.source.weight.scheme

    @property
    def is_quantized(self) -> bool:
        return not isinstance(self.scheme, Dense)

    @property
    def forms(self) -> tuple[Form, ...]:
        """The ways to keep its codes."""
        return self.layout.forms(self.source)


@dataclass(frozen=True)
class Constant:
    """A tensor of the output that the target computes: one row of float32 values, never quantized."""

    name: str
    values: NDArray[np.float32]
    role: str | None = None
    dense = "f32"
    stays = "is computed"
    own = None
    spared = None
    is_quantized = False

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    @property
    def subject(self) -> Subject:
        """Its names, role and shape as recipes see them."""
        return Subject(self.name, self.name, self.role, self.shape)


#: A tensor of the output before its scheme is known.
Draft = WeightDraft | Constant


@dataclass(frozen=True)
class Placed:
    """A weight of the output with its chosen scheme.

    stored: the source's names of its parts, where they are copied. file_name: what the output calls it, where that is
    not its name.
    """

    name: str
    shape: tuple[int, ...]
    scheme: Scheme
    stored: Mapping[str, str] = field(default_factory=dict)
    file_name: str = ""

    @property
    def module(self) -> str:
        """The path of its module in the output."""
        return (self.file_name or self.name).removesuffix(".weight")


@dataclass(frozen=True)
class OutputFile:
    """A file of the output: its size, the bytes known in advance (offset, bytes), and the place of each part.

    slots: (weight, part) -> absolute offset. copy_of: the file is a copy of that one.
    """

    name: str
    size: int
    blobs: tuple[tuple[int, bytes], ...] = ()
    slots: Mapping[tuple[str, str], int] = field(default_factory=dict)
    copy_of: Path | None = None


#: Bytes of tensors in one safetensors file, unless asked otherwise; a GGUF file is not split unless asked.
SHARD_SIZE = 5_000_000_000


@dataclass(frozen=True)
class Contents:
    """Files of an output, warnings (such as metadata that it cannot store), and source files that are not copied."""

    files: Sequence[OutputFile]
    warnings: Sequence[str] = ()
    passed: Sequence[Passed] = ()


@dataclass(frozen=True)
class Left:
    """A tensor of the source that outputs of this kind do not have, and why nothing is lost.

    warns: whether a warning says so.
    """

    name: str
    reason: str
    warns: bool = False


@dataclass(frozen=True)
class Settings:
    """Options of a request that shape a target's files. preset: its name; common: the scheme chosen for all weights.

    shard_size: bytes of tensors in one file, as asked. keep_split: of a GGUF, cut as the source is cut.

    file_type: GGUF's number of the mixture; file_name: of a target that is one file. prune: layers of a GGUF to leave
    out. keys: GGUF metadata to set, last of all.
    """

    dtype: str | None = None
    scale_dtype: str | None = None
    shard_size: int | None = None
    keep_split: bool = False
    preset: str | None = None
    common: Scheme | None = None
    file_type: int | None = None
    file_name: str = ""
    prune: tuple[int, ...] = ()
    keys: Mapping[str, tuple[str, Any]] = field(default_factory=dict)

    @property
    def asked_dtype(self) -> str | None:
        """The requested dense dtype: a dense scheme for the whole model, else `--dtype`."""
        return self.common.dtype if isinstance(self.common, Dense) else self.dtype


class Planned(Protocol):
    """The part of a plan's step that a target reads and changes once all steps are known."""

    @property
    def name(self) -> str: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def scheme(self) -> Scheme: ...

    @property
    def is_encoded(self) -> bool:
        """Whether values are rounded onto the scheme, so that scales are found anew."""

    def sharing(self, others: Sequence[Self]) -> Self:
        """Return the step with the other steps that share its global scale."""

    def shaped(self, shape: tuple[int, ...]) -> Self:
        """Return the step with another output shape of as many values in the same order."""


PlannedT = TypeVar("PlannedT", bound=Planned)


class Target(Protocol):
    """A kind of output. `label` is the value of `--to`, `said` its name in a sentence; neither is ever compared."""

    label: str
    said: str
    #: Whether it is a folder; else it is one file, or the parts of one.
    is_folder: bool
    #: Whether llama-quantize's rules choose its types: its mixtures, its options, what takes the place of a type.
    follows_llama_quantize: bool
    #: Whether mlx-lm's rules choose its schemes: its mixtures, settings in its terms next to a model.
    follows_mlx_lm: bool
    #: Whether its runtime stacks single experts when it loads them, which many of its classes cannot do if quantized.
    stacks_experts: bool
    #: Whether parts that are copied keep the source's names; else these follow from the weight's name.
    keeps_part_names: bool

    def drafts(self, source: Checkpoint, settings: Settings) -> tuple[Sequence[Draft], list[Left], list[str]]:
        """Return the weights of the output in order, the source's tensors that are left out, and warnings."""

    def scheme(self, name: str, scale_dtype: str, shape: tuple[int, ...] = ()) -> Scheme | None:
        """Return this target's scheme of that name for a weight of that shape; None if it has none."""

    def holders(self, scale_dtype: str) -> list[Scheme]:
        """Return every quantized scheme of this target, for weights that keep their codes or fall back."""

    def keeps(self, source: Checkpoint, scheme: Scheme) -> bool:
        """Return whether a weight in this scheme is copied unchanged, in the layout of its family."""

    def keeps_layout(self, placed: Sequence[Placed]) -> bool:
        """Return whether the output keeps the layout of the source's quantizer, extra tensors included."""

    def finish(self, source: Checkpoint, steps: Sequence[PlannedT], settings: Settings) -> list[PlannedT]:
        """Return the steps, changed where one depends on the others."""

    def keeps_metadata(self, source: Checkpoint) -> bool:
        """Return whether the output keeps all of the source's metadata and tokenizer, for any architecture."""

    def files(self, source: Checkpoint, placed: Sequence[Placed], settings: Settings) -> Contents:
        """Return every file of the output, each byte known or its place reserved."""


def dense_scheme(name: str) -> Scheme | None:
    """Return the dense scheme of that name, which every target supports; None for other names."""
    return Dense(name) if name in DENSE_DTYPES else None


def config_dtype(config: Mapping[str, object], keys: Sequence[str] = ("torch_dtype", "dtype")) -> str | None:
    """Return the dtype that `config.json` states under the first of `keys`, as quant's name; None if it states none."""
    for key in keys:
        value = config.get(key)
        if isinstance(value, str) and value in TORCH_DTYPES:
            return TORCH_DTYPES[value]
    return None


def commonest_dtype(source: Checkpoint) -> str:
    """Return the most common dtype among elements of dense matrices, else of scales, else f16."""
    count: dict[str, int] = {}
    for weight in source.weights.values():
        if isinstance(weight.scheme, Dense) and weight.scheme.dtype in FLOATS and len(weight.shape) >= 2:
            dtype = weight.scheme.dtype
            count[dtype] = count.get(dtype, 0) + math.prod(weight.shape)
    for weight in source.weights.values() if not count else ():
        scales = weight.scheme.scales_dtype
        if scales in FLOATS:
            count[scales] = count.get(scales, 0) + math.prod(weight.shape)
    return max(sorted(count), key=count.__getitem__) if count else "f16"


def gguf_dtype(source: Checkpoint) -> str:
    """Return the dense dtype for output made from a GGUF file: the most common among its dense matrices, else f16.

    Those that llama.cpp always holds in float32 (norms, routers) do not count.
    """
    count: dict[str, int] = {}
    for name, weight in source.weights.items():
        is_float = isinstance(weight.scheme, Dense) and weight.scheme.dtype in FLOATS
        if is_float and never(name, weight.shape) is None:
            dtype = weight.scheme.name
            count[dtype] = count.get(dtype, 0) + math.prod(weight.shape)
    return max(sorted(count), key=count.__getitem__) if count else "f16"
