"""What stands where an output is to go: the files of an earlier run, by its report, and what is somebody's own."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quantcli.containers.hostile import opened
from quantcli.containers.json_text import MAX_BYTES, load_object
from quantcli.errors import BadInput, Surroundings

#: Suffixes of files that model folders have; what has another is somebody's own.
MODEL_FILES = (".json", ".safetensors", ".jinja", ".model", ".md", ".py", ".jsonl", ".png")
MODEL_NAMES = ("merges.txt", "vocab.txt", "LICENSE", "LICENSE.txt", "NOTICE", ".gitattributes")


def strange(folder: Path, written: set[str]) -> Path | None:
    """A file of a folder that no model has and no earlier run has written, None without one."""
    files = (path for path in sorted(folder.rglob("*")) if not path.is_dir() or path.is_symlink())
    return next((path for path in files if not _is_models(path) and str(path.relative_to(folder)) not in written), None)


def _is_models(path: Path) -> bool:
    return path.suffix in MODEL_FILES or path.name in MODEL_NAMES


def written_files(report: Mapping[str, Any] | None) -> set[str]:
    """The names of the files that a report lists."""
    files = (report or {}).get("files")
    names = [file.get("name") for file in files if isinstance(file, dict)] if isinstance(files, list) else []
    return {name for name in names if isinstance(name, str)}


def is_report(path: Path) -> bool:
    """Whether a report may take the place: nothing is there, or an older one."""
    return not os.path.lexists(path) or old_report(path) is not None


def old_report(path: Path) -> dict[str, Any] | None:
    """The report that an earlier run left; None where there is none, or something else."""
    found: Mapping[str, Any] = {}
    with contextlib.suppress(BadInput, Surroundings), opened(path) as (read, size):
        found = load_object(read(0, min(size, MAX_BYTES + 1)), str(path))
    return dict(found) if "report_version" in found else None


def old_parts(report: Path, output: Path) -> list[Path]:
    """The parts of a split GGUF that an older report names, of those that are there."""
    part = re.compile(re.escape(output.name.removesuffix(".gguf")) + r"-\d{5}-of-\d{5}\.gguf")
    found = sorted(name for name in written_files(old_report(report)) if part.fullmatch(name))
    return [output.with_name(name) for name in found if os.path.lexists(output.with_name(name))]
