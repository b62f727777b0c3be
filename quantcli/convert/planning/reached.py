"""Whether a scheme for the whole model is found in the output: it is never asked for in vain without a word."""

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

#: A shape that every scheme of matrices takes.
SHAPE = (1024, 1024)

#: What decides single weights, not the whole model.
SINGLE = (Origin.OVERRIDE, Origin.RECIPE, Origin.SOURCE)


def refuse_absent(steps: Sequence[Step], chosen: Chosen, target: Target, kept: Collection[str]) -> None:
    """Raise `NotPossible` where no weight has the scheme that an option gives for all. kept: those left as they were.

    Of llama-quantize's mixtures, which have other types for rows that blocks do not fill, some weight has the base
    type, or has changed to one that the mixture gave it.
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
    way = "--allow-requantize rounds weights again" if kept else "Choose a scheme that fits, or leave the option out"
    raise NotPossible(
        f"{asked.reason}: no weight of the output would have it; {largest.name}: {largest.reason}. {way}."
    )


def _names(asked: str, target: Target) -> set[str]:
    """What the schemes that are asked for are called in the target."""
    if asked in MIXTURES:
        return schemes_of(asked)
    base = FTYPES[asked].base if asked in FTYPES and target.follows_llama_quantize else asked
    scheme = target.scheme(base, "f16", SHAPE)
    return {base if scheme is None else scheme.name}


def _is_given(step: Step, chosen: Chosen) -> bool:
    """Whether a weight has changed to a type that no rule for it alone decided."""
    is_changed = step.route is not Route.COPY and not isinstance(step.scheme, Dense)
    return is_changed and chosen.of[step.name].origin not in SINGLE
