"""The common form of all sources, from which every target is made: Part, Weight, Checkpoint, Vocabulary."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from io import FileIO
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from quantcli.arrays import DTYPES, Array, numpy_dtype
from quantcli.errors import BadInput, Surroundings
from quantcli.schemes.base import Scheme

#: Strided reads (a range along axis 1) go through blocks of this many bytes, so that memory stays bounded.
STRIDED_BLOCK = 4 << 20

#: Units whose bytes are swapped at a time.
SWAPPED_BLOCK = 1 << 12


class Readable(Protocol):
    """An array that can be read a range of rows at a time: stored (`Part`), or made from stored ones (`virtual.py`).

    stored: its bytes are contiguous. block: rows that are computed together, so that ranges should start and end at its
    multiples.
    """

    @property
    def name(self) -> str: ...

    @property
    def dtype(self) -> str: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def file(self) -> Path: ...

    @property
    def nbytes(self) -> int: ...

    @property
    def stored(self) -> bool: ...

    @property
    def block(self) -> int: ...

    def read(self, start: int = 0, stop: int | None = None, axis: int = 0) -> Array:
        """Read indices start..stop of `axis` (0: leading axes flattened; 1: of a matrix) as a matrix."""

    def read_bytes(self, start: int, stop: int) -> Array:
        """Read a byte range of the array as uint8."""

    def section(self, start: int, stop: int) -> Readable:
        """Return rows start..stop (leading axes flattened) as a matrix that can be read."""


@dataclass(frozen=True)
class Part:
    """A stored array and the place of its bytes. name: its name in the file.

    swap: of a big-endian file, the position of each byte of a unit (a number, a block); empty if bytes are not swapped.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    offset: int
    swap: tuple[int, ...] = ()
    stored = True
    block = 1

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * DTYPES[self.dtype].bits // 8

    def read(self, start: int = 0, stop: int | None = None, axis: int = 0) -> Array:
        dtype = numpy_dtype(self.dtype)
        rows, columns = (math.prod(self.shape[:-1]), self.shape[-1]) if self.shape else (1, 1)
        with self._opened() as handle:
            if axis == 0:
                stop = rows if stop is None else stop
                width = columns * dtype.itemsize
                block = self._pread(handle.fileno(), start * width, (stop - start) * width)
                return block.view(dtype).reshape(stop - start, columns)
            stop = columns if stop is None else stop
            out = np.empty((rows, stop - start), dtype)
            step = max(1, STRIDED_BLOCK // max(1, columns * dtype.itemsize))
            for row in range(0, rows, step):
                count = min(step, rows - row)
                block = self._pread(handle.fileno(), row * columns * dtype.itemsize, count * columns * dtype.itemsize)
                out[row : row + count] = block.view(dtype).reshape(count, columns)[:, start:stop]
            return out

    def read_bytes(self, start: int, stop: int) -> Array:
        with self._opened() as handle:
            return self._pread(handle.fileno(), start, stop - start)

    def section(self, start: int, stop: int) -> Part:
        width = self.shape[-1] * DTYPES[self.dtype].bits // 8
        return replace(self, shape=(stop - start, self.shape[-1]), offset=self.offset + start * width)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[FileIO]:
        """Open the file without buffering. Raises `Surroundings` for errors of the system."""
        try:
            with open(self.file, "rb", buffering=0) as handle:
                yield handle
        except OSError as error:
            raise Surroundings(f"{self.file}: cannot be read ({error.strerror or error}). Check the disk.") from error

    def _pread(self, descriptor: int, start: int, count: int) -> Array:
        """Read bytes of the array in little-endian order."""
        if not self.swap:
            return self._stored(descriptor, start, count)
        unit = len(self.swap)
        before = start % unit
        data = self._stored(descriptor, start - before, before + count + -(start + count) % unit)
        for at in range(0, data.size, SWAPPED_BLOCK * unit):
            units = data[at : at + SWAPPED_BLOCK * unit].reshape(-1, unit)
            units[:] = units[:, self.swap]
        return data[before : before + count].copy() if before else data[:count]

    def _stored(self, descriptor: int, start: int, count: int) -> Array:
        buffer = np.empty(count, np.uint8)
        view = buffer.data
        done = 0
        while done < count:
            got = os.preadv(descriptor, [view[done:]], self.offset + start + done)
            if got == 0:
                raise BadInput(
                    f"{self.file}: is truncated: it became shorter while it was read and ends inside tensor "
                    f"{self.name}. Download it again."
                )
            done += got
        return buffer


@dataclass(frozen=True)
class Weight:
    """One logical tensor of the model, however it is stored. reason: what in the source decided its scheme.

    made_of: if values are computed when they are read, the quantized scheme that they come from.
    """

    name: str
    shape: tuple[int, ...]
    scheme: Scheme
    parts: Mapping[str, Readable]
    reason: str = ""
    made_of: Scheme | None = None

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.parts.values())


@dataclass(frozen=True)
class Passed:
    """A file next to the weights that is not copied, and why. warns: whether a warning reports it."""

    name: str
    reason: str
    warns: bool = False


@dataclass(frozen=True)
class Naming:
    """How names of stored tensors differ from names of weights: pairs of prefixes of both, the longest first.

    kept: weights with such a prefix that are stored under their names.

    >>> naming = Naming((("model.", "language_model.model."), ("lm_head.", "language_model.lm_head.")))
    >>> naming.stored("model.norm.weight"), naming.weight("language_model.lm_head.weight")
    ('language_model.model.norm.weight', 'lm_head.weight')
    """

    starts: tuple[tuple[str, str], ...] = ()
    kept: frozenset[str] = frozenset()

    @property
    def is_shorter(self) -> bool:
        """Whether stored names lack a prefix: those of a model that was saved without its output matrix."""
        return any(here != there and here.endswith(there) for here, there in self.starts)

    def stored(self, name: str) -> str:
        """Return the stored name of a weight."""
        starts = () if name in self.kept else self.starts
        return next((there + name.removeprefix(here) for here, there in starts if name.startswith(here)), name)

    def weight(self, name: str) -> str:
        """Return the weight's name of a stored tensor."""
        by_length = sorted(self.starts, key=lambda pair: -len(pair[1]))
        return next((here + name.removeprefix(there) for here, there in by_length if name.startswith(there)), name)


@dataclass(frozen=True)
class Checkpoint:
    """An opened source: its headers are read and checked, its data is not read.

    kind: `hf`, `mlx`, `gguf`, or the quantizer of its layout (`awq`, `gptq`, `fp8` ...). names: the dialect of weight
    names (`hf`, `gguf`). root: folder or file.
    files: those that hold tensors. sidecars: the sidecar files of a folder, which are copied to folders. passed: those
    that are not copied.
    config: `config.json`'s object (empty for GGUF). metadata: GGUF key -> value (empty for folders). header: the
    metadata of safetensors headers. settings: further files that describe how the weights are stored, copied if the
    layout is kept. beside: the `quantization_config.json` next to MLX or dense weights; of the latter, how to quantize
    them. tokenizer: a folder whose tokenizer replaces the source's; tokenizer_files: its files.
    malformed: the warnings that `--strict` refuses as bad input. naming: how names of stored tensors differ from those
    of weights; whole: `config.json`'s object if `config` is that of the text model in it, otherwise empty; towers:
    names of weights outside the text model (sources/prefix.py). dropped: names of stored weights that the user drops.
    statuses: `os.stat` of the files before any of them was read.
    """

    kind: str
    names: str
    root: Path
    files: tuple[Path, ...]
    weights: Mapping[str, Weight]
    config: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    sidecars: tuple[Path, ...] = ()
    passed: tuple[Passed, ...] = ()
    header: Mapping[str, str] = field(default_factory=dict)
    settings: tuple[Path, ...] = ()
    beside: Path | None = None
    warnings: tuple[str, ...] = ()
    tokenizer: Path | None = None
    tokenizer_files: tuple[Path, ...] = ()
    malformed: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    naming: Naming = Naming()
    whole: Mapping[str, Any] = field(default_factory=dict)
    towers: frozenset[str] = frozenset()
    statuses: Mapping[Path, os.stat_result] = field(default_factory=dict, compare=False, repr=False)

    @property
    def config_json(self) -> Mapping[str, Any]:
        """`config.json`'s object as stored; empty for GGUF."""
        return self.whole or self.config


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer in terms that both dialects share.

    model: `bpe` (byte-level) or `spm` (SentencePiece). pre: llama.cpp's name of the pre-tokenizer rule, of `bpe` only.
    tokens, scores, types: one entry per id (types are llama.cpp's: 1 normal, 2 unknown, 3 control, 4 user defined,
    5 unused, 6 byte). merges: `left right`, best first. special: role (`bos`, `eos`, `unknown`, `padding`, ...) -> id.
    add: role (`bos`, `eos`, `sep`) -> whether it is added to texts, if the tokenizer states it. chat_templates: named
    templates other than the default. normalizer: step (`lowercase`, `strip_accents`) -> whether it is applied.
    suppressed: tokens that are never generated. assumed: roles in `special` that the file does not name, with the ids
    that llama.cpp assumes.
    """

    model: str
    pre: str | None
    tokens: tuple[bytes, ...]
    types: tuple[int, ...]
    scores: tuple[float, ...] | None
    merges: tuple[str, ...]
    special: Mapping[str, int]
    add: Mapping[str, bool]
    add_space_prefix: bool | None = None
    chat_template: str | None = None
    chat_templates: Mapping[str, str] = field(default_factory=dict)
    normalizer: Mapping[str, bool] = field(default_factory=dict)
    suppressed: tuple[int, ...] = ()
    assumed: frozenset[str] = frozenset()
    warnings: tuple[str, ...] = ()
