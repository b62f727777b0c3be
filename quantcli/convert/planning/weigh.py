"""Reads the importance matrix, gives each step its row of it, and refuses what llama-quantize would not do without.

Source: llama.cpp (src/llama-quant.cpp).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from quantcli.containers import imatrix
from quantcli.containers.imatrix import ImportanceMatrix
from quantcli.convert.planning.request import Request
from quantcli.convert.planning.steps import Step, WeightStep, of_weights
from quantcli.errors import NotPossible, WrongUsage
from quantcli.recipes.ftypes import UNDEMANDING
from quantcli.recipes.llama_cpp_tensors import WHOLE_NAMES

#: How to get a matrix.
ADVICE = "compute one with llama-imatrix from text like the model's own, and give it with --imatrix"

#: Options for one weight, that llama-imatrix makes no entry for.
OF_ONE_WEIGHT = ("--token-embedding-type", "--output-tensor-type")


def importance(request: Request) -> tuple[ImportanceMatrix | None, list[str]]:
    """The importance matrix that is asked for, with the entries that are to be used, if any, and warnings.

    Raises `WrongUsage`, `BadInput`.
    """
    include, exclude = request.include_weights, request.exclude_weights
    if request.imatrix is None:
        if include or exclude:
            raise WrongUsage("--include-weights and --exclude-weights choose entries of an --imatrix: give one.")
        return None, []
    matrix = imatrix.read(request.imatrix)
    chosen = imatrix.chosen(matrix, include, exclude)
    option = "--include-weights" if include else "--exclude-weights"
    idle = [part for part in (*include, *exclude) if not any(part in name for name in matrix.entries)]
    warnings = [f"{option} {part}: no entry of {matrix.file} has that in its name." for part in idle]
    if not chosen.entries:
        warnings.append(f"{option} leaves no entry of {matrix.file}: all is done as without an importance matrix.")
    return chosen, warnings


def weigh(
    steps: Sequence[Step], matrix: ImportanceMatrix | None, demanding: Collection[str], *, dry_run: bool
) -> tuple[list[Step], list[str]]:
    """The steps with search and importance, and warnings. demanding: weights that have to have an entry.

    Raises `BadInput` for a matrix that does not match the model, `NotPossible` where an entry is demanded and is not
    there; of a dry run both are warnings.
    """
    shapes = {source_name(step): step.shape for step in steps}
    if dry_run and matrix and (wrong := imatrix.mismatches(matrix, shapes)):
        return list(steps), wrong
    warnings = imatrix.check(matrix, shapes) if matrix else []
    weighted = [_weighted(step, matrix) for step in steps]
    rounded = [step for step in of_weights(weighted) if _rounds(step)]
    bare = [step for step in rounded if step.importance is None]
    missing = [step for step in bare if _demands(step, demanding)]
    if missing and not dry_run:
        raise NotPossible(_without(missing[0], matrix))
    if missing:
        warnings.append(_without(missing[0], matrix))
    if matrix and matrix.entries:
        free = [step for step in bare if not _demands(step, demanding)]
        warnings += _lacking(free, matrix) + _empty(rounded, matrix)
    return weighted, warnings


def _demands(step: WeightStep, demanding: Collection[str]) -> bool:
    return step.name in demanding or step.scheme.needs_importance


def _without(step: WeightStep, matrix: ImportanceMatrix | None) -> str:
    """That a weight needs an entry and has none, and what would work."""
    lack = f"{matrix.file} has no entry for it" if matrix else "an importance matrix is needed"
    if matrix and source_name(step) in matrix.left_out:
        lack = f"its entry in {matrix.file} is needed, and is not among the chosen ones"
    option = next((option for option in OF_ONE_WEIGHT if step.reason.startswith(option)), None)
    if option:
        way = f"llama-imatrix makes none by itself; {option} {UNDEMANDING} needs none"
    elif matrix:
        way = f"give one that has it, or --override '{step.name}={UNDEMANDING}', which needs none"
    else:
        way = ADVICE
    return f"{step.name} as {step.scheme.name}: {lack}; {way}."


def _lacking(bare: Sequence[WeightStep], matrix: ImportanceMatrix) -> list[str]:
    """A warning of weights that the matrix should know; embeddings and the output have no entry as a rule."""
    expected = [step for step in bare if step.name not in WHOLE_NAMES and source_name(step) not in matrix.left_out]
    return [f"{_named(expected)} no entry in {matrix.file}: quantized as without one."] if expected else []


def _empty(rounded: Sequence[WeightStep], matrix: ImportanceMatrix) -> list[str]:
    """A warning of entries, or experts' rows of them, by which nothing in a weight counts."""
    empty = [step for step in rounded if step.importance is not None and not step.importance.any(axis=-1).all()]
    if not empty:
        return []
    return [
        f"{_named(empty)} an entry in {matrix.file} that is all zeros, of stacked experts for one at least: little or "
        "nothing is left of what is quantized by it; compute the matrix again."
    ]


def _named(steps: Sequence[WeightStep]) -> str:
    """The first of some weights and how many there are, as a subject with its verb."""
    return f"{steps[0].name} has" if len(steps) == 1 else f"{len(steps)} weights, {steps[0].name} the first, have"


def _weighted(step: Step, matrix: ImportanceMatrix | None) -> Step:
    if matrix is None or not isinstance(step, WeightStep) or not _rounds(step):
        return step
    return replace(step, importance=matrix.weights(source_name(step), step.shape))


def _rounds(step: WeightStep) -> bool:
    return step.is_encoded and step.scheme.takes_importance


def source_name(step: Step) -> str:
    """The name that a matrix has for a weight: GGUF's, that of the source where layers were pruned."""
    name = step.source.weight.name if isinstance(step, WeightStep) else step.name
    return name if name.startswith("blk.") else step.name
