"""The fingerprint of a run: of its sources, options, plan and the versions of the packages that compute it."""

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

#: Packages whose versions a resumed run must share with the run that it continues.
COMPUTES = ("mlx", "numba", "numpy")


def fingerprint(plan: Plan) -> str:
    """Return the SHA-256 of the sources, the options that shape the output, the plan and versions of packages.

    Of sources: name, size, modification time, header, a sample of their contents, and their name on the Hub.
    """
    return _fingerprint(plan, sample(plan.source, plan.stamps))


def _fingerprint(plan: Plan, sampled: str) -> str:
    request = asdict(plan.request) | {"output": plan.request.output.name}
    del request["device"]  # the steps contain the devices
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
    """Return the devices of a step, and the SHA-256 of its importance or constant."""
    values = step.draft.values if isinstance(step, ConstantStep) else step.importance
    digest = "" if values is None else hashlib.sha256(values.tobytes()).hexdigest()
    return step.devices.decoding.value, step.devices.encoding.value, digest


def begun_on(plan: Plan, wanted: str) -> str | None:
    """Return the word of `--device` that gives this plan the fingerprint `wanted`, None if none does."""
    sampled = sample(plan.source, plan.stamps)
    for word in CHOICES:
        if _fingerprint(replace(plan, steps=tuple(step.on(word) for step in plan.steps)), sampled) == wanted:
            return word
    return None


def versions() -> dict[str, str]:
    """Return the versions of quant and of the packages that compute."""
    installed = {"quantcli": quantcli.__version__}
    for name in COMPUTES:
        with contextlib.suppress(PackageNotFoundError):
            installed[name] = version(name)
    return installed
