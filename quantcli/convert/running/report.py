"""The report of a run: one JSON object next to (GGUF) or in (folders) the output.

It is not part of the reproducible output: it contains the command, times of source files and versions.
"""

from __future__ import annotations

import json
import platform
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantcli.convert.planning.stamps import Stamp
from quantcli.convert.planning.steps import ConstantStep, Plan, Step, WeightStep
from quantcli.convert.running.fingerprint import versions
from quantcli.schemes.base import Error
from quantcli.sources.hub import cached_sha256

if TYPE_CHECKING:
    from quantcli.convert.running.reference_readers import Opened

NAME = "quant_report.json"


def report_path(output: Path, is_folder: bool) -> Path:
    """Return the path of an output's report."""
    return output / NAME if is_folder else output.with_name(f"{output.name}.report.json")


def plan_summary(plan: Plan) -> dict[str, Any]:
    """Return the plan as JSON: every step and file, and totals."""
    return {
        "source": str(plan.source.root),
        "kind": plan.source.kind,
        "target": plan.request.target,
        "output": str(plan.request.output),
        "search": plan.request.search,
        "bytes": plan.nbytes,
        "files": [{"name": file.name, "bytes": file.size} for file in plan.files],
        "weights": [step_summary(step) for step in plan.steps],
        "totals": totals(plan.steps),
        "left_out": [{"name": tensor.name, "reason": tensor.reason} for tensor in plan.left],
        "files_left_out": [{"name": file.name, "reason": file.reason} for file in plan.passed],
        "notes": list(plan.notes),
        "warnings": list(plan.warnings),
    }


def step_summary(step: Step, error: Error | None = None) -> dict[str, Any]:
    """Return one weight of the plan or, with `error`, of the report."""
    return {
        "name": step.name,
        "shape": list(step.shape),
        "from": None if isinstance(step, ConstantStep) else _origin(step),
        "scheme": step.scheme.name,
        "family": step.scheme.family,
        "route": str(step.route),
        "device": step.devices.made_on.value,
        "grade": str(step.grade if error is None or error.squared else min(step.grade, step.floor)),
        "reason": step.reason,
        **({"fallback_from": step.wanted} if step.wanted else {}),
        "bits_per_weight": round(step.scheme.bits_per_weight(step.shape), 4),
        **({} if error is None else {"relative_rmse": error.relative_rmse, "largest_error": error.largest}),
        **({"saturated": error.saturated} if error is not None and error.saturated else {}),
    }


def _origin(step: WeightStep) -> dict[str, str]:
    """Return the name and scheme of a weight in the source."""
    return {"name": step.source.weight.name, "scheme": step.stored.name, "family": step.stored.family}


def totals(steps: Iterable[Step]) -> dict[str, Any]:
    """Return counts by route, device, grade and scheme, and of fallbacks."""
    listed = list(steps)
    return {
        "routes": dict(sorted(Counter(str(s.route) for s in listed).items())),
        "devices": dict(sorted(Counter(s.devices.made_on.value for s in listed).items())),
        "grades": dict(sorted(Counter(str(s.grade) for s in listed).items())),
        "schemes": dict(sorted(Counter(s.scheme.name for s in listed).items())),
        "fallbacks": sum(s.wanted is not None for s in listed),
    }


def report(
    plan: Plan,
    errors: Mapping[int, Error],
    hashes: Mapping[str, str],
    sources: Mapping[Path, str] | None,
    readers: Sequence[Opened] = (),
) -> dict[str, Any]:
    """Return the report of a finished run.

    hashes: of output files; sources: of source files, if the run was verified; readers: that opened the output.
    """
    summary = plan_summary(plan)
    steps = [step_summary(step, errors[i]) for i, step in enumerate(plan.steps)]
    return {
        "report_version": 1,
        "command": sys.argv[1:],
        "versions": versions() | {"python": platform.python_version()},
        **summary,
        "files": [{**file, "sha256": hashes[file["name"]]} for file in summary["files"]],
        "sources": [_source(stamp, (sources or {}).get(stamp.path)) for stamp in plan.stamps],
        "weights": steps,
        "totals": {**summary["totals"], "grades": dict(sorted(Counter(s["grade"] for s in steps).items()))},
        "warnings": [*summary["warnings"], *saturated(plan, errors)],
        "verified": sources is not None,
        "reference_readers": [
            {"name": r.name, "version": r.version, "files": list(r.files), "notes": list(r.notes)} for r in readers
        ],
    }


def saturated(plan: Plan, errors: Mapping[int, Error]) -> list[str]:
    """Return a warning of values above the largest of a format without scales, which were clipped to it."""
    clipped = {i: error.saturated for i, error in errors.items() if error.saturated}
    if not clipped:
        return []
    first, count = plan.steps[min(clipped)], sum(clipped.values())
    values = "1 value was" if count == 1 else f"{count} values were"
    weights = first.name
    if len(clipped) > 1:
        weights = f"{len(clipped)} weights (first: {first.name}, {clipped[min(clipped)]})"
    return [f"{values} clipped to the largest value of {first.scheme.name} in {weights}. Choose a scheme with scales."]


def _source(stamp: Stamp, sha256: str | None) -> dict[str, Any]:
    hub_sha256 = cached_sha256(stamp.path)
    return {
        "name": stamp.path.name,
        "bytes": stamp.size,
        "mtime_ns": stamp.mtime_ns,
        **({"header_sha256": stamp.header_sha256} if stamp.header_sha256 else {}),
        **({"hub_sha256": hub_sha256} if hub_sha256 else {}),
        **({"sha256": sha256} if sha256 else {}),
    }


def as_bytes(value: Mapping[str, Any]) -> bytes:
    """Return the report's JSON text."""
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8", "backslashreplace")
