"""`--resume` of an output that is already complete: nothing is written except, with --verify, its report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quantcli.convert.planning.steps import Plan
from quantcli.convert.running.journal import is_finite
from quantcli.convert.running.old_output import old_report
from quantcli.schemes.base import Error


def report_of(path: Path, files: Mapping[Path, int], fingerprint: str) -> dict[str, Any] | None:
    """Return the report of an output that a run with this fingerprint completed, None if there is none.

    files: those of the output, with their sizes in bytes.
    """
    report = old_report(path)
    if report is None or report.get("fingerprint") != fingerprint:
        return None
    return report if all(p.is_file() and p.stat().st_size == size for p, size in files.items()) else None


def unread(report: Mapping[str, Any], output: Path) -> dict[str, Any]:
    """Return the report of a run that checked only the sizes of an output."""
    note = f"{output}: is already complete; only the sizes of its files were checked. Use --verify to check its data."
    notes = report.get("notes")
    return {
        **report,
        "notes": [*(notes if isinstance(notes, list) else []), note],
        "verified": False,
        "reference_readers": [],
    }


def errors_of(report: Mapping[str, Any], plan: Plan) -> dict[int, Error] | None:
    """Return the error of each step from a report, None if the report is not of these steps."""
    weights = report.get("weights")
    if not isinstance(weights, list) or len(weights) != len(plan.steps):
        return None
    errors: dict[int, Error] = {}
    for index, (weight, step) in enumerate(zip(weights, plan.steps, strict=True)):
        if not isinstance(weight, dict) or weight.get("name") != step.name:
            return None
        rmse: Any = weight.get("relative_rmse")
        largest: Any = weight.get("largest_error")
        saturated = weight.get("saturated", 0)
        if not is_finite((rmse, largest, saturated)) or type(saturated) is not int:
            return None
        errors[index] = Error(rmse * rmse, 1.0 if rmse else 0.0, largest, saturated=saturated)
    return errors
