"""GGUF files, version 2 and 3, either byte order: the header read and checked, no tensor data.

Source: docs/gguf.md of https://github.com/ggml-org/ggml; what it leaves open is as in ggml's own reader.

    byte 0    4          8                 16             24                                data_start      file end
         "GGUF" | version: u32 | tensors: u64 | keys: u64 | key ... | tensor ... | zeros to | data, padded |
                                                                                 alignment

    text      length: u64, UTF-8 bytes without a final zero
    key       text, type: u32, value
    value     a number; a bool of one byte, 0 or 1; a text; an array: element type: u32, length: u64, elements
    tensor    text, dimensions: u32, sizes: u64 each, type: u32, offset from data_start: u64

Sizes are stored fastest axis first. Here, and in `gguf_write`, they are turned round: every other module sees row-major
shapes. `general.alignment` (32 where it is absent) divides data_start and each offset. A big-endian file shows by its
version alone. llama.cpp loads less than the format holds: see `gguf_write.unloadable`.
Splitting and what the keys mean is not this module's business.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from quantcli.containers.ggml_types import BY_ID
from quantcli.containers.gguf_values import ORDERS, ArrayValue, Cursor, Value, read_value
from quantcli.containers.hostile import LARGEST_COUNT, Read, foreign, opened, shown
from quantcli.errors import BadInput, NotPossible

__all__ = ["ArrayValue", "GgufFile", "TensorInfo", "Value", "parse", "read"]

Item = TypeVar("Item")

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
ALIGNMENT_KEY = "general.alignment"

# Bounds on what a header may list, far above any real one, and the fewest bytes that one of them takes.
MAX_KEYS, SMALLEST_KEY = 1 << 16, 8 + 1 + 4 + 1
MAX_TENSORS, SMALLEST_TENSOR = 1 << 18, 8 + 1 + 4 + 4 + 8
MAX_RANK = 32
MAX_ALIGNMENT = 1 << 20

# First bytes of GGUF's forerunners.
FORERUNNERS = (b"lmgg", b"fmgg", b"tjgg", b"algg")


@dataclass(frozen=True)
class TensorInfo:
    """One tensor: row-major shape, GGML type, absolute offset, size in bytes.

    `type_name` and `nbytes` are None where the type is unknown. `span`: bytes up to the next tensor or the file's end,
    padding included.
    """

    name: str
    shape: tuple[int, ...]
    type_id: int
    type_name: str | None
    offset: int
    nbytes: int | None
    span: int


@dataclass(frozen=True)
class GgufFile:
    """A file's header: metadata and tensors in file order."""

    version: int
    byte_order: str
    alignment: int
    metadata: dict[str, Value]
    tensors: dict[str, TensorInfo]
    data_start: int
    path: Path


def read(path: Path) -> GgufFile:
    """The checked header of a file on disk; raises `BadInput`, or `Surroundings` where the file cannot be read."""
    with opened(path) as (reader, size):
        return parse(reader, size, path)


def parse(read: Read, size: int, path: Path) -> GgufFile:
    """The checked header of a file of `size` bytes, in few calls of read(offset, length); `path` names it in errors.

    Raises `BadInput` for whatever is no whole, consistent file. Takes memory for the header's bytes and as much again.
    """
    cursor = Cursor(read, size, str(path))
    _check_magic(cursor)
    version, byte_order = _version(cursor)
    tensor_count, key_count = cursor.number("Q"), cursor.number("Q")
    cursor.claim(key_count, SMALLEST_KEY, MAX_KEYS, "keys")
    cursor.claim(tensor_count, SMALLEST_TENSOR, MAX_TENSORS, "tensors")
    metadata = _named(cursor, "key", key_count, lambda _: read_value(cursor, byte_order))
    alignment = alignment_of(metadata, cursor.label)
    listed = _named(cursor, "tensor", tensor_count, lambda name: _listed(cursor, name, alignment))
    data_start = cursor.at + -cursor.at % alignment
    return GgufFile(version, byte_order, alignment, metadata, _placed(listed, data_start, cursor), data_start, path)


def _check_magic(cursor: Cursor) -> None:
    cursor.fill(min(len(MAGIC), cursor.size))
    head = bytes(cursor.data[:32])
    if head[:4] in FORERUNNERS:
        raise BadInput(f"{cursor.label}: is a model file older than GGUF: convert the original model again.")
    if not head.startswith(MAGIC):
        what = foreign(head) or f"no GGUF file, it starts with {shown(head[:4])}: give another"
        raise BadInput(f"{cursor.label}: is {what}.")
    cursor.skip(len(MAGIC))


def _version(cursor: Cursor) -> tuple[int, str]:
    """Version and byte order, which the version's bytes show; sets the cursor to that order."""
    raw = cursor.number("4s")
    version, byte_order = min((int.from_bytes(raw, "little"), "little"), (int.from_bytes(raw, "big"), "big"))
    if version == 1:
        raise NotPossible(
            f"{cursor.label}: is GGUF version 1 (of August 2023), which llama.cpp does not read any more, either. "
            "Convert the original model again, or download a newer GGUF file of it."
        )
    if version not in VERSIONS:
        raise BadInput(f"{cursor.label}: is GGUF version {version}, expected 2 or 3. Download it again.")
    cursor.order = ORDERS[byte_order]
    return version, byte_order


def _named(cursor: Cursor, kind: str, count: int, item: Callable[[str], Item]) -> dict[str, Item]:
    """`count` names, each followed by an item."""
    items: dict[str, Item] = {}
    for index in range(count):
        cursor.where = f"{kind} {index + 1} of {count}"
        name = cursor.name(kind)
        if name in items:
            raise cursor.error("occurs twice, expected once: mend the tool that wrote it")
        items[name] = item(name)
    return items


def alignment_of(metadata: Mapping[str, tuple[str, Any]], label: str) -> int:
    """What `general.alignment` says, 32 where it is absent; refuses what is no sound alignment."""
    kind, alignment = metadata.get(ALIGNMENT_KEY, ("uint32", DEFAULT_ALIGNMENT))
    where = f"{label}: key {shown(ALIGNMENT_KEY)}"
    if kind != "uint32":
        raise BadInput(f"{where} has type {kind}, expected uint32: mend the tool that wrote it.")
    if not 1 <= alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
        raise BadInput(f"{where} is {alignment}, expected a power of two, {MAX_ALIGNMENT} at most: mend its writer.")
    return int(alignment)


def _listed(cursor: Cursor, name: str, alignment: int) -> TensorInfo:
    """A tensor as the header lists it, its offset still relative to the data, its span unknown."""
    rank = cursor.number("I")
    if rank > MAX_RANK:
        raise cursor.error(f"has {rank} dimensions, expected at most {MAX_RANK}: the file is malformed")
    shape = tuple(cursor.number("Q") for _ in range(rank))[::-1]
    if math.prod(size or 1 for size in shape) > LARGEST_COUNT:
        raise cursor.error(f"has shape {shown(shape)}, more elements than 2**63 - 1: the file is malformed")
    type_id, offset = cursor.number("I"), cursor.number("Q")
    if offset % alignment:
        raise cursor.error(f"has offset {offset}, expected a multiple of {alignment}: the file is malformed")
    known = BY_ID.get(type_id)
    if known is None:
        return TensorInfo(name, shape, type_id, None, offset, None, 0)
    row = shape[-1] if shape else 1
    if row % known.block_size:
        raise cursor.error(f"has rows of {row} values, expected a multiple of {known.name}'s {known.block_size}")
    nbytes = math.prod(shape) // known.block_size * known.block_bytes
    return TensorInfo(name, shape, type_id, known.name, offset, nbytes, 0)


def _placed(listed: Mapping[str, TensorInfo], data_start: int, cursor: Cursor) -> dict[str, TensorInfo]:
    """The tensors with absolute offsets and spans, in the order listed; refuses overlaps and what the file lacks."""
    # Of tensors at one offset those without bytes come first.
    by_offset = sorted(listed.values(), key=lambda tensor: (tensor.offset, tensor.nbytes != 0))
    ends = [data_start + tensor.offset for tensor in by_offset[1:]] + [cursor.size]
    placed: dict[str, TensorInfo] = {}
    for tensor, end in zip(by_offset, ends, strict=False):
        begin = data_start + tensor.offset
        # Of an unknown type the size is unknown too, but it is not 0.
        needed = begin + (1 if tensor.nbytes is None else tensor.nbytes)
        cursor.where = f"tensor {shown(tensor.name)}"
        if needed > cursor.size:
            raise cursor.error(f"ends at byte {needed}, the file at {cursor.size}: it is cut off; get it again")
        if needed > end:
            raise cursor.error(f"ends at byte {needed}, but the next tensor starts at {end}: the file is malformed")
        placed[tensor.name] = replace(tensor, offset=begin, span=end - begin)
    return {name: placed[name] for name in listed}
