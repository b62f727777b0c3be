"""The header of a new GGUF file (version 3, little-endian). Layout and source: see `gguf`.

As in llama.cpp's writers, tensors follow each other in the order given. Each is padded with zeros to the alignment, the
last one too, so that the file's size is a multiple of it.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from quantcli.containers.ggml_types import BY_NAME
from quantcli.containers.gguf import MAGIC, alignment_of
from quantcli.containers.gguf_values import CODES, VALUE_TYPES, ArrayValue
from quantcli.containers.hostile import check_name, shown
from quantcli.errors import BadInput

VERSION = 3
#: llama.cpp's limits on a tensor: bytes of its name, and dimensions (GGML_MAX_NAME, GGML_MAX_DIMS).
MAX_TENSOR_NAME = 63
MAX_DIMENSIONS = 4


class Unknown(NamedTuple):
    """The type of a tensor that is copied although its type is unknown: the type's id, and the tensor's bytes."""

    id: int
    nbytes: int


def header(
    metadata: Mapping[str, tuple[str, Any]], tensors: Sequence[tuple[str, tuple[int, ...], str | Unknown]]
) -> tuple[bytes, dict[str, int], int]:
    """Return the bytes of a file up to its data, each tensor's absolute offset, and the file's size.

    metadata: key -> (type, value); types as in `gguf.Value`, strings as str or bytes, arrays as sequences or
    `ArrayValue`. tensors: (name, row-major shape, GGML type or `Unknown`). Both are written in the order given. The
    alignment is `general.alignment` in the metadata, by default 32. Raises `BadInput` for a value or a shape that its
    type cannot hold.

    >>> start, offsets, size = header({"a": ("uint8", 7)}, [("w", (2, 32), "q8_0")])
    >>> start[:38].hex(" ", -8)
    '4747554603000000 0100000000000000 0100000000000000 0100000000000000 610000000007'
    >>> len(start), offsets, size
    (96, {'w': 96}, 192)
    """
    alignment = alignment_of(metadata, "the file to be written")
    keys = b"".join(_key(key, kind, value) for key, (kind, value) in metadata.items())
    infos: list[bytes] = []
    offsets: dict[str, int] = {}
    end = 0
    for name, shape, type_name in tensors:
        if name in offsets:
            raise BadInput(f"tensor {shown(name)} appears twice in the file to be written.")
        offsets[name] = end
        nbytes = tensor_nbytes(name, shape, type_name)
        infos.append(_info(name, shape, type_name, end))
        end += nbytes + -nbytes % alignment
    start = MAGIC + struct.pack("<IQQ", VERSION, len(tensors), len(metadata)) + keys + b"".join(infos)
    start += bytes(-len(start) % alignment)
    return start, {name: len(start) + offset for name, offset in offsets.items()}, len(start) + end


def unloadable(name: str, shape: tuple[int, ...]) -> str | None:
    """Return why llama.cpp does not load a tensor that GGUF can hold, as a clause; None if it does.

    >>> unloadable("patch_embedding.weight", (8, 3, 1, 2, 2))
    "has 5 dimensions; llama.cpp's limit is 4"
    """
    if len(name.encode()) > MAX_TENSOR_NAME:
        return f"has a name of {len(name.encode())} bytes; llama.cpp's limit is {MAX_TENSOR_NAME}"
    if len(shape) > MAX_DIMENSIONS:
        return f"has {len(shape)} dimensions; llama.cpp's limit is {MAX_DIMENSIONS}"
    return "has no elements, which llama.cpp does not load" if 0 in shape else None


def tensor_nbytes(name: str, shape: tuple[int, ...], type_name: str | Unknown) -> int:
    """Return the bytes of a tensor, without padding. Raises `BadInput` if its rows do not fill whole blocks."""
    if isinstance(type_name, Unknown):
        return type_name.nbytes
    ggml = BY_NAME[type_name]
    row = shape[-1] if shape else 1
    if row % ggml.block_size:
        raise BadInput(
            f"tensor {shown(name)}: rows of {row} values do not fill blocks of {ggml.block_size} ({type_name})."
        )
    return math.prod(shape) // ggml.block_size * ggml.block_bytes


def _info(name: str, shape: tuple[int, ...], type_name: str | Unknown, offset: int) -> bytes:
    check_name(name, "a tensor to be written")
    sizes = struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
    type_id = type_name.id if isinstance(type_name, Unknown) else BY_NAME[type_name].id
    return _text(name) + sizes + struct.pack("<IQ", type_id, offset)


def _key(key: str, kind: str, value: Any) -> bytes:
    check_name(key, "a key to be written")
    base, _, _ = kind.partition("[")
    if base not in CODES:
        raise BadInput(f"key {shown(key)}: {shown(kind)} is not a GGUF value type.")
    try:
        return _text(key) + struct.pack("<I", VALUE_TYPES.index(base)) + _payload(kind, value)
    except (struct.error, KeyError, OverflowError, TypeError, ValueError) as error:
        raise BadInput(f"key {shown(key)}: {shown(value)} cannot be written as {kind} ({error}).") from error


def _payload(kind: str, value: Any) -> bytes:
    """Return a value's bytes, without those of its type."""
    if kind == "string":
        return _text(value)
    if kind.startswith("array["):
        return _array(kind.removeprefix("array[").removesuffix("]"), value)
    if kind == "bool" and not isinstance(value, bool):
        raise TypeError("expected True or False")
    return struct.pack("<" + CODES[kind], value)


def _array(element: str, value: Any) -> bytes:
    if isinstance(value, ArrayValue):
        return _stored(value)
    if CODES.get(element) and element != "bool":
        return _array_start(element, len(value)) + struct.pack(f"<{len(value)}{CODES[element]}", *value)
    return _array_start(element.partition("[")[0], len(value)) + b"".join(_payload(element, one) for one in value)


def _stored(array: ArrayValue) -> bytes:
    """Return an array that was read: its bytes unchanged if they are little-endian, else encoded again."""
    if array.byte_order == "little":
        return _array_start(array.element, array.length) + array.payload
    if array.element == "array":
        return _array_start("array", array.length) + b"".join(map(_stored, array.arrays()))
    return _array(array.element, array.decode())


def _array_start(element: str, length: int) -> bytes:
    return struct.pack("<IQ", VALUE_TYPES.index(element), length)


def _text(text: str | bytes) -> bytes:
    raw = text.encode("utf-8") if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw
