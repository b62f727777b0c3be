"""safetensors files: their headers, read and checked, and the headers of new files; no tensor data.

Source: the section "Format" of the README of https://github.com/huggingface/safetensors.

    byte 0        8            8 + n = data_start                            file end
         | n: u64 | JSON, n bytes | data, little-endian, row-major, no gaps |

    JSON: {"__metadata__": {"key": "text", ...},                             optional
           "name": {"dtype": "F16", "shape": [2, 3], "data_offsets": [0, 12]}, ...}

Offsets count from data_start. The JSON starts with `{`, may end in spaces, and is at most 100 MB long. Every byte of
the data belongs to exactly one tensor.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantcli.arrays import BY_SAFETENSORS, DTYPES
from quantcli.containers.hostile import LARGEST_COUNT, Read, check_name, foreign, opened, shown
from quantcli.containers.json_text import load_object
from quantcli.errors import BadInput, NotPossible

MAX_HEADER = 100_000_000
MAX_RANK = 64
METADATA = "__metadata__"
#: In files that quant writes, the data starts at a multiple of this.
ALIGNMENT = 8
#: Bytes of the first read: large enough that most headers cost one request.
FIRST_READ = 1 << 17

Tensors = Mapping[str, tuple[str, tuple[int, ...]]]


@dataclass(frozen=True)
class Entry:
    """A tensor in the header: dtype (as in `arrays.DTYPES`), row-major shape, absolute offset, size in bytes."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


@dataclass(frozen=True)
class Header:
    """A file's header: entries in the order of their data, free-text metadata, the offset of the data."""

    entries: dict[str, Entry]
    metadata: dict[str, str]
    data_start: int


def read_header(path: Path) -> Header:
    """Read and check the header of a file on disk. Raises `BadInput`; `Surroundings` if the file cannot be read."""
    with opened(path) as (read, size):
        return parse_header(read, size, str(path))


def parse_header(read: Read, size: int, label: str) -> Header:
    """Read and check the header of a file of `size` bytes, in one or two calls of read(offset, length).

    label: the file's name in errors. Raises `BadInput` for a file that is damaged or truncated.
    """
    raw = _header_bytes(read, size, label)
    members = load_object(raw, label)
    metadata = _metadata(members.pop(METADATA, {}), label)
    start = 8 + len(raw)
    entries = {name: _entry(name, member, start, label) for name, member in members.items()}
    in_order = dict(sorted(entries.items(), key=lambda item: (item[1].offset, item[1].nbytes, item[0])))
    _check_coverage(in_order, start, size, label)
    return Header(in_order, metadata, start)


def _header_bytes(read: Read, size: int, label: str) -> bytes:
    head = read(0, min(size, FIRST_READ))
    if head[8:9] != b"{" and (kind := foreign(head)):
        raise BadInput(f"{label}: is {kind}.")
    if size < 8 or len(head) < 8:
        raise BadInput(
            f"{label}: is truncated: expected at least 8 bytes, found {min(size, len(head))}. Download it again."
        )
    length = int.from_bytes(head[:8], "little")
    if length > MAX_HEADER:
        raise BadInput(
            f"{label}: is not a safetensors file: it claims a header of {length} bytes; the limit is {MAX_HEADER}."
        )
    if length > size - 8:
        raise BadInput(
            f"{label}: is truncated or not a safetensors file: it claims a header of {length} bytes, but has {size} "
            "bytes in all."
        )
    raw = head[8 : 8 + length]
    if not raw.startswith(b"{"):
        raise BadInput(
            f"{label}: is not a safetensors file: expected {{ at the start of its header, found {shown(raw[:1])}."
        )
    if len(raw) < length:
        raw += read(8 + len(raw), length - len(raw))
    if len(raw) < length:
        raise BadInput(
            f"{label}: is truncated: it has {len(raw)} of the {length} bytes of its header. Download it again."
        )
    return raw


def _metadata(member: Any, label: str) -> dict[str, str]:
    if member is None:  # mx.save_safetensors writes null if it is given no metadata
        return {}
    if not isinstance(member, dict):
        raise BadInput(
            f"{label}: {METADATA}: expected an object of strings, found {shown(member)}. Fix the tool that wrote the "
            "file."
        )
    for key, text in member.items():
        if not isinstance(text, str):
            raise BadInput(
                f"{label}: {METADATA}: key {shown(key)}: expected a string, found {shown(text)}. Fix the tool that "
                "wrote the file."
            )
    return dict(member)


def _entry(name: str, member: Any, start: int, label: str) -> Entry:
    """Return one tensor's entry, checked as far as it can be without the others."""
    check_name(name, f"{label}: a tensor")
    where = f"{label}: tensor {shown(name)}"
    if not isinstance(member, dict) or not {"dtype", "shape", "data_offsets"} <= member.keys():
        raise BadInput(
            f"{where}: expected an object with dtype, shape and data_offsets, found {shown(member)}. Download it again."
        )
    dtype = BY_SAFETENSORS.get(member["dtype"]) if isinstance(member["dtype"], str) else None
    if dtype is None:
        known = ", ".join(BY_SAFETENSORS)
        raise BadInput(f"{where}: dtype {shown(member['dtype'])} is not supported. Supported: {known}.")
    shape = _shape(member["shape"], where)
    bits = math.prod(shape) * dtype.bits
    if bits % 8:
        raise BadInput(
            f"{where}: is damaged: {dtype.safetensors} with shape {shown(shape)} takes {bits} bits, which is not a "
            f"multiple of 8. Download it again."
        )
    begin, end = _offsets(member["data_offsets"], where)
    if end - begin != bits // 8:
        raise BadInput(
            f"{where}: is damaged: {dtype.safetensors} with shape {shown(shape)} takes {bits // 8} bytes, but its"
            f" data_offsets {shown([begin, end])} span {end - begin} bytes. Download it again."
        )
    return Entry(dtype.name, shape, start + begin, end - begin)


def _shape(member: Any, where: str) -> tuple[int, ...]:
    if not isinstance(member, list) or not all(type(size) is int for size in member):
        raise BadInput(f"{where}: shape: expected a list of integers, found {shown(member)}. Download it again.")
    if len(member) > MAX_RANK:
        raise BadInput(f"{where}: has {len(member)} dimensions; the limit is {MAX_RANK}. Download it again.")
    if any(size < 0 for size in member):
        raise BadInput(f"{where}: shape: expected sizes of 0 or more, found {shown(member)}. Download it again.")
    # A size of 0 must not hide that the others overflow.
    if math.prod(size or 1 for size in member) > LARGEST_COUNT:
        raise BadInput(f"{where}: has more than 2**63 - 1 elements (shape {shown(member)}). Download it again.")
    return tuple(member)


def _offsets(member: Any, where: str) -> tuple[int, int]:
    if not isinstance(member, list) or len(member) != 2 or not all(type(offset) is int for offset in member):
        raise BadInput(f"{where}: data_offsets: expected two integers, found {shown(member)}. Download it again.")
    if not 0 <= member[0] <= member[1] <= LARGEST_COUNT:
        raise BadInput(f"{where}: data_offsets: expected 0 <= begin <= end, found {shown(member)}. Download it again.")
    return member[0], member[1]


def _check_coverage(entries: Mapping[str, Entry], start: int, size: int, label: str) -> None:
    """Raise `BadInput` unless the entries, in the order of their data, cover it: no gap, no overlap, no excess."""
    end, previous = start, ""
    for name, entry in entries.items():
        where = f"{label}: tensor {shown(name)}"
        if entry.offset < end:
            raise BadInput(
                f"{where}: is damaged: it starts at byte {entry.offset - start} of the data, inside tensor"
                f" {shown(previous)}, which ends at byte {end - start}. Download it again."
            )
        if entry.offset > end:
            after = f"the end of tensor {shown(previous)}" if previous else "the start of the data"
            raise BadInput(
                f"{where}: is damaged: expected it to start at byte {end - start} of the data ({after}), found"
                f" byte {entry.offset - start}. Download it again."
            )
        if entry.offset + entry.nbytes > size:
            raise BadInput(
                f"{where}: is truncated: it ends at byte {entry.offset + entry.nbytes - start} of the data, but the "
                f"file has {size - start} bytes of data. Download it again."
            )
        end, previous = entry.offset + entry.nbytes, name
    if end < size:
        last = f"its last tensor, {shown(previous)}," if previous else "its empty list of tensors"
        raise BadInput(
            f"{label}: is damaged: {last} ends at byte {end - start} of the data, but the file has {size - start} "
            "bytes of data. Download it again."
        )


def layout(tensors: Tensors, metadata: Mapping[str, str]) -> tuple[bytes, dict[str, int]]:
    """Return the header of a new file, and each tensor's absolute offset in it, in the order of the data.

    tensors: name -> (dtype as in `arrays.DTYPES`, row-major shape). The data is ordered by the dtypes' width, widest
    first, then by name: each tensor is aligned to its dtype, and the same arguments always give the same bytes.
    (The bytes of `mx.save_safetensors` depend on the order of a dict.) Raises `BadInput`, `NotPossible`.

    >>> layout({"a": ("u8", (3,)), "b": ("f32", ())}, {})[1]
    {'b': 120, 'a': 124}
    """
    in_order = sorted(tensors, key=lambda name: (-DTYPES[tensors[name][0]].bits, name))
    members: dict[str, Any] = {METADATA: dict(sorted(metadata.items()))} if metadata else {}
    begins: dict[str, int] = {}
    end = 0
    for name in in_order:
        dtype, shape = tensors[name]
        if name == METADATA:
            raise BadInput(f"a tensor is named {METADATA}, which safetensors reserves for metadata. Rename it.")
        check_name(name, "a tensor to be written")
        begins[name], end = end, end + nbytes(dtype, shape)
        members[name] = {
            "dtype": DTYPES[dtype].safetensors,
            "shape": list(shape),
            "data_offsets": [begins[name], end],
        }
    text = json.dumps(members, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % ALIGNMENT)
    if len(text) > MAX_HEADER:
        raise NotPossible(
            f"a safetensors header would be {len(text)} bytes; the limit is {MAX_HEADER}. Use a smaller --shard-size."
        )
    header = len(text).to_bytes(8, "little") + text
    return header, {name: len(header) + begin for name, begin in begins.items()}


def file_size(header: bytes, tensors: Tensors) -> int:
    """Return the bytes of the file that `layout` returned this header for."""
    return len(header) + sum(nbytes(dtype, shape) for dtype, shape in tensors.values())


def nbytes(dtype: str, shape: tuple[int, ...]) -> int:
    """Return the bytes of a tensor. Raises `BadInput` if sub-byte values do not fill the last byte.

    >>> nbytes("f16", (2, 3)), nbytes("f4", (2, 3))
    (12, 3)
    """
    bits = math.prod(shape) * DTYPES[dtype].bits
    if bits % 8:
        raise BadInput(f"a tensor of {dtype} {list(shape)} does not fill whole bytes: it takes {bits} bits.")
    return bits // 8
