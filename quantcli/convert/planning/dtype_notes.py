"""Notes of a plan on dtypes: models that do not work in float16, and config.json's dtype."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from quantcli.checkpoint import Checkpoint
from quantcli.convert.planning.routes import Route
from quantcli.convert.planning.steps import Step, of_weights
from quantcli.schemes.base import Grade
from quantcli.schemes.dense import Dense
from quantcli.targets.base import Placed, Settings, Target
from quantcli.targets.folder_dtype import SPELLED, agreed, chosen, dense_dtypes, limits, says


def dtype_notes(
    source: Checkpoint, target: Target, steps: Sequence[Step], placed: Sequence[Placed], settings: Settings
) -> list[str]:
    """Return notes on the cost of rounding to bf16, on f32 scales in an MLX folder, and on config.json's dtype."""
    if not target.is_folder:
        return []
    notes = _restated(source, target.label, placed, settings)
    if limits(source)[1].why:
        notes += [*_rounded(source, target.label, steps, settings), *_widened(source, steps)]
    return notes


def _restated(source: Checkpoint, target: str, placed: Sequence[Placed], settings: Settings) -> list[str]:
    stated = says(source.config_json)
    if source.names == "gguf" or settings.asked_dtype or not stated:
        return []
    old = SPELLED.get(stated[0], stated[0])
    made = says({**source.config_json, **agreed(source.config_json, source, placed, settings, target)})
    if made != stated:
        return [f"The output's config.json says {SPELLED[made[0]]}, the dtype of its tensors, instead of {old}."]
    stored = dense_dtypes(source, placed)
    if source.kind == "hf" and stored and not stored.issuperset(stated):
        actual = " and ".join(sorted(stored))
        return [f"config.json says {old}, but dense tensors are {actual}; both are copied unchanged."]
    return []


def _rounded(source: Checkpoint, target: str, steps: Sequence[Step], settings: Settings) -> list[str]:
    made = chosen(source, target)
    dense = Dense(made.dtype)
    is_made = any(step.scheme == dense and step.route is not Route.COPY for step in steps)
    if settings.asked_dtype or made.instead_of is None or not is_made:
        return []
    kind, sixteen_bits = limits(source)
    why = f"{kind} models do not work in float16 ({sixteen_bits.why}), so dense tensors are {made.dtype}."
    rounded = [step for step in steps if step.scheme == dense and step.grade is Grade.LOSSY]
    if not rounded:
        return [why]
    was = [step.stored for step in of_weights(rounded) if step.route is Route.DEQUANTIZE]
    worst = max(was, key=lambda scheme: (scheme.rounding, scheme.name), default=None)
    compared = f" (quantizing to {worst.name} costs up to {worst.rounding:.1%})" if worst and worst.rounding else ""
    return [f"{why} Rounding costs {dense.rounding:.2%} relative RMSE{compared}; --dtype f32 keeps every bit."]


def _widened(source: Checkpoint, steps: Sequence[Step]) -> list[str]:
    weights = [step for step in of_weights(steps) if step.draft.wide]
    wide = [(s.name, s.shape, s.scheme) for s in weights if s.scheme.chosen_scale_dtype == "f32"]
    if not wide:
        return []
    kind, _ = limits(source)
    common, _ = Counter(scheme for _, _, scheme in wide).most_common(1)[0]
    name, shape, scheme = next(one for one in wide if one[2] == common)
    bits, fewer = scheme.bits_per_weight(shape), scheme.with_scale_dtype("f16").bits_per_weight(shape)
    return [
        f"{kind} models overflow in float16, in which mlx-lm would compute, so the scales of "
        f"{len(wide)} {'weights are' if len(wide) > 1 else 'weight is'} f32, without rounding: {bits:.4g} bits per "
        f"weight instead of {fewer:.4g} in {name}. --scale-dtype bf16 is as small as f16, but rounds scales and biases."
    ]
