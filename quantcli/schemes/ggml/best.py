"""`--search best`: other bytes of the same GGML formats, nearer to the weights than ggml's own.

What counts is sum(w * (decoded - x) ** 2) over a block, w the importance matrix's where there is one, else 1. ggml's
bytes are made first; a block is replaced only where what its new bytes decode to is nearer, so that none is worse. (By
ggml's own measure, which without a matrix weighs large values more, a block may be.) Searches run on the CPU whatever
the device:

    OnGrid, here: scales and codes of a grid (kernels/ggml/better/grid.py)
    OnTable, here: scale bytes from a table (kernels/ggml/better/floats.py)
    OfRows, in iq.py: scales under the codebook rows that ggml found

The `better` of a type names the search that it has.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from quantcli.arrays import Array, to_float32
from quantcli.kernels.ggml.better.levels import Levels
from quantcli.schemes.base import Importance
from quantcli.schemes.ggml.blocks import Blocks, Ggml, read_f16

#: Values that are searched at a time: temporaries stay small.
PIECE = 1 << 18
#: How much nearer new bytes must be: more than the order of a float64 sum can change.
MARGIN = 1 - 1e-9

Values = NDArray[np.float32]
Kind = TypeVar("Kind", bound=Ggml)


@dataclass(frozen=True)
class Better(Generic[Kind]):
    """A search for nearer blocks of a type; subclasses carry it out."""

    scheme: Kind

    def improve(self, values: Array, importance: Importance | None, blocks: Blocks) -> Blocks:
        """Return ggml's blocks of a slab (rows, bytes) with nearer ones in place of some.

        importance: (1 or rows, columns).
        """
        if not values.size:
            return blocks
        rows, columns = values.shape
        step = max(1, PIECE // columns)
        pieces = []
        for start in range(0, rows, step):
            piece = slice(start, start + step)
            weights = importance if importance is None or len(importance) == 1 else importance[piece]
            pieces.append(self._improved(values[piece], weights, blocks[piece]))
        return np.concatenate(pieces)

    def _improved(self, values: Array, importance: Importance | None, blocks: Blocks) -> Blocks:
        from quantcli.kernels.ggml.better.errors import block_errors

        size, block_bytes = self.scheme.ggml_type.block_size, self.scheme.ggml_type.block_bytes
        x, flat = to_float32(values).reshape(-1, size), np.ascontiguousarray(blocks).reshape(-1, block_bytes)
        finite = np.isfinite(x).all(axis=1, keepdims=True)
        weights = np.ones((1, size), np.float32)
        if importance is not None:
            weights = importance.astype(np.float32).reshape(-1, size)
        with np.errstate(all="ignore"):
            found = self.found(x if finite.all() else np.where(finite, x, np.float32(0)), weights, flat)
        decoded = (self.scheme.decode({"blocks": each}).reshape(-1, size) for each in (flat, found))
        old, new = (block_errors(x, each, weights) for each in decoded)
        better = new < old * MARGIN
        return np.where(better[:, None], found, flat).reshape(blocks.shape)

    def found(self, x: Values, weights: Values, blocks: Blocks) -> Blocks:
        """Return new blocks (n, bytes) for values (n, size) and ggml's blocks; weights (some, size), of block b in row
        b % some.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class OnGrid(Better[Ggml]):
    """Codes and scales of groups and blocks of a type whose values are `scale * level + low`."""

    levels: Levels

    def found(self, x: Values, weights: Values, blocks: Blocks) -> Blocks:
        from quantcli.kernels.ggml.better.grid import search

        scheme, kind, grid = self.scheme, self.levels, self.scheme.grid()
        assert grid is not None
        if kind.emphasis and len(weights) == 1 and (weights == 1).all():
            squares = x * x
            weights = 1 + kind.emphasis * squares / np.maximum(squares.mean(axis=1, keepdims=True), np.float32(1e-30))
        found = search(kind, x, weights.astype(np.float32), self._known(blocks))
        codes = found.codes if kind.table else found.codes + np.uint8((grid.zero or 0) + kind.least)
        block_scales = np.where(np.isfinite(found.block_scales), found.block_scales, np.float32(0))
        return scheme.assembled(codes, found.subs, block_scales)

    def _known(self, blocks: Blocks) -> Values:
        """ggml's scales and lows as kernels/ggml/better/grid.py takes them, those of super-blocks first."""
        ggml, kind = self.scheme.ggml_type, self.levels
        seen = self.scheme.codes({"blocks": blocks})
        lows = np.zeros_like(seen.scales) if kind.minima is None or seen.biases is None else seen.biases
        known = np.stack([seen.scales, lows], axis=2).reshape(len(blocks), -1, 2)
        if kind.subs is not None and ggml.scales is not None:
            block_scales = np.zeros((len(blocks), 1, 2), np.float32)
            block_scales[:, 0, : ggml.scales.count] = read_f16(blocks, ggml.scales.at, ggml.scales.count, np)
            known = np.concatenate([block_scales, known], axis=1)
        return np.ascontiguousarray(known)


@dataclass(frozen=True)
class OnTable(Better[Ggml]):
    """Scale bytes of a type whose blocks begin with them. scales: what bytes stand for, float32, ascending."""

    scales: Values

    def found(self, x: Values, weights: Values, blocks: Blocks) -> Blocks:
        from quantcli.kernels.ggml.better.floats import search

        grid, size = self.scheme.grid(), x.shape[1]
        assert grid is not None and grid.table is not None
        share = size // grid.group
        known = np.ascontiguousarray(blocks[:, :share]).reshape(-1)
        groups, per_group = x.reshape(-1, grid.group), weights.reshape(-1, grid.group)
        codes, stored = search(groups, per_group, self.scales, grid.table, known)
        return self.scheme.assembled(codes.reshape(-1, size), stored.reshape(-1, share, 1), None)
