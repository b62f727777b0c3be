"""safetensors files: the header read and checked, the header of a new file written. No tensor data.

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
#: The data of files that we write starts at a multiple of this.
ALIGNMENT = 8
#: The first read takes this much, so that most headers cost one request.
FIRST_READ = 1 << 17

Tensors = Mapping[str, tuple[str, tuple[int, ...]]]


@dataclass(frozen=True)
class Entry:
    """One tensor: our dtype name, row-major shape, absolute offset in the file, size in bytes."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


@dataclass(frozen=True)
class Header:
    """A file's header: entries in the order of their data, the free-text metadata, where the data starts."""

    entries: dict[str, Entry]
    metadata: dict[str, str]
    data_start: int


def read_header(path: Path) -> Header:
    """The checked header of a file on disk; raises `BadInput`, or `Surroundings` where the file cannot be read."""
    with opened(path) as (read, size):
        return parse_header(read, size, str(path))


def parse_header(read: Read, size: int, label: str) -> Header:
    """The checked header of a file of `size` bytes, in one or two calls of read(offset, length).

    `label` names the file in errors. Raises `BadInput` for whatever is not a whole, consistent safetensors file.
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
    if head[8:9] != b"{" and (what := foreign(head)):
        raise BadInput(f"{label}: is {what}.")
    if size < 8 or len(head) < 8:
        raise BadInput(f"{label}: has {min(size, len(head))} bytes, too few for a safetensors file: get it again.")
    length = int.from_bytes(head[:8], "little")
    if length > MAX_HEADER:
        raise BadInput(
            f"{label}: claims a header of {length} bytes, the format allows {MAX_HEADER}: this is no safetensors file."
        )
    if length > size - 8:
        raise BadInput(
            f"{label}: claims a header of {length} bytes but has {size} in all: it is cut off or no safetensors file."
        )
    raw = head[8 : 8 + length]
    if not raw.startswith(b"{"):
        raise BadInput(f"{label}: its header starts with {shown(raw[:1])}, not with {{: this is no safetensors file.")
    if len(raw) < length:
        raw += read(8 + len(raw), length - len(raw))
    if len(raw) < length:
        raise BadInput(f"{label}: ends inside its header, {len(raw)} of {length} bytes: get the file again.")
    return raw


def _metadata(member: Any, label: str) -> dict[str, str]:
    if member is None:  # what mx.save_safetensors writes where it is given none
        return {}
    if not isinstance(member, dict):
        raise BadInput(f"{label}: its {METADATA} is {shown(member)}, expected an object of texts: mend its writer.")
    for key, text in member.items():
        if not isinstance(text, str):
            raise BadInput(
                f"{label}: its {METADATA} has {shown(text)} at {shown(key)}, expected a text: mend its writer."
            )
    return dict(member)


def _entry(name: str, member: Any, start: int, label: str) -> Entry:
    """One tensor's member of the JSON, all that can be checked of it alone."""
    check_name(name, f"{label}: a tensor")
    where = f"{label}: tensor {shown(name)}"
    if not isinstance(member, dict) or not {"dtype", "shape", "data_offsets"} <= member.keys():
        raise BadInput(
            f"{where} is {shown(member)}, expected an object with dtype, shape and data_offsets: get it again."
        )
    dtype = BY_SAFETENSORS.get(member["dtype"]) if isinstance(member["dtype"], str) else None
    if dtype is None:
        known = " ".join(BY_SAFETENSORS)
        raise BadInput(
            f"{where} has dtype {shown(member['dtype'])}, expected one of {known}: convert it with its tool."
        )
    shape = _shape(member["shape"], where)
    bits = math.prod(shape) * dtype.bits
    if bits % 8:
        raise BadInput(
            f"{where}: {dtype.safetensors} with shape {shown(shape)} ends within a byte, {bits} bits: get it again."
        )
    begin, end = _offsets(member["data_offsets"], where)
    if end - begin != bits // 8:
        raise BadInput(
            f"{where}: {dtype.safetensors} with shape {shown(shape)} takes {bits // 8} bytes, its data_offsets"
            f" {shown([begin, end])} hold {end - begin}: get the file again."
        )
    return Entry(dtype.name, shape, start + begin, end - begin)


def _shape(member: Any, where: str) -> tuple[int, ...]:
    if not isinstance(member, list) or not all(type(size) is int for size in member):
        raise BadInput(f"{where} has shape {shown(member)}, expected a list of integers: get the file again.")
    if len(member) > MAX_RANK:
        raise BadInput(f"{where} has {len(member)} dimensions, expected at most {MAX_RANK}: get the file again.")
    if any(size < 0 for size in member):
        raise BadInput(f"{where} has shape {shown(member)}, expected sizes of 0 or more: get the file again.")
    # A size of 0 must not hide what the others would overflow.
    if math.prod(size or 1 for size in member) > LARGEST_COUNT:
        raise BadInput(f"{where} has shape {shown(member)}, more elements than 2**63 - 1: get the file again.")
    return tuple(member)


def _offsets(member: Any, where: str) -> tuple[int, int]:
    if not isinstance(member, list) or len(member) != 2 or not all(type(offset) is int for offset in member):
        raise BadInput(f"{where} has data_offsets {shown(member)}, expected two integers: get the file again.")
    if not 0 <= member[0] <= member[1] <= LARGEST_COUNT:
        raise BadInput(f"{where} has data_offsets {shown(member)}, expected 0 <= begin <= end: get the file again.")
    return member[0], member[1]


def _check_coverage(entries: Mapping[str, Entry], start: int, size: int, label: str) -> None:
    """Entries in the order of their data cover start .. size: no hole, no overlap, nothing before, nothing behind."""
    end, before = start, ""
    for name, entry in entries.items():
        if entry.offset < end:
            raise BadInput(
                f"{label}: tensor {shown(name)} starts at byte {entry.offset - start} of the data, inside tensor"
                f" {shown(before)}, which ends at {end - start}: get the file again."
            )
        if entry.offset > end:
            after = f"tensor {shown(before)} ends at {end - start}" if before else "the first tensor has to start at 0"
            raise BadInput(
                f"{label}: tensor {shown(name)} starts at byte {entry.offset - start} of the data, but {after}:"
                f" there is a hole; get the file again."
            )
        if entry.offset + entry.nbytes > size:
            raise BadInput(
                f"{label}: tensor {shown(name)} ends at byte {entry.offset + entry.nbytes - start} of the data,"
                f" the file has {size - start}: it is cut off; get it again."
            )
        end, before = entry.offset + entry.nbytes, name
    if end < size:
        raise BadInput(
            f"{label}: has {size - end} bytes after its last tensor {shown(before)}, expected none: get it again."
        )


def layout(tensors: Tensors, metadata: Mapping[str, str]) -> tuple[bytes, dict[str, int]]:
    """The header of a new file, and each tensor's absolute offset in it, in the order of the data.

    `tensors`: name -> (our dtype name, row-major shape). The data is ordered by width of dtype, widest first, then by
    name: each tensor is aligned to its dtype, and the bytes depend on nothing but the arguments' content. (Those of
    `mx.save_safetensors` depend on the order of a dict.)

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
            raise BadInput(f"a tensor is named {METADATA}, which safetensors keeps for itself: rename it.")
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
            f"a header of {len(text)} bytes is above safetensors' {MAX_HEADER}: use a smaller --shard-size."
        )
    header = len(text).to_bytes(8, "little") + text
    return header, {name: len(header) + begin for name, begin in begins.items()}


def file_size(header: bytes, tensors: Tensors) -> int:
    """Bytes of the whole file that `layout` gave this header for."""
    return len(header) + sum(nbytes(dtype, shape) for dtype, shape in tensors.values())


def nbytes(dtype: str, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor; raises `BadInput` where sub-byte values do not fill the last one.

    >>> nbytes("f16", (2, 3)), nbytes("f4", (2, 3))
    (12, 3)
    """
    bits = math.prod(shape) * DTYPES[dtype].bits
    if bits % 8:
        raise BadInput(f"{dtype} values of shape {shown(shape)} end within a byte: pad the last axis.")
    return bits // 8
