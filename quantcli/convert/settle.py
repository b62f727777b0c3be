"""What a step that may round really does: read from scales, biases and narrowed dense tensors, never from codes.

`--lossless` asks before work starts. A repack is tried with its codes taken as 0: scales and biases are what they are.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from quantcli.arrays import numpy_dtype
from quantcli.convert.routes import Route
from quantcli.convert.slabs import Slab, cut, read, read_rows
from quantcli.convert.steps import Step
from quantcli.schemes.base import DoesNotFit, Grade, Parts, matrix_shape
from quantcli.schemes.dense import Dense, cast

#: Bytes of a slab that is looked at.
BUDGET = 64 << 20


def settle(step: Step, allowed: Grade) -> Step:
    """The step with the grade that will come out, where what the formats allow is worse than `allowed`."""
    if step.grade <= allowed or step.draft.weight is None:
        return step
    looks = {Route.REPACK: _scales_hold, Route.CAST: _values_hold}.get(step.route)
    if looks is None or (step.route is Route.CAST and not isinstance(step.draft.weight.scheme, Dense)):
        return step
    slabs = cut(step.draft, step.scheme, step.route, BUDGET)
    return replace(step, grade=Grade.EXACT) if all(looks(step, slab) for slab in slabs) else step


def _values_hold(step: Step, slab: Slab) -> bool:
    parts, _ = read(step.draft, slab)
    assert isinstance(step.scheme, Dense)
    try:
        narrow = cast(parts["weight"], step.scheme.dtype)
    except DoesNotFit:
        return False
    return np.array_equal(narrow.astype(np.float64), parts["weight"].astype(np.float64), equal_nan=True)


def _scales_hold(step: Step, slab: Slab) -> bool:
    weight = step.draft.weight
    assert weight is not None and weight.scheme.codes_part is not None
    specs = weight.scheme.layout(weight.shape)
    small = [name for name in weight.parts if name != weight.scheme.codes_part]
    # Which output rows a slab has is the same set of source rows, whole heads at a time.
    parts: Parts = dict(read_rows(weight, specs, slab.start, slab.stop, small))
    spec = specs[weight.scheme.codes_part]
    shape = list(matrix_shape(spec.shape)) if spec.axis == 0 else list(spec.shape)
    assert spec.axis is not None
    shape[spec.axis] = -(-(slab.stop - slab.start) // spec.rows) * spec.indices
    parts = {**parts, weight.scheme.codes_part: np.zeros(shape, numpy_dtype(spec.dtype))}
    try:
        codes = weight.scheme.codes(parts)
        packed = step.scheme.codes(step.scheme.pack(codes))
    except DoesNotFit:
        return False
    same = np.array_equal(codes.along(codes.scales), packed.along(packed.scales))
    if codes.biases is None or packed.biases is None:
        return same
    return same and np.array_equal(codes.along(codes.biases), packed.along(packed.biases))
