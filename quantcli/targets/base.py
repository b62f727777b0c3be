"""What a target takes and gives: drafts of its weights before their schemes are known, files once they are.

checkpoint -> Target.drafts -> (the plan decides a scheme for each) -> Target.files -> every output byte's place
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from quantcli.arrays import FLOATS, TORCH_DTYPES, Array
from quantcli.checkpoint import Checkpoint, Passed, Weight
from quantcli.recipes.base import Subject
from quantcli.recipes.llama_cpp import never
from quantcli.schemes.base import Grade, Scheme
from quantcli.schemes.dense import Dense


@dataclass(frozen=True)
class Draft:
    """One weight of the output before its scheme is known.

    weight: the source weight, None for one that the target computes (`constant` then holds it).
    rows: the source row of each output row, None where the order stays.
    turned: where it becomes dense, its last two axes change places (the draft's shape is the source's, the plan then
    turns it); where it keeps codes, it stays as it is.
    subject: what recipes see of it. dense: the dtype it has when nothing quantizes it. stays: why nothing may, or None.
    fixed: it has the dtype `dense` whatever is asked. own: the scheme that the target's own tool gives it when all of
    the model gets one. scales: the dtype of its scales if it is quantized, None: as `dense`. packed: a layout that the
    target has for this weight alone, if its codes fit. extra: of a tensor that is kept with the layout of the source's
    quantizer only, why other outputs do without it. uncovered: of a matrix of a layer that users expect to be quantized
    with the others, why it is not. spared: why a scheme for the whole model leaves it dense, though one for this weight
    alone does not. wide: scales of its own that are f16 become f32.
    """

    name: str
    shape: tuple[int, ...]
    subject: Subject
    dense: str
    weight: Weight | None = None
    rows: NDArray[np.int64] | None = None
    constant: Array | None = None
    stays: str | None = None
    fixed: bool = False
    own: str | None = None
    scales: str | None = None
    wide: bool = False
    packed: Scheme | None = None
    turned: bool = False
    inner: Weight | None = None
    inner_grade: Grade = Grade.EXACT
    beside: str | None = None
    extra: str | None = None
    uncovered: str | None = None
    spared: str | None = None


@dataclass(frozen=True)
class Placed:
    """A weight of the output with its scheme; `stored`: the source's names of its parts, where they are copied."""

    name: str
    shape: tuple[int, ...]
    scheme: Scheme
    stored: Mapping[str, str] = field(default_factory=dict)


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

    def drafts(self, source: Checkpoint, settings: Settings) -> tuple[list[Draft], list[Left], list[str]]:
        """The weights of the output in its order, the tensors of the source that are left out, and warnings."""

    def scheme(self, name: str, scale_dtype: str, shape: tuple[int, ...] = ()) -> Scheme | None:
        """The scheme of that name for a weight of that shape in this target's family, None where it has none."""

    def holders(self, scale_dtype: str) -> list[Scheme]:
        """Every quantized scheme of this target, for weights that keep their codes or fall back."""

    def keeps(self, source: Checkpoint, scheme: Scheme) -> bool:
        """Whether a weight stored in this scheme is copied as it is, in its own family's layout."""

    def keeps_layout(self, placed: Sequence[Placed]) -> bool:
        """Whether the output has the layout of the source's quantizer, so that its further tensors are copied too."""

    def keeps_metadata(self, source: Checkpoint) -> bool:
        """Whether the output has the source's keys as they are, its tokenizer among them, whatever its architecture."""

    def files(self, source: Checkpoint, placed: Sequence[Placed], settings: Settings) -> Contents:
        """Every file, with each byte known or its place known."""


def dense_scheme(name: str) -> Scheme | None:
    """The dense schemes, which every target has."""
    return Dense(name) if name in ("f32", "f16", "bf16") else None


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
        scales = getattr(weight.scheme, "scale_dtype", None)
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
