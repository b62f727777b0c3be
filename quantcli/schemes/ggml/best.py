"""`--search best`: other bytes of the same GGML formats, nearer to the weights than ggml's own.

What counts is sum(w * (decoded - x) ** 2) over a block, w the importance matrix's where there is one, else 1. ggml's
bytes are made first; a block is replaced only where what its new bytes decode to is nearer, so that none is worse. (By
ggml's own measure, which without a matrix weighs large values more, a block may be.) Searches run on the CPU whatever
the device:

    scales and codes of a grid (kernels/ggml/better/grid.py)     q4_0 ... q8_0, q2_k ... q6_k, iq4_nl iq4_xs,
                                                          q1_0 q2_0 tq1_0 tq2_0
    scale bytes from a table (kernels/ggml/better/floats.py)     mxfp4 nvfp4
    scales under the codebook rows that ggml found        iq1_s iq1_m iq2_xxs iq2_xs iq2_s iq3_xxs iq3_s

q8_k, whose steps are 1/127 of a block's largest value in float32, stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantcli.arrays import Array, to_float32
from quantcli.kernels.ggml.formats import BLOCK
from quantcli.schemes.base import Codes, Importance, Parts
from quantcli.schemes.ggml import iq4, k_quants, q6_k
from quantcli.schemes.ggml import legacy as ggml_legacy
from quantcli.schemes.ggml import ternary as ggml_ternary
from quantcli.schemes.ggml.blocks import Blocks, Ggml, read_f16
from quantcli.schemes.ggml.iq import Codebook, f16_bytes
from quantcli.schemes.ggml.iq3 import Iq3

#: Values that are searched at a time: temporaries stay small.
PIECE = 1 << 18
#: How much nearer new bytes have to be: more than the order of a float64 sum can make.
MARGIN = 1 - 1e-9
#: Where a super-block's f16 scale (and minimum) begins.
HEADS = {"q2_k": 80, "q3_k": 108, "q4_k": 0, "q5_k": 0, "q6_k": 208, "iq4_xs": 0}
#: d of a codebook's super-block over ggml's: where the search for better ones begins.
CODEBOOK_STARTS = np.linspace(0.75, 1.3, 12)

Values = NDArray[np.float32]
#: New blocks (n, bytes) of a type, values (n, size), weights (some, size) and ggml's blocks (n, bytes).
Search = Callable[[Any, Values, Values, Blocks], Blocks]


def improve(scheme: Ggml, values: Array, importance: Importance | None, parts: Parts) -> Parts:
    """The parts of a slab with the blocks that are better; importance (1 or rows, columns)."""
    search = SEARCHES.get(scheme.type)
    if search is None or not values.size:
        return parts
    rows, columns = values.shape
    step = max(1, PIECE // columns)
    pieces = []
    for start in range(0, rows, step):
        piece = slice(start, start + step)
        shared = importance is None or len(importance) == 1
        weights = importance if shared else importance[piece]  # type: ignore[index]
        pieces.append(_improved(search, scheme, values[piece], weights, parts["blocks"][piece]))
    return {"blocks": np.concatenate(pieces)}


def _improved(search: Search, scheme: Ggml, values: Array, importance: Importance | None, blocks: Blocks) -> Blocks:
    from quantcli.kernels.ggml.better.errors import block_errors

    size = scheme.ggml_type.block_size
    x, flat = (
        to_float32(values).reshape(-1, size),
        np.ascontiguousarray(blocks).reshape(-1, scheme.ggml_type.block_bytes),
    )
    finite = np.isfinite(x).all(axis=1, keepdims=True)
    weights = np.ones((1, size), np.float32) if importance is None else importance.astype(np.float32).reshape(-1, size)
    with np.errstate(all="ignore"):
        found = search(scheme, x if finite.all() else np.where(finite, x, np.float32(0)), weights, flat)
    old, new = (block_errors(x, scheme.decode({"blocks": b}).reshape(-1, size), weights) for b in (flat, found))
    better = new < old * MARGIN
    return np.where(better[:, None], found, flat).reshape(blocks.shape)


def _on_grid(scheme: Ggml, x: Values, weights: Values, blocks: Blocks) -> Blocks:
    from quantcli.kernels.ggml.better import grid as best_grid
    from quantcli.kernels.ggml.better.levels import GRIDS

    kind, grid = GRIDS[scheme.type], scheme.grid()
    assert grid is not None
    seen = scheme.codes({"blocks": blocks})
    lows = np.zeros_like(seen.scales) if kind.minima is None or seen.biases is None else seen.biases
    known = np.stack([seen.scales, lows], axis=2).reshape(len(x), -1, 2)
    if kind.subs is not None:
        heads = np.zeros((len(x), 1, 2), np.float32)
        count = 1 if kind.minima is None else 2
        heads[:, 0, :count] = read_f16(blocks, HEADS[scheme.type], count, np)
        known = np.concatenate([heads, known], axis=1)
    if kind.emphasis and len(weights) == 1 and (weights == 1).all():
        squares = x * x
        weights = 1 + kind.emphasis * squares / np.maximum(squares.mean(axis=1, keepdims=True), np.float32(1e-30))
    found = best_grid.search(kind, x, weights.astype(np.float32), np.ascontiguousarray(known))
    codes = found.codes if kind.table else found.codes + np.uint8((grid.zero or 0) + kind.least)
    heads = np.where(np.isfinite(found.heads), found.heads, np.float32(0))
    return WRITERS[type(scheme)](scheme, codes, found.subs, heads)


def _write_k(scheme: Ggml, codes: Any, subs: Any, heads: Any) -> Blocks:
    count = 1 if scheme.type == "q3_k" else 2
    stored = (subs[:, :, :count] + (32 if count == 1 else 0)).astype(np.uint8)
    return np.asarray(k_quants.pack(codes, stored, f16_bytes(heads[:, :count], np), scheme.type, np))


def _write_q6(scheme: Ggml, codes: Any, subs: Any, heads: Any) -> Blocks:
    packed = q6_k.pack(codes, np), subs[:, :, 0].astype(np.int8).view(np.uint8), f16_bytes(heads[:, :1].copy(), np)
    return np.concatenate(packed, axis=1)


def _write_legacy(scheme: Ggml, codes: Any, subs: Any, heads: Any) -> Blocks:
    grid = ggml_legacy.GRIDS[scheme.type]
    count = 2 if grid.zero is None else 1
    return np.concatenate([f16_bytes(heads[:, :count].copy(), np), ggml_legacy.pack(codes, grid, np)], axis=1)


def _write_iq4(scheme: Ggml, codes: Any, subs: Any, heads: Any) -> Blocks:
    d, packed = f16_bytes(heads[:, :1].copy(), np), iq4.pack(codes.reshape(-1, BLOCK)).reshape(len(codes), -1)
    scales = [] if scheme.type == "iq4_nl" else [iq4.pack_subs((subs[:, :, 0] + 32).astype(np.uint8), np)]
    return np.concatenate([d, *scales, packed], axis=1)


def _write_ternary(scheme: Ggml, codes: Any, subs: Any, heads: Any) -> Blocks:
    parts = [f16_bytes(heads[:, :1].copy(), np), ggml_ternary.pack(codes, scheme.type, np)]
    return np.concatenate(parts[::-1] if ggml_ternary.FORMATS[scheme.type].at else parts, axis=1)


WRITERS: dict[type[Ggml], Callable[[Ggml, Any, Any, Any], Blocks]] = {
    k_quants.KQuant: _write_k,
    q6_k.Q6K: _write_q6,
    ggml_legacy.GgmlLegacy: _write_legacy,
    iq4.Iq4: _write_iq4,
    ggml_ternary.GgmlTernary: _write_ternary,
}


def _on_floats(scheme: Any, x: Values, weights: Values, blocks: Blocks) -> Blocks:
    from quantcli.kernels.ggml.better import floats as best_floats

    group, size, share = scheme.facts.group, x.shape[1], x.shape[1] // scheme.facts.group
    grid, scales = scheme.grid(), scheme.scales()[: scheme.facts.positive]
    known = np.ascontiguousarray(blocks[:, :share]).reshape(-1)
    codes, stored = best_floats.search(x.reshape(-1, group), weights.reshape(-1, group), scales, grid.table, known)
    packed: Blocks = scheme.pack(Codes(grid, codes.reshape(-1, size), scales[stored].reshape(-1, share), None))[
        "blocks"
    ]
    return packed


def _on_codebook(scheme: Codebook, x: Values, weights: Values, blocks: Blocks) -> Blocks:
    """Scales, d * (2 * code + 1) of a group, fitted by least squares to the rows and signs that ggml found."""
    if isinstance(scheme, Iq3):
        blocks = scheme.without_fault(blocks, x)
    fields = scheme.unpack(blocks, np)
    groups, top = fields.scales.shape[1], scheme.largest_scale
    units = fields._replace(scales=np.zeros_like(fields.scales), d=np.ones_like(fields.d))
    unit = scheme.decode({"blocks": scheme.pack_fields(units, np)}).astype(np.float64).reshape(len(x), groups, -1)
    weighted = (x.reshape(-1, *weights.shape) * weights.astype(np.float64)).reshape(unit.shape)
    spread = np.broadcast_to(weights.astype(np.float64), (len(x) // len(weights), *weights.shape)).reshape(unit.shape)
    along, square = (weighted * unit).sum(axis=2), (spread * unit * unit).sum(axis=2)
    best, scales, heads = np.full((len(x), 1), np.inf), fields.scales, fields.d
    for start in CODEBOOK_STARTS:
        d = fields.d * start
        for _ in range(4):
            d = d.astype(np.float16).astype(np.float64)
            codes = np.clip(np.rint((along / (square * d) - 1) / 2), 0, top)
            odd = 2 * codes + 1
            one, two = (odd * along).sum(axis=1, keepdims=True), (odd * odd * square).sum(axis=1, keepdims=True)
            error = d * (d * two - 2 * one)
            better = error < best
            best, heads, scales = (
                np.where(better, error, best),
                np.where(better, d, heads),
                np.where(better, codes, scales),
            )
            d = one / two
    found: Blocks = scheme.pack_fields(fields._replace(scales=scales.astype(np.int32), d=heads.astype(np.float32)), np)
    return found


#: What is searched how; types that are missing have no better search.
SEARCHES: dict[str, Search] = {
    **dict.fromkeys(("q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "iq4_nl", "q1_0", "q2_0", "tq1_0", "tq2_0"), _on_grid),
    **dict.fromkeys(HEADS, _on_grid),
    **dict.fromkeys(("mxfp4", "nvfp4"), _on_floats),
    **dict.fromkeys(("iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s"), _on_codebook),
}
