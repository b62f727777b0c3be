"""Importance matrices of llama.cpp (how much each input column of a weight matters), in both formats, checked.

Source: llama.cpp's tools/imatrix, common/imatrix-loader.cpp and tools/quantize (ggml 0.25.3).

    legacy, .dat   entries: i32 | entry ... | chunks: i32 | length: i32, data set's name
                   little-endian; everything after the entries is optional
    entry          length: i32, name | calls: i32 | n: i32, n x f32: mean of the squared inputs x calls

    GGUF           tensors NAME.in_sum2, f32 (n_in) or (experts, n_in): sums of the squared inputs, and NAME.counts, f32
                   (1) or (experts, 1): tokens; keys imatrix.datasets, imatrix.chunk_count, imatrix.chunk_size

NAME is the weight's name in the GGUF model. An importance is sum / count, or value / calls, divided in float32 as in
llama-quantize. An expert that was never given a token has ones; a legacy entry with 0 calls is used undivided.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quantcli.containers import gguf
from quantcli.containers.gguf import GgufFile, TensorInfo
from quantcli.containers.gguf_values import MAX_NAME, ORDERS, ArrayValue, Value
from quantcli.containers.hostile import UNPRINTABLE, Read, check_name, foreign, opened, shown
from quantcli.errors import BadInput, WrongUsage

SUMS, COUNTS = ".in_sum2", ".counts"
TYPE = "general.type"
DATASETS, CHUNK_COUNT, CHUNK_SIZE = "imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size"

#: Limits of a legacy file: the most entries, far above any real file, and the fewest bytes of one.
MAX_ENTRIES, SMALLEST_ENTRY = 1 << 16, 4 + 1 + 4 + 4 + 4

#: Usual suffixes of legacy files.
SUFFIXES = (".dat", ".imatrix")

#: The most tokens that an entry may have counted: float64 holds every whole number up to this one.
MAX_COUNT = 2**53

#: llama-quantize truncates strings in metadata to this many bytes.
MAX_TEXT = 127

#: Embeddings: llama-quantize ignores an entry of the wrong size for them.
EMBEDDINGS = ("token_embd.weight", "per_layer_token_embd.weight")


@dataclass(frozen=True)
class ImportanceMatrix:
    """The importances in a file.

    file: its name without folders.
    entries: tensor -> float32 (n_in,); for stacked experts (experts, n_in), in the legacy format (experts * n_in,).
    counts: tensor -> tokens, one number or one for each expert; in the legacy format calls.
    chunks, chunk_size: of the text that the matrix was computed from; 0 if the file does not state them.
    datasets: names of these texts.
    legacy: whether the file has the legacy format.
    left_out: names of entries that are not used.
    """

    file: str
    entries: Mapping[str, NDArray[np.float32]]
    counts: Mapping[str, tuple[int, ...]]
    chunks: int = 0
    chunk_size: int = 0
    datasets: tuple[str, ...] = ()
    legacy: bool = False
    left_out: tuple[str, ...] = ()

    def weights(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32] | None:
        """Return float32 (n_in,), or (experts, n_in) for a tensor (experts, n_out, n_in); None without an entry.

        name: in the source, before layers were pruned. Raises `BadInput` for an entry of the wrong size.
        """
        entry = self.entries.get(name)
        if entry is None or (name in EMBEDDINGS and entry.size != _expected_size(shape)):
            return None
        if entry.size != _expected_size(shape):
            raise BadInput(_mismatch(self, name, shape))
        return entry.reshape(-1, shape[-1]) if _experts(shape) > 1 else entry.reshape(-1)


def is_matrix(path: Path) -> bool:
    """Return whether a file is an importance matrix: by its `general.type` in GGUF, else by suffix or first entry.

    Raises `BadInput` for a damaged GGUF file, `Surroundings`.
    """
    with opened(path) as (reader, size):
        if reader(0, min(size, 4)) != gguf.MAGIC:
            return path.suffix in SUFFIXES or _starts_as_dat(_Cursor(reader, size, str(path)), path)
        kind = gguf.parse(reader, size, path).metadata.get(TYPE)
        return kind is not None and bool(kind.value == "imatrix")


def _starts_as_dat(cursor: _Cursor, path: Path) -> bool:
    """Return whether a file starts like a legacy matrix: with a number of entries and a complete entry."""
    try:
        _entry_count(cursor)
        _entry(cursor, path)
    except BadInput:
        return False
    return True


def read(path: Path) -> ImportanceMatrix:
    """Read an importance matrix; its first bytes show the format. Raises `BadInput`, `Surroundings`."""
    with opened(path) as (reader, size):
        return parse(reader, size, path)


def parse(read: Read, size: int, path: Path) -> ImportanceMatrix:
    """Read an importance matrix of `size` bytes through read(offset, length). path: its name in errors."""
    head = read(0, min(size, 32))
    if head.startswith(gguf.MAGIC):
        return _of_gguf(gguf.parse(read, size, path), read)
    if kind := foreign(head):
        raise BadInput(f"{path}: is not an importance matrix (a .dat or .gguf file from llama-imatrix), but {kind}.")
    return _of_dat(_Cursor(read, size, str(path)), path)


def chosen(matrix: ImportanceMatrix, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> ImportanceMatrix:
    """Return a matrix with the entries whose names contain one of `include`, or none of `exclude`.

    The same as llama-quantize's --include-weights and --exclude-weights. A matrix without entries has no effect.
    Raises `WrongUsage` if both are given.
    """
    if include and exclude:
        raise WrongUsage("--include-weights and --exclude-weights cannot be used together. Use one of them.")
    kept = [name for name in matrix.entries if not any(part in name for part in exclude)]
    if include:
        kept = [name for name in kept if any(part in name for part in include)]
    return replace(
        matrix,
        entries={name: matrix.entries[name] for name in kept},
        counts={name: matrix.counts[name] for name in kept},
        left_out=tuple(name for name in matrix.entries if name not in set(kept)),
    )


def mismatches(matrix: ImportanceMatrix, shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Return a sentence for each entry whose size does not fit its tensor, or one if no entry fits any tensor's name.

    shapes: tensor of the source -> row-major shape.
    """
    if matrix.entries and not matrix.entries.keys() & shapes.keys():
        entry, tensor = (shown(min(names)) for names in (matrix.entries, shapes))
        return [
            f"{matrix.file}: has no entry for any tensor of the model (for example, it has {entry}, but the model "
            f"has {tensor}). Use a matrix that was computed for this model."
        ]
    common = [name for name in matrix.entries if name in shapes and name not in EMBEDDINGS]
    return [
        _mismatch(matrix, name, shapes[name])
        for name in common
        if matrix.entries[name].size != _expected_size(shapes[name])
    ]


def check(matrix: ImportanceMatrix, shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Return a warning if entries have no tensor in the model. Raises `BadInput` for the first of `mismatches`."""
    if wrong := mismatches(matrix, shapes):
        raise BadInput(wrong[0])
    unused = [name for name in matrix.entries if name not in shapes]
    if not unused:
        return []
    listed = ", ".join(unused[:3]) + (", ..." if len(unused) > 3 else "")
    return [
        f"{matrix.file}: {len(unused)} of {len(matrix.entries)} entries match no tensor of the model and are ignored: "
        f"{listed}."
    ]


def metadata(matrix: ImportanceMatrix) -> dict[str, Value]:
    """Return the keys that llama-quantize appends, in this order, to a file made with a matrix that has entries."""
    if not matrix.entries:
        return {}
    keys = {"quantize.imatrix.file": Value("string", _cut(matrix.file))}
    if matrix.datasets:
        keys["quantize.imatrix.dataset"] = Value("string", _cut(matrix.datasets[0]))
    keys["quantize.imatrix.entries_count"] = Value("uint32", len(matrix.entries))
    if matrix.chunks > 0:
        keys["quantize.imatrix.chunks_count"] = Value("uint32", matrix.chunks)
    return keys


def _cut(text: str) -> str:
    return text.encode()[:MAX_TEXT].decode(errors="ignore")


def _experts(shape: tuple[int, ...]) -> int:
    return shape[-3] if len(shape) > 2 else 1


def _expected_size(shape: tuple[int, ...]) -> int:
    return shape[-1] * _experts(shape)


def _mismatch(matrix: ImportanceMatrix, name: str, shape: tuple[int, ...]) -> str:
    entry = matrix.entries[name]
    return (
        f"{matrix.file}: entry {shown(name)}: expected {_expected_size(shape)} values for the model's tensor of shape "
        f"{list(shape)}, found {entry.size}. Use a matrix that was computed for this model."
    )


def _of_gguf(file: GgufFile, read: Read) -> ImportanceMatrix:
    pairs = _pairs(file)
    if not pairs:
        raise BadInput(
            f"{file.path}: is not an importance matrix: no tensor is named NAME{SUMS}. Use the output of llama-imatrix."
        )
    missing = next((key for key in (DATASETS, CHUNK_COUNT, CHUNK_SIZE) if key not in file.metadata), None)
    if missing:
        raise BadInput(f"{file.path}: key {missing} is missing. Compute the matrix again with llama-imatrix.")
    entries, counts = {}, {}
    for name, (sums, tokens) in pairs.items():
        entries[name], counts[name] = _divided(file, _floats(file, sums, read), _floats(file, tokens, read), name)
    return ImportanceMatrix(
        file.path.name, entries, counts, _whole(file, CHUNK_COUNT), _whole(file, CHUNK_SIZE), _datasets(file)
    )


def _pairs(file: GgufFile) -> dict[str, tuple[TensorInfo, TensorInfo]]:
    """Return the two tensors of each entry, in file order; other tensors are ignored."""
    tensors = file.tensors
    known = [name for name in tensors if name.endswith((SUMS, COUNTS))]
    names = list(dict.fromkeys(name.removesuffix(SUMS).removesuffix(COUNTS) for name in known))
    for name in names:
        for suffix in (SUMS, COUNTS):
            if f"{name}{suffix}" not in tensors:
                raise BadInput(
                    f"{file.path}: entry {shown(name)}: tensor {shown(name + suffix)} is missing. Compute the matrix "
                    "again with llama-imatrix."
                )
        check_name(name, f"{file.path}: an entry")
    return {name: (tensors[f"{name}{SUMS}"], tensors[f"{name}{COUNTS}"]) for name in names}


def _floats(file: GgufFile, tensor: TensorInfo, read: Read) -> NDArray[np.float32]:
    """Read a tensor's values. Raises `BadInput` for types other than f32, NaN, Inf and values below 0."""
    where = f"{file.path}: tensor {shown(tensor.name)}"
    if tensor.type_name != "f32" or tensor.nbytes is None:
        raise BadInput(
            f"{where}: expected type f32, found {tensor.type_name or tensor.type_id}. Compute the matrix again."
        )
    return _sound(read(tensor.offset, tensor.nbytes), tensor.nbytes, ORDERS[file.byte_order], where).reshape(
        tensor.shape
    )


def _sound(data: bytes, nbytes: int, order: str, where: str) -> NDArray[np.float32]:
    """Return the float32 values in `data`. Raises `BadInput` for those that cannot be sums of squares or counts."""
    if len(data) != nbytes:
        raise BadInput(f"{where}: the file became shorter while it was read.")
    values = np.frombuffer(data, f"{order}f4").astype(np.float32)
    wrong = np.flatnonzero(~(np.isfinite(values) & (values >= 0)))
    if wrong.size:
        raise BadInput(
            f"{where}: expected finite values of 0 or more, found {values[wrong[0]]} at index {int(wrong[0])}. Compute "
            "the matrix again."
        )
    return values


def _divided(
    file: GgufFile, sums: NDArray[np.float32], tokens: NDArray[np.float32], name: str
) -> tuple[NDArray[np.float32], tuple[int, ...]]:
    """Return the importances and the counts, which are rounded to whole numbers, halves up, as in llama.cpp."""
    where = f"{file.path}: entry {shown(name)}"
    if sums.size % tokens.size:
        raise BadInput(
            f"{where}: has {sums.size} sums, which is not a multiple of its {tokens.size} counts. Compute the matrix "
            "again."
        )
    if float(tokens.max()) > MAX_COUNT:
        raise BadInput(f"{where}: has a count of {tokens.max():g}; the limit is {MAX_COUNT}. Compute the matrix again.")
    whole = np.floor(tokens.reshape(-1).astype(np.float64) + 0.5).astype(np.int64)
    rows = sums.reshape(whole.size, -1)
    by = whole.astype(np.float32)[:, None]
    weights = np.where(by > 0, rows / np.maximum(by, np.float32(1)), np.float32(1))
    counts = tuple(int(count) for count in whole)
    return (weights if whole.size > 1 else weights.reshape(-1)), counts


def _whole(file: GgufFile, key: str) -> int:
    kind, value = file.metadata[key]
    if kind != "uint32":
        raise BadInput(f"{file.path}: key {key}: expected type uint32, found {kind}. Compute the matrix again.")
    return int(value)


def _datasets(file: GgufFile) -> tuple[str, ...]:
    kind, value = file.metadata[DATASETS]
    if kind != "array[string]" or not isinstance(value, ArrayValue):
        raise BadInput(
            f"{file.path}: key {DATASETS}: expected type array[string], found {kind}. Compute the matrix again."
        )
    return tuple(_text(raw, f"{file.path}: key {DATASETS}") for raw in value.decode())


def _text(raw: bytes, where: str) -> str:
    """Return a string from the file. Raises `BadInput` for one that cannot be printed."""
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise BadInput(
            f"{where}: a string is not UTF-8 (byte {error.start}). Fix the tool that wrote the file."
        ) from None
    if UNPRINTABLE.search(text):
        raise BadInput(f"{where}: {shown(text)} has control characters. Fix the tool that wrote the file.")
    return text


@dataclass
class _Cursor:
    """The reader's position in a legacy file."""

    read: Read
    size: int
    label: str
    at: int = 0
    where: str = "the file"

    def error(self, problem: str) -> BadInput:
        return BadInput(f"{self.label}: {self.where}: {problem}.")

    def take(self, count: int) -> bytes:
        """Read the next `count` bytes. Raises `BadInput` if the file has fewer."""
        if count > self.size - self.at:
            raise self.error(
                f"is truncated or not an importance matrix: expected {count} more bytes, found {self.size - self.at}"
            )
        data = self.read(self.at, count)
        if len(data) != count:
            raise self.error("the file became shorter while it was read")
        self.at += count
        return data

    def number(self, name: str, smallest: int, most: int = 2**31 - 1) -> int:
        value: int = struct.unpack("<i", self.take(4))[0]
        if not smallest <= value <= most:
            raise self.error(
                f"is damaged or not an importance matrix: {name}: expected a number from {smallest} to {most}, found "
                f"{value}"
            )
        return value


def _entry_count(cursor: _Cursor) -> int:
    count = cursor.number("number of entries", 1, MAX_ENTRIES)
    if count * SMALLEST_ENTRY > cursor.size - cursor.at:
        raise cursor.error(
            f"is damaged: its number of entries, {count}, is more than its {cursor.size} bytes can hold. "
            "Download it again"
        )
    return count


def _entry(cursor: _Cursor, path: Path) -> tuple[str, int, NDArray[np.float32]]:
    """Read an entry: its name, its calls, its values as stored."""
    name = _text(cursor.take(cursor.number("length of the name", 1, MAX_NAME)), f"{path}: {cursor.where}")
    cursor.where = f"entry {shown(name)}"
    calls = cursor.number("number of calls", 0)
    size = 4 * cursor.number("number of values", 1)
    return name, calls, _sound(cursor.take(size), size, "<", f"{path}: {cursor.where}")


def _of_dat(cursor: _Cursor, path: Path) -> ImportanceMatrix:
    count = _entry_count(cursor)
    entries: dict[str, NDArray[np.float32]] = {}
    calls: dict[str, tuple[int, ...]] = {}
    for index in range(count):
        cursor.where = f"entry {index + 1} of {count}"
        name, times, values = _entry(cursor, path)
        if name in entries:
            raise cursor.error("appears twice. Compute the matrix again")
        calls[name], entries[name] = (times,), values / np.float32(times) if times else values
    cursor.where = "the file"
    chunks = cursor.number("number of chunks", 0) if cursor.at < cursor.size else 0
    length = cursor.number("length of the data set's name", 0, MAX_NAME) if cursor.at < cursor.size else 0
    dataset = _text(cursor.take(length), f"{path}: the data set")
    if cursor.at < cursor.size:
        raise cursor.error(
            f"is damaged or not an importance matrix: its data ends at byte {cursor.at}, but the file has "
            f"{cursor.size} bytes"
        )
    return ImportanceMatrix(path.name, entries, calls, chunks, 0, (dataset,) if dataset else (), legacy=True)
