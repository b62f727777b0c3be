"""Stored parts of weights with blocks of columns in another order: packed codes move with their scales, unchanged.

columns   0 1 2 3 | 4 5 6 7      order (1, 0)      ->   4 5 6 7 | 0 1 2 3
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quantcli.arrays import DTYPES, Array
from quantcli.checkpoint import Readable
from quantcli.schemes.base import matrix_shape


@dataclass(frozen=True)
class Moved:
    """A part whose blocks of columns are in another order.

    order[t]: the block that block t comes from. axis: the part's axis for the weight's columns.
    """

    piece: Readable
    order: NDArray[np.int64]
    axis: int
    stored = False

    @property
    def name(self) -> str:
        return self.piece.name

    @property
    def dtype(self) -> str:
        return self.piece.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return matrix_shape(self.piece.shape)

    @property
    def file(self) -> Path:
        return self.piece.file

    @property
    def nbytes(self) -> int:
        return self.piece.nbytes

    @property
    def block(self) -> int:
        return self.piece.block

    def read(self, start: int = 0, stop: int | None = None, axis: int = 0) -> Array:
        if axis == self.axis:
            return self.read(axis=1 - axis)[(slice(None),) * axis + (slice(start, stop),)]
        stored = self.piece.read(start, stop, axis)
        blocks = np.split(stored, len(self.order), axis=self.axis)
        return np.concatenate([blocks[block] for block in self.order], axis=self.axis)

    def read_bytes(self, start: int, stop: int) -> Array:
        width = self.shape[1] * DTYPES[self.dtype].bits // 8
        first, last = start // width, -(-stop // width)
        rows = self.read(first, last) if self.axis == 1 else self.read()[first:last]
        return np.ascontiguousarray(rows).view(np.uint8).reshape(-1)[start - first * width : stop - first * width]

    def section(self, start: int, stop: int) -> Readable:
        return replace(self, piece=self.piece.section(start, stop))
