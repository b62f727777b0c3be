"""`--lossless`: refuses a plan with steps of a worse grade, and says what would hold the weights."""

from __future__ import annotations

from collections.abc import Iterable

from quantcli.checkpoint import Checkpoint
from quantcli.convert.planning import finite
from quantcli.convert.planning.routes import Route, fit
from quantcli.convert.planning.steps import Step, WeightStep, of_weights
from quantcli.errors import NotPossible
from quantcli.schemes.base import Grade
from quantcli.targets.base import Target

#: What `--lossless` accepts.
LOSSLESS = {"exact": Grade.EXACT, "codes": Grade.CODES_EXACT}


def refuse_lossy(source: Checkpoint, steps: Iterable[Step], word: str, target: Target) -> None:
    allowed = LOSSLESS[word]
    worse = [step for step in of_weights(steps) if step.grade > allowed]
    if not worse:
        return
    for step in worse[:3]:
        if step.route is Route.REPACK or step.wanted is not None:
            finite.refuse(source, step.source.weight)  # scales that are no numbers fit nowhere
    named = "; ".join(f"{s.name} ({s.route} to {s.scheme.name}: {s.grade})" for s in worse[:3])
    ways = dict.fromkeys(_what_would_fit(step, allowed, target) for step in worse[:3])
    raise NotPossible(f"--lossless {word}: {len(worse)} weights would not be {allowed}: {named}. {' '.join(ways)}")


def _what_would_fit(step: WeightStep, allowed: Grade, target: Target) -> str:
    source = step.source.weight.scheme
    if step.floor > allowed:
        return (
            "A global scale that divides becomes one that multiplies, rounded to float32; --lossless codes allows it."
        )
    if step.route is Route.REPACK:
        return _what_would_hold(step, allowed, target) or f"Nothing in {target.said} holds {source.name} so."
    if step.route is Route.REQUANTIZE and step.wanted is not None:
        way = f"{target.said} has no scheme for {step.wanted}'s codes, an output of its own kind has"
        return f"{way[0].upper()}{way[1:]}; --fallback f32 holds its values."
    if step.route in (Route.CAST, Route.DEQUANTIZE):
        return "--dtype f32 holds every value."
    return "Leave out the scheme: weights that are dense stay dense, quantized ones keep their codes."


def _what_would_hold(step: WeightStep, allowed: Grade, target: Target) -> str | None:
    """The option that repacks a weight at the grade that is allowed: other scales first, then another scheme."""
    grid, shape = step.source.weight.scheme.grid(), step.shape
    for dtype in ("f16", "bf16", "f32"):
        holding = [s for s in target.holders(dtype) if isinstance(g := fit(grid, s, shape), Grade) and g <= allowed]
        if step.scheme.with_scale_dtype(dtype) in holding:
            return f"--scale-dtype {dtype} holds every scale and bias."
        if holding:
            best = min(holding, key=lambda s: s.bits_per_weight(shape))
            return f"{best.name} holds them: --override '{step.name}={best.name}'."
    return None
