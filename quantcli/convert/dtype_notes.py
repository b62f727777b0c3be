"""What a plan says where a model does not work in float16, and its folder has another dtype therefore."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from quantcli.checkpoint import Checkpoint
from quantcli.convert.routes import Route
from quantcli.convert.steps import Step
from quantcli.schemes.affine import Affine
from quantcli.schemes.base import Grade, Scheme
from quantcli.schemes.dense import Dense
from quantcli.targets.base import Settings
from quantcli.targets.folder_dtype import chosen, limits, widens_scales


def dtype_notes(source: Checkpoint, target: str, steps: Sequence[Step], settings: Settings) -> list[str]:
    """What rounding to bf16 costs, and why scales of an MLX folder are f32; one line each."""
    if target not in ("hf", "mlx") or not limits(source)[1].why:
        return []
    return [*_rounded(source, target, steps, settings), *_widened(source, target, steps, settings)]


def _rounded(source: Checkpoint, target: str, steps: Sequence[Step], settings: Settings) -> list[str]:
    made = chosen(source, target)
    dense = Dense(made.dtype)
    if settings.asked_dtype or made.instead_of is None or not any(step.scheme == dense for step in steps):
        return []
    kind, sixteen_bits = limits(source)
    said = f"{kind} models do not work in float16 ({sixteen_bits.why}), so dense tensors are {made.dtype}."
    rounded = [step for step in steps if step.scheme == dense and step.grade is Grade.LOSSY]
    if not rounded:
        return [said]
    was = [stored for step in rounded if step.route is Route.DEQUANTIZE and (stored := _stored(step)) is not None]
    worst = max(was, key=lambda scheme: (scheme.rounding, scheme.name), default=None)
    beside = f", next to up to {worst.rounding:.1%} from {worst.name}" if worst and worst.rounding else ""
    return [f"{said} Rounding costs {dense.rounding:.2%} relative RMSE{beside}; --dtype f32 keeps every bit."]


def _stored(step: Step) -> Scheme | None:
    weight = step.draft.weight
    return None if weight is None else weight.made_of or weight.scheme


def _widened(source: Checkpoint, target: str, steps: Sequence[Step], settings: Settings) -> list[str]:
    if target != "mlx" or not widens_scales(source, settings):
        return []
    wide = [s for s in steps if s.draft.wide and isinstance(s.scheme, Affine) and s.scheme.scale_dtype == "f32"]
    if not wide:
        return []
    kind, _ = limits(source)
    narrow = replace(wide[0].scheme, scale_dtype="f16")  # type: ignore[type-var]
    bits, fewer = (scheme.bits_per_weight(wide[0].draft.shape) for scheme in (wide[0].scheme, narrow))
    return [
        f"{kind} models overflow in float16, in which mlx-lm would compute, so the scales of {len(wide)} weights are "
        f"f32, without rounding: {bits:.4g} bits a weight instead of {fewer:.4g} in {wide[0].name}. --scale-dtype bf16 "
        "is as small as f16 and rounds scales and biases."
    ]
