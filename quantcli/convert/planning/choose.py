"""Choosing the step of each weight: the scheme that a decision names, or its replacement, and the route.

draft, decision -> scheme of the target (kept, requested, or a fallback) -> Step
"""

from __future__ import annotations

from dataclasses import replace

from quantcli.arrays import FLOATS
from quantcli.checkpoint import Checkpoint
from quantcli.convert.planning import finite
from quantcli.convert.planning.coverage import is_untabled
from quantcli.convert.planning.request import Request
from quantcli.convert.planning.routes import Route, choose, fallback
from quantcli.convert.planning.scales import fit_of, holder
from quantcli.convert.planning.steps import ConstantStep, Step, WeightStep
from quantcli.errors import NotPossible, WrongUsage
from quantcli.recipes.base import Decision, Origin
from quantcli.recipes.names import WORDS
from quantcli.schemes.base import Grade, Scheme
from quantcli.schemes.dense import Dense
from quantcli.targets import TARGETS
from quantcli.targets.base import Constant, Draft, Form, Target, WeightDraft
from quantcli.virtual import by_row


class Chooser:
    """Chooses the steps of weights one after another, and collects warnings."""

    def __init__(self, source: Checkpoint, target: Target, request: Request) -> None:
        self.source, self.target, self.request = source, target, request
        self.warnings: list[str] = []
        self.held_back: list[str] = []
        self.reached = 0
        self.decodes = is_untabled(source) and not request.allow_unknown_architecture

    def common(self, name: str | None) -> Scheme | None:
        return self.target.scheme(name, "f16") if name else None

    def step(self, draft: Draft, decision: Decision) -> Step:
        """Return the step of a draft. Raises `NotPossible` and `WrongUsage`."""
        if isinstance(draft, Constant):
            return ConstantStep(draft, decision.reason)
        name = decision.scheme
        if draft.spared is not None and decision.origin > Origin.RECIPE:
            draft = replace(draft, stays=draft.spared)
        if draft.fixed and decision.origin <= Origin.RECIPE and name not in (*WORDS, draft.dense):
            self.warnings.append(f"{decision.reason} is not applied to {draft.name}: {draft.stays}.")
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
        self, draft: WeightDraft, scheme: Scheme, reason: str, wanted: str | None = None,
        form: Form | None = None, fits: Grade | None = None,
    ) -> WeightStep:  # fmt: skip
        """Return the step to `scheme`, by any route.

        fits: the grade of a repack whose scales had to be read. form: the one that codes are kept in, None: as stored.
        """
        form = form or Form(draft.source)
        source = form.source.weight.scheme
        if isinstance(source, Dense) and source.dtype not in FLOATS and source != scheme:
            scheme, reason = source, f"kept as {source.dtype}: not a float dtype"
        if source.uncopied is not None:
            raise NotPossible(f"{draft.name}: {source.uncopied}.")
        if source.undecoded is not None and scheme != source:
            raise _undecoded(draft, source.undecoded, scheme, reason)
        if isinstance(scheme, Dense):
            form = Form(draft.layout.dense(form.source))
            source = form.source.weight.scheme
        weight = form.source.weight
        if source != scheme and len(weight.shape) > 2:
            # One scale per matrix of a stack must not make slabs of whole matrices.
            form = replace(form, source=replace(form.source, weight=by_row(weight)))
        is_cast = isinstance(source, Dense) and source.dtype != draft.dense and not isinstance(scheme, Dense)
        origin = weight.made_of if isinstance(scheme, Dense) else None
        route, grade = choose(origin or source, scheme, form.source.shape) if fits is None else (Route.REPACK, fits)
        return WeightStep(draft, form, scheme, route, grade, reason, draft.dense if is_cast else None, wanted)

    def _wanted(self, draft: WeightDraft, decision: Decision) -> Scheme:
        """Return the target's scheme that a decision names, with the scale dtype that suits the route."""
        source = draft.scheme
        scheme = self.target.scheme(decision.scheme, self._scale_dtype(draft, source.repacked_scale_dtype), draft.shape)
        if scheme is None:
            raise WrongUsage(
                f"{decision.reason}: {decision.scheme} is not a scheme for {self.target.said}. "
                f"{_who_has(decision.scheme) or '`quant schemes` lists the supported schemes'}."
            )
        if source.grid() and not isinstance(fit_of(draft.source.weight, scheme, draft.shape), Grade):
            scheme = self.target.scheme(decision.scheme, self._scale_dtype(draft, None), draft.shape) or scheme
        return scheme

    def _scale_dtype(self, draft: WeightDraft, own: str | None) -> str:
        """Return the dtype of MLX scales: as requested, else the source's (of a repack), else the dense dtype."""
        usable = ("f16", "bf16", "f32")
        own = "f32" if draft.wide and own == "f16" else own
        choices = (self.request.scale_dtype, own, draft.scales or draft.dense, "f32")
        return next(c for c in choices if c in usable)

    def _gridded(self, draft: WeightDraft, wanted: Scheme, decision: Decision) -> WeightStep:
        """Return the step to a quantized scheme; a weight that cannot have it is kept as it is."""
        source = draft.scheme
        unfit = wanted.unfit(draft.shape)
        stays = draft.stays or (f"kept dense: {unfit}" if unfit else None)
        if isinstance(source, Dense):
            # A weight with a state of its own has no type to fall back to, and no sign that one was used.
            insists = decision.origin is Origin.OPTION or wanted.has_own_state
            if unfit and not draft.stays and insists:
                raise NotPossible(
                    f"{decision.reason}: {draft.name} cannot have this type: {unfit}. Choose a type that fits."
                )
            if stays and decision.origin <= Origin.RECIPE:
                self.warnings.append(f"{decision.reason} is not applied to {draft.name}: {stays}.")
            if stays:
                return self._to(draft, Dense(draft.dense), stays, None if draft.stays else wanted.name)
            self.reached += 1
            return self._to(draft, wanted, decision.reason, decision.wanted)
        if draft.stays and not self.target.keeps(self.source, source):
            return self._to(draft, Dense(draft.dense), f"{draft.stays}: dequantized")
        if source.bare() == wanted.bare():
            wanted = source
            self.reached += 1
            return self._to(draft, wanted, decision.reason, decision.wanted)
        form, grade = _fitting(draft, wanted)
        may_round = self.request.allow_requantize or source.is_master
        if isinstance(grade, Grade) or (may_round and not stays):
            self.reached += 1
            fits = grade if isinstance(grade, Grade) else None
            return self._to(draft, wanted, decision.reason, decision.wanted, form, fits)
        if decision.origin <= Origin.RECIPE:
            if source.undecoded is not None:
                raise _undecoded(draft, source.undecoded, wanted, decision.reason)
            finite.refuse(self.source, draft.source.weight)
            raise NotPossible(
                f"{decision.reason}: {draft.name} is already quantized ({source.name}) and does not fit {wanted.name}: "
                f"{grade}. Use --allow-requantize to round it again."
            )
        self.held_back.append(draft.name)
        return self._kept(draft, f"keeps its codes: {wanted.name} would round them again", wanted)

    def _kept(self, draft: WeightDraft, reason: str, asked_for: Scheme | None = None) -> WeightStep:
        """Return the step of a weight that is kept: it is not rounded if any scheme of the target can hold it."""
        source, origin = draft.scheme, draft.source.weight.made_of
        if isinstance(source, Dense) and origin is not None:
            reason = (
                f"dequantized: {self.target.label} reorders its values, and codes of {origin.name} cannot be reordered"
            )
        if isinstance(source, Dense) or (source.is_elementwise and not self.target.keeps(self.source, source)):
            return self._to(draft, Dense(draft.dense), reason)
        scale_dtype = self._scale_dtype(draft, source.repacked_scale_dtype)
        if self.target.keeps(self.source, source):
            is_asked = self.request.scale_dtype is not None
            return self._to(draft, source.with_scale_dtype(scale_dtype) if is_asked else source, reason)
        holders = self.target.holders(scale_dtype)
        for form in draft.forms:
            found = holder(form.source.weight, draft.layout.holders(holders), draft.shape)
            if found is not None:
                return self._to(draft, found[0], reason, form=form, fits=max(found[1], form.grade))
        if not holders:
            return self._to(
                draft,
                Dense(draft.dense),
                f"dequantized: {self.target.label} has no layout for {source.family}'s {source.name}",
            )
        return self._fallback(draft, asked_for)

    def _fallback(self, draft: WeightDraft, asked_for: Scheme | None) -> WeightStep:
        """Return the step of a kept weight whose codes the target cannot hold: to `asked_for` if that is allowed."""
        source, choice = draft.scheme, self.request.fallback
        holders = self.target.holders(self._scale_dtype(draft, None))
        groups = " (whose scales do not belong to groups along rows)" if source.is_ungrouped else ""
        what = f"{self.target.label} cannot store {source.name}{groups} exactly"
        if choice == "none":
            finite.refuse(self.source, draft.source.weight)
            raise NotPossible(f"--fallback none: {draft.name}: {what}. Use --fallback auto or name a scheme.")
        if choice == "auto" and self.decodes:
            scheme: Scheme = Dense(draft.dense)
            what += ", and its architecture is not known"
        elif choice == "auto":
            usable = [s for s in holders if s == asked_for]
            scheme = fallback(usable, draft.shape) or fallback(holders, draft.shape) or Dense(draft.dense)
        else:
            given = self.target.scheme(choice, self._scale_dtype(draft, None), draft.shape)
            unfit = f"not a scheme for {self.target.said}" if given is None else given.unfit(draft.shape)
            if given is None or unfit:
                raise WrongUsage(f"--fallback {choice}: {draft.name} cannot be stored in this scheme ({unfit}).")
            scheme = given
        return self._to(draft, scheme, f"fallback: {what}", source.name)

    def refuse_idle(self) -> None:
        """Refuse a scheme for the whole model that applies to no weight, because all are already quantized."""
        if self.held_back and not self.reached:
            raise NotPossible(
                f"{self.source.root}: all weights are already quantized (first: {self.held_back[0]}) and none fits the "
                "requested scheme. Use --allow-requantize to round them again."
            )


def _fitting(draft: WeightDraft, wanted: Scheme) -> tuple[Form, Grade | str]:
    """Return the form in which a scheme holds a weight's codes, and its grade, or the last form and why none does."""
    for form in draft.forms:
        grade = fit_of(form.source.weight, wanted, draft.shape)
        if isinstance(grade, Grade):
            return form, max(grade, form.grade)
    return form, grade


def _undecoded(draft: WeightDraft, why: str, scheme: Scheme, reason: str) -> NotPossible:
    return NotPossible(
        f"{draft.name}: {why}, so it cannot become {scheme.name} ({reason}). Exclude it, for example with "
        f"--override '{draft.name}=keep'."
    )


def _who_has(scheme: str) -> str | None:
    """Return which targets support a scheme, as a clause; None if none does."""
    having = [target().said for target in TARGETS.values() if target().scheme(scheme, "f16", (1024, 1024))]
    if not having:
        return None
    return f"{' and '.join(having)} {'supports' if len(having) == 1 else 'support'} it"
