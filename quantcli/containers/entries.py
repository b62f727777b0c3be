"""What stands at a path. Where the system cannot look, that is an error, and never "nothing is there".

`os.path.exists` and `os.path.lexists` say False for every error, `os.path.realpath` takes what it cannot look at for no
link: on a failing disk an output would count as missing, and a link into it as none.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

#: What the system answers for a name that nothing has: of a file, in a file, too long, links in a circle.
MISSING = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)


def is_there(path: str | os.PathLike[str]) -> bool:
    """Whether anything has this name, a dangling link too. Raises `OSError` where the system cannot look."""
    return _has_status(path, follow_symlinks=False)


def leads_somewhere(path: str | os.PathLike[str]) -> bool:
    """Whether a path, links followed, is that of anything. Raises `OSError` where the system cannot look."""
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
    """The path without links, as far as it is there. Raises `OSError` where the system cannot look."""
    try:
        return Path(os.path.realpath(path, strict=True))
    except OSError as error:
        if error.errno not in MISSING:
            raise
        return Path(os.path.realpath(path))
