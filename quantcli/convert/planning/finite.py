"""NaN and Inf in a source: refused with the tensor and the position of the first one.

Every slab is checked before it is used, by its weight's scheme, which knows its scales and codes. The position is
looked for only if the check fails. Looking at scales costs 5 % of the CPU time of copying q8_0, 10 % of copying
q4_0.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from quantcli.arrays import DTYPES, FLOATS, Array, numpy_dtype
from quantcli.checkpoint import Checkpoint, Readable, Weight
from quantcli.convert.planning.routes import Route
from quantcli.convert.planning.steps import WeightStep
from quantcli.errors import BadInput, NotPossible
from quantcli.schemes.base import Parts, Scheme
from quantcli.schemes.dense import Dense
from quantcli.virtual import stored_parts

#: Bytes that are searched at a time.
SEARCHED_AT_ONCE = 8 << 20

#: Routes that copy NaN and Inf if that is allowed. A repack does so if the target can hold such scales.
CARRYING = (Route.COPY, Route.CAST, Route.DEQUANTIZE, Route.REPACK)


def check(source: Checkpoint, step: WeightStep, parts: Parts, allowed: bool) -> None:
    """Raise `BadInput` for NaN or Inf among a slab's parts. allowed: they may be copied.

    NaN and Inf of a dense weight that is quantized show in its encoder's error instead.
    """
    weight = step.source.weight
    if step.route is Route.QUANTIZE or carried(step, allowed):
        return
    if any(weight.scheme.nonfinite(name, array) for name, array in parts.items()):
        refuse(source, weight, step)
        raise NotPossible(f"{step.name}: dequantized values overflow {weight.scheme.values_dtype}.")


def carried(step: WeightStep, allowed: bool) -> bool:
    """Return whether NaN and Inf are copied from the source to the output."""
    return allowed and step.route in CARRYING


def refuse(source: Checkpoint, weight: Weight, step: WeightStep | None = None) -> None:
    """Raise `BadInput` if the tensors that a weight is read from hold NaN or Inf; reads all of them.

    step: the step that the weight has, None if none is possible.
    """
    names = {part.name for part in stored_parts(weight)}
    for stored in source.weights.values():
        for name, part in stored.parts.items():
            if part.name in names and (block := first(stored.scheme, name, part)) is not None:
                raise BadInput(
                    f"{part.file}: tensor {part.name}: {_problem(stored.scheme, name, part, block)}.{_hint(step)}"
                )


def first(scheme: Scheme, name: str, part: Readable) -> int | None:
    """Return the index of the first block, or first element, of a stored part that is NaN or Inf; None if none is."""
    unit = unit_bytes(scheme, name, part.dtype)
    step = max(1, SEARCHED_AT_ONCE // unit) * unit
    edges = [*range(0, part.nbytes, step), part.nbytes]
    for start, stop in pairwise(edges):
        data = typed(part.read_bytes(start, stop), part.dtype)
        if scheme.nonfinite(name, data):
            low, high = 0, (stop - start) // unit
            each = data.size // high
            while high - low > 1:
                middle = (low + high) // 2
                is_below = scheme.nonfinite(name, data[low * each : middle * each])
                low, high = (low, middle) if is_below else (middle, high)
            block: int = start // unit + low
            return block
    return None


def unit_bytes(scheme: Scheme, name: str, dtype: str) -> int:
    """Return the bytes of a stored part that are checked together."""
    return max(1, scheme.unit(name) * DTYPES[dtype].bits // 8)


def typed(data: Array, dtype: str) -> Array:
    """Return the bytes of a part as its floats; of any other dtype unchanged."""
    return data.view(numpy_dtype(dtype)) if dtype in FLOATS else data


def _problem(scheme: Scheme, name: str, part: Readable, block: int) -> str:
    """Return what is wrong where, as a clause. block: its index, or that of the element."""
    if scheme.unit(name) > 1:
        return f"a scale of block {block} is NaN or Inf"
    place = [int(index) for index in np.unravel_index(block, part.shape)] if part.shape else []
    if part.dtype not in FLOATS:
        return f"the code at {place} is NaN or Inf"
    unit = unit_bytes(scheme, name, part.dtype)
    value = typed(part.read_bytes(block * unit, (block + 1) * unit), part.dtype)
    return f"holds {'NaN' if bool(np.isnan(value.astype(np.float64)).any()) else 'Inf'} at {place}"


def _hint(step: WeightStep | None) -> str:
    """Return what helps, as a sentence after a space."""
    if step is None or step.route is Route.REPACK:
        return " Download the checkpoint again."
    if step.route in CARRYING:
        return " Use --allow-nonfinite to copy it unchanged."
    stored = step.source.weight.scheme
    if isinstance(stored, Dense) or stored.goes_with(step.scheme):
        return f" Use --allow-nonfinite and --override '{step.name}=keep' to copy it unchanged."
    return " Download the checkpoint again."
