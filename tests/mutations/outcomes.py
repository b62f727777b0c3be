"""What a plan makes of a change: an error or a warning that names it, another output, or nothing at all.

What counts as another output: of a changed setting anything in the output but a config.json that is the source's own;
of a changed tensor the settings of the output (config.json, a GGUF's keys), since its own bytes follow it anyway.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection
from enum import Enum
from pathlib import Path
from typing import Any

from quantcli.checkpoint import Checkpoint
from quantcli.containers import gguf
from quantcli.convert.planning.plan import make
from quantcli.convert.planning.request import Request
from quantcli.convert.planning.steps import ConstantStep, Plan
from quantcli.errors import BadInput, NotPossible, QuantError


class Outcome(Enum):
    """What became of a change. NAMELESS: an error that names neither the key nor a tensor."""

    REFUSED = "refused"
    WARNED = "warned"
    CHANGED = "changed"
    HARMLESS = "harmless"
    NAMELESS = "nameless"
    SILENT = "silent"


#: A tensor of a layer, as an error names it.
TENSOR = re.compile(r"(?:has no tensor|has a tensor|tensor) [\w.]*\b(?:layers|blk|h)\.\d+\.")
#: Where a function stands in memory, which differs between two plans of one request.
ADDRESS = re.compile(r" at 0x[0-9a-f]+")
#: Those that nobody would notice, or find.
BAD = (Outcome.NAMELESS, Outcome.SILENT)


def request(target: str) -> Request:
    return Request(output=Path("build/never-written.gguf" if target == "gguf" else "build/never-written"), to=target)


def planned(opened: Callable[[], Checkpoint], target: str) -> Plan | QuantError:
    """The plan, or why there is none; any other exception is a fault of its own."""
    try:
        return make(opened(), request(target))
    except (BadInput, NotPossible) as error:
        return error


def everything(plan: Plan) -> str:
    """A digest of all that a plan would write, a config.json that is the source's own aside."""
    found: list[Any] = []
    for file in plan.files:
        if file.name == "config.json" and _own(plan, file.blobs):
            continue
        found.append([file.name, file.size, [[at, blob.hex()] for at, blob in file.blobs]])
    for step in plan.steps:
        if isinstance(step, ConstantStep):
            values = [step.draft.values.tobytes().hex()]
        else:
            rows = step.source.rows
            indices = "" if rows is None else hashlib.sha256(rows.tobytes()).hexdigest()
            values = [indices, ADDRESS.sub("", str(sorted(step.source.weight.parts.items())))]
        found.append([step.name, step.scheme.name, list(step.shape), step.route.value, *values])
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()


def _own(plan: Plan, blobs: tuple[tuple[int, bytes], ...]) -> bool:
    """Whether a config.json says what the source's says, key by key, where both have the key."""
    written = json.loads(b"".join(blob for _, blob in blobs))
    config = plan.source.config
    return plan.source.names == "hf" and all(config.get(key, value) == value for key, value in written.items())


def settings(plan: Plan) -> str:
    """A digest of the settings that a plan would write: config.json, or a GGUF's keys."""
    said: list[Any] = []
    for file in plan.files:
        if file.name == "config.json":
            said.append(b"".join(blob for _, blob in file.blobs).hex())
        elif file.name.endswith(".gguf"):
            metadata = header_of(plan).metadata
            said += [[key, str(value), _payload(value.value)] for key, value in sorted(metadata.items())]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def header_of(plan: Plan) -> gguf.GgufFile:
    """What a plan would write at the start of its GGUF file."""
    (file,) = [file for file in plan.files if file.name.endswith(".gguf")]
    data = file.blobs[0][1]
    return gguf.parse(lambda at, count: data[at : at + count], file.size, Path(file.name))


def _payload(held: Any) -> str:
    return hashlib.sha256(getattr(held, "payload", b"")).hexdigest()


def outcome(
    found: Plan | QuantError, base: Plan, names: Collection[str], digest: Callable[[Plan], str], harmless: bool
) -> Outcome:
    """What became of a change. names: any of these in a message names it. base: the plan without the change.

    An error may also name a tensor that the source lacks, or has in vain.
    """
    if isinstance(found, QuantError):
        is_named = _names(str(found), names) or TENSOR.search(str(found))
        return Outcome.REFUSED if is_named else Outcome.NAMELESS
    if any(_names(warning, names) for warning in found.warnings if warning not in base.warnings):
        return Outcome.WARNED
    if harmless:
        return Outcome.HARMLESS
    return Outcome.CHANGED if digest(found) != digest(base) else Outcome.SILENT


def _names(text: str, names: Collection[str]) -> bool:
    """Whether a text has one of these names, not as a part of another."""
    return any(name in text and re.search(rf"(?<![\w.]){re.escape(name)}(?!\w)", text) for name in names)
