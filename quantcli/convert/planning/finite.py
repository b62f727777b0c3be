"""NaN and Inf in a source: refused with the tensor and the place where the first one stands.

Every slab is asked about before it is used, by its weight's scheme, which knows its scales and codes. The place is
looked for only once something was found. Looking at scales costs 5 % of the CPU time of
copying q8_0, 10 % of copying q4_0.
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

#: Bytes that are looked through at a time.
SEARCHED_AT_ONCE = 8 << 20

#: Routes that carry NaN and Inf along where that is allowed. A repack does where the target holds such scales.
CARRYING = (Route.COPY, Route.CAST, Route.DEQUANTIZE, Route.REPACK)


def check(source: Checkpoint, step: WeightStep, parts: Parts, allowed: bool) -> None:
    """Raise `BadInput` for NaN or Inf among a slab's parts; those of a dense weight that is quantized show in its
    encoder's error. allowed: they may be copied.
    """
    weight = step.source.weight
    if step.route is Route.QUANTIZE or carried(step, allowed):
        return
    if any(weight.scheme.nonfinite(name, array) for name, array in parts.items()):
        refuse(source, weight, step)
        raise NotPossible(f"{step.name}: dequantized values overflow {weight.scheme.values_dtype}.")


def carried(step: WeightStep, allowed: bool) -> bool:
    """Whether NaN and Inf go from the source to the output."""
    return allowed and step.route in CARRYING


def refuse(source: Checkpoint, weight: Weight, step: WeightStep | None = None) -> None:
    """Raise `BadInput` where the tensors that a weight is read from hold NaN or Inf; all of them are read.

    step: what is to become of it, None where nothing can.
    """
    names = {part.name for part in stored_parts(weight)}
    for stored in source.weights.values():
        for name, part in stored.parts.items():
            if part.name in names and (found := first(stored.scheme, name, part)) is not None:
                raise BadInput(
                    f"{part.file}: tensor {part.name}: {_said(stored.scheme, name, part, found)}{_way(step)}"
                )


def first(scheme: Scheme, name: str, part: Readable) -> int | None:
    """The number of the first block, or of the first element, of a stored part that is NaN or Inf."""
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
            found: int = start // unit + low
            return found
    return None


def unit_bytes(scheme: Scheme, name: str, dtype: str) -> int:
    """Bytes of a stored part that are looked at together."""
    return max(1, scheme.unit(name) * DTYPES[dtype].bits // 8)


def typed(data: Array, dtype: str) -> Array:
    """The bytes of a part as its floats; of any other dtype as they are."""
    return data.view(numpy_dtype(dtype)) if dtype in FLOATS else data


def _said(scheme: Scheme, name: str, part: Readable, found: int) -> str:
    """What is wrong where."""
    if scheme.unit(name) > 1:
        return f"a scale of block {found} is NaN or Inf"
    place = [int(index) for index in np.unravel_index(found, part.shape)] if part.shape else []
    if part.dtype not in FLOATS:
        return f"the number at {place} is a code of NaN or Inf"
    unit = unit_bytes(scheme, name, part.dtype)
    value = typed(part.read_bytes(found * unit, (found + 1) * unit), part.dtype)
    return f"holds {'NaN' if bool(np.isnan(value.astype(np.float64)).any()) else 'Inf'} at {place}"


def _way(step: WeightStep | None) -> str:
    """What helps, as the end of a sentence."""
    if step is None or step.route is Route.REPACK:
        return ". Download the checkpoint again."
    if step.route in CARRYING:
        return "; --allow-nonfinite copies it as it is."
    stored = step.source.weight.scheme
    if isinstance(stored, Dense) or stored.goes_with(step.scheme):
        return f"; --allow-nonfinite with --override '{step.name}=keep' copies it as it is."
    return ". Download the checkpoint again."
