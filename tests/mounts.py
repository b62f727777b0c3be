"""Real mounts for tests; where the machine does not allow them, the test is skipped, aloud."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def mounted(place: Path, *options: str) -> Iterator[Path]:
    """Something mounted at a folder that is made, or at a file that is there; `options` are those of mount(8)."""
    if not place.is_file():
        place.mkdir(exist_ok=True)
    command = ["mount", *options, str(place)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip(f"this machine does not allow `{' '.join(command[:-1])}`")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


@contextmanager
def bound(folder: Path, place: Path) -> Iterator[Path]:
    """A folder or file that has a second path, which no link shows."""
    with mounted(place, "--bind", str(folder)):
        yield place


@contextmanager
def tmpfs(place: Path, options: str = "size=64m") -> Iterator[Path]:
    """A small file system in memory."""
    with mounted(place, "-t", "tmpfs", "-o", options, "none"):
        yield place
