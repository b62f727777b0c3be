"""Converting a weight from one scheme to another, through the first view that both share: parts, codes or values.

    copy         equal schemes: parts are copied
    repack       the target holds the source's grid: codes are copied
    cast         dense to another dense dtype
    quantize     dense to a grid
    dequantize   a grid to dense
    requantize   a grid to another grid
    compute      no source weight: the target computes it

Row operations act on parts if every index of every part is one row, otherwise on codes or values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from quantcli.arrays import FLOATS, Array, Device, to_float32
from quantcli.convert.planning.devices import Devices
from quantcli.schemes.base import Codes, Error, Grade, Grid, Importance, Parts, PartSpec, Scheme
from quantcli.schemes.dense import Dense, cast, holds

#: A fallback adds at most this relative RMSE.
FALLBACK_ROUNDING = 0.01

#: A lock that is held while a device computes, so that a GPU runs one evaluation at a time.
Turn = Callable[[Device], AbstractContextManager[object]]


class Route(StrEnum):
    COPY = "copy"
    REPACK = "repack"
    CAST = "cast"
    QUANTIZE = "quantize"
    DEQUANTIZE = "dequantize"
    REQUANTIZE = "requantize"
    COMPUTE = "compute"

    @property
    def computes(self) -> bool:
        """Whether values are decoded or encoded, which a GPU can do; other routes move bytes, codes or dense values."""
        return self in (Route.QUANTIZE, Route.DEQUANTIZE, Route.REQUANTIZE)


def choose(source: Scheme, target: Scheme, shape: tuple[int, ...]) -> tuple[Route, Grade]:
    """Return the route from one scheme to another, and the worst grade that the two formats allow."""
    if source == target:
        return Route.COPY, Grade.EXACT
    if isinstance(source, Dense):
        if isinstance(target, Dense):
            return Route.CAST, dense_grade(source.dtype, target.dtype)
        return Route.QUANTIZE, Grade.LOSSY
    if isinstance(target, Dense):
        return Route.DEQUANTIZE, min(dense_grade(dtype, target.dtype) for dtype in source.values_dtypes)
    grade = fit(source.grid(), target, shape)
    if isinstance(grade, Grade):
        return Route.REPACK, grade
    return Route.REQUANTIZE, Grade.LOSSY


def dense_grade(source: str, target: str) -> Grade:
    """Return the grade of a change of dtype; integers are only copied."""
    return Grade.EXACT if source in FLOATS and holds(target, source) else Grade.LOSSY


def fit(grid: Grid | None, target: Scheme, shape: tuple[int, ...]) -> Grade | str:
    """Return `target.fits`, or why the shape does not fit."""
    if grid is None:
        return "the source has no codes"
    return target.unfit(shape) or target.fits(grid, shape)


def holders_of(grid: Grid, holders: Iterable[Scheme], shape: tuple[int, ...]) -> Iterator[tuple[Scheme, Grade]]:
    """Yield the schemes that hold all codes on a grid, those of fewest bytes first."""
    able = sorted((s for s in holders if not s.unfit(shape)), key=lambda s: s.bits_per_weight(shape))
    for scheme in able:
        if isinstance(grade := scheme.fits(grid, shape), Grade):
            yield scheme, grade


def smaller_symmetric(
    than: Scheme, grade: Grade, holders: Iterable[Scheme], grid: Grid, shape: tuple[int, ...]
) -> Iterator[Scheme]:
    """Yield the schemes without biases that may hold codes on a grid in fewer bytes than the scheme `than`.

    Their grade is not worse; those of fewest bytes come first.
    """
    able = (s for s in holders if s.is_symmetric and not s.unfit(shape))
    for scheme in sorted(able, key=lambda s: s.bits_per_weight(shape)):
        if scheme.bits_per_weight(shape) >= than.bits_per_weight(shape):
            return
        if isinstance(possible := scheme.may_fit(grid, shape), Grade) and possible <= grade:
            yield scheme


def fallback(holders: Iterable[Scheme], shape: tuple[int, ...]) -> Scheme | None:
    """Return the smallest scheme for values whose codes cannot be held, with at most FALLBACK_ROUNDING of error."""
    small = [s for s in holders if s.rounding <= FALLBACK_ROUNDING and not s.unfit(shape)]
    return min(small, key=lambda s: s.bits_per_weight(shape), default=None)


def is_rowwise(specs: Mapping[str, PartSpec]) -> bool:
    """Return whether every index of every part is one row, so that row operations can act on parts."""
    return all(spec.axis == 0 and spec.rows == spec.indices == 1 for spec in specs.values())


def take_codes(codes: Codes, rows: NDArray[np.int64]) -> Codes:
    """Return some rows of a slab of codes, in that order."""
    biases = None if codes.biases is None else codes.biases[rows]
    return Codes(codes.grid, codes.codes[rows], codes.scales[rows], biases)


def carry(
    parts: Parts, source: Scheme, target: Scheme, route: Route, *, rows: NDArray[np.int64] | None,
    rowwise: bool, via: str | None, measured: bool, devices: Devices, turn: Turn = nullcontext,
    importance: Importance | None = None, search: str = "ggml",
) -> tuple[Parts, Error]:  # fmt: skip
    """Convert one slab from its source parts to its target parts; return them with the error that this adds.

    rows: the slab's source row of each target row, None if the order stays. rowwise: the source's parts may be
    permuted. via: the dtype that dense values are cast to before they are quantized. measured: compute a repack's
    error. turn: held while a device computes. importance: of the slab's columns. search: `ggml` or `best`. Raises
    `DoesNotFit`.
    """
    if rows is not None and rowwise:
        parts = {name: part[rows] for name, part in parts.items()}
        rows = None
    if route is Route.COPY and rows is None:
        return parts, Error()
    if route in (Route.REPACK, Route.COPY):
        codes = source.codes(parts)
        codes = codes if rows is None else take_codes(codes, rows)
        return target.repack(codes) if measured else (target.pack(codes), Error())
    values, cast_values = values_of(
        parts, source, rows=rows, rowwise=False, via=via, device=devices.decoding, turn=turn
    )
    with turn(devices.encoding):
        encoded, error = target.encode(cast_values, devices.encoding, importance, search)
    if via is not None and isinstance(source, Dense) and not holds(via, source.dtype):
        error = replace(Error.between(to_float32(values), target.decode(encoded)), saturated=error.saturated)
    return encoded, error


def values_of(
    parts: Parts, source: Scheme, *, rows: NDArray[np.int64] | None, rowwise: bool, via: str | None,
    device: Device, turn: Turn = nullcontext,
) -> tuple[Array, Array]:  # fmt: skip
    """Return a slab's values, and those that are encoded: dense ones cast to `via`. Arguments as in `carry`."""
    if rows is not None and rowwise:
        parts = {name: part[rows] for name, part in parts.items()}
        rows = None
    with turn(device):
        values: Array = parts["weight"] if isinstance(source, Dense) else source.decode(parts, device)
    values = values if rows is None else values[rows]
    return values, values if via is None or not isinstance(source, Dense) else cast(values, via)
