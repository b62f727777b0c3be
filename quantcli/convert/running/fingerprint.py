"""What makes two runs the same run: the sources, the options, the plan, the versions of what computes it."""

from __future__ import annotations

import contextlib
import hashlib
import json
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version

import quantcli
from quantcli.convert.planning.devices import CHOICES
from quantcli.convert.planning.steps import ConstantStep, Plan, Step
from quantcli.convert.running.sample import sample
from quantcli.sources.hub_cache import cached_file

#: Packages whose versions a resumed run must share with its beginning.
COMPUTES = ("mlx", "numba", "numpy")


def fingerprint(plan: Plan) -> str:
    """SHA-256 over the sources, the options that shape the output, the plan and the versions of what computes it.

    Sources count by size, time, header, a sample of their contents, and what the Hub calls them: what moves with them.
    """
    return _fingerprint(plan, sample(plan.source, plan.stamps))


def _fingerprint(plan: Plan, sampled: str) -> str:
    request = asdict(plan.request) | {"output": plan.request.output.name}
    del request["device"]  # what it comes to stands in the steps
    value = {
        "versions": versions(),
        "sources": [[s.path.name, s.size, s.mtime_ns, s.header_sha256, cached_file(s.path)] for s in plan.stamps],
        "sample": sampled,
        "request": request,
        "steps": [[s.name, s.scheme.family, repr(s.scheme), s.route, s.via, *_facts(s)] for s in plan.steps],
        "files": [[f.name, f.size, [hashlib.sha256(blob).hexdigest() for _, blob in f.blobs]] for f in plan.files],
    }
    return hashlib.sha256(json.dumps(value, default=str, sort_keys=True).encode()).hexdigest()


def _facts(step: Step) -> tuple[str, str, str]:
    """The devices of a step, and SHA-256 of the numbers that it has beside the source's: an importance, a constant."""
    values = step.draft.values if isinstance(step, ConstantStep) else step.importance
    digest = "" if values is None else hashlib.sha256(values.tobytes()).hexdigest()
    return step.devices.decoding.value, step.devices.encoding.value, digest


def begun_on(plan: Plan, found: str) -> str | None:
    """The word of `--device` with which this plan has the fingerprint `found`; None where it has that with none."""
    sampled = sample(plan.source, plan.stamps)
    for word in CHOICES:
        if _fingerprint(replace(plan, steps=tuple(step.on(word) for step in plan.steps)), sampled) == found:
            return word
    return None


def versions() -> dict[str, str]:
    """Of this project and of what does the arithmetic."""
    found = {"quantcli": quantcli.__version__}
    for name in COMPUTES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
