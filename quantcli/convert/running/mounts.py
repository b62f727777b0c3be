"""Mount points: such a folder or file cannot be renamed, and what is below it belongs to another file system.

`os.path.ismount` does not see a folder that is bound to another place of the same file system; Linux lists those.

Source: proc_pid_mountinfo(5).
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from quantcli.containers.entries import real_path

MOUNTS = Path("/proc/self/mountinfo")
#: The field of a line that names the mount point, where blanks and backslashes are octal numbers.
POINT = 4
OCTAL = re.compile(rb"\\([0-7]{3})")


def mounted_in(path: Path) -> Path | None:
    """Return the first mount point at or below an existing path, None without one."""
    if path.is_mount():
        return path
    real = real_path(path)
    points = (Path(os.fsdecode(point)) for point in _points())
    return next((point for point in sorted(points) if point == real or real in point.parents), None)


def _points() -> list[bytes]:
    """Return every mount point that the system lists; none without such a list."""
    if not MOUNTS.exists():
        return []
    lines = MOUNTS.read_bytes().splitlines()
    return [OCTAL.sub(lambda match: bytes([int(match[1], 8)]), line.split(b" ")[POINT]) for line in lines]
