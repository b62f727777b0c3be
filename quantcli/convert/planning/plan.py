"""Making a plan: the step of every weight, its reason, and the place of every output byte, before weights are read.

source, request -> drafts (target) -> decisions (recipes) -> steps (scheme, route, grade) -> files (target)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from quantcli.checkpoint import Checkpoint
from quantcli.convert.planning import gguf_options
from quantcli.convert.planning import request as requests
from quantcli.convert.planning.choose import Chooser
from quantcli.convert.planning.coverage import numbered_experts, refuse_untabled, uncovered
from quantcli.convert.planning.decide import decisions
from quantcli.convert.planning.drop import without
from quantcli.convert.planning.dtype_notes import dtype_notes
from quantcli.convert.planning.lossless import LOSSLESS, refuse_lossy
from quantcli.convert.planning.model_recipe import is_model
from quantcli.convert.planning.named_files import first_lost, ways
from quantcli.convert.planning.other_tokenizer import with_tokenizer
from quantcli.convert.planning.reached import refuse_absent
from quantcli.convert.planning.request import Request
from quantcli.convert.planning.routes import Route
from quantcli.convert.planning.settle import settle
from quantcli.convert.planning.stamps import stamps
from quantcli.convert.planning.steps import ConstantStep, Plan, Step, of_weights
from quantcli.convert.planning.weigh import importance, weigh
from quantcli.errors import BadInput, NotPossible, WrongUsage
from quantcli.schemes.dense import Dense
from quantcli.sources.unfinished import hole_warnings, refuse_unfinished
from quantcli.targets import TARGETS
from quantcli.targets.base import Left, OutputFile, Placed, Settings, Target


def make(source: Checkpoint, request: Request, *, dry_run: bool = False) -> Plan:
    """Return the plan of a conversion. Raises `QuantError` for every failure that is known before weights are read.

    dry_run: entries that an importance matrix lacks are warnings instead.
    """
    requests.check(request)
    target = TARGETS[request.target]()
    is_copied = target.keeps_metadata(source)  # programs other than llama.cpp write files without keys
    if not (source.config or source.metadata or is_copied):
        is_gguf = source.names == "gguf"
        problem = (
            "general.architecture is missing; folders require it. Only inspect, diff and GGUF output work without it"
            if is_gguf
            else "config.json is missing; every output requires it. Only inspect and diff work without it"
        )
        raise NotPossible(f"{source.root}: {problem}.")
    source, dropped, unmatched = without(source, request.drop, target)
    source = with_tokenizer(source, request.tokenizer, target) if request.tokenizer else source
    _refuse_unusable(source)
    refuse_unfinished((source.root, *source.files))
    source = _with_hole_warnings(source)
    before = stamps(source)
    matrix, idle = importance(request)
    settings = Settings(
        request.dtype, request.scale_dtype, request.shard_size,
        keep_split=request.keep_split, file_name=request.output.name, prune=gguf_options.layers(request),
        keys=gguf_options.metadata(request, matrix),
    )  # fmt: skip
    if request.fallback not in ("auto", "none") and target.scheme(request.fallback, "f16") is None:
        raise WrongUsage(f"--fallback: expected auto, none or a scheme for {target.said}, found {request.fallback}.")
    if request.fallback not in ("auto", "none") and not target.holders("f16"):
        raise WrongUsage(
            f"--fallback {request.fallback} has no effect: {target.said} stores such weights dense. Choose a scheme "
            "with -s."
        )
    drafts, left, warnings = target.drafts(source, settings)
    if not drafts:
        raise BadInput(f"{source.root}: has no weights.")
    chosen = decisions(source, target, drafts, request, bool(matrix and matrix.entries))
    chooser = Chooser(source, target, request)
    steps = _without_idle_companions(chooser.step(draft, chosen.of[draft.name]) for draft in drafts)
    if not request.allow_unknown_architecture:
        refuse_untabled(source, steps)
    chooser.refuse_idle()
    if request.recipe is None or not is_model(request.recipe):  # which may leave nothing for the scheme
        refuse_absent(steps, chosen, target, frozenset(chooser.held_back))
    steps, unweighted = weigh(steps, matrix, chosen.demanding, dry_run=dry_run)
    if request.lossless:
        steps = [settle(step, LOSSLESS[request.lossless]) for step in steps]
        refuse_lossy(source, steps, request.lossless, target)
    steps = [step.on(request.device) for step in steps]
    settings = replace(settings, preset=chosen.preset, file_type=chosen.file_type, common=chooser.common(chosen.common))
    steps = target.finish(source, steps, settings)
    steps, extra = _without_extras(steps, target)
    placed = [_placed(step, target) for step in steps]
    made = target.files(source, placed, settings)
    if not target.is_folder:
        _refuse_source(source, request, made.files)
    warnings = [
        *source.warnings,
        *warnings,
        *chosen.warnings,
        *chooser.warnings,
        *uncovered(steps, chosen),
        *numbered_experts(source, steps, target),
        *chosen.settings_file.unreached(steps, chosen.of),
        *_fallbacks(steps),
        *_left_out(left),
        *idle,
        *unmatched,
        *unweighted,
        *made.warnings,
    ]
    if request.strict and warnings:
        refused = BadInput if source.malformed else NotPossible
        others = len(warnings) - 1
        more = f" ({others} more warning{'s' * (others > 1)})" if others else ""
        raise refused(f"--strict: {(*source.malformed, *warnings)[0]}{more}")
    notes = (*chosen.settings_file.summary(steps, chosen.of), *dtype_notes(source, target, steps, placed, settings))
    left = [*dropped, *left, *extra]
    return Plan(
        source, request, tuple(steps), tuple(made.files), tuple(warnings), before, tuple(left), notes,
        tuple(made.passed),
    )  # fmt: skip


def _with_hole_warnings(source: Checkpoint) -> Checkpoint:
    """Return the source with warnings of tensors whose data was never written; `--strict` refuses it then."""
    holes = hole_warnings(source)
    return replace(source, warnings=(*source.warnings, *holes), malformed=(*source.malformed, *holes))


def _refuse_unusable(source: Checkpoint) -> None:
    """Raise `NotPossible` for the first weight that no output can be made from, such as codes without scales."""
    for weight in source.weights.values():
        if (reason := weight.scheme.refusal) is not None:
            stored = next(iter(weight.parts.values()))
            raise NotPossible(
                f"{stored.file}: tensor {weight.name}: {reason}. Dequantize the model with the tool that wrote it."
            )


def _refuse_source(source: Checkpoint, request: Request, files: Iterable[OutputFile]) -> None:
    """Raise `WrongUsage` if a file of the output is one of the source, whatever paths lead to it.

    The name of OUTPUT is checked too if it is split.
    """
    read = ways(source.files)
    for name in (request.output.name, *(file.name for file in files)):
        path = request.output.with_name(name)
        if first_lost(read, [path], deep=False):
            raise WrongUsage(
                f"{path}: is a file of SOURCE and would be a file of OUTPUT. Choose another name for OUTPUT."
            )


def _without_idle_companions(steps: Iterable[Step]) -> list[Step]:
    """Return the steps without companion tensors of forms that no weight has."""
    listed = list(steps)
    weights = of_weights(listed)
    possible = {name for step in weights for form in step.draft.forms for name in form.companions}
    idle = possible.difference(*(step.form.companions for step in weights))
    return [step for step in listed if step.name not in idle]


def _without_extras(steps: Sequence[Step], target: Target) -> tuple[list[Step], list[Left]]:
    """Return the steps without the tensors of a layout that the output does not keep, and those tensors."""
    if target.keeps_layout([_placed(step, target) for step in steps]):
        return list(steps), []
    extra = {step.name: step.draft.extra for step in of_weights(steps) if step.draft.extra is not None}
    return [step for step in steps if step.name not in extra], [Left(name, reason) for name, reason in extra.items()]


def _placed(step: Step, target: Target) -> Placed:
    return Placed(step.name, step.shape, step.scheme, _stored(step) if target.keeps_part_names else {})


def _stored(step: Step) -> dict[str, str]:
    """Return the names of parts that are copied in the source's layout."""
    if isinstance(step, ConstantStep) or step.route is not Route.COPY or isinstance(step.scheme, Dense):
        return {}
    return {part: stored.name for part, stored in step.source.weight.parts.items()}


def _left_out(left: Iterable[Left]) -> list[str]:
    """Return a warning for each reason to drop tensors that has one."""
    kinds: dict[str, list[str]] = {}
    for tensor in left:
        if tensor.warns:
            kinds.setdefault(tensor.reason, []).append(tensor.name)
    return [
        f"{names[0]} is dropped: {reason}."
        if len(names) == 1
        else f"{len(names)} tensors are dropped (first: {names[0]}): {reason}."
        for reason, names in kinds.items()
    ]


def _fallbacks(steps: Iterable[Step]) -> list[str]:
    """Return a warning for each kind of fallback: how many weights did not get the requested scheme."""
    kinds: dict[tuple[str, str], list[Step]] = {}
    for step in steps:
        if step.wanted is not None:
            kinds.setdefault((step.wanted, step.scheme.name), []).append(step)
    return [
        f"{fallen[0].name} falls back from {wanted} to {got} ({fallen[0].reason})."
        if len(fallen) == 1
        else f"{len(fallen)} weights fall back from {wanted} to {got} (first: {fallen[0].name}; {fallen[0].reason})."
        for (wanted, got), fallen in kinds.items()
    ]
