"""What a scheme for the whole model does not reach: matrices that stay dense, architectures without a table."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

from quantcli import models
from quantcli.checkpoint import Checkpoint
from quantcli.containers.hostile import shown
from quantcli.convert.planning.chosen import Chosen
from quantcli.convert.planning.routes import Route
from quantcli.convert.planning.steps import Step, of_weights
from quantcli.dtypes import DENSE_DTYPES
from quantcli.errors import NotPossible
from quantcli.recipes.base import Origin
from quantcli.recipes.names import WORDS
from quantcli.schemes.dense import Dense
from quantcli.targets.base import Target

ALLOW = "--allow-unknown-architecture"

#: A matrix of one expert.
NUMBERED = re.compile(r"\.experts\.\d+\.")

#: Routes that round values to a grid which they did not have.
ROUNDING = (Route.QUANTIZE, Route.REQUANTIZE)


def is_untabled(source: Checkpoint) -> bool:
    """Whether a folder's architecture has no table, so that nobody knows which of its modules are taken quantized."""
    return source.names != "gguf" and models.find(source.config) is None


def refuse_untabled(source: Checkpoint, steps: Sequence[Step]) -> None:
    """Raise `NotPossible` where weights of an architecture without a table would be quantized."""
    rounded = _rounded(steps)
    if not is_untabled(source) or not rounded:
        return
    first = rounded[0]
    strange = models.unknown_class(source.config)
    kind = f"model_type {shown(source.config.get('model_type'))} is not known"
    what = kind if strange is None else f"architectures names {strange}, which is not known"
    count = f"{len(rounded)} weights, {first.name} the first," if len(rounded) > 1 else first.name
    raise NotPossible(
        f"{source.root}: {what}, so quant cannot tell which weights its loaders take quantized; {count} would become "
        f"{first.scheme.name} ({first.reason}). Without a scheme weights are copied; {ALLOW} quantizes all the same: "
        f"check that the output loads. {models.SEE_FAMILIES}"
    )


def _rounded(steps: Sequence[Step]) -> list[Step]:
    return [step for step in steps if step.route in ROUNDING and not isinstance(step.scheme, Dense)]


def numbered_experts(source: Checkpoint, steps: Sequence[Step], target: Target) -> list[str]:
    """A warning of experts in tensors of their own that are quantized for MLX although no table stacks them."""
    if not target.stacks_experts or not is_untabled(source):
        return []
    found = [step for step in _rounded(steps) if NUMBERED.search(step.name)]
    if not found:
        return []
    return [
        f"{len(found)} weights of experts that are not stacked are quantized, {found[0].name} the first: mlx-lm stacks "
        "them when it loads a model, and many of its classes cannot do so with quantized ones."
    ]


def uncovered(steps: Sequence[Step], chosen: Chosen) -> list[str]:
    """A warning of each kind of matrix that a scheme for the whole model leaves dense."""
    is_asked = chosen.preset is not None or (chosen.common is not None and chosen.common not in (*WORDS, *DENSE_DTYPES))
    if not is_asked:
        return []
    kinds: dict[str, list[Step]] = {}
    for step in of_weights(steps):
        is_global = step.name in chosen.of and chosen.of[step.name].origin >= Origin.PRESET
        reason = step.draft.uncovered
        if reason is not None and is_global and isinstance(step.scheme, Dense):
            kinds.setdefault(reason.removeprefix("stays dense: "), []).append(step)
    whole = _elements(steps)
    return [_several(found, reason, _elements(found) / whole) for reason, found in kinds.items()]


def _several(found: Sequence[Step], reason: str, share: float) -> str:
    first, part = found[0].name, f"{100 * share:.1f}% of all weights"
    if len(found) == 1:
        return f"{first} stays dense ({reason}): {part}."
    return f"{len(found)} matrices stay dense, {first} the first ({reason}): {part}."


def _elements(steps: Iterable[Step]) -> int:
    return sum(math.prod(step.shape) for step in steps)
