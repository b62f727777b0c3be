"""A plan: what becomes of every weight, why, and where each byte of the output will be, before any weight is read.

source, request -> drafts (target) -> decisions (recipes) -> steps (scheme, route, grade) -> files (target)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from quantcli.arrays import FLOATS
from quantcli.checkpoint import Checkpoint
from quantcli.convert import finite, gguf_options
from quantcli.convert import request as requests
from quantcli.convert.coverage import is_untabled, numbered_experts, refuse_untabled, uncovered
from quantcli.convert.decide import decisions
from quantcli.convert.drop import without
from quantcli.convert.dtype_notes import dtype_notes
from quantcli.convert.fused import together
from quantcli.convert.other_tokenizer import with_tokenizer
from quantcli.convert.reached import refuse_absent
from quantcli.convert.request import Request
from quantcli.convert.routes import Route, choose, fallback, fit, own_dtype
from quantcli.convert.scales import fit_of, holder
from quantcli.convert.settle import settle
from quantcli.convert.stamps import stamps
from quantcli.convert.steps import Plan, Step
from quantcli.convert.weigh import importance, weigh
from quantcli.errors import BadInput, NotPossible, WrongUsage
from quantcli.recipes.base import Decision, Origin
from quantcli.recipes.llama_cpp_architectures import ARCHITECTURES
from quantcli.recipes.llama_cpp_tensors import without_leading_ones
from quantcli.recipes.names import GGML, WORDS
from quantcli.schemes.bare_fp8 import BareFp8
from quantcli.schemes.base import Grade, Scheme
from quantcli.schemes.dense import Dense
from quantcli.schemes.opaque import Opaque
from quantcli.schemes.scaled import Scaled
from quantcli.targets import TARGETS
from quantcli.targets.base import Draft, Left, OutputFile, Placed, Settings, Target
from quantcli.virtual import by_row, transposed

#: What `--lossless` accepts.
LOSSLESS = {"exact": Grade.EXACT, "codes": Grade.CODES_EXACT}


def make(source: Checkpoint, request: Request, *, dry_run: bool = False) -> Plan:
    """The plan of a conversion. Raises `QuantError` for all that can be known to fail before weights are read.

    dry_run: what an importance matrix lacks is a warning instead.
    """
    requests.check(request)
    is_copied = source.names == request.target == "gguf"  # programs other than llama.cpp write files without keys
    if not (source.config or source.metadata or is_copied):
        lack = "no keys (general.architecture)" if source.names == "gguf" else "no config.json"
        others = "inspect, diff and a GGUF output do" if source.names == "gguf" else "inspect and diff do"
        of = "a folder" if source.names == "gguf" else "every output"
        raise NotPossible(f"{source.root}: has {lack}, which {of} needs; {others} without.")
    source, dropped, unmatched = without(source, request.drop, request.target)
    source = with_tokenizer(source, request.tokenizer, request.target) if request.tokenizer else source
    _refuse_unusable(source)
    before = stamps(source)
    target = TARGETS[request.target]()
    matrix, idle = importance(request)
    settings = Settings(
        request.dtype, request.scale_dtype, request.shard_size,
        keep_split=request.keep_split, file_name=request.output.name, prune=gguf_options.layers(request),
        keys=gguf_options.metadata(request, matrix),
    )  # fmt: skip
    if request.fallback not in ("auto", "none") and target.scheme(request.fallback, "f16") is None:
        raise WrongUsage(f"--fallback {request.fallback}: is neither auto nor none nor a scheme of {target.said}.")
    if request.fallback not in ("auto", "none") and not target.holders("f16"):
        raise WrongUsage(
            f"--fallback {request.fallback}: what has no place in {target.said} is decoded there; -s names a layout."
        )
    drafts, left, warnings = target.drafts(source, settings)
    if not drafts:
        raise BadInput(f"{source.root}: holds no weights.")
    chosen = decisions(source, target.label, drafts, request, bool(matrix and matrix.entries))
    chooser = _Chooser(source, target, request)
    steps = _beside_theirs(chooser.step(draft, chosen.of[draft.name]) for draft in drafts)
    if not request.allow_unknown_architecture:
        refuse_untabled(source, steps)
    chooser.refuse_idle()
    refuse_absent(steps, chosen, target, frozenset(chooser.held_back))
    steps, unweighted = weigh(steps, matrix, chosen.demanding, dry_run=dry_run)
    if request.lossless:
        steps = [settle(step, LOSSLESS[request.lossless]) for step in steps]
        _refuse_lossy(source, steps, request.lossless, target)
    steps = together(steps) if target.label == "hf" else steps
    settings = replace(settings, preset=chosen.preset, file_type=chosen.file_type, common=chooser.common(chosen.common))
    if target.label == "gguf" and _is_by_llama_quantize(source, steps, chosen.file_type):
        steps = [replace(s, draft=replace(s.draft, shape=without_leading_ones(s.draft.shape) or (1,))) for s in steps]
    steps, extra = _without_extras(steps, target)
    placed = [_placed(step) for step in steps]
    made = target.files(source, placed, settings)
    if request.target == "gguf":
        _refuse_source(source, request, made.files)
    warnings = [
        *source.warnings,
        *warnings,
        *chosen.warnings,
        *chooser.warnings,
        *uncovered(steps, chosen),
        *numbered_experts(source, steps, target.label),
        *chosen.beside.unreached(steps, chosen.of),
        *_fallbacks(steps),
        *_left_out(left),
        *idle,
        *unmatched,
        *unweighted,
        *made.warnings,
    ]
    if request.strict and warnings:
        refused = BadInput if source.malformed else NotPossible
        more = f" ({len(warnings) - 1} more warnings)" if len(warnings) > 1 else ""
        raise refused(f"--strict: {(*source.malformed, *warnings)[0]}{more}")
    said = (*chosen.beside.said(steps, chosen.of), *dtype_notes(source, target.label, steps, placed, settings))
    left = [*dropped, *left, *extra]
    return Plan(
        source, request, tuple(steps), tuple(made.files), tuple(warnings), before, tuple(left), said, tuple(made.passed)
    )  # fmt: skip


def _refuse_unusable(source: Checkpoint) -> None:
    """Raise `NotPossible` for the first weight that no output is made of: its codes have lost their scales."""
    for weight in source.weights.values():
        if (reason := weight.scheme.refusal) is not None:
            stored = next(iter(weight.parts.values()))
            raise NotPossible(
                f"{stored.file}: tensor {weight.name}: {reason}. Dequantize the model with the tool that wrote it."
            )


def _is_by_llama_quantize(source: Checkpoint, steps: Iterable[Step], file_type: int | None) -> bool:
    """Whether a GGUF file is to be what llama-quantize writes, which does not count leading dimensions of 1."""
    if source.names != "gguf":
        return any(not isinstance(step.scheme, Dense) for step in steps)
    architecture = source.metadata.get("general.architecture")
    return file_type is not None and getattr(architecture, "value", None) in ARCHITECTURES


def _refuse_source(source: Checkpoint, request: Request, files: Iterable[OutputFile]) -> None:
    """No file of the output is one of the source's, links followed; OUTPUT's own name is taken too if it is split."""
    taken = {path.resolve() for path in source.files}
    for name in (request.output.name, *(file.name for file in files)):
        path = request.output.with_name(name)
        if path.resolve() in taken:
            raise WrongUsage(f"{path}: would be a file of OUTPUT and is one of SOURCE: choose another name.")


def _beside_theirs(steps: Iterable[Step]) -> list[Step]:
    """The steps without those that stand beside a weight which keeps its own."""
    found = list(steps)
    bare = {step.name for step in found if step.draft.weight is not None and step.draft.weight is step.draft.inner}
    return [step for step in found if step.draft.beside is None or step.draft.beside in bare]


def _without_extras(steps: Sequence[Step], target: Target) -> tuple[list[Step], list[Left]]:
    """The steps without tensors that belong to a layout which the output does not keep, and these."""
    if target.keeps_layout([_placed(step) for step in steps]):
        return list(steps), []
    extra = [Left(step.name, step.draft.extra) for step in steps if step.draft.extra is not None]
    return [step for step in steps if step.draft.extra is None], extra


def _placed(step: Step) -> Placed:
    return Placed(step.name, step.draft.shape, step.scheme, _stored(step))


def _stored(step: Step) -> dict[str, str]:
    """The names that parts keep where they are copied in the source's own layout."""
    weight = step.draft.weight
    if weight is None or step.route is not Route.COPY or step.scheme.family in ("mlx", "ggml", "dense"):
        return {}
    return {part: stored.name for part, stored in weight.parts.items()}


def _left_out(left: Iterable[Left]) -> list[str]:
    """A warning for each reason why tensors are left out that has one."""
    kinds: dict[str, list[str]] = {}
    for tensor in left:
        if tensor.warns:
            kinds.setdefault(tensor.reason, []).append(tensor.name)
    return [
        f"{names[0]} is left out: {reason}."
        if len(names) == 1
        else f"{len(names)} tensors are left out, {names[0]} the first: {reason}."
        for reason, names in kinds.items()
    ]


def _fallbacks(steps: Iterable[Step]) -> list[str]:
    """A warning for each kind of fallback: how many weights did not get the scheme that was asked for."""
    kinds: dict[tuple[str, str], list[Step]] = {}
    for step in steps:
        if step.wanted is not None:
            kinds.setdefault((step.wanted, step.scheme.name), []).append(step)
    return [
        f"{found[0].name} falls back from {wanted} to {got} ({found[0].reason})."
        if len(found) == 1
        else f"{len(found)} weights fall back from {wanted} to {got}, {found[0].name} the first ({found[0].reason})."
        for (wanted, got), found in kinds.items()
    ]


class _Chooser:
    """Schemes of weights, one after another; gathers warnings on the way."""

    def __init__(self, source: Checkpoint, target: Target, request: Request) -> None:
        self.source, self.target, self.request = source, target, request
        self.warnings: list[str] = []
        self.held_back: list[str] = []
        self.reached = 0
        self.decodes = is_untabled(source) and not request.allow_unknown_architecture

    def common(self, name: str | None) -> Scheme | None:
        return self.target.scheme(name, "f16") if name else None

    def step(self, draft: Draft, decision: Decision) -> Step:
        """The step of one draft."""
        if draft.weight is None:
            return Step(draft, Dense(draft.dense), Route.COMPUTE, Grade.EXACT, decision.reason)
        name = decision.scheme
        if draft.spared is not None and decision.origin > Origin.RECIPE:
            draft = replace(draft, stays=draft.spared)
        if draft.fixed and decision.origin <= Origin.RECIPE and name not in (*WORDS, draft.dense):
            self.warnings.append(f"{decision.reason} does not reach {draft.name}: {draft.stays}.")
        if draft.fixed:
            return self._to(draft, Dense(draft.dense), draft.stays or decision.reason)
        if name == "dense":
            return self._to(draft, Dense(draft.dense), decision.reason, decision.wanted)
        if name == "keep":
            return self._kept(draft, decision.reason)
        wanted = self._wanted(draft, decision)
        if isinstance(wanted, Dense):
            return self._to(draft, wanted, decision.reason, decision.wanted)
        return self._gridded(draft, wanted, decision)

    def _to(
        self, draft: Draft, scheme: Scheme, reason: str, wanted: str | None = None, fits: Grade | None = None
    ) -> Step:
        """A step to `scheme`, whatever the route; `fits`: the grade of a repack, where scales had to be looked at."""
        assert draft.weight is not None
        source = draft.weight.scheme
        if isinstance(source, Dense) and source.dtype not in FLOATS and source != scheme:
            scheme, reason = source, f"stays {source.dtype}: no float dtype"
        if isinstance(source, Opaque) and source.big_endian:
            raise NotPossible(
                f"{draft.name}: is GGML type {source.name} in big-endian bytes, which nobody says how to swap: "
                "convert the original model again on a little-endian machine."
            )
        if isinstance(source, Opaque) and scheme != source:
            raise _undecoded(draft, source, scheme, reason)
        weight = draft.weight
        if draft.turned and isinstance(scheme, Dense):
            weight = transposed(weight, draft.rows, draft.shape)
            draft = replace(draft, weight=weight, rows=None, shape=weight.shape, turned=False)
            source = weight.scheme
        if source != scheme and len(weight.shape) > 2:
            # So that slabs stay small where a whole matrix of a stack has one scale.
            weight = by_row(weight)
            draft = draft if weight is draft.weight else replace(draft, weight=weight)
        via = draft.dense if isinstance(source, Dense) and not isinstance(scheme, Dense) else None
        origin = weight.made_of if isinstance(scheme, Dense) else None
        route, grade = choose(origin or source, scheme, draft.shape) if fits is None else (Route.REPACK, fits)
        return Step(draft, scheme, route, grade, reason, None if via == source.name else via, wanted)

    def _wanted(self, draft: Draft, decision: Decision) -> Scheme:
        """The target's scheme that a decision names, with the scale dtype that suits the route."""
        assert draft.weight is not None
        source = draft.weight.scheme
        scheme = self.target.scheme(decision.scheme, self._scale_dtype(draft, own_dtype(source)), draft.shape)
        if scheme is None and self.target.label == "gguf" and decision.scheme in GGML:
            raise NotPossible(f"{decision.reason}: {draft.name} as {decision.scheme}, a type that is not written yet.")
        if scheme is None:
            raise WrongUsage(
                f"{decision.reason}: {decision.scheme} is no scheme of {self.target.said}; "
                f"{_who_has(decision.scheme) or '`quant schemes` lists those that are'}."
            )
        if source.grid() and not isinstance(fit_of(draft.weight, scheme, draft.shape), Grade):
            scheme = self.target.scheme(decision.scheme, self._scale_dtype(draft, None), draft.shape) or scheme
        return scheme

    def _scale_dtype(self, draft: Draft, own: str | None) -> str:
        """Of MLX scales: as asked, else the source's own (of a repack), else the output's dense dtype."""
        usable = ("f16", "bf16", "f32")
        own = "f32" if draft.wide and own == "f16" else own
        choices = (self.request.scale_dtype, own, draft.scales or draft.dense, "f32")
        return next(c for c in choices if c in usable)

    def _gridded(self, draft: Draft, wanted: Scheme, decision: Decision) -> Step:
        """A step to a quantized scheme; a weight that cannot have it stays as it is."""
        assert draft.weight is not None
        source = draft.weight.scheme
        unfit = wanted.unfit(draft.shape)
        stays = draft.stays or (f"stays dense: {unfit}" if unfit else None)
        if isinstance(source, Dense):
            # bitsandbytes has no type to fall back to, and no sign that one was taken: its state is each weight's own.
            insists = decision.origin is Origin.OPTION or wanted.family == "bnb"
            if unfit and not draft.stays and insists:
                raise NotPossible(f"{decision.reason}: {draft.name} cannot have it: {unfit}; name a type that fits.")
            if stays and decision.origin <= Origin.RECIPE:
                self.warnings.append(f"{decision.reason} does not reach {draft.name}: {stays}.")
            if stays:
                return self._to(draft, Dense(draft.dense), stays, None if draft.stays else wanted.name)
            self.reached += 1
            return self._to(draft, wanted, decision.reason, decision.wanted)
        if draft.stays and not self.target.keeps(self.source, source):
            return self._to(draft, Dense(draft.dense), f"{draft.stays}: decoded")
        if source.bare() == wanted.bare():
            wanted = source
            self.reached += 1
            return self._to(draft, wanted, decision.reason, decision.wanted)
        grade = fit_of(draft.weight, wanted, draft.shape)
        if draft.inner is not None:
            inner = fit_of(draft.inner, wanted, draft.shape)
            if isinstance(inner, Grade):
                draft, grade = replace(draft, weight=draft.inner), max(inner, draft.inner_grade)
        # Releases in FP8 are many models' only master: rounding one is what quantizing a dense weight is.
        may_round = self.request.allow_requantize or source.name.startswith("fp8-")
        if isinstance(grade, Grade) or (may_round and not stays):
            self.reached += 1
            fits = grade if isinstance(grade, Grade) else None
            return self._to(draft, wanted, decision.reason, decision.wanted, fits)
        if decision.origin <= Origin.RECIPE:
            if isinstance(source, Opaque):
                raise _undecoded(draft, source, wanted, decision.reason)
            finite.refuse(self.source, draft.weight)
            raise NotPossible(
                f"{decision.reason}: {draft.name} is quantized already ({source.name}) and does not fit {wanted.name}: "
                f"{grade}; --allow-requantize rounds it again."
            )
        self.held_back.append(draft.name)
        return self._kept(draft, f"keeps its codes: {wanted.name} would round them again", wanted)

    def _kept(self, draft: Draft, reason: str, asked_for: Scheme | None = None) -> Step:
        """A weight that is not rounded if any scheme of the target holds what it is."""
        assert draft.weight is not None
        source = draft.weight.scheme
        if isinstance(source, Dense) or (isinstance(source, BareFp8) and not self.target.keeps(self.source, source)):
            return self._to(draft, Dense(draft.dense), reason)
        asked = self.request.scale_dtype
        holders = self.target.holders(self._scale_dtype(draft, own_dtype(source)))
        if self.target.keeps(self.source, source):
            return self._to(draft, next((s for s in holders if asked and _same_kind(s, source)), source), reason)
        if draft.inner and (found := holder(draft.inner, holders, draft.shape)):
            grade = max(found[1], draft.inner_grade)
            return self._to(replace(draft, weight=draft.inner), found[0], reason, fits=grade)
        found = holder(draft.weight, [draft.packed] if draft.packed else holders, draft.shape)
        if found is not None:
            return self._to(draft, found[0], reason, fits=found[1])
        if not holders:
            return self._to(
                draft,
                Dense(draft.dense),
                f"decoded: {self.target.label} has no layout for {source.family}'s {source.name}",
            )
        return self._fallback(draft, asked_for)

    def _fallback(self, draft: Draft, asked_for: Scheme | None) -> Step:
        """The scheme that takes a kept weight whose grid has no place in the target; what was asked for, if it may."""
        assert draft.weight is not None
        source, choice = draft.weight.scheme, self.request.fallback
        holders = self.target.holders(self._scale_dtype(draft, None))
        is_grouped = not isinstance(source, Scaled) or source.grid() is not None
        groups = "" if is_grouped else ", whose scales follow no groups along rows,"
        what = f"{source.name}{groups} has no exact place in {self.target.label}"
        if choice == "none":
            finite.refuse(self.source, draft.weight)
            raise NotPossible(f"--fallback none: {draft.name}: {what}; --fallback auto or a scheme takes it.")
        if choice == "auto" and self.decodes:
            scheme: Scheme = Dense(draft.dense)
            what += ", and the architecture is not known"
        elif choice == "auto":
            usable = [s for s in holders if s == asked_for]
            scheme = fallback(usable, draft.shape) or fallback(holders, draft.shape) or Dense(draft.dense)
        else:
            scheme = self.target.scheme(choice, self._scale_dtype(draft, None), draft.shape) or Dense(draft.dense)
            if scheme.name != choice or scheme.unfit(draft.shape):
                raise WrongUsage(
                    f"--fallback {choice}: {draft.name} cannot have it ({scheme.unfit(draft.shape) or 'unknown here'})."
                )
        return self._to(draft, scheme, f"fallback: {what}", source.name)

    def refuse_idle(self) -> None:
        """Refuse a scheme for the whole model that reaches no weight, since all are quantized already."""
        if self.held_back and not self.reached:
            raise NotPossible(
                f"every weight is quantized already ({self.held_back[0]} the first) and none fits the scheme asked "
                "for; --allow-requantize rounds them again."
            )


def _undecoded(draft: Draft, source: Opaque, scheme: Scheme, reason: str) -> NotPossible:
    return NotPossible(
        f"{draft.name}: GGML type {source.name} is copied, not decoded, so it cannot become {scheme.name} "
        f"({reason}): leave it out of this, such as with --override '{draft.name}=keep'."
    )


def _same_kind(scheme: Scheme, other: Scheme) -> bool:
    """Whether two schemes are the same but for the dtype of scales."""
    return scheme.name == other.name and type(scheme) is type(other)


def _who_has(scheme: str) -> str | None:
    """The targets that have a scheme, as a clause; None where none has."""
    having = [target().said for target in TARGETS.values() if target().scheme(scheme, "f16", (1024, 1024))]
    return f"{' and '.join(having)} {'has' if len(having) == 1 else 'have'} it" if having else None


def _refuse_lossy(source: Checkpoint, steps: Iterable[Step], word: str, target: Target) -> None:
    allowed = LOSSLESS[word]
    worse = [step for step in steps if step.grade > allowed]
    if not worse:
        return
    for step in worse[:3]:
        if step.route is Route.REPACK or step.wanted is not None:
            finite.refuse(source, step.draft.weight)  # scales that are no numbers fit nowhere
    named = "; ".join(f"{s.name} ({s.route} to {s.scheme.name}: {s.grade})" for s in worse[:3])
    ways = dict.fromkeys(_what_would_fit(step, allowed, target) for step in worse[:3])
    raise NotPossible(f"--lossless {word}: {len(worse)} weights would not be {allowed}: {named}. {' '.join(ways)}")


def _what_would_fit(step: Step, allowed: Grade, target: Target) -> str:
    assert step.draft.weight is not None
    source = step.draft.weight.scheme
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


def _what_would_hold(step: Step, allowed: Grade, target: Target) -> str | None:
    """The option that repacks a weight at the grade that is allowed: other scales first, then another scheme."""
    assert step.draft.weight is not None
    grid, shape = step.draft.weight.scheme.grid(), step.draft.shape
    for dtype in ("f16", "bf16", "f32"):
        holding = [s for s in target.holders(dtype) if isinstance(g := fit(grid, s, shape), Grade) and g <= allowed]
        if any(scheme.name == step.scheme.name for scheme in holding):
            return f"--scale-dtype {dtype} holds every scale and bias."
        if holding:
            best = min(holding, key=lambda s: s.bits_per_weight(shape))
            return f"{best.name} holds them: --override '{step.name}={best.name}'."
    return None
