"""Opening files in a work folder without following links: only regular files and folders of this user are accepted."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from quantcli.errors import Surroundings

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: Without O_NONBLOCK the opening of a named pipe would wait for its other end.
GUARDED = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@contextlib.contextmanager
def folder_of(root: Path, name: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
    """Open the folder of `name`, a path relative to `root`; yield its descriptor and the last part of the name.

    make: create missing folders on the way. Raises `OSError`.
    """
    *folders, last = PurePosixPath(name).parts
    descriptor = os.open(root, FOLDER)
    try:
        for folder in folders:
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(folder, dir_fd=descriptor)
            inside = os.open(folder, FOLDER, dir_fd=descriptor)
            outside, descriptor = descriptor, inside
            os.close(outside)
        yield descriptor, last
    finally:
        os.close(descriptor)


def open_file(root: Path, name: str, flags: int) -> int:
    """Open a regular file of this user; return its descriptor. Raises `Surroundings` for anything else, `OSError`."""
    path = root / name
    try:
        with folder_of(root, name, make=bool(flags & os.O_CREAT)) as (folder, last):
            descriptor = os.open(last, flags | GUARDED, 0o644, dir_fd=folder)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENXIO):
            raise _is_odd(path, "is a link, is reached through a link or is not a regular file") from error
        raise
    try:
        status = os.fstat(descriptor)
        check(path, status, root)
        if status.st_nlink > 1:
            raise _is_odd(path, "has another hard link")
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def check(path: Path, status: os.stat_result, root: Path) -> None:
    """Raise `Surroundings` unless a path in the work folder `root` is a regular file or a folder of this user."""
    if stat.S_ISLNK(status.st_mode):
        raise _is_odd(path, "is a link")
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
        raise _is_odd(path, "is neither a regular file nor a folder")
    if status.st_uid != os.geteuid() and status.st_uid != _owner_of_new_files(root):
        raise _is_odd(path, f"belongs to another user (id {status.st_uid})")


def remove(root: Path, name: str) -> None:
    """Delete a file, or a folder with all that is in it; `name` is a path relative to `root`. Raises `OSError`."""
    with folder_of(root, name) as (folder, last):
        _remove(folder, last)


def _remove(folder: int, name: str) -> None:
    """Delete what has a name in an open folder. Unlike `shutil.rmtree`, close no descriptor twice on an error."""
    if not stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
        os.unlink(name, dir_fd=folder)
        return
    descriptor = os.open(name, FOLDER, dir_fd=folder)
    try:
        for inside in os.listdir(descriptor):
            _remove(descriptor, inside)
    finally:
        os.close(descriptor)
    os.rmdir(name, dir_fd=folder)


def _is_odd(path: Path, what: str) -> Surroundings:
    return Surroundings(f"{path}: {what}; quant writes only to files that it created there. Move it away.")


def _owner_of_new_files(folder: Path) -> int:
    """Return the owner of files that this process creates, which on some file systems is another user."""
    with tempfile.TemporaryFile(dir=folder) as made:
        return os.fstat(made.fileno()).st_uid


def check_tree(folder: Path, root: Path) -> None:
    """Raise `Surroundings` if something at or below a path of the work folder `root` fails `check`."""
    check(folder, folder.lstat(), root)
    if folder.is_dir():
        for path in sorted(folder.iterdir()):
            check_tree(path, root)
