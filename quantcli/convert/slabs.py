"""Cutting a step into slabs, and reading a slab's source parts.

A slab is a range of the output weight's rows small enough for the memory budget; a weight that is copied as it is is
cut by bytes instead. Slabs of one step are independent: they may run in any order, on any thread.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quantcli.arrays import DTYPES
from quantcli.checkpoint import Part, Weight
from quantcli.convert.routes import Route, is_rowwise
from quantcli.schemes.base import Parts, PartSpec, Scheme, matrix_shape
from quantcli.schemes.dense import Dense
from quantcli.targets.base import Draft

#: Bytes that an element costs beside its source while it is converted: in a kernel, and as float32 with temporaries.
#: Measured, with room to spare (tests/convert/test_run.py holds whole runs to their memory).
KERNEL_BYTES, WORK_BYTES = 8, 32

#: One evaluation on a GPU holds at most this many elements: Metal's watchdog kills what runs longer.
GPU_ELEMENTS = 64 << 20


@dataclass(frozen=True)
class Slab:
    """Rows start..stop of the output weight; or, with `part`, that byte range of one part that is copied."""

    start: int
    stop: int
    part: str | None = None


def work_bytes(draft: Draft, route: Route) -> int:
    """What an element costs on a route: only repacks and the encoders of dense weights make no float32 of it."""
    if route is Route.REPACK:
        return KERNEL_BYTES
    is_dense = draft.weight is not None and isinstance(draft.weight.scheme, Dense)
    return KERNEL_BYTES if is_dense and route is Route.QUANTIZE and draft.rows is None else WORK_BYTES


def is_strided(draft: Draft) -> bool:
    """Whether a range of rows lies all over the stored parts (AWQ), so that each slab reads all of them."""
    weight = draft.weight
    return weight is not None and any(spec.axis == 1 for spec in weight.scheme.layout(weight.shape).values())


def cut(draft: Draft, scheme: Scheme, route: Route, budget: int, work: int | None = None) -> list[Slab]:
    """The slabs of a step, each taking at most `budget` bytes of memory where one row group is not larger than that.

    work: bytes that an element costs beside its source, where they are not those of the route.
    """
    if route is Route.COPY and draft.rows is None:
        assert draft.weight is not None
        return [slab for name, part in draft.weight.parts.items() for slab in _byte_ranges(name, part.nbytes, budget)]
    if draft.weight is None or len(draft.shape) < 2:
        return [Slab(0, matrix_shape(draft.shape)[0])]
    rows, columns = matrix_shape(draft.shape)
    source = draft.weight.scheme.layout(draft.weight.shape)
    align = math.lcm(*(spec.rows for spec in (*source.values(), *scheme.layout(draft.shape).values())))
    stored = draft.weight.nbytes // max(1, rows)
    step = max(1, budget // max(1, stored + columns * (work or work_bytes(draft, route))))
    step = max(align, step // align * align)
    if draft.rows is not None:
        step = _permuted_step(draft.rows, step, align)
    return [Slab(start, min(start + step, rows)) for start in range(0, rows, step)]


def _byte_ranges(part: str, size: int, budget: int) -> Iterator[Slab]:
    step = max(4096, budget // 2 // 4096 * 4096)
    return (Slab(start, min(start + step, size), part) for start in range(0, size, step))


def _permuted_step(rows: NDArray[np.int64], step: int, align: int) -> int:
    """A step at whose multiples the permutation starts afresh (a head): a slab reads few rows beyond its own."""
    closed = np.maximum.accumulate(rows) == np.arange(len(rows))
    period = int(np.argmax(closed)) + 1
    period = math.lcm(period, align)
    return max(period, step // period * period)


def read(draft: Draft, slab: Slab) -> tuple[Parts, NDArray[np.int64] | None]:
    """The source parts of a slab, and the row among them of each of its rows (None: in order)."""
    weight = draft.weight
    assert weight is not None
    specs = weight.scheme.layout(weight.shape)
    if draft.rows is None:
        return read_rows(weight, specs, slab.start, slab.stop), None
    if len(weight.shape) < 2:
        return {name: part.read()[:, draft.rows] for name, part in weight.parts.items()}, None
    wanted = draft.rows[slab.start : slab.stop]
    align = math.lcm(*(spec.rows for spec in specs.values()))
    low = int(wanted.min()) // align * align
    high = min(-(-(int(wanted.max()) + 1) // align) * align, matrix_shape(weight.shape)[0])
    return read_rows(weight, specs, low, high), wanted - low


def read_rows(
    weight: Weight, specs: dict[str, PartSpec], start: int, stop: int, only: Iterable[str] | None = None
) -> Parts:
    """Rows start..stop of a weight's parts (of those in `only`); parts that no row range cuts are whole."""
    names = weight.parts if only is None else only
    return {name: _read_part(weight.parts[name], specs[name], start, stop) for name in names}


def _read_part(part: Part, spec: PartSpec, start: int, stop: int) -> NDArray[np.generic]:
    if spec.axis is None:
        return part.read()
    first = start // spec.rows * spec.indices
    last = -(-stop // spec.rows) * spec.indices
    length = part.shape[1] if spec.axis == 1 else matrix_shape(part.shape)[0]
    return part.read(first, min(last, length), spec.axis)


def place(spec: PartSpec, start: int) -> int:
    """Byte offset, within a part whose rows are contiguous, of the weight's row `start`."""
    width = matrix_shape(spec.shape)[1] * DTYPES[spec.dtype].bits // 8
    return start // spec.rows * spec.indices * width


def rowwise(draft: Draft) -> bool:
    """Whether row operations can act on the source's parts."""
    assert draft.weight is not None
    return is_rowwise(draft.weight.scheme.layout(draft.weight.shape))
