"""GGUF files: every tensor is a weight with one part, its blocks. Types that cannot be decoded are only listed.

Source: ggml's docs/gguf.md. Dense types have dense schemes. The bytes of a big-endian file are swapped as they are
read; types whose blocks cannot be swapped are only listed.
"""

from __future__ import annotations

import re
from pathlib import Path

from quantcli.checkpoint import Checkpoint, Part, Weight
from quantcli.containers import gguf
from quantcli.containers.ggml_types import BY_NAME, swapped
from quantcli.containers.gguf import GgufFile, TensorInfo
from quantcli.containers.gguf_values import Value
from quantcli.containers.hostile import opened, shown
from quantcli.errors import BadInput
from quantcli.schemes import ggml_scheme
from quantcli.schemes.base import Scheme
from quantcli.schemes.dense import Dense
from quantcli.schemes.opaque import Opaque
from quantcli.sources.companions import marked

#: GGML types that are plain arrays: type name -> our dtype.
DENSE = {"f32": "f32", "f16": "f16", "bf16": "bf16", "f64": "f64", "i8": "i8", "i16": "i16", "i32": "i32", "i64": "i64"}


#: The names of a split file's parts.
PART = re.compile(r"(?P<prefix>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")

#: The most parts that a tool writes.
MAX_PARTS = 99_999


def scheme(tensor: TensorInfo, byte_order: str = "little") -> Scheme:
    """Return the scheme of a stored tensor: `Opaque` for types that cannot be decoded or, if big-endian, swapped."""
    is_big = byte_order != "little"
    if tensor.type_name is None:
        return Opaque(f"type-{tensor.type_id}", tensor.span, tensor.type_id, is_big)
    if is_big and swapped(BY_NAME[tensor.type_name]) is None:
        return Opaque(tensor.type_name, big_endian=True)
    if tensor.type_name in DENSE:
        return Dense(DENSE[tensor.type_name])
    return ggml_scheme(tensor.type_name) or Opaque(tensor.type_name)


def weight(tensor: TensorInfo, path: Path, byte_order: str = "little") -> Weight:
    """Return a stored tensor as a weight."""
    stored_scheme = scheme(tensor, byte_order)
    ((part, spec),) = stored_scheme.layout(tensor.shape).items()
    swap = None if byte_order == "little" or tensor.type_name is None else swapped(BY_NAME[tensor.type_name])
    stored = Part(tensor.name, spec.dtype, spec.shape, path, tensor.offset, swap or ())
    return Weight(tensor.name, tensor.shape, stored_scheme, {part: stored}, "stored")


def is_gguf(path: Path) -> bool:
    """Return whether a file starts like a GGUF file, whatever its name (Ollama names files by their hash)."""
    with opened(path) as (read, _):
        return read(0, len(gguf.MAGIC)) == gguf.MAGIC


def open_gguf(path: Path) -> Checkpoint:
    """Open a GGUF file; any part of a split file opens all of them. Raises `BadInput`."""
    header = gguf.read(path)
    if _parts(header) <= 1:
        return from_header(header, path)
    _refuse_concatenated(header, path)
    return _joined(path, _parts(header))


def from_header(header: GgufFile, path: Path) -> Checkpoint:
    """Return the checkpoint of a header that has been read already."""
    return _checkpoint([header], path)


def _checkpoint(headers: list[GgufFile], path: Path) -> Checkpoint:
    weights: dict[str, Weight] = {}
    for header in headers:
        for name, tensor in header.tensors.items():
            if name in weights:
                raise BadInput(
                    f"{header.path}: tensor {shown(name)} appears in another part too. Download the parts again."
                )
            weights[name] = weight(tensor, header.path, header.byte_order)
    files = tuple(header.path for header in headers)
    further = tuple(warning for header in headers for warning in _excess_warnings(header))
    return marked(Checkpoint("gguf", "gguf", path, files, weights, metadata=headers[0].metadata, warnings=further))


def _excess_warnings(header: GgufFile) -> list[str]:
    """Return a warning if more bytes than padding follow the last tensor."""
    last = max(header.tensors.values(), key=lambda tensor: (tensor.offset, tensor.span), default=None)
    if last is None or last.nbytes is None or last.span - last.nbytes < header.alignment:
        return []
    return [f"{header.path}: the {last.span - last.nbytes} bytes after its last tensor are ignored."]


def _parts(header: GgufFile) -> int:
    """Return the number of parts of a split file, by default 1. Raises `BadInput`."""
    value = header.metadata.get("split.count", Value("uint16", 1)).value
    if type(value) is not int or not 0 <= value <= MAX_PARTS:
        raise BadInput(
            f"{header.path}: key split.count: expected a number from 0 to {MAX_PARTS}, found {shown(value)}."
        )
    return value


def _refuse_concatenated(header: GgufFile, path: Path) -> None:
    """Raise `BadInput` for a part that is followed by the next one in the same file."""
    end = max((t.offset + (t.nbytes or 0) for t in header.tensors.values()), default=header.data_start)
    with opened(path) as (read, size):
        after = read(end, min(header.alignment + len(gguf.MAGIC), max(0, size - end)))
    if gguf.MAGIC in after:
        raise BadInput(
            f"{path}: contains the parts of a split model one after another (joined with `cat`), which no program can "
            f"read. Download the {_parts(header)} parts again, and give the first as the source "
            f"(-00001-of-{_parts(header):05d}.gguf)."
        )


def _joined(path: Path, count: int) -> Checkpoint:
    """Open the parts of a split file, checking that each is the one that its name says.

    Source: llama.cpp (gguf-split). Raises `BadInput`.
    """
    name = PART.fullmatch(path.name)
    if name is None or int(name["count"]) != count:
        raise BadInput(
            f"{path}: is one of {count} parts, but its name does not say so. Rename the parts to "
            f"NAME-00001-of-{count:05d}.gguf and so on."
        )
    if not 1 <= int(name["number"]) <= count:
        raise BadInput(
            f"{path}: the name says part {int(name['number'])}, but there are {count} parts. Rename it, or download it "
            "again."
        )
    headers = []
    for number in range(count):
        part = path.with_name(f"{name['prefix']}-{number + 1:05d}-of-{count:05d}.gguf")
        if not part.is_file():
            raise BadInput(f"{part}: is missing: {path.name} is one of {count} parts. Download all of them.")
        headers.append(gguf.read(part))
        stated = headers[-1].metadata.get("split.no", Value("uint16", None)).value
        if stated != number or _parts(headers[-1]) != count:
            raise BadInput(
                f"{part}: its keys say that it is part {shown(stated)} (counted from 0) of {_parts(headers[-1])}, but "
                "its name says otherwise. Download it again."
            )
    total = headers[0].metadata.get("split.tensors.count", Value("int32", None)).value
    stored = sum(len(header.tensors) for header in headers)
    if total is not None and total != stored:
        raise BadInput(f"{path}: key split.tensors.count says {shown(total)}, but the parts have {stored} tensors.")
    return _checkpoint(headers, path)
