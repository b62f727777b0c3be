"""Existence of paths. An error of the system is raised, and never taken for "does not exist".

`os.path.exists` and `os.path.lexists` return False for every error, and `os.path.realpath` takes a path that it cannot
read for one without links: on a failing disk an output would seem missing, and a link into it an ordinary path.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

#: Errors of paths that do not exist: no such name, a file as a folder, too long, a loop of links.
MISSING = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)


def is_there(path: str | os.PathLike[str]) -> bool:
    """Return whether a path exists, even as a dangling link. Raises `OSError` if the system cannot tell."""
    return _has_status(path, follow_symlinks=False)


def leads_somewhere(path: str | os.PathLike[str]) -> bool:
    """Return whether a path exists after following links. Raises `OSError` if the system cannot tell."""
    return _has_status(path, follow_symlinks=True)


def _has_status(path: str | os.PathLike[str], *, follow_symlinks: bool) -> bool:
    try:
        os.stat(path, follow_symlinks=follow_symlinks)
    except ValueError:  # a null character
        return False
    except OSError as error:
        if error.errno not in MISSING:
            raise
        return False
    return True


def real_path(path: Path) -> Path:
    """Return a path without links, as far as it exists. Raises `OSError` if the system cannot tell."""
    try:
        return Path(os.path.realpath(path, strict=True))
    except OSError as error:
        if error.errno not in MISSING:
            raise
        return Path(os.path.realpath(path))
