"""Renames that overwrite nothing: swapping two names in one step, and renaming to a free name.

    Linux    renameat2 with RENAME_EXCHANGE and RENAME_NOREPLACE
    macOS    renamex_np with RENAME_SWAP and RENAME_EXCL

Not every file system supports them (NFS and many in user space do not): then `exchange` returns False, and `rename_new`
makes a hard link instead, which fails if the name is taken. On a file system that has no hard links either, some
microseconds pass between checking the name and the rename; no file system is known that lacks both.

Sources: rename(2) of Linux, renamex_np(2) of macOS.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from quantcli.containers.entries import is_there
from quantcli.convert.running.places import sync

#: Values of the flags, and of the folder that relative paths start from.
RENAME_NOREPLACE, RENAME_EXCHANGE, AT_FDCWD = 1, 2, -100
RENAME_SWAP, RENAME_EXCL = 2, 4
#: Errors on file systems without such renames, and without hard links.
LACKING = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
NO_LINKS = (*LACKING, errno.EPERM, errno.EMLINK)


def exchange(one: Path, other: Path) -> bool:
    """Swap what two existing names refer to; return False if that is not possible in one step."""
    return _flagged(one, other, RENAME_SWAP if sys.platform == "darwin" else RENAME_EXCHANGE)


def rename_new(old: Path, new: Path) -> None:
    """Rename to a free name. Raises `FileExistsError` if anything has the name, even an empty folder."""
    if _flagged(old, new, RENAME_EXCL if sys.platform == "darwin" else RENAME_NOREPLACE):
        return
    if not old.is_dir() and link(old, new):
        sync(new.parent)  # else a power cut may undo the second name and leave the first removed
        os.unlink(old)
        return
    if is_there(new):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(new))
    os.rename(old, new)


def link(old: Path, new: Path) -> bool:
    """Give a file a second name, which must be free; return False if the file system has no hard links."""
    with _lacking(NO_LINKS) as made:
        os.link(old, new, follow_symlinks=False)
    return made()


def _flagged(old: Path, new: Path, flag: int) -> bool:
    """Rename with a flag; return False if the system or the file system does not support it."""
    with _lacking(LACKING) as made:
        flagged_rename(os.fsencode(old), os.fsencode(new), flag)
    return made()


def flagged_rename(old: bytes, new: bytes, flag: int) -> None:
    """Call the system's function. Raises `OSError`; ENOSYS if the C library does not have it."""
    library = ctypes.CDLL(None, use_errno=True)
    if sys.platform == "darwin":
        arguments: tuple[object, ...] = (old, new, ctypes.c_uint(flag))
        call = getattr(library, "renamex_np", None)
    else:
        arguments = (AT_FDCWD, old, AT_FDCWD, new, ctypes.c_uint(flag))
        call = getattr(library, "renameat2", None)
    if call is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if call(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), os.fsdecode(old), None, os.fsdecode(new))


@contextlib.contextmanager
def _lacking(numbers: tuple[int, ...]) -> Iterator[Callable[[], bool]]:
    """End the block at an error with one of these numbers; yield a function that tells whether none occurred."""
    is_made = True
    try:
        yield lambda: is_made
    except OSError as error:
        if error.errno not in numbers:
            raise
        is_made = False
