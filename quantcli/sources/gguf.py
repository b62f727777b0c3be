"""A GGUF file: every tensor is a weight of one part, its blocks; types that are not decoded can be listed.

Source: ggml's docs/gguf.md. Dense types are the dense schemes; big-endian files are listed, not converted.
"""

from __future__ import annotations

from pathlib import Path

from quantcli.checkpoint import Checkpoint, Part, Weight
from quantcli.containers import gguf
from quantcli.containers.gguf import GgufFile, TensorInfo
from quantcli.schemes import ggml_scheme
from quantcli.schemes.base import Scheme
from quantcli.schemes.dense import Dense
from quantcli.schemes.opaque import Opaque

#: GGML types that are plain arrays: type name -> our dtype.
DENSE = {"f32": "f32", "f16": "f16", "bf16": "bf16", "f64": "f64", "i8": "i8", "i16": "i16", "i32": "i32", "i64": "i64"}


def scheme(tensor: TensorInfo, byte_order: str = "little") -> Scheme:
    """The scheme of a stored tensor; in a big-endian file every type is one that is not decoded."""
    if tensor.type_name is None:
        return Opaque(f"type-{tensor.type_id}", tensor.span)
    if byte_order != "little":
        return Opaque(tensor.type_name)
    if tensor.type_name in DENSE:
        return Dense(DENSE[tensor.type_name])
    return ggml_scheme(tensor.type_name) or Opaque(tensor.type_name)


def weight(tensor: TensorInfo, path: Path, byte_order: str = "little") -> Weight:
    """A stored tensor as a weight."""
    found = scheme(tensor, byte_order)
    ((part, spec),) = found.layout(tensor.shape).items()
    return Weight(
        tensor.name,
        tensor.shape,
        found,
        {part: Part(tensor.name, spec.dtype, spec.shape, path, tensor.offset)},
        "stored",
    )


def open_gguf(path: Path) -> Checkpoint:
    """The checkpoint of a GGUF file. Raises `BadInput`."""
    return from_header(gguf.read(path), path)


def from_header(header: GgufFile, path: Path) -> Checkpoint:
    """The checkpoint of a header that was read already."""
    weights = {name: weight(tensor, path, header.byte_order) for name, tensor in header.tensors.items()}
    warnings = () if header.byte_order == "little" else (f"{path}: is big-endian: it is listed, not converted.",)
    return Checkpoint("gguf", "gguf", path, (path,), weights, metadata=header.metadata, warnings=warnings)
