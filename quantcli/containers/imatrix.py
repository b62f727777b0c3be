"""Importance matrices of llama.cpp: how much each input column of a weight matters, in either form, checked.

Source: llama.cpp's tools/imatrix, common/imatrix-loader.cpp and tools/quantize (ggml 0.25.3).

    legacy, .dat   entries: i32 | entry ... | chunks: i32 | length: i32, data set's name
                   little-endian; what follows the entries may be left out
    entry          length: i32, name | calls: i32 | n: i32, n x f32: mean of the squared inputs x calls

    GGUF           tensors NAME.in_sum2, f32 (n_in) or (experts, n_in): sums of the squared inputs, and NAME.counts, f32
                   (1) or (experts, 1): tokens; keys imatrix.datasets, imatrix.chunk_count, imatrix.chunk_size

NAME is that of the weight in the GGUF model. The weights are sum / count, or value / calls, divided in float32 as
llama-quantize divides. An expert that never saw a token gets ones, a legacy entry of 0 calls is taken as it is.
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

#: Bounds on a legacy file: entries, far above any real one, and the fewest bytes of one.
MAX_ENTRIES, SMALLEST_ENTRY = 1 << 16, 4 + 1 + 4 + 4 + 4

#: Usual suffixes of legacy files.
SUFFIXES = (".dat", ".imatrix")

#: Tokens that an entry may have counted: what float64 holds exactly.
MAX_COUNT = 2**53

#: llama-quantize cuts texts in metadata off after so many bytes.
MAX_TEXT = 127

#: Embeddings, for which llama-quantize ignores an entry of another size.
EMBEDDINGS = ("token_embd.weight", "per_layer_token_embd.weight")


@dataclass(frozen=True)
class ImportanceMatrix:
    """The weights of a file's entries.

    file: its name without folders. entries: tensor -> float32 (n_in,), of stacked experts (experts, n_in), in the
    legacy form flat (experts * n_in,). counts: tensor -> tokens, one or one for each expert; in the legacy form calls.
    chunks, chunk_size: of the text that it was computed on, 0 where the file does not say. datasets: names of texts.
    legacy: whether the file has the older form. left_out: names of entries that are not to be used.
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
        """float32 (n_in,), or (experts, n_in) for a tensor of shape (experts, n_out, n_in); None without an entry.

        name: in the source, before layers were pruned. Raises `BadInput` for an entry of another size.
        """
        entry = self.entries.get(name)
        if entry is None or (name in EMBEDDINGS and entry.size != _wanted(shape)):
            return None
        if entry.size != _wanted(shape):
            raise BadInput(_mismatch(self, name, shape))
        return entry.reshape(-1, shape[-1]) if _experts(shape) > 1 else entry.reshape(-1)


def is_matrix(path: Path) -> bool:
    """Whether a file is an importance matrix: a GGUF that says so, else by its suffix or its first entry.

    Raises `BadInput` for a malformed GGUF, `Surroundings`.
    """
    with opened(path) as (reader, size):
        if reader(0, min(size, 4)) != gguf.MAGIC:
            return path.suffix in SUFFIXES or _starts_as_dat(_Cursor(reader, size, str(path)), path)
        kind = gguf.parse(reader, size, path).metadata.get(TYPE)
        return kind is not None and bool(kind.value == "imatrix")


def _starts_as_dat(cursor: _Cursor, path: Path) -> bool:
    """Whether a file of any name starts with a number of entries and a whole one."""
    try:
        _entry_count(cursor)
        _entry(cursor, path)
    except BadInput:
        return False
    return True


def read(path: Path) -> ImportanceMatrix:
    """The importance matrix in a file, its form told by its first bytes. Raises `BadInput`, `Surroundings`."""
    with opened(path) as (reader, size):
        return parse(reader, size, path)


def parse(read: Read, size: int, path: Path) -> ImportanceMatrix:
    """As `read`, of a file of `size` bytes that read(offset, length) gives; `path` names it."""
    head = read(0, min(size, 32))
    if head.startswith(gguf.MAGIC):
        return _of_gguf(gguf.parse(read, size, path), read)
    if what := foreign(head):
        raise BadInput(f"{path}: is {what}; an importance matrix is a .dat or .gguf file of llama-imatrix.")
    return _of_dat(_Cursor(read, size, str(path)), path)


def chosen(matrix: ImportanceMatrix, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> ImportanceMatrix:
    """The entries whose name contains one of `include`, or none of `exclude`, as llama-quantize's --include-weights and
    --exclude-weights choose them.

    Without an entry left, a matrix counts as none. Raises `WrongUsage` where both are given.
    """
    if include and exclude:
        raise WrongUsage("--include-weights and --exclude-weights exclude each other: give one of them.")
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
    """A sentence for each entry whose size is not its tensor's, or one where the model has a tensor for none of them.

    shapes: tensor -> row-major shape, of the source.
    """
    if matrix.entries and not matrix.entries.keys() & shapes.keys():
        entry, tensor = (shown(min(names)) for names in (matrix.entries, shapes))
        return [
            f"{matrix.file}: has no entry for any of the model's tensors, it has {entry} and the model {tensor}: give "
            "a matrix that was computed for this model."
        ]
    common = [name for name in matrix.entries if name in shapes and name not in EMBEDDINGS]
    return [
        _mismatch(matrix, name, shapes[name]) for name in common if matrix.entries[name].size != _wanted(shapes[name])
    ]


def check(matrix: ImportanceMatrix, shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Warnings of entries that the model has no tensor for. Raises `BadInput` for the first of `mismatches`."""
    if wrong := mismatches(matrix, shapes):
        raise BadInput(wrong[0])
    strange = [name for name in matrix.entries if name not in shapes]
    if not strange:
        return []
    listed = ", ".join(strange[:3]) + (" ..." if len(strange) > 3 else "")
    return [f"{matrix.file}: {len(strange)} of {len(matrix.entries)} entries name no tensor of the model: {listed}."]


def metadata(matrix: ImportanceMatrix) -> dict[str, Value]:
    """The keys that llama-quantize adds, last and in this order, to a file made with a matrix; none without entries."""
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


def _wanted(shape: tuple[int, ...]) -> int:
    return shape[-1] * _experts(shape)


def _mismatch(matrix: ImportanceMatrix, name: str, shape: tuple[int, ...]) -> str:
    entry = matrix.entries[name]
    return (
        f"{matrix.file}: the entry {shown(name)} has {entry.size} values, the model's tensor {shown(name)} of shape "
        f"{shape} needs {_wanted(shape)}: give a matrix that was computed for this model."
    )


def _of_gguf(file: GgufFile, read: Read) -> ImportanceMatrix:
    pairs = _pairs(file)
    if not pairs:
        raise BadInput(
            f"{file.path}: has no tensors NAME{SUMS}, so it is no importance matrix: give llama-imatrix's output."
        )
    absent = next((key for key in (DATASETS, CHUNK_COUNT, CHUNK_SIZE) if key not in file.metadata), None)
    if absent:
        raise BadInput(f"{file.path}: lacks the key {absent}: compute the matrix again with llama-imatrix.")
    entries, counts = {}, {}
    for name, (sums, tokens) in pairs.items():
        entries[name], counts[name] = _divided(file, _floats(file, sums, read), _floats(file, tokens, read), name)
    return ImportanceMatrix(
        file.path.name, entries, counts, _whole(file, CHUNK_COUNT), _whole(file, CHUNK_SIZE), _datasets(file)
    )


def _pairs(file: GgufFile) -> dict[str, tuple[TensorInfo, TensorInfo]]:
    """The two tensors of each entry, in file order; others are none of our business."""
    found = file.tensors
    known = [name for name in found if name.endswith((SUMS, COUNTS))]
    names = list(dict.fromkeys(name.removesuffix(SUMS).removesuffix(COUNTS) for name in known))
    for name in names:
        for suffix in (SUMS, COUNTS):
            if f"{name}{suffix}" not in found:
                raise BadInput(
                    f"{file.path}: the entry {shown(name)} lacks its {suffix[1:]}: compute the matrix again."
                )
        check_name(name, f"{file.path}: an entry")
    return {name: (found[f"{name}{SUMS}"], found[f"{name}{COUNTS}"]) for name in names}


def _floats(file: GgufFile, tensor: TensorInfo, read: Read) -> NDArray[np.float32]:
    """A tensor's values in its own shape; refuses other types, NaN, Inf and values below 0."""
    where = f"{file.path}: tensor {shown(tensor.name)}"
    if tensor.type_name != "f32" or tensor.nbytes is None:
        raise BadInput(f"{where} is of type {tensor.type_name or tensor.type_id}, expected f32: compute it again.")
    return _sound(read(tensor.offset, tensor.nbytes), tensor.nbytes, ORDERS[file.byte_order], where).reshape(
        tensor.shape
    )


def _sound(data: bytes, nbytes: int, order: str, where: str) -> NDArray[np.float32]:
    """float32 values that can be sums of squares or counts."""
    if len(data) != nbytes:
        raise BadInput(f"{where} was cut off while it was read: get the file again.")
    values = np.frombuffer(data, f"{order}f4").astype(np.float32)
    wrong = np.flatnonzero(~(np.isfinite(values) & (values >= 0)))
    if wrong.size:
        raise BadInput(
            f"{where} has the value {values[wrong[0]]} at {int(wrong[0])}, expected finite ones from 0 on: compute the "
            "matrix again."
        )
    return values


def _divided(
    file: GgufFile, sums: NDArray[np.float32], tokens: NDArray[np.float32], name: str
) -> tuple[NDArray[np.float32], tuple[int, ...]]:
    """The weights and the counts. llama.cpp rounds counts to whole numbers, halves away from zero."""
    where = f"{file.path}: the entry {shown(name)}"
    if sums.size % tokens.size:
        raise BadInput(f"{where} has {sums.size} sums and {tokens.size} counts, no multiple: compute it again.")
    if float(tokens.max()) > MAX_COUNT:
        raise BadInput(f"{where} has a count of {tokens.max():g}, more than {MAX_COUNT}: compute the matrix again.")
    whole = np.floor(tokens.reshape(-1).astype(np.float64) + 0.5).astype(np.int64)
    rows = sums.reshape(whole.size, -1)
    by = whole.astype(np.float32)[:, None]
    weights = np.where(by > 0, rows / np.maximum(by, np.float32(1)), np.float32(1))
    counts = tuple(int(count) for count in whole)
    return (weights if whole.size > 1 else weights.reshape(-1)), counts


def _whole(file: GgufFile, key: str) -> int:
    kind, value = file.metadata[key]
    if kind != "uint32":
        raise BadInput(f"{file.path}: key {key} has type {kind}, expected uint32: compute the matrix again.")
    return int(value)


def _datasets(file: GgufFile) -> tuple[str, ...]:
    kind, value = file.metadata[DATASETS]
    if kind != "array[string]" or not isinstance(value, ArrayValue):
        raise BadInput(f"{file.path}: key {DATASETS} has type {kind}, expected texts: compute the matrix again.")
    return tuple(_text(raw, f"{file.path}: key {DATASETS}") for raw in value.decode())


def _text(raw: bytes, where: str) -> str:
    """A text from the file that may be printed."""
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise BadInput(f"{where} has a text that is not UTF-8 at its byte {error.start}: mend its writer.") from None
    if UNPRINTABLE.search(text):
        raise BadInput(f"{where} has control characters in {shown(text)}: mend the tool that wrote it.")
    return text


@dataclass
class _Cursor:
    """Where the reader of a legacy file stands."""

    read: Read
    size: int
    label: str
    at: int = 0
    where: str = "the file"

    def error(self, what: str) -> BadInput:
        return BadInput(f"{self.label}: {self.where} {what}.")

    def take(self, count: int) -> bytes:
        """The next `count` bytes, which the file has to have."""
        if count > self.size - self.at:
            raise self.error(f"needs {count} bytes, {self.size - self.at} are left: it is cut off or no matrix")
        data = self.read(self.at, count)
        if len(data) != count:
            raise self.error("was cut off while it was read: get the file again")
        self.at += count
        return data

    def number(self, what: str, smallest: int, most: int = 2**31 - 1) -> int:
        value: int = struct.unpack("<i", self.take(4))[0]
        if not smallest <= value <= most:
            raise self.error(f"has {what} of {value}, expected {smallest} to {most}: this is no importance matrix")
        return value


def _entry_count(cursor: _Cursor) -> int:
    count = cursor.number("a number of entries", 1, MAX_ENTRIES)
    if count * SMALLEST_ENTRY > cursor.size - cursor.at:
        raise cursor.error(f"claims {count} entries, more than its {cursor.size} bytes can hold: get it again")
    return count


def _entry(cursor: _Cursor, path: Path) -> tuple[str, int, NDArray[np.float32]]:
    """Name, calls, values as stored."""
    name = _text(cursor.take(cursor.number("a name", 1, MAX_NAME)), f"{path}: {cursor.where}")
    cursor.where = f"the entry {shown(name)}"
    calls = cursor.number("a number of calls", 0)
    size = 4 * cursor.number("a number of values", 1)
    return name, calls, _sound(cursor.take(size), size, "<", f"{path}: {cursor.where}")


def _of_dat(cursor: _Cursor, path: Path) -> ImportanceMatrix:
    count = _entry_count(cursor)
    entries: dict[str, NDArray[np.float32]] = {}
    calls: dict[str, tuple[int, ...]] = {}
    for index in range(count):
        cursor.where = f"entry {index + 1} of {count}"
        name, times, values = _entry(cursor, path)
        if name in entries:
            raise cursor.error("occurs twice: compute the matrix again")
        calls[name], entries[name] = (times,), values / np.float32(times) if times else values
    cursor.where = "its end"
    chunks = cursor.number("a number of chunks", 0) if cursor.at < cursor.size else 0
    length = cursor.number("a data set's name", 0, MAX_NAME) if cursor.at < cursor.size else 0
    dataset = _text(cursor.take(length), f"{path}: the data set")
    if cursor.at < cursor.size:
        raise cursor.error(f"is followed by {cursor.size - cursor.at} bytes: this is no importance matrix")
    return ImportanceMatrix(path.name, entries, calls, chunks, 0, (dataset,) if dataset else (), legacy=True)
