"""The grade of a step that may round, from its scales, biases and dense values; codes are not read.

`--lossless` checks it before the run starts.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from quantcli.convert.planning.routes import Route
from quantcli.convert.planning.scales import BUDGET, unrounded
from quantcli.convert.planning.slabs import cut, read
from quantcli.convert.planning.steps import Step, WeightStep
from quantcli.schemes.base import DoesNotFit, Grade
from quantcli.schemes.dense import Dense, cast


def settle(step: Step, allowed: Grade) -> Step:
    """Return the step with its actual grade if the formats allow a worse one than `allowed`."""
    if not isinstance(step, WeightStep) or step.grade <= allowed or step.floor > allowed:
        return step
    weight = step.source.weight
    if step.route is Route.REPACK:
        exact = unrounded(weight, step.scheme)
    else:
        exact = step.route is Route.CAST and isinstance(weight.scheme, Dense) and _values_hold(step)
    return replace(step, grade=Grade.EXACT) if exact else step


def _values_hold(step: WeightStep) -> bool:
    assert isinstance(step.scheme, Dense)
    for slab in cut(step.source, step.scheme, step.route, BUDGET):
        parts, _ = read(step.source, slab)
        try:
            narrow = cast(parts["weight"], step.scheme.dtype)
        except DoesNotFit:
            return False
        if not np.array_equal(narrow.astype(np.float64), parts["weight"].astype(np.float64), equal_nan=True):
            return False
    return True
