"""Cutting a step into slabs, and reading a slab's source parts.

A slab is a range of the output weight's rows that fits the memory budget; a weight that is copied unchanged is cut by
bytes instead. Slabs of one step are independent: they may run in any order, on any thread.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quantcli.arrays import DTYPES
from quantcli.convert.planning.routes import Route, is_rowwise
from quantcli.models.translate import Arranged
from quantcli.schemes.base import Parts, PartSpec, Scheme, matrix_shape
from quantcli.schemes.dense import Dense
from quantcli.virtual import read_rows, take

#: Bytes that an element needs in addition to its source while it is converted: in a kernel, and as float32 with
#: temporaries.
#: Measured, with a margin (tests/convert/running/test_run.py checks the memory of complete runs).
KERNEL_BYTES, WORK_BYTES = 8, 32

#: One evaluation on a GPU holds at most this many elements: Metal's watchdog kills what runs longer.
GPU_ELEMENTS = 64 << 20


@dataclass(frozen=True)
class Slab:
    """Rows start..stop of the output weight or, with `part`, that byte range of one copied part."""

    start: int
    stop: int
    part: str | None = None


def work_bytes(source: Arranged, scheme: Scheme, route: Route) -> int:
    """Return the bytes per element on a route: only repacks and encoders of dense weights need no float32 values."""
    if not scheme.in_kernels:
        return WORK_BYTES
    if route is Route.REPACK:
        return KERNEL_BYTES
    light = Route.QUANTIZE if source.rows is None else None
    is_light = isinstance(source.weight.scheme, Dense) and route in (light, Route.COPY)
    return KERNEL_BYTES if is_light else WORK_BYTES


def is_strided(source: Arranged) -> bool:
    """Return whether a range of rows is spread over the stored parts (AWQ), so that each slab reads all of them."""
    specs = source.weight.scheme.layout(source.weight.shape).values()
    return any(spec.axis == 1 and len(spec.shape) > 1 for spec in specs)


def is_blocked(source: Arranged) -> bool:
    """Return whether rows are read in blocks (transposed matrices), so that each slab reads complete blocks."""
    return any(part.block > 1 for part in source.weight.parts.values())


def cut(source: Arranged, scheme: Scheme, route: Route, budget: int, work: int | None = None) -> list[Slab]:
    """Return the slabs of a weight that is converted to `scheme`.

    Each takes at most `budget` bytes of memory, unless one row group is larger. work: bytes per element in addition to
    its source, by default those of the route.
    """
    weight = source.weight
    if route is Route.COPY and source.rows is None and all(part.stored for part in weight.parts.values()):
        return [
            slab
            for name, part in weight.parts.items()
            for slab in _byte_ranges(name, part.nbytes, budget, weight.scheme.unit(name) * DTYPES[part.dtype].bits // 8)
        ]
    rows, columns = matrix_shape(source.shape)
    if len(source.shape) < 2:
        return [Slab(0, rows)]
    specs = (*weight.scheme.layout(weight.shape).values(), *scheme.layout(source.shape).values())
    align = math.lcm(*(spec.rows for spec in specs))
    stored = weight.nbytes // max(1, rows)
    step = max(1, budget // max(1, stored + columns * (work or work_bytes(source, scheme, route))))
    step = max(align, step // align * align)
    period = math.lcm(align, *(part.block for part in weight.parts.values()), _period(source.rows))
    step = step // period * period or step
    return [Slab(start, min(start + step, rows)) for start in range(0, rows, step)]


def _byte_ranges(part: str, size: int, budget: int, unit: int) -> Iterator[Slab]:
    """Yield ranges that are multiples of a page and of `unit` bytes, so that no range splits a unit."""
    multiple = math.lcm(4096, max(1, unit))
    multiple = multiple if multiple <= budget // 2 else max(1, unit)
    step = max(multiple, budget // 2 // multiple * multiple)
    return (Slab(start, min(start + step, size), part) for start in range(0, size, step))


def _period(rows: NDArray[np.int64] | None) -> int:
    """Return the rows after which a permutation repeats (a head): slabs of whole periods read few other rows."""
    if rows is None:
        return 1
    closed = np.maximum.accumulate(rows) == np.arange(len(rows))
    return int(np.argmax(closed)) + 1


def read(source: Arranged, slab: Slab, only: Iterable[str] | None = None) -> tuple[Parts, NDArray[np.int64] | None]:
    """Read the source parts of a slab (those in `only`), and the row in them of each of its rows (None: in order)."""
    weight = source.weight
    if source.rows is None:
        return read_rows(weight, weight.scheme.layout(weight.shape), slab.start, slab.stop, only), None
    return take(weight, source.rows[slab.start : slab.stop], only)


def place(spec: PartSpec, start: int) -> int:
    """Return the byte offset of the weight's row `start` in a part with contiguous rows (elements of a vector)."""
    width = (matrix_shape(spec.shape)[1] if spec.axis == 0 else 1) * DTYPES[spec.dtype].bits // 8
    return start // spec.rows * spec.indices * width


def rowwise(source: Arranged) -> bool:
    """Return whether row operations can act on the source's parts."""
    return is_rowwise(source.weight.scheme.layout(source.weight.shape))
