"""`--lossless`: refuse a plan with steps of a worse grade, and name what would hold the weights."""

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
    """Raise `NotPossible` if a step has a worse grade than `word` allows, with what would work."""
    allowed = LOSSLESS[word]
    worse = [step for step in of_weights(steps) if step.grade > allowed]
    if not worse:
        return
    for step in worse[:3]:
        if step.route is Route.REPACK or step.wanted is not None:
            finite.refuse(source, step.source.weight)  # scales of NaN or Inf fit nowhere
    named = "; ".join(f"{s.name} ({s.route} to {s.scheme.name}: {s.grade})" for s in worse[:3])
    ways = dict.fromkeys(_what_would_fit(step, allowed, target) for step in worse[:3])
    count = "1 weight" if len(worse) == 1 else f"{len(worse)} weights"
    raise NotPossible(f"--lossless {word}: {count} would not be {allowed}: {named}. {' '.join(ways)}")


def _what_would_fit(step: WeightStep, allowed: Grade, target: Target) -> str:
    source = step.source.weight.scheme
    if step.floor > allowed:
        return (
            "A global scale that divides is converted to one that multiplies and rounded to float32; --lossless codes "
            "allows it."
        )
    if step.route is Route.REPACK:
        return (
            _what_would_hold(step, allowed, target) or f"No scheme for {target.said} holds {source.name} at that grade."
        )
    if step.route is Route.REQUANTIZE and step.wanted is not None:
        return (
            f"No scheme for {target.said} holds the codes of {step.wanted}; --fallback f32 keeps its values; an "
            "output in the source's format keeps its codes."
        )
    if step.route in (Route.CAST, Route.DEQUANTIZE):
        return "--dtype f32 keeps every value exact."
    return "Leave out the scheme: dense weights stay dense, quantized weights keep their codes."


def _what_would_hold(step: WeightStep, allowed: Grade, target: Target) -> str | None:
    """Return the option that repacks a weight at an allowed grade: another scale dtype first, then another scheme."""
    grid, shape = step.source.weight.scheme.grid(), step.shape
    for dtype in ("f16", "bf16", "f32"):
        holding = [s for s in target.holders(dtype) if isinstance(g := fit(grid, s, shape), Grade) and g <= allowed]
        if step.scheme.with_scale_dtype(dtype) in holding:
            return f"--scale-dtype {dtype} keeps every scale and bias exact."
        if holding:
            best = min(holding, key=lambda s: s.bits_per_weight(shape))
            return f"{best.name} can store this weight exactly. Use --override '{step.name}={best.name}'."
    return None
