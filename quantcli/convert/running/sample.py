"""A sample of what a source's tensors hold: by it --resume tells models apart whose files have one size and time.

One block of every tensor, of a model of more than MOST tensors of so many, spread evenly: two models that were trained
apart differ in nearly every block. Where in its tensor a block lies is drawn by the tensor's name.
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

#: Bytes of a block, and the most blocks of a model.
BLOCK, MOST = 4096, 4096
#: Blocks of a file without tensors.
SIDECAR_BLOCKS = 16


def sample(source: Checkpoint, stamps: Sequence[Stamp]) -> str:
    """SHA-256 of the blocks of the tensors and of the files next to them. Raises `Surroundings`, `BadInput`."""
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
    """The tensors that a block is read of, in the order in which they are stored."""
    stored = {(p.file, p.offset): p for weight in source.weights.values() for p in stored_parts(weight) if p.nbytes}
    parts = [stored[key] for key in sorted(stored)]
    return [parts[i * len(parts) // MOST] for i in range(MOST)] if len(parts) > MOST else parts


def _block(part: Part) -> tuple[int, int]:
    """Offset and length of a tensor's block."""
    length = min(BLOCK, part.nbytes)
    drawn = int.from_bytes(hashlib.sha256(part.name.encode()).digest()[:8], "little")
    return part.offset + drawn % (part.nbytes - length + 1), length


def _spread(size: int) -> Iterator[tuple[int, int]]:
    """Offset and length of the blocks of a file without tensors; all of a small one."""
    if size <= BLOCK * SIDECAR_BLOCKS:
        yield 0, size
        return
    for i in range(SIDECAR_BLOCKS):
        yield i * (size - BLOCK) // (SIDECAR_BLOCKS - 1), BLOCK


def _add(digest: hashlib._Hash, file: Path, blocks: Sequence[tuple[int, int]]) -> None:
    with opened(file) as (read, _):
        for offset, length in blocks:
            digest.update(read(offset, length))
