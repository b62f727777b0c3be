"""What every source gives and every target takes: Part, Weight, Checkpoint, Vocabulary."""

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
    """An array that can be read a range of rows at a time: stored (`Part`), or made of stored ones (`virtual.py`).

    stored: its bytes stand one after another. block: rows that are made together, so that ranges had best begin and
    end at its multiples.
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
        """Indices start..stop along `axis` (0: leading axes flattened; 1: of a matrix), as a matrix."""

    def read_bytes(self, start: int, stop: int) -> Array:
        """That byte range of the array, uint8."""

    def section(self, start: int, stop: int) -> Readable:
        """Rows start..stop (leading axes flattened) as an array of its own, a matrix."""


@dataclass(frozen=True)
class Part:
    """One stored array: where its bytes lie. `name` is its name in the file.

    swap: of a big-endian file, where each byte of a unit (a number, a block) stands; empty where bytes are as read.
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
        """The file, unbuffered; what the system refuses is `Surroundings`."""
        try:
            with open(self.file, "rb", buffering=0) as handle:
                yield handle
        except OSError as error:
            raise Surroundings(
                f"{self.file}: cannot be read ({error.strerror or error}): mend that and run again."
            ) from error

    def _pread(self, descriptor: int, start: int, count: int) -> Array:
        """Bytes of the array, in our byte order."""
        if not self.swap:
            return self._stored(descriptor, start, count)
        unit = len(self.swap)
        before = start % unit
        whole = self._stored(descriptor, start - before, before + count + -(start + count) % unit)
        for at in range(0, whole.size, SWAPPED_BLOCK * unit):
            units = whole[at : at + SWAPPED_BLOCK * unit].reshape(-1, unit)
            units[:] = units[:, self.swap]
        return whole[before : before + count].copy() if before else whole[:count]

    def _stored(self, descriptor: int, start: int, count: int) -> Array:
        buffer = np.empty(count, np.uint8)
        view = buffer.data
        done = 0
        while done < count:
            got = os.preadv(descriptor, [view[done:]], self.offset + start + done)
            if got == 0:
                raise BadInput(
                    f"{self.file}: ends inside tensor {self.name}: the file has become shorter while it was read."
                )
            done += got
        return buffer


@dataclass(frozen=True)
class Weight:
    """One logical tensor of the model, whatever it is stored as. `reason`: what in the source decided its scheme.

    made_of: of values that are computed when they are read, the quantized scheme that they come from.
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
    """A file next to the weights that no output gets, and why. warns: whether a warning says so."""

    name: str
    reason: str
    warns: bool = False


@dataclass(frozen=True)
class Naming:
    """How stored tensors are named other than the weights: pairs of the starts of both, the longest first.

    kept: weights with such a start that are stored under their own names.

    >>> naming = Naming((("model.", "language_model.model."), ("lm_head.", "language_model.lm_head.")))
    >>> naming.stored("model.norm.weight"), naming.weight("language_model.lm_head.weight")
    ('language_model.model.norm.weight', 'lm_head.weight')
    """

    starts: tuple[tuple[str, str], ...] = ()
    kept: frozenset[str] = frozenset()

    @property
    def is_shorter(self) -> bool:
        """Whether stored names lack a prefix: those of a model that was saved without its head."""
        return any(here != there and here.endswith(there) for here, there in self.starts)

    def stored(self, name: str) -> str:
        """The stored name of a weight."""
        starts = () if name in self.kept else self.starts
        return next((there + name.removeprefix(here) for here, there in starts if name.startswith(here)), name)

    def weight(self, name: str) -> str:
        """The weight's name of a stored tensor."""
        by_length = sorted(self.starts, key=lambda pair: -len(pair[1]))
        return next((here + name.removeprefix(there) for here, there in by_length if name.startswith(there)), name)


@dataclass(frozen=True)
class Checkpoint:
    """A source, opened: headers read and checked, no data.

    kind: `hf`, `mlx`, `gguf`, or whose quantized layout it has (`awq`, `gptq`, `fp8` ...). names: the dialect
    that weights are named in (`hf`, `gguf`). root: folder or file.
    files: those that hold tensors. sidecars: the others of a folder, which folders made of it have too. passed: those
    that they do not have.
    config: `config.json`'s object (empty for GGUF). metadata: GGUF key -> value (empty for folders). header: the text
    in the headers of safetensors files. settings: further files that describe how the weights are stored, copied where
    they stay so. beside: the `quantization_config.json` of an MLX or a dense folder, of the latter how to quantize it.
    tokenizer: a folder whose tokenizer takes the place of the source's own; tokenizer_files: the files of it.
    malformed: those of the warnings that `--strict` refuses as bad input. naming: how the stored tensors are named
    other than the weights; whole: `config.json`'s object where `config` is of the text model in it, else empty; towers:
    names of weights that belong to no text model (sources/prefix.py). dropped: names of stored weights that a
    conversion leaves out as asked. statuses: what the system said of the files before any of them was read.
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
        """`config.json`'s object as it is stored; empty for GGUF."""
        return self.whole or self.config


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer in terms that both dialects share.

    model: `bpe` (byte-level) or `spm` (SentencePiece). pre: llama.cpp's name of the pre-tokenizer rule, of `bpe` only.
    tokens, scores, types: one entry an id (types are llama.cpp's: 1 normal, 2 unknown, 3 control, 4 user defined,
    5 unused, 6 byte). merges: `left right`, best first. special: role (`bos`, `eos`, `unknown`, `padding`, ...) -> id.
    add: role (`bos`, `eos`, `sep`) -> whether it is added around a text, where the tokenizer says so. chat_templates:
    the named ones beside the default. normalizer: step (`lowercase`, `strip_accents`) -> whether text goes through it.
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
