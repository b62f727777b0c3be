"""What makes two runs the same run: the sources, the options, the plan, the versions of what computes it."""

from __future__ import annotations

import contextlib
import hashlib
import json
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version

import quantcli
from quantcli.convert.planning.steps import Plan

#: Packages whose versions a resumed run must share with its beginning.
COMPUTES = ("mlx", "numba", "numpy")


def fingerprint(plan: Plan) -> str:
    """SHA-256 over the sources, the options that shape the output, the plan and the versions of what computes it."""
    request = asdict(plan.request) | {"output": plan.request.output.name}
    value = {
        "versions": versions(),
        "sources": [[s.path.name, s.size, s.mtime_ns, s.header_sha256] for s in plan.stamps],
        "request": request,
        "steps": [[s.name, s.scheme.family, repr(s.scheme), s.route, s.via] for s in plan.steps],
        "files": [[f.name, f.size, [hashlib.sha256(blob).hexdigest() for _, blob in f.blobs]] for f in plan.files],
    }
    return hashlib.sha256(json.dumps(value, default=str, sort_keys=True).encode()).hexdigest()


def versions() -> dict[str, str]:
    """Of this project and of what does the arithmetic."""
    found = {"quantcli": quantcli.__version__}
    for name in COMPUTES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
