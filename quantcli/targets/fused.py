"""NVFP4 in a Hugging Face folder: matrices that readers fuse share a global scale, set by the largest value.

vLLM makes one matrix of those in a row of FUSED and keeps one global scale; the others' values would come out scaled.
Source: llm-compressor (update_fused_layer_weight_global_scales), vLLM.
"""

from __future__ import annotations

from collections.abc import Sequence

from quantcli.targets.base import PlannedT

#: The last names of modules.
FUSED = (
    ("q_proj", "k_proj", "v_proj"),
    ("q_a_proj", "kv_a_proj_with_mqa"),
    ("gate_proj", "up_proj"),
    ("w1", "w3"),
)


def together(steps: Sequence[PlannedT]) -> list[PlannedT]:
    """Return the steps, each with those whose global scale it shares."""
    by_name = {step.name: step for step in steps if step.is_encoded and step.scheme.shares_global}
    return [step.sharing(_others(step.name, by_name)) if step.name in by_name else step for step in steps]


def _others(name: str, steps: dict[str, PlannedT]) -> tuple[PlannedT, ...]:
    place, _, last = name.removesuffix(".weight").rpartition(".")
    group = next((names for names in FUSED if last in names), ())
    found = (steps.get(f"{place}.{other}.weight") for other in group if other != last)
    return tuple(step for step in found if step is not None)
