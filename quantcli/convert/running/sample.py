"""A sample of a source's data, by which --resume distinguishes models whose files have equal sizes and times.

It has one block of every tensor, of at most MOST tensors spread evenly over the model: two models that were trained
separately differ in nearly every block. The position of a block in its tensor depends on a hash of the tensor's name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import attrgetter
from pathlib import Path

from quantcli.checkpoint import Checkpoint, Part
from quantcli.containers.hostile import opened
from quantcli.convert.planning.stamps import Stamp
from quantcli.virtual import stored_parts

#: Bytes of a block, and the largest number of blocks of a model.
BLOCK, MOST = 4096, 4096
#: Blocks of a file without tensors.
SIDECAR_BLOCKS = 16


def sample(source: Checkpoint, stamps: Sequence[Stamp]) -> str:
    """Return the SHA-256 of blocks of the tensors and of other files. Raises `Surroundings` and `BadInput`."""
    digest = hashlib.sha256()
    chosen = _chosen(source)
    for file, parts in groupby(chosen, key=attrgetter("file")):
        _add(digest, file, [_block(part) for part in parts])
    files = {part.file for part in chosen}
    for stamp in stamps:
        if stamp.path not in files:
            _add(digest, stamp.path, list(_spread(stamp.size)))
    return digest.hexdigest()


def _chosen(source: Checkpoint) -> list[Part]:
    """Return the tensors from which a block is read, in stored order."""
    stored = {(p.file, p.offset): p for weight in source.weights.values() for p in stored_parts(weight) if p.nbytes}
    parts = [stored[key] for key in sorted(stored)]
    return [parts[i * len(parts) // MOST] for i in range(MOST)] if len(parts) > MOST else parts


def _block(part: Part) -> tuple[int, int]:
    """Return offset and length of a tensor's block."""
    length = min(BLOCK, part.nbytes)
    number = int.from_bytes(hashlib.sha256(part.name.encode()).digest()[:8], "little")
    return part.offset + number % (part.nbytes - length + 1), length


def _spread(size: int) -> Iterator[tuple[int, int]]:
    """Yield offset and length of the blocks of a file without tensors; a small file is one block."""
    if size <= BLOCK * SIDECAR_BLOCKS:
        yield 0, size
        return
    for i in range(SIDECAR_BLOCKS):
        yield i * (size - BLOCK) // (SIDECAR_BLOCKS - 1), BLOCK


def _add(digest: hashlib._Hash, file: Path, blocks: Sequence[tuple[int, int]]) -> None:
    with opened(file) as (read, _):
        for offset, length in blocks:
            digest.update(read(offset, length))
