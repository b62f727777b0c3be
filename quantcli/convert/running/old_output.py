"""What exists at an output's path: files of an earlier run, by its report, and files of the user."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from quantcli.containers.hostile import opened
from quantcli.containers.json_text import MAX_BYTES, load_object
from quantcli.convert.running.model_files import has_tensors, is_history, is_models
from quantcli.convert.running.places import is_regular
from quantcli.errors import BadInput
from quantcli.sources.folder import DEEPEST


def in_the_way(folder: Path, report: Path) -> Iterator[str]:
    """Yield the files that keep a folder from being replaced. Raises `OSError`.

    These are files that its report does not list with their sizes and, in a model folder, that model folders do not
    have.
    """
    listed, names = sizes(old_report(report)), os.listdir(folder)
    is_model = "config.json" in names and has_tensors(names)
    for name, status in _files(folder):
        is_written = listed.get(name) == status.st_size or (bool(listed) and name == report.name)
        is_known = is_written or (is_model and is_models(name))
        if not (stat.S_ISREG(status.st_mode) and is_known) or is_history(name):
            yield name


def _files(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Yield the path and status of everything in a folder but folders; links are not followed.

    Folders that no model has count as files: version histories, below `DEEPEST` others, on another file system.
    """
    left, device = [""], os.lstat(folder).st_dev
    while left:
        within = left.pop()
        for name in sorted(within + name for name in os.listdir(folder / within)):
            status = os.lstat(folder / name)
            is_odd = is_history(name) or name.count("/") >= DEEPEST or status.st_dev != device
            if stat.S_ISDIR(status.st_mode) and not is_odd:
                left.append(f"{name}/")
            else:
                yield name, status


def sizes(report: Mapping[str, Any] | None) -> dict[str, int]:
    """Return the files that a report lists, with their sizes in bytes."""
    files = (report or {}).get("files")
    listed = [file for file in files if isinstance(file, dict)] if isinstance(files, list) else []
    named = {file.get("name"): file.get("bytes") for file in listed if isinstance(file.get("name"), str)}
    return {name: size for name, size in named.items() if isinstance(name, str) and type(size) is int}


def old_report(path: Path) -> dict[str, Any] | None:
    """Return the report of an earlier run; None if there is none or the file is something else.

    Raises `Surroundings` or `OSError` if it cannot be read.
    """
    report: Mapping[str, Any] = {}
    if not is_regular(path):
        return None
    with contextlib.suppress(BadInput), opened(path) as (read, size):
        report = load_object(read(0, min(size, MAX_BYTES + 1)), str(path))
    return dict(report) if "report_version" in report else None


def parts_of(output: Path) -> list[Path]:
    """Return the files next to a GGUF file that are named like its parts; none for other files."""
    part = re.compile(re.escape(output.name.removesuffix(".gguf")) + r"-\d{5}-of-\d{5}\.gguf")
    names = os.listdir(output.parent) if output.parent.is_dir() else []
    return [output.with_name(name) for name in sorted(names) if part.fullmatch(name)]
