"""Gives each step its row of the importance matrix, and refuses what llama-quantize would not do without one.

Source: llama.cpp (src/llama-quant.cpp).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from quantcli.containers import imatrix
from quantcli.containers.imatrix import ImportanceMatrix
from quantcli.convert.routes import Route
from quantcli.convert.steps import Step
from quantcli.errors import NotPossible

#: How to get a matrix.
ADVICE = "compute one with llama-imatrix from text like the model's own, and give it with --imatrix"


def weigh(
    steps: Sequence[Step], matrix: ImportanceMatrix | None, demanding: Collection[str], *, dry_run: bool
) -> tuple[list[Step], list[str]]:
    """The steps with search and importance, and warnings. demanding: weights that have to have an entry.

    Raises `BadInput` for an entry of another size, `NotPossible` where an entry is demanded and is not there; of a dry
    run both are warnings.
    """
    warnings = _unfit(steps, matrix, dry_run=dry_run) if matrix else []
    usable = None if dry_run and warnings else matrix
    weighted = [_weighted(step, usable) for step in steps]
    rounded = (step for step in weighted if step.name in demanding and _rounds(step))
    missing = next((step for step in rounded if step.importance is None), None)
    if missing is not None and not (dry_run and matrix):
        lack = "has no entry for it" if matrix else "is needed"
        said = f"{missing.name} as {missing.scheme.name}: an importance matrix {lack}; {ADVICE}."
        if not dry_run:
            raise NotPossible(said)
        warnings.append(said)
    return weighted, warnings


def _unfit(steps: Sequence[Step], matrix: ImportanceMatrix, *, dry_run: bool) -> list[str]:
    shapes = {source_name(step): step.draft.shape for step in steps}
    return imatrix.mismatches(matrix, shapes) if dry_run else imatrix.check(matrix, shapes)


def _weighted(step: Step, matrix: ImportanceMatrix | None) -> Step:
    entry = matrix.weights(source_name(step), step.draft.shape) if matrix and _rounds(step) else None
    return replace(step, importance=entry)


def _rounds(step: Step) -> bool:
    return step.route in (Route.QUANTIZE, Route.REQUANTIZE) and step.scheme.family == "ggml"


def source_name(step: Step) -> str:
    """The name that a matrix has for a weight: GGUF's, that of the source where layers were pruned."""
    weight = step.draft.weight
    return weight.name if weight is not None and weight.name.startswith("blk.") else step.name
