"""Whether another scheme can hold a weight's scales and biases, and whether it holds them without rounding.

Scales and biases are read before the run starts; codes that are a separate part are not read and count as 0. GGML's
blocks hold both, so the blocks are read; reading stops at the first rows that do not fit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from quantcli.arrays import Array, numpy_dtype
from quantcli.checkpoint import Weight
from quantcli.convert.planning.routes import fit, holders_of, smaller_symmetric
from quantcli.schemes.base import Codes, DoesNotFit, Grade, Parts, PartSpec, Scheme, matrix_shape
from quantcli.virtual import read_rows

#: Bytes that are read first, and at most at a time: most weights that do not fit show it in their first rows.
FIRST_LOOK, BUDGET = 32 << 10, 64 << 20

#: Dtypes of scales that MLX and ggml read differently (signed ones, and E4M3's NaN): always checked.
ALWAYS_CHECKED = ("f8_e4m3",)


def fit_of(weight: Weight, target: Scheme, shape: tuple[int, ...]) -> Grade | str:
    """Return `routes.fit`; if it depends on the weight's scales and biases, reads them."""
    grid = weight.scheme.grid()
    grade = fit(grid, target, shape)
    if grid is None or (isinstance(grade, Grade) and grid.scale_dtype not in ALWAYS_CHECKED):
        return grade
    likely = target.unfit(shape) or target.may_fit(grid, shape)
    if isinstance(likely, str):
        return grade if isinstance(grade, str) else likely
    return refusal(weight, target) or likely


def holder(weight: Weight, holders: Sequence[Scheme], shape: tuple[int, ...]) -> tuple[Scheme, Grade] | None:
    """Return the scheme of fewest bytes that holds a weight's codes, and its grade; None if there is none.

    That is the smallest one that holds codes with any scales, or a smaller symmetric one that holds these scales;
    if there is none, the smallest that holds these scales and biases.
    """
    grid = weight.scheme.grid()
    if grid is None:
        return None
    sure = None if grid.scale_dtype in ALWAYS_CHECKED else next(holders_of(grid, holders, shape), None)
    if sure is None:
        candidates = sorted((s for s in holders if not s.unfit(shape)), key=lambda s: s.bits_per_weight(shape))
    else:
        candidates = list(smaller_symmetric(*sure, holders, grid, shape))
    for scheme in candidates:
        if isinstance(grade := fit_of(weight, scheme, shape), Grade):
            return scheme, grade
    return sure


def refusal(weight: Weight, target: Scheme) -> str | None:
    """Return why a scheme that may hold a weight's codes cannot hold its scales or biases; None if it can."""
    try:
        for codes in parameters(weight):
            target.as_stored(codes)
    except DoesNotFit as reason:
        return str(reason)
    return None


def unrounded(weight: Weight, target: Scheme) -> bool:
    """Return whether a repack leaves every scale and bias, and so every value, unchanged."""
    grid, own = weight.scheme.grid(), target.grid()
    assert grid is not None and own is not None
    is_product = grid.zero is not None or target.is_symmetric
    try:
        for codes in parameters(weight):
            if is_product and not _has_exact_products(codes):
                return False  # one side's values are rounded products, the other's rounded sums
            if not _same(target.adapted(codes), target.as_stored(codes)):
                return False
    except DoesNotFit:
        return False
    return True


def _has_exact_products(codes: Codes) -> bool:
    """Return whether float32 holds every scale * code: scales have as many unused bits as codes have bits."""
    spare = np.uint32((1 << codes.grid.bits) - 1)
    return codes.grid.exact_products or not (codes.scales.view(np.uint32) & spare).any()


def parameters(weight: Weight) -> Iterator[Codes]:
    """Yield a weight's scales and biases, some rows at a time.

    Codes that are a separate part are missing or 0.
    """
    specs, grid = weight.scheme.layout(weight.shape), weight.scheme.grid()
    assert grid is not None
    rows, own = matrix_shape(weight.shape)[0], weight.scheme.codes_part
    small = [name for name in weight.parts if name != own]
    align = max(spec.rows for spec in specs.values())
    bytes_per_row = max(1, weight.nbytes // max(1, rows))
    start, look = 0, FIRST_LOOK
    while start < rows:
        stop = min(rows, start + max(align, look // bytes_per_row // align * align))
        parts: Parts = dict(read_rows(weight, specs, start, stop, small))
        stored = None if own is None else weight.scheme.parameters(parts)
        if stored is not None:
            yield Codes(grid, np.empty((stop - start, 0), np.uint8), *stored)
        else:
            zeros = {} if own is None else {own: _zeros(specs[own], stop - start)}
            yield weight.scheme.codes({**parts, **zeros})
        start, look = stop, min(BUDGET, 8 * look)


def _zeros(spec: PartSpec, rows: int) -> Array:
    """Return a part of that many rows with all bits 0."""
    assert spec.axis is not None
    shape = list(matrix_shape(spec.shape))
    shape[spec.axis] = -(-rows // spec.rows) * spec.indices
    return np.zeros(shape, numpy_dtype(spec.dtype))


def _same(ours: Codes, theirs: Codes) -> bool:
    """Return whether scales are equal, and biases if codes count from the same value."""
    if not _equal(ours.scales, theirs.scales):
        return False
    if ours.biases is None or theirs.biases is None or theirs.grid.zero is not None:
        return True  # a symmetric target counts codes from its zero, which `adapted` has handled
    return _equal(ours.biases, theirs.biases)


def _equal(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> bool:
    """Return whether parameters of groups of different sizes are equal: each is repeated for the smaller groups."""
    count = max(ours.shape[1], theirs.shape[1])
    ours, theirs = (np.repeat(part, count // max(1, part.shape[1]), axis=1) for part in (ours, theirs))
    return np.array_equal(ours, theirs)
