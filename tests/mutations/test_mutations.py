"""No change of a checkpoint goes unnoticed: each is refused, warned of, or changes the output.

`make test` tries a seeded sample of all changes, `make mutations` all of them. A change that nothing shows is printed
with what was done to which key or tensor.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from quantcli import models
from quantcli.containers.gguf_values import Value
from quantcli.convert.planning.steps import Plan
from quantcli.errors import QuantError
from quantcli.models.harmless import harmless
from quantcli.models.multimodal import NESTED, OF_TOWERS, text_block
from quantcli.sources import harmless as of_quantizers
from quantcli.targets.folder_from_gguf import rebuilt
from tests.convert.test_golden_arch import reference
from tests.mutations import outcomes, settings, tensors
from tests.mutations.baselines import CASES, DATA, Baseline, as_gguf, dense, quantized
from tests.mutations.outcomes import BAD, Outcome

#: Of all changes of one baseline `make test` tries so many; fewer of a variant, which is stored in several files, and
#: of a text model in one with towers.
SAMPLE = 25
FEWER = 10
#: Settings of towers that text models need.
LIFTED = {key for family in models.FAMILIES for one in family.multimodal for _, key in one.lifted}
KINDS = ("dense", "gguf")
#: Quantized models, whole ones of the reference data.
QUANTIZED = sorted(path.parent.name for path in DATA.glob("quantized/*/config.json"))


@dataclass(frozen=True)
class Try:
    """One change: what was done to what, the target, the names that a message may call it, what comes of it."""

    done: str
    what: str
    target: str
    found: Callable[[Plan], Outcome]


def tries(base: Baseline) -> Iterator[Try]:
    """Every change of a baseline, for every target; a message may name another tensor of the same module."""
    for target in base.targets:
        yield from _of_tensors(base, target)
        if base.header is not None or target == "gguf":
            yield from _of_settings(base, target)


def _of_tensors(base: Baseline, target: str) -> Iterator[Try]:
    source = base.opened()
    for change in tensors.changes(base.shapes):
        if change.is_seen and change.name not in source.towers:  # no table says what a tower has
            inner = ".weight" if ".weight." in change.name else "."
            module = change.name.rpartition(inner)[0] or change.name
            beside = [
                source.naming.weight(change.name),
                f"{module}.weight",
                *(name for name in base.shapes if name.startswith(f"{module}.")),
            ]
            names = (change.name, *([change.now[0]] if change.now else []), *beside)
            now = {change.name: change.now}
            is_sole = change.name.endswith(ALL_OR_NONE.get(base.path.stem, ("?",)))
            is_last = is_sole and change.done in ("leave out", "rename")
            known = is_last or tensors.harmless(change) is not None or _is_unread(base, change.name, target)
            yield Try(change.done, change.name, target, _outcome(base, target, names, tensors_=now, known=known))


def _is_unread(base: Baseline, name: str, target: str) -> bool:
    """Whether the runtime of a target computes without a tensor, which is left out for it."""
    architectures = [models.find(base.settings)]
    if base.header is not None:
        stated = base.header.metadata["general.architecture"].value
        architectures = [family for family in models.FAMILIES if family.gguf == stated]
    found = (row for one in architectures if one for row in one.find(name, "hf" if base.header is None else "gguf"))
    return any(target in one.row.absent_in for one in found)


def _of_settings(base: Baseline, target: str) -> Iterator[Try]:
    if base.header is None:
        block = text_block(base.settings)
        for change in settings.of_config(base.settings, config_pool()):
            is_around = block is not None and (change.done == "set" or change.key in block)
            if is_around or _is_of_tower(change.key):  # the text model's own settings count
                continue
            path = _of_text(change.key)
            names = (change.key, path, path.rpartition(".")[2], *base.shapes)
            known = _is_known(change, base)
            found = _outcome(base, target, names, settings_=change.settings, known=known)
            if change.otherwise is not None:
                found = _either(found, _outcome(base, target, names, settings_=change.otherwise, known=known))
            yield Try(change.done, change.key, target, found)
    else:
        for change in settings.of_gguf(base.settings, gguf_pool()):
            names = (change.key, change.key.partition(".")[2], *base.shapes)
            known = change.done == "change" and LONGER.get(base.path.stem) == change.key
            found = _outcome(base, target, names, settings_=change.settings, known=known)
            if change.otherwise is not None:
                found = _either(found, _outcome(base, target, names, settings_=change.otherwise))
            yield Try(change.done, change.key, target, found)


def _of_text(key: str) -> str:
    """A key as the text model has it, without the name of the block around it."""
    block, _, inner = key.partition(".")
    return inner if block in NESTED or inner in LIFTED else key


def _is_of_tower(key: str) -> bool:
    """Whether a setting speaks of a tower alone."""
    block, _, inner = key.partition(".")
    return block not in NESTED and inner not in LIFTED and OF_TOWERS.search(block) is not None


#: Model -> endings of tensors that every layer of a kind has or none, of which it has a single one: nothing shows that
#: this is missing.
ALL_OR_NONE = {"ernie4_5_moe_untied": (".e_score_correction_bias", ".exp_probs_b.bias")}
#: File -> its list with one value for each layer, which may have further ones for layers for prediction.
LONGER = {"exaone_moe_mtp": "exaone-moe.attention.sliding_window_pattern"}
#: Flags whose flip changes nothing, by the last component: zero points that are stored say it, and all are the middle.
STORED_ZEROS = {"autoround-as-awq-b4-g64-sym": "zero_point", "ct-w3a16-naive-g64": "symmetric"}


def _is_known(change: settings.Change, base: Baseline) -> bool:
    """Whether a table says why the key changes nothing: the quantizers' for theirs, the models' for the others."""
    outer, _, path = change.key.partition(".")
    if change.done == "flip" and STORED_ZEROS.get(base.name) == path.rpartition(".")[2]:
        return True
    if outer != "quantization_config" or not path:
        architecture = models.find(change.settings)
        own = {} if architecture is None else architecture.harmless
        return harmless(_of_text(change.key), settled(change.settings), own) is not None
    block = change.settings[outer]
    return of_quantizers.harmless(str(block.get("quant_method")), path, of_quantizers.value_at(block, path)) is not None


def settled(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings with what the model's class assumes."""
    architecture, text = models.find(config), models.text_settings(config)
    assumed = {} if architecture is None else architecture.model_types[text["model_type"]]
    return {key: held for key, held in assumed.items() if not callable(held)} | dict(text) | dict(config)


def _either(one: Callable[[Plan], Outcome], other: Callable[[Plan], Outcome]) -> Callable[[Plan], Outcome]:
    """The outcome of the second change where the first one goes unnoticed."""

    def found(plan: Plan) -> Outcome:
        first = one(plan)
        return other(plan) if first in BAD else first

    return found


def _outcome(
    base: Baseline,
    target: str,
    names: Collection[str],
    settings_: Any = None,
    tensors_: Any = None,
    known: bool = False,
) -> Callable[[Plan], Outcome]:
    def found(plan: Plan) -> Outcome:
        made = outcomes.planned(lambda: base.opened(settings_, tensors_), target)
        digest = outcomes.everything if tensors_ is None else outcomes.settings
        is_harmless = known or _changes_nothing(made, names)
        return outcomes.outcome(made, plan, names, digest, harmless=is_harmless)

    return found


def _changes_nothing(made: Plan | QuantError, names: Collection[str]) -> bool:
    """Whether one of these is a GGUF's key that no folder needs, or that says what follows from the others."""
    is_gguf = isinstance(made, Plan) and made.source.names == "gguf"
    return is_gguf and not set(names).isdisjoint(rebuilt(made.source).idle)


@cache
def config_pool() -> dict[str, Any]:
    """Every key of every committed config.json, towers' aside, with a value that it has somewhere."""
    found: dict[str, Any] = {}
    for path in sorted(DATA.glob("arch/*/config*.json")):
        settings = models.text_settings(json.loads(path.read_text()))
        found |= {key: held for key, held in settings.items() if held not in (None, [], {})}
    return found


@cache
def gguf_pool() -> dict[str, Value]:
    """Every key of every architecture's namespace, without the prefix, with a value that it has somewhere."""
    found: dict[str, Value] = {}
    for path in sorted(DATA.glob("arch/*/reference.json")):
        metadata = json.loads(path.read_text())["metadata"]
        prefix = metadata["general.architecture"][1]
        for key, (kind, held) in metadata.items():
            if key.startswith(f"{prefix}.") and isinstance(held, int | float | str):
                found[key.removeprefix(f"{prefix}.")] = Value(kind.lower(), held)
    return found


def check(base: Baseline, chosen: Callable[[list[Try]], list[Try]]) -> Counter[Outcome]:
    """Every chosen change is noticed; how many came to what."""
    plans = {target: outcomes.planned(base.opened, target) for target in base.targets}
    able = {target: plan for target, plan in plans.items() if isinstance(plan, Plan)}
    counts: Counter[Outcome] = Counter()
    bad = []
    for one in chosen([one for one in tries(base) if one.target in able]):
        found = one.found(able[one.target])
        counts[found] += 1
        if found in BAD:
            bad.append(f"{found.value}: {one.done} {one.what} -> {one.target}")
    assert not bad, f"{base.name}: {len(bad)} changes, {dict(counts)}\n" + "\n".join(bad)
    return counts


def baseline(kind: str, case: str, root: Path) -> Baseline:
    model = dense(case, root)
    return model if kind == "dense" else as_gguf(model, root)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", KINDS)
def test_no_change_of_a_sample_goes_unnoticed(kind: str, case: str, tmp_path: Path) -> None:
    def some(every: list[Try]) -> list[Try]:
        is_variant = not {"files", "prefixes"}.isdisjoint(reference(case))
        return random.Random(f"{kind} {case}").sample(every, min(FEWER if is_variant else SAMPLE, len(every)))

    check(baseline(kind, case, tmp_path), some)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", KINDS)
def test_no_change_of_a_model_goes_unnoticed(kind: str, case: str, tmp_path: Path) -> None:
    check(baseline(kind, case, tmp_path), lambda every: every)


@pytest.mark.slow
@pytest.mark.parametrize("case", QUANTIZED)
def test_no_change_of_a_quantized_model_goes_unnoticed(case: str, shared: Path, tmp_path: Path) -> None:
    check(quantized(shared / "fixtures" / "quantized" / case, tmp_path), lambda every: every)
