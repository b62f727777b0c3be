"""Warnings of what a scheme for the whole model does not cover: dense matrices, architectures without a table."""

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

#: Routes that round values to a new grid.
ROUNDING = (Route.QUANTIZE, Route.REQUANTIZE)


def is_untabled(source: Checkpoint) -> bool:
    """Return whether a folder's architecture has no table, so that it is not known which modules may be quantized."""
    return source.names != "gguf" and models.find(source.config) is None


def refuse_untabled(source: Checkpoint, steps: Sequence[Step]) -> None:
    """Raise `NotPossible` if weights of an architecture without a table would be quantized."""
    rounded = _rounded(steps)
    if not is_untabled(source) or not rounded:
        return
    first = rounded[0]
    strange = models.unknown_class(source.config)
    kind = f"model_type {shown(source.config.get('model_type'))} is not known"
    what = kind if strange is None else f"architectures names {strange}, which is not known"
    count = f"{len(rounded)} weights (first: {first.name})" if len(rounded) > 1 else first.name
    raise NotPossible(
        f"{source.root}: {what}, so quant cannot tell which weights may be quantized for the programs that load this "
        f"model; {count} would become {first.scheme.name} ({first.reason}). Leave the scheme out to copy the weights, "
        f"or use {ALLOW} and check that the output loads. {models.SEE_FAMILIES}"
    )


def _rounded(steps: Sequence[Step]) -> list[Step]:
    return [step for step in steps if step.route in ROUNDING and not isinstance(step.scheme, Dense)]


def numbered_experts(source: Checkpoint, steps: Sequence[Step], target: Target) -> list[str]:
    """Return a warning of experts in separate tensors that are quantized for MLX although no table stacks them."""
    if not target.stacks_experts or not is_untabled(source):
        return []
    experts = [step for step in _rounded(steps) if NUMBERED.search(step.name)]
    if not experts:
        return []
    return [
        f"{len(experts)} expert weights that are not stacked are quantized (first: {experts[0].name}): mlx-lm stacks "
        "them when it loads a model, and many of its classes cannot stack quantized weights."
    ]


def uncovered(steps: Sequence[Step], chosen: Chosen) -> list[str]:
    """Return a warning for each kind of matrix that a scheme for the whole model leaves dense."""
    is_asked = chosen.preset is not None or (chosen.common is not None and chosen.common not in (*WORDS, *DENSE_DTYPES))
    if not is_asked:
        return []
    kinds: dict[str, list[Step]] = {}
    for step in of_weights(steps):
        is_global = step.name in chosen.of and chosen.of[step.name].origin >= Origin.PRESET
        reason = step.draft.uncovered
        if reason is not None and is_global and isinstance(step.scheme, Dense):
            kinds.setdefault(reason.partition("dense: ")[2] or reason, []).append(step)
    total = _elements(steps)
    return [_kept_dense(kept, reason, _elements(kept) / total) for reason, kept in kinds.items()]


def _kept_dense(kept: Sequence[Step], reason: str, share: float) -> str:
    first, part = kept[0].name, f"{100 * share:.1f}% of all weights"
    if len(kept) == 1:
        return f"{first} is kept dense ({reason}): {part}."
    return f"{len(kept)} matrices are kept dense (first: {first}; {reason}): {part}."


def _elements(steps: Iterable[Step]) -> int:
    return sum(math.prod(step.shape) for step in steps)
