"""Deciding the scheme of each draft, by name and with a reason: all layers in their order of precedence.

--override > llama-quantize's options > recipe entries > quantization_config.json next to a dense model > preset or
mixture > --scheme, --bits, recipe default > keep
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from quantcli.checkpoint import Checkpoint
from quantcli.convert.planning import decide_gguf, model_recipe, settings_file
from quantcli.convert.planning.chosen import KEEP, Chosen
from quantcli.convert.planning.request import Request
from quantcli.dtypes import DENSE_DTYPES
from quantcli.errors import WrongUsage
from quantcli.recipes import ftypes, mixtures, names, overrides
from quantcli.recipes.base import Decision, Layer, Origin, Recipe, only_global, resolve
from quantcli.targets.base import Draft, Target


def decisions(
    source: Checkpoint, target: Target, drafts: Sequence[Draft], request: Request, importance: bool = False
) -> Chosen:
    """Return a decision for every draft. importance: whether there is an importance matrix. Raises `WrongUsage`."""
    recipe, doubts = model_recipe.load(request.recipe) if request.recipe else (None, None)
    given = overrides.parse(request.overrides)
    common = _common(request, recipe, target)
    sources: list[Recipe] = [given] + ([recipe] if recipe else [])
    subjects = [draft.subject for draft in drafts]
    neighbour = settings_file.read(source, request, common, target)
    warnings = [w for r in sources for w in r.warnings]
    warnings += [f"{given.label}: {pattern} matches no weight." for pattern in given.unmatched(subjects)]
    warnings += doubts(subjects) if doubts else []
    warnings += neighbour.warnings(subjects)
    if target.follows_llama_quantize:
        entries = [r.entry for r in (recipe, neighbour) if r is not None]
        chosen = decide_gguf.decisions(source, drafts, request, given.entry, entries, common, warnings, importance)
        return replace(chosen, asked=_asked(request, common), settings_file=neighbour)
    explicit: list[Layer] = [*(r.entry for r in sources), neighbour.entry]
    preset = common.scheme if common and common.scheme in mixtures.MIXTURES else None
    layers = [*explicit, *_below(target, preset, common, drafts, request.group_size)]
    of = {draft.name: resolve(draft.subject, layers) or KEEP for draft in drafts}
    named = None if preset or common is None else common.scheme
    return Chosen(of, preset, named, None, tuple(warnings), asked=_asked(request, common), settings_file=neighbour)


def _asked(request: Request, common: Decision | None) -> Decision | None:
    """Return the scheme for the whole model if an option gives it."""
    given = (request.scheme, request.bits, request.group_size, request.mode)
    return common if any(option is not None for option in given) else None


def _common(request: Request, recipe: Recipe | None, target: Target) -> Decision | None:
    """Return the scheme for the whole model, of options or the recipe. Raises `WrongUsage` if two of them differ."""
    choices: list[Decision | None] = []
    if request.scheme is not None:
        name = request.scheme.strip().lower()
        known = name in mixtures.MIXTURES or target.follows_llama_quantize or names.canonical(name) is not None
        if not known:
            raise WrongUsage(
                f"--scheme: {names.problem(request.scheme)}. mlx-lm's mixtures are {', '.join(mixtures.MIXTURES)}."
            )
        preset = ftypes.find(name) if target.follows_llama_quantize else None
        meant = "keep" if preset == ftypes.COPY else preset or names.canonical(name) or name
        choices.append(Decision(meant, f"--scheme {name}", Origin.GLOBAL))
    if request.scheme and request.scheme.strip().lower() in mixtures.MIXTURES:
        if request.bits is not None or request.mode not in (None, "affine"):
            raise WrongUsage(
                f"--scheme {request.scheme} sets the mode (affine) and the bits. Leave out --bits and --mode."
            )
    elif spelled := names.from_mlx_options(request.bits, request.group_size, request.mode):
        choices.append(Decision(spelled, "--bits, --group-size, --mode", Origin.GLOBAL))
    choices.append(recipe.default if recipe else None)
    return only_global(choices)


def _below(
    target: Target, preset: str | None, common: Decision | None, drafts: Sequence[Draft], group_size: int | None
) -> list[Layer]:
    """Return the layers below explicit rules."""
    if preset and not target.follows_mlx_lm:
        raise WrongUsage(f"--scheme {preset}: a mixture of mlx-lm applies only to MLX output.")
    if preset:
        return [
            mixtures.mixture(preset, [d.subject for d in drafts if not (d.stays or d.spared)], group_size or 64).decide
        ]
    if common is None or common.scheme in (*names.WORDS, *DENSE_DTYPES):
        return [lambda subject: common] if common else []
    own = {draft.name: Decision(draft.own, "mlx-lm's default for it", Origin.PRESET) for draft in drafts if draft.own}
    return [lambda subject: own.get(subject.name), lambda subject: common]
