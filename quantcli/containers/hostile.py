"""Checks that all readers make of an untrusted file: what it really is, and whether its names can be printed.

A name from a file is printed, logged and used as a key. It must therefore be one line of text without characters that
control a terminal, and errors quote it in at most a line, whatever its length.
"""

from __future__ import annotations

import os
import re
import reprlib
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from quantcli.errors import BadInput, Surroundings

#: read(offset, length): that many bytes of a file, fewer only where the file ends.
Read = Callable[[int, int], bytes]

#: The largest count, size or dimension in a header: the largest signed 64-bit integer.
LARGEST_COUNT = 2**63 - 1

# C0 and C1 controls, line and paragraph separators, bidirectional overrides and isolates, lone surrogates.
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

#: How a git-lfs pointer starts: the text that git leaves in place of a file that was not fetched.
LFS = b"version https://git-lfs"

# First bytes -> what the file is, and a hint.
FOREIGN: tuple[tuple[bytes, str], ...] = (
    (LFS, "a git-lfs pointer, not the file itself. Fetch the file with `git lfs pull`"),
    (b"PK\x03\x04", "a zip archive, probably a PyTorch pickle. Convert it to safetensors first"),
    *((b"\x80" + bytes((protocol,)), "a PyTorch pickle. Convert it to safetensors first") for protocol in range(2, 6)),
    (b"GGUF", "a GGUF file. Use it as SOURCE"),
)

# How an HTML or XML page begins that a server sent in place of a file (in lower case, without leading whitespace).
PAGES = (b"<!doctype html", b"<html", b"<?xml")

_short = reprlib.Repr()
_short.maxlevel = 2
_short.maxstring = _short.maxother = _short.maxlong = 100


def shown(value: object) -> str:
    """Return `value` quoted for an error message: one line of at most a few hundred characters."""
    return UNPRINTABLE.sub("?", _short.repr(value))


def foreign(head: bytes) -> str | None:
    """Return what a file with these first bytes is, with a hint but no full stop; None if it is not recognised."""
    if is_page(head):
        return "a web page, not the file itself: the download failed (login, wrong link). Download it again"
    return next((kind for start, kind in FOREIGN if head.startswith(start)), None)


def is_page(head: bytes) -> bool:
    """Return whether a file with these first bytes is an HTML or XML page."""
    return head[:64].removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith(PAGES)


def check_name(name: str, where: str) -> None:
    """Raise `BadInput` for a name that is empty or has control characters.

    where: the file and what is named (`a.gguf: a key`).
    """
    if not name:
        raise BadInput(f"{where} has an empty name. Fix the tool that wrote the file.")
    if UNPRINTABLE.search(name):
        raise BadInput(f"{where} has control characters in its name, {shown(name)}. Fix the tool that wrote the file.")


@contextmanager
def opened(path: Path) -> Iterator[tuple[Read, int]]:
    """Open a file; yield a function that reads it, and its size in bytes.

    Raises `Surroundings` if it cannot be read, `BadInput` if it is not a regular file.
    """
    try:
        # Without O_NONBLOCK, opening a named pipe would wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise Surroundings(f"{path}: cannot be read ({error.strerror}). Check the path and its permissions.") from error
    try:
        with reading(path):
            status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise BadInput(f"{path}: is not a regular file.")
        yield lambda offset, length: _pread(path, descriptor, offset, length), status.st_size
    finally:
        with reading(path):
            os.close(descriptor)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn an `OSError` from reading a file into `Surroundings` that names the file."""
    try:
        yield
    except OSError as error:
        raise Surroundings(f"{path}: cannot be read ({error.strerror or error}). Check the disk.") from error


def _pread(path: Path, descriptor: int, offset: int, length: int) -> bytes:
    with reading(path):
        return os.pread(descriptor, length, offset)
