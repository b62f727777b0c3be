"""`--drop GLOB`: tensors of the source that the user drops, for every source and target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from quantcli import models
from quantcli.checkpoint import Checkpoint
from quantcli.errors import BadInput, NotPossible, QuantError, WrongUsage
from quantcli.recipes.base import MAX_PATTERN, Rule
from quantcli.targets.base import Left, Target
from quantcli.targets.disagreements import refuse_incomplete
from quantcli.targets.global_scales import SCALE, WEIGHT, companions
from quantcli.targets.model import Model


def without(source: Checkpoint, globs: Sequence[str], target: Target) -> tuple[Checkpoint, list[Left], list[str]]:
    """Return the source without the weights that the globs match, those weights, and warnings of globs without a match.

    A glob is tried on a weight's name as `inspect` shows it and as it is stored, with and without `.weight`. The scale
    of a weight of a GGUF file is dropped with it. Raises `WrongUsage`, `NotPossible` and, for weights that the model
    needs, `BadInput`.
    """
    if not globs:
        return source, [], []
    left = {}
    rules = [_rule(glob) for glob in globs]
    for name in source.weights:
        rule = next((rule for rule in rules if _takes(rule, name, source)), None)
        if rule is not None:
            left[name] = rule.reason
    of_weights = companions(source)
    for name, weight in of_weights.items():
        if weight in left:
            left.setdefault(name, f"it scales {weight}, which is dropped")
        elif name in left and name.endswith(SCALE):
            raise NotPossible(
                f"{left[name]}: {source.root}: the values of {weight} need {name}. Drop both "
                f"({weight.removesuffix(WEIGHT)}.*) or neither."
            )
    _refuse_settings(source, left)
    weights = {name: weight for name, weight in source.weights.items() if name not in left}
    if not weights:
        raise BadInput(f"{rules[0].reason}: {source.root}: every weight would be dropped.")
    rest = replace(source, weights=weights, dropped=tuple(left))
    if target.keeps_metadata(source) and left:
        _refuse_needed(source, rest)
    idle = [rule for rule in dict.fromkeys(rules) if not any(_takes(rule, name, source) for name in source.weights)]
    warnings = [f"{rule.reason} matches no weight." for rule in idle]
    return rest, [Left(*item) for item in left.items()], [*_missed(Model.of(source), left), *warnings]


def _rule(glob: str) -> Rule:
    if not glob.strip() or len(glob) > MAX_PATTERN:
        raise WrongUsage(
            f"--drop {glob[:100]!r}: expected a glob of 1 to {MAX_PATTERN} characters, such as '*.inv_freq'."
        )
    return Rule(glob, "", f"--drop {glob}")


def _takes(rule: Rule, name: str, source: Checkpoint) -> bool:
    spellings = {name, source.naming.stored(name)}
    return any(rule.matches(one) or rule.matches(one.removesuffix(WEIGHT)) for one in spellings)


def _refuse_settings(source: Checkpoint, left: Mapping[str, str]) -> None:
    """Raise `BadInput` for tensors of a GGUF file that are settings, such as rotary factors."""
    architecture = models.by_gguf(source.metadata) if source.names == "gguf" else None
    rows = architecture.computed if architecture is not None else ()
    setting = next((row.gguf for row in rows if row.gguf in left), None)
    if setting is not None:
        raise BadInput(
            f"{left[setting]}: {source.root}: tensor {setting} holds settings that the model requires. Do not drop it."
        )


def _missed(model: Model, left: Mapping[str, str]) -> list[str]:
    """Return a warning of dropped optional tensors that the model computes with."""
    missed = [name for name in left if model.is_part(name)]
    if not missed or model.architecture is None:
        return []
    which = f"{missed[0]} is" if len(missed) == 1 else f"{len(missed)} tensors (first: {missed[0]}) are"
    return [f"--drop: {which} part of {model.architecture.name} models: the output will compute different results."]


def _refuse_needed(source: Checkpoint, rest: Checkpoint) -> None:
    """Raise `BadInput` if a copy of a GGUF file would lack tensors of the source that its architecture needs."""
    try:
        refuse_incomplete(Model.of(source))
    except QuantError:
        return  # copies of such a file are not checked
    refuse_incomplete(Model.of(rest))
