"""A GGUF file: every tensor is a weight of one part, its blocks; types that are not decoded can be listed.

Source: ggml's docs/gguf.md. Dense types are the dense schemes. Of a big-endian file bytes are swapped as they are read;
a type whose blocks cannot be is listed only.
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


#: How the parts of a split file are named.
PART = re.compile(r"(?P<prefix>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")

#: More parts than this no tool writes.
MAX_PARTS = 99_999


def scheme(tensor: TensorInfo, byte_order: str = "little") -> Scheme:
    """The scheme of a stored tensor; in a big-endian file one that is listed only where its bytes cannot be swapped."""
    is_big = byte_order != "little"
    if tensor.type_name is None:
        return Opaque(f"type-{tensor.type_id}", tensor.span, tensor.type_id, is_big)
    if is_big and swapped(BY_NAME[tensor.type_name]) is None:
        return Opaque(tensor.type_name, big_endian=True)
    if tensor.type_name in DENSE:
        return Dense(DENSE[tensor.type_name])
    return ggml_scheme(tensor.type_name) or Opaque(tensor.type_name)


def weight(tensor: TensorInfo, path: Path, byte_order: str = "little") -> Weight:
    """A stored tensor as a weight."""
    found = scheme(tensor, byte_order)
    ((part, spec),) = found.layout(tensor.shape).items()
    swap = None if byte_order == "little" or tensor.type_name is None else swapped(BY_NAME[tensor.type_name])
    stored = Part(tensor.name, spec.dtype, spec.shape, path, tensor.offset, swap or ())
    return Weight(tensor.name, tensor.shape, found, {part: stored}, "stored")


def is_gguf(path: Path) -> bool:
    """Whether a file starts as GGUF files do, whatever its name (Ollama calls them by their hash)."""
    with opened(path) as (read, _):
        return read(0, len(gguf.MAGIC)) == gguf.MAGIC


def open_gguf(path: Path) -> Checkpoint:
    """The checkpoint of a GGUF file; of a split one, any part opens all. Raises `BadInput`."""
    header = gguf.read(path)
    if _parts(header) <= 1:
        return from_header(header, path)
    _refuse_concatenated(header, path)
    return _joined(path, _parts(header))


def from_header(header: GgufFile, path: Path) -> Checkpoint:
    """The checkpoint of a header that was read already."""
    return _checkpoint([header], path)


def _checkpoint(headers: list[GgufFile], path: Path) -> Checkpoint:
    weights: dict[str, Weight] = {}
    for header in headers:
        for name, tensor in header.tensors.items():
            if name in weights:
                raise BadInput(f"{header.path}: tensor {shown(name)} stands in another part too: get the parts again.")
            weights[name] = weight(tensor, header.path, header.byte_order)
    files = tuple(header.path for header in headers)
    further = tuple(warning for header in headers for warning in _beyond(header))
    return marked(Checkpoint("gguf", "gguf", path, files, weights, metadata=headers[0].metadata, warnings=further))


def _beyond(header: GgufFile) -> list[str]:
    """A warning of bytes after the last tensor that are more than padding."""
    last = max(header.tensors.values(), key=lambda tensor: (tensor.offset, tensor.span), default=None)
    if last is None or last.nbytes is None or last.span - last.nbytes < header.alignment:
        return []
    return [f"{header.path}: goes on for {last.span - last.nbytes} bytes after its last tensor, which are left out."]


def _parts(header: GgufFile) -> int:
    """How many files the checkpoint is cut into, 1 where nothing says so. Raises `BadInput`."""
    value = header.metadata.get("split.count", Value("uint16", 1)).value
    if type(value) is not int or not 0 <= value <= MAX_PARTS:
        raise BadInput(f"{header.path}: key split.count is {shown(value)}, a number up to {MAX_PARTS} is needed.")
    return value


def _refuse_concatenated(header: GgufFile, path: Path) -> None:
    """Raise `BadInput` for a part with the next one behind it in the same file."""
    end = max((t.offset + (t.nbytes or 0) for t in header.tensors.values()), default=header.data_start)
    with opened(path) as (read, size):
        behind = read(end, min(header.alignment + len(gguf.MAGIC), max(0, size - end)))
    if gguf.MAGIC in behind:
        raise BadInput(
            f"{path}: holds the parts of a split model one after another, as `cat` joins them, which no program reads. "
            f"Download the {_parts(header)} parts again, and name the first (-00001-of-{_parts(header):05d}.gguf)."
        )


def _joined(path: Path, count: int) -> Checkpoint:
    """The parts of a split file, each checked to be the one that its name says. Source: llama.cpp (gguf-split)."""
    named = PART.fullmatch(path.name)
    if named is None or int(named["count"]) != count:
        raise BadInput(f"{path}: is one of {count} parts and should be named like model-00001-of-{count:05d}.gguf.")
    if not 1 <= int(named["number"]) <= count:
        raise BadInput(f"{path}: is named part {int(named['number'])} of {count}: get it again under its own name.")
    headers = []
    for number in range(count):
        part = path.with_name(f"{named['prefix']}-{number + 1:05d}-of-{count:05d}.gguf")
        if not part.is_file():
            raise BadInput(f"{part}: is missing, one of the {count} parts of {path.name}: get it too.")
        headers.append(gguf.read(part))
        said = headers[-1].metadata.get("split.no", Value("uint16", None)).value
        if said != number or _parts(headers[-1]) != count:
            raise BadInput(
                f"{part}: says that it is part {shown(said)} (from 0) of {_parts(headers[-1])}: get it again."
            )
    total = headers[0].metadata.get("split.tensors.count", Value("int32", None)).value
    found = sum(len(header.tensors) for header in headers)
    if total is not None and total != found:
        raise BadInput(f"{path}: the parts have {found} tensors, key split.tensors.count says {shown(total)}.")
    return _checkpoint(headers, path)
