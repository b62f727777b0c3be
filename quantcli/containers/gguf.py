"""GGUF files, version 2 and 3, in either byte order: their headers, read and checked, without tensor data.

Source: docs/gguf.md of https://github.com/ggml-org/ggml; where it is ambiguous, ggml's reader.

    byte 0    4          8                 16             24                                data_start      file end
         "GGUF" | version: u32 | tensors: u64 | keys: u64 | key ... | tensor ... | zeros to | data, padded |
                                                                                 alignment

    text      length: u64, UTF-8 bytes without a final zero
    key       text, type: u32, value
    value     a number; a bool of one byte, 0 or 1; a text; an array: element type: u32, length: u64, elements
    tensor    text, dimensions: u32, sizes: u64 each, type: u32, offset from data_start: u64

Sizes are stored fastest axis first. This module and `gguf_write` reverse them: all other modules see row-major shapes.
`general.alignment` (32 by default) divides data_start and each offset. Only the version's bytes show that a file is
big-endian. llama.cpp does not load every valid file: see `gguf_write.unloadable`.
Split files and the meaning of keys are handled elsewhere.
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

# Limits on a header's entries, far above those of real files, and the fewest bytes that one entry takes.
MAX_KEYS, SMALLEST_KEY = 1 << 16, 8 + 1 + 4 + 1
MAX_TENSORS, SMALLEST_TENSOR = 1 << 18, 8 + 1 + 4 + 4 + 8
MAX_RANK = 32
MAX_ALIGNMENT = 1 << 20

# First bytes of the formats that GGUF replaced: GGML, GGMF, GGJT, GGLA.
PREDECESSORS = (b"lmgg", b"fmgg", b"tjgg", b"algg")


@dataclass(frozen=True)
class TensorInfo:
    """A tensor in the header: row-major shape, GGML type, absolute offset, size in bytes.

    type_name, nbytes: None for an unknown type. span: bytes up to the next tensor or the file's end, with padding.
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
    """Read and check the header of a file on disk. Raises `BadInput`; `Surroundings` if the file cannot be read."""
    with opened(path) as (reader, size):
        return parse(reader, size, path)


def parse(read: Read, size: int, path: Path) -> GgufFile:
    """Read and check the header of a file of `size` bytes, in few calls of read(offset, length).

    path: the file's name in errors. Raises `BadInput` for a file that is damaged or truncated. Uses about twice the
    header's bytes of memory.
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
    if head[:4] in PREDECESSORS:
        raise BadInput(f"{cursor.label}: is in a format older than GGUF. Convert the original model again.")
    if not head.startswith(MAGIC):
        kind = foreign(head) or f"not a GGUF file: it starts with {shown(head[:4])}, not {shown(MAGIC)}"
        raise BadInput(f"{cursor.label}: is {kind}.")
    cursor.skip(len(MAGIC))


def _version(cursor: Cursor) -> tuple[int, str]:
    """Read the version and the byte order that its bytes show; set the cursor to that order."""
    raw = cursor.number("4s")
    version, byte_order = min((int.from_bytes(raw, "little"), "little"), (int.from_bytes(raw, "big"), "big"))
    if version == 1:
        raise NotPossible(
            f"{cursor.label}: GGUF version 1 (August 2023) is not supported; llama.cpp no longer reads it either. "
            "Convert the original model again, or download a newer GGUF file."
        )
    if version not in VERSIONS:
        raise BadInput(
            f"{cursor.label}: expected GGUF version 2 or 3, found version {version}. An intact file of a newer "
            "version requires a newer quant."
        )
    cursor.order = ORDERS[byte_order]
    return version, byte_order


def _named(cursor: Cursor, kind: str, count: int, item: Callable[[str], Item]) -> dict[str, Item]:
    """Read `count` names, each followed by an item."""
    items: dict[str, Item] = {}
    for index in range(count):
        cursor.where = f"{kind} {index + 1} of {count}"
        name = cursor.name(kind)
        if name in items:
            raise cursor.error("appears twice. Fix the tool that wrote the file")
        items[name] = item(name)
    return items


def alignment_of(metadata: Mapping[str, tuple[str, Any]], label: str) -> int:
    """Return the value of `general.alignment`, 32 by default. Raises `BadInput` for an invalid one."""
    kind, alignment = metadata.get(ALIGNMENT_KEY, ("uint32", DEFAULT_ALIGNMENT))
    where = f"{label}: key {shown(ALIGNMENT_KEY)}"
    if kind != "uint32":
        raise BadInput(f"{where}: expected type uint32, found {kind}. Fix the tool that wrote the file.")
    if not 1 <= alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
        raise BadInput(
            f"{where}: expected a power of two from 1 to {MAX_ALIGNMENT}, found {alignment}. Fix the tool that wrote "
            "the file."
        )
    return int(alignment)


def _listed(cursor: Cursor, name: str, alignment: int) -> TensorInfo:
    """Read a tensor's entry in the header; its offset is still relative to the data, its span unknown."""
    rank = cursor.number("I")
    if rank > MAX_RANK:
        raise cursor.error(f"has {rank} dimensions; the limit is {MAX_RANK}. Download it again")
    shape = tuple(cursor.number("Q") for _ in range(rank))[::-1]
    if math.prod(size or 1 for size in shape) > LARGEST_COUNT:
        raise cursor.error(f"has more than 2**63 - 1 elements (shape {shown(shape)}). Download it again")
    type_id, offset = cursor.number("I"), cursor.number("Q")
    if offset % alignment:
        raise cursor.error(f"has offset {offset}; expected a multiple of {alignment}. Download it again")
    known = BY_ID.get(type_id)
    if known is None:
        return TensorInfo(name, shape, type_id, None, offset, None, 0)
    row = shape[-1] if shape else 1
    if row % known.block_size:
        raise cursor.error(
            f"is damaged: rows of {row} values do not fill blocks of {known.block_size} ({known.name}). Download it "
            "again"
        )
    nbytes = math.prod(shape) // known.block_size * known.block_bytes
    return TensorInfo(name, shape, type_id, known.name, offset, nbytes, 0)


def _placed(listed: Mapping[str, TensorInfo], data_start: int, cursor: Cursor) -> dict[str, TensorInfo]:
    """Return the tensors with absolute offsets and spans, in the header's order.

    Raises `BadInput` for tensors that overlap or extend beyond the file.
    """
    # Several tensors may have the same offset if all but the last are empty.
    by_offset = sorted(listed.values(), key=lambda tensor: (tensor.offset, tensor.nbytes != 0))
    ends = [data_start + tensor.offset for tensor in by_offset[1:]] + [cursor.size]
    placed: dict[str, TensorInfo] = {}
    for tensor, end in zip(by_offset, ends, strict=False):
        begin = data_start + tensor.offset
        # A tensor of an unknown type has an unknown size above 0.
        needed = begin + (1 if tensor.nbytes is None else tensor.nbytes)
        cursor.where = f"tensor {shown(tensor.name)}"
        if needed > cursor.size:
            raise cursor.error(
                f"is truncated: it ends at byte {needed}, but the file has {cursor.size} bytes. Download it again"
            )
        if needed > end:
            raise cursor.error(
                f"is damaged: it ends at byte {needed}, but the next tensor starts at byte {end}. Download it again"
            )
        placed[tensor.name] = replace(tensor, offset=begin, span=end - begin)
    return {name: placed[name] for name in listed}
