"""NVFP4 in a Hugging Face folder: matrices that its readers fuse have one global scale, which suits the largest value.

vLLM makes one matrix of those in a row of FUSED and keeps one global scale; the others' values would come out scaled.
Source: llm-compressor (update_fused_layer_weight_global_scales), vLLM.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from quantcli.convert.planning.routes import Route
from quantcli.convert.planning.steps import Step, WeightStep, of_weights
from quantcli.schemes.hf.small_floats import SmallFloat

#: The last names of modules.
FUSED = (
    ("q_proj", "k_proj", "v_proj"),
    ("q_a_proj", "kv_a_proj_with_mqa"),
    ("gate_proj", "up_proj"),
    ("w1", "w3"),
)


def together(steps: Sequence[Step]) -> list[Step]:
    """The steps, each with those whose global scale it shares."""
    by_name = {step.name: step for step in of_weights(steps) if _has_global(step)}
    fused = {name: replace(step, fused=_others(name, by_name)) for name, step in by_name.items()}
    return [fused.get(step.name, step) for step in steps]


def _has_global(step: WeightStep) -> bool:
    is_encoded = step.route in (Route.QUANTIZE, Route.REQUANTIZE)
    return is_encoded and isinstance(step.scheme, SmallFloat) and step.scheme.looks


def _others(name: str, steps: dict[str, WeightStep]) -> tuple[WeightStep, ...]:
    place, _, last = name.removesuffix(".weight").rpartition(".")
    group = next((names for names in FUSED if last in names), ())
    found = (steps.get(f"{place}.{other}.weight") for other in group if other != last)
    return tuple(step for step in found if step is not None)
