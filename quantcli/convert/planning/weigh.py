"""The importance matrix: each step gets its entry, and types that llama-quantize refuses without one are refused.

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
ADVICE = "Compute one with llama-imatrix from text typical of the model's use, and pass it with --imatrix"

#: Options for one weight that llama-imatrix writes no entry for.
OF_ONE_WEIGHT = ("--token-embedding-type", "--output-tensor-type")


def importance(request: Request) -> tuple[ImportanceMatrix | None, list[str]]:
    """Return the requested importance matrix with the entries to use, None without one, and warnings.

    Raises `WrongUsage` and `BadInput`.
    """
    include, exclude = request.include_weights, request.exclude_weights
    if request.imatrix is None:
        if include or exclude:
            raise WrongUsage("--include-weights and --exclude-weights require --imatrix.")
        return None, []
    matrix = imatrix.read(request.imatrix)
    chosen = imatrix.chosen(matrix, include, exclude)
    option = "--include-weights" if include else "--exclude-weights"
    idle = [part for part in (*include, *exclude) if not any(part in name for name in matrix.entries)]
    warnings = [f"{option} {part}: matches no entry of {matrix.file}." for part in idle]
    if not chosen.entries:
        warnings.append(
            f"{option} excludes every entry of {matrix.file}; weights are quantized without an importance matrix."
        )
    return chosen, warnings


def weigh(
    steps: Sequence[Step], matrix: ImportanceMatrix | None, demanding: Collection[str], *, dry_run: bool
) -> tuple[list[Step], list[str]]:
    """Return the steps with their importance, and warnings. demanding: names of weights that require an entry.

    Raises `BadInput` for a matrix that does not match the model, `NotPossible` if a required entry is missing; in a dry
    run, both are warnings.
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
    """Return the message that a required entry of a weight is missing, and what would work."""
    lack = f"{matrix.file} has no entry for it" if matrix else "requires an importance matrix"
    if matrix and source_name(step) in matrix.left_out:
        lack = f"requires its entry in {matrix.file}, which the options exclude"
    option = next((option for option in OF_ONE_WEIGHT if step.reason.startswith(option)), None)
    if option:
        hint = (
            f"Use {option} {UNDEMANDING}, which requires no importance matrix: llama-imatrix writes no entry for this "
            "tensor by default"
        )
    elif matrix:
        hint = (
            f"Use a matrix that has this entry, or --override '{step.name}={UNDEMANDING}', which requires no "
            "importance matrix"
        )
    else:
        hint = ADVICE
    return f"{step.name} as {step.scheme.name}: {lack}. {hint}."


def _lacking(bare: Sequence[WeightStep], matrix: ImportanceMatrix) -> list[str]:
    """Return a warning of weights without an entry; embeddings and the output usually have none."""
    expected = [step for step in bare if step.name not in WHOLE_NAMES and source_name(step) not in matrix.left_out]
    return [f"{_named(expected)} no entry in {matrix.file}; quantized without one."] if expected else []


def _empty(rounded: Sequence[WeightStep], matrix: ImportanceMatrix) -> list[str]:
    """Return a warning of entries, or rows of experts in them, that are all zeros."""
    empty = [step for step in rounded if step.importance is not None and not step.importance.any(axis=-1).all()]
    if not empty:
        return []
    return [
        f"{_named(empty)} an entry in {matrix.file} that is all zeros (for stacked experts: of at least one expert): "
        "weights quantized with it keep little or nothing of their values. Compute the matrix again."
    ]


def _named(steps: Sequence[WeightStep]) -> str:
    """Return the number of weights and the first one as a subject with its verb."""
    return f"{steps[0].name} has" if len(steps) == 1 else f"{len(steps)} weights (first: {steps[0].name}) have"


def _weighted(step: Step, matrix: ImportanceMatrix | None) -> Step:
    if matrix is None or not isinstance(step, WeightStep) or not _rounds(step):
        return step
    return replace(step, importance=matrix.weights(source_name(step), step.shape))


def _rounds(step: WeightStep) -> bool:
    return step.is_encoded and step.scheme.takes_importance


def source_name(step: Step) -> str:
    """Return the name of a weight in a matrix: in GGUF's spelling, with the source's layer numbers."""
    name = step.source.weight.name if isinstance(step, WeightStep) else step.name
    return name if name.startswith("blk.") else step.name
