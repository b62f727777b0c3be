"""GGUF files split into parts, which llama.cpp loads by the first: by size, or as the source is split.

    x-00001-of-00003.gguf    all metadata, then split.no 0, split.tensors.count (of the model), split.count 3; tensors
    x-00002-of-00003.gguf    the three keys alone, split.no 1; further tensors
    x-00003-of-00003.gguf    likewise

What fits into one part is a plain file without these keys. Source: llama.cpp (tools/gguf-split, src/llama-quant.cpp).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from quantcli.containers import gguf_write
from quantcli.errors import NotPossible
from quantcli.targets.base import OutputFile, Placed

#: In which order llama-gguf-split writes the keys, and in which llama-quantize does.
SIZE_ORDER = ("split.no", "split.tensors.count", "split.count")
KEPT_ORDER = ("split.no", "split.count", "split.tensors.count")

#: The alignment that sizes are counted with, whatever the file's own.
ALIGNMENT = 32

#: More parts the uint16 of split.count does not count.
MAX_PARTS = 0xFFFF

Metadata = Mapping[str, tuple[str, Any]]


def by_size(placed: Sequence[Placed], most: int | None) -> list[list[Placed]]:
    """Split tensors, in order, into parts of at most `most` bytes of padded data; a larger tensor is a part alone."""
    parts: list[list[Placed]] = [[]]
    filled = 0
    for weight in placed:
        nbytes = gguf_write.tensor_nbytes(*_info(weight))
        nbytes += -nbytes % ALIGNMENT
        if most is not None and parts[-1] and filled + nbytes > most:
            parts.append([])
            filled = 0
        parts[-1].append(weight)
        filled += nbytes
    return parts


def as_numbered(placed: Sequence[Placed], number_of: Mapping[str, int]) -> list[list[Placed]]:
    """Put each tensor into the part of its number, from 0; a part may be empty (metadata only)."""
    parts: list[list[Placed]] = [[] for _ in range(1 + max(number_of.values()))]
    for weight in placed:
        parts[number_of[weight.name]].append(weight)
    return parts


def files(
    parts: Sequence[Sequence[Placed]], metadata: Metadata, name: str, order: Sequence[str] = SIZE_ORDER
) -> list[OutputFile]:
    """Return the files of a model. name: the file's if it were not split. Raises `NotPossible` for too many parts."""
    if len(parts) > MAX_PARTS:
        raise NotPossible(
            f"--shard-size: {name} would have {len(parts)} parts; the limit is {MAX_PARTS}. Choose a larger size."
        )
    if len(parts) == 1:
        return [_file(name, metadata, parts[0])]
    # Of the model as a whole: no tensor twice, no name or value that cannot be written.
    gguf_write.header(metadata, [_info(weight) for part in parts for weight in part])
    return list(_numbered(parts, metadata, name.removesuffix(".gguf"), order))


def _numbered(
    parts: Sequence[Sequence[Placed]], metadata: Metadata, prefix: str, order: Sequence[str]
) -> Iterator[OutputFile]:
    tensors = sum(map(len, parts))
    for number, part in enumerate(parts):
        said = {
            "split.no": ("uint16", number),
            "split.tensors.count": ("int32", tensors),
            "split.count": ("uint16", len(parts)),
        }
        own = {key: typed for key, typed in metadata.items() if key not in said} if number == 0 else {}
        name = f"{prefix}-{number + 1:05d}-of-{len(parts):05d}.gguf"
        yield _file(name, own | {key: said[key] for key in order}, part)


def _file(name: str, metadata: Metadata, placed: Sequence[Placed]) -> OutputFile:
    header, offsets, size = gguf_write.header(metadata, [_info(weight) for weight in placed])
    slots = {(w.name, next(iter(w.scheme.layout(w.shape)))): offsets[w.name] for w in placed}
    return OutputFile(name, size, ((0, header),), slots)


def _info(weight: Placed) -> tuple[str, tuple[int, ...], str | gguf_write.Unknown]:
    unknown = weight.scheme.unknown_type
    return weight.name, weight.shape, weight.scheme.name if unknown is None else gguf_write.Unknown(*unknown)
