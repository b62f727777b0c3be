"""Refusing a requested scheme for the whole model that no weight of the output would have."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from quantcli.convert.planning.chosen import Chosen
from quantcli.convert.planning.routes import Route
from quantcli.convert.planning.steps import Step
from quantcli.errors import NotPossible
from quantcli.recipes.base import Origin
from quantcli.recipes.ftypes import FTYPES
from quantcli.recipes.mixtures import MIXTURES, schemes_of
from quantcli.recipes.names import WORDS
from quantcli.schemes.dense import Dense
from quantcli.targets.base import Target

#: A shape that every scheme for matrices supports.
SHAPE = (1024, 1024)

#: Origins of decisions about single weights, not the whole model.
SINGLE = (Origin.OVERRIDE, Origin.RECIPE, Origin.SOURCE)


def refuse_absent(steps: Sequence[Step], chosen: Chosen, target: Target, kept: Collection[str]) -> None:
    """Raise `NotPossible` if no weight has the scheme that an option gives for all. kept: names of unchanged weights.

    For llama-quantize's presets, which use other types where blocks do not divide the rows, some weight has the base
    type or was converted to the type that the preset gave it.
    """
    asked = chosen.asked
    if asked is None or asked.scheme in WORDS:
        return
    wanted = _names(asked.scheme, target)
    if any(step.scheme.name in wanted for step in steps):
        return
    is_mixture = target.follows_llama_quantize and asked.scheme in FTYPES
    if is_mixture and any(_is_given(step, chosen) for step in steps if step.name not in kept):
        return
    largest = max(steps, key=lambda step: math.prod(step.shape))
    hint = (
        "Use --allow-requantize to round weights again"
        if kept
        else "Choose a scheme that fits, or leave the option out"
    )
    raise NotPossible(
        f"{asked.reason}: no weight of the output would have this scheme; {largest.name}: {largest.reason}. {hint}."
    )


def _names(asked: str, target: Target) -> set[str]:
    """Return the names that the requested schemes have in the target."""
    if asked in MIXTURES:
        return schemes_of(asked)
    base = FTYPES[asked].base if asked in FTYPES and target.follows_llama_quantize else asked
    scheme = target.scheme(base, "f16", SHAPE)
    return {base if scheme is None else scheme.name}


def _is_given(step: Step, chosen: Chosen) -> bool:
    """Return whether a weight was converted to a type that no rule for single weights decided."""
    is_changed = step.route is not Route.COPY and not isinstance(step.scheme, Dense)
    return is_changed and chosen.of[step.name].origin not in SINGLE
