"""What a target takes and gives: drafts of its tensors before their schemes are known, files once they are.

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
    """A way to keep a weight's codes.

    source: what is stored of it. grade: what this alone does to its values. companions: names of the constants that are
    stored next to it in this form only.
    """

    source: Arranged
    grade: Grade = Grade.EXACT
    companions: tuple[str, ...] = ()


class Layout:
    """How a target stores a weight: the layout of most weights, which formats with a special one override."""

    def forms(self, source: Arranged) -> tuple[Form, ...]:
        """The ways to keep its codes, the preferred one first; the last one is `source` as it is."""
        return (Form(source),)

    def holders(self, holders: Sequence[Scheme]) -> Sequence[Scheme]:
        """The schemes that may hold kept codes. holders: those of the target."""
        return holders

    def dense(self, source: Arranged) -> Arranged:
        """The weight as it is where it becomes dense."""
        return source


COMMON_LAYOUT = Layout()


@dataclass(frozen=True)
class WeightDraft:
    """A weight of the source as a weight of the output, before its scheme is known.

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
    """A tensor of the output that the target computes: one row of float32 values, which nothing quantizes."""

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
        """What recipes see of it."""
        return Subject(self.name, self.name, self.role, self.shape)


#: A tensor of the output before its scheme is known.
Draft = WeightDraft | Constant


@dataclass(frozen=True)
class Placed:
    """A weight of the output with its scheme.

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
    """One file of the output: its size, the bytes known beforehand (offset, bytes), and where each part goes.

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
    """The files of an output, warnings (what of the metadata has no place), and files of the source that it lacks."""

    files: Sequence[OutputFile]
    warnings: Sequence[str] = ()
    passed: Sequence[Passed] = ()


@dataclass(frozen=True)
class Left:
    """A tensor of the source that no output of this kind has, and why that loses nothing.

    warns: whether a warning says so.
    """

    name: str
    reason: str
    warns: bool = False


@dataclass(frozen=True)
class Settings:
    """What of a request shapes a target's files. preset: the preset's name; common: the scheme given for all weights.

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
        """The dense dtype that was asked for: a dense scheme for the whole model, else `--dtype`."""
        return self.common.dtype if isinstance(self.common, Dense) else self.dtype


class Planned(Protocol):
    """A step of the plan, as much of it as a target sees and changes once all steps are known."""

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
        """The step with those whose values count for its global scale too."""

    def shaped(self, shape: tuple[int, ...]) -> Self:
        """The step with another shape of the output, of as many values in the same order."""


PlannedT = TypeVar("PlannedT", bound=Planned)


class Target(Protocol):
    """A kind of output. `label` is what `--to` says, `said` what a sentence says; neither is ever compared."""

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
        """The weights of the output in its order, the tensors of the source that are left out, and warnings."""

    def scheme(self, name: str, scale_dtype: str, shape: tuple[int, ...] = ()) -> Scheme | None:
        """The scheme of that name for a weight of that shape in this target's family, None where it has none."""

    def holders(self, scale_dtype: str) -> list[Scheme]:
        """Every quantized scheme of this target, for weights that keep their codes or fall back."""

    def keeps(self, source: Checkpoint, scheme: Scheme) -> bool:
        """Whether a weight stored in this scheme is copied as it is, in its own family's layout."""

    def keeps_layout(self, placed: Sequence[Placed]) -> bool:
        """Whether the output has the layout of the source's quantizer, so that its further tensors are copied too."""

    def finish(self, source: Checkpoint, steps: Sequence[PlannedT], settings: Settings) -> list[PlannedT]:
        """The steps with what only all of them together tell of each."""

    def keeps_metadata(self, source: Checkpoint) -> bool:
        """Whether the output has the source's keys as they are, its tokenizer among them, whatever its architecture."""

    def files(self, source: Checkpoint, placed: Sequence[Placed], settings: Settings) -> Contents:
        """Every file, with each byte known or its place known."""


def dense_scheme(name: str) -> Scheme | None:
    """The dense schemes, which every target has."""
    return Dense(name) if name in DENSE_DTYPES else None


def config_dtype(config: Mapping[str, object], keys: Sequence[str] = ("torch_dtype", "dtype")) -> str | None:
    """The dtype that `config.json` names under the first of `keys`, as our name; None where none is said."""
    for key in keys:
        value = config.get(key)
        if isinstance(value, str) and value in TORCH_DTYPES:
            return TORCH_DTYPES[value]
    return None


def commonest_dtype(source: Checkpoint) -> str:
    """The dtype of most elements among dense matrices; without one that of most scales, f16 without any."""
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
    """The dense dtype of what is made of a GGUF file: of most elements among its dense matrices, f16 without any.

    Those that llama.cpp always holds in float32 (norms, routers) do not count.
    """
    count: dict[str, int] = {}
    for name, weight in source.weights.items():
        is_float = isinstance(weight.scheme, Dense) and weight.scheme.dtype in FLOATS
        if is_float and never(name, weight.shape) is None:
            dtype = weight.scheme.name
            count[dtype] = count.get(dtype, 0) + math.prod(weight.shape)
    return max(sorted(count), key=count.__getitem__) if count else "f16"
