"""Checks that both readers make of a file that may be anything: what it really is, whether its names can be shown.

A name from a file is printed, logged and used as a key. So it has to be one line of text without characters that steer
a terminal, and an error quotes it in at most a line whatever its length.
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

#: The largest count, size or dimension that a header may name: what a signed 64-bit integer holds.
LARGEST_COUNT = 2**63 - 1

# C0 and C1 controls, line and paragraph separators, bidirectional overrides and isolates, lone surrogates.
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

#: How a pointer of git-lfs starts, which stands where a file was not fetched.
LFS = b"version https://git-lfs"

# First bytes -> what the file is, and what to do about it.
FOREIGN: tuple[tuple[bytes, str], ...] = (
    (LFS, "a git-lfs pointer, not the file itself: fetch it with `git lfs pull`"),
    (b"PK\x03\x04", "a zip archive, as PyTorch writes its pickles: convert it to safetensors first"),
    (b"\x80\x02", "a PyTorch pickle: convert it to safetensors first"),
    (b"\x80\x03", "a PyTorch pickle: convert it to safetensors first"),
    (b"\x80\x04", "a PyTorch pickle: convert it to safetensors first"),
    (b"\x80\x05", "a PyTorch pickle: convert it to safetensors first"),
    (b"GGUF", "a GGUF file: name it as the source itself"),
)

# How pages begin that a server sends in place of a file (blanks left out, in lower case).
PAGES = (b"<!doctype html", b"<html", b"<?xml")

_short = reprlib.Repr()
_short.maxlevel = 2
_short.maxstring = _short.maxother = _short.maxlong = 100


def shown(value: object) -> str:
    """`value` quoted for an error message: one line, at most some hundred characters."""
    return UNPRINTABLE.sub("?", _short.repr(value))


def foreign(head: bytes) -> str | None:
    """What a file with these first bytes is, and what to do about it; None: nothing that we know."""
    if is_page(head):
        return "a web page, not the file itself: the download went wrong (login, wrong link). Download it again"
    return next((what for start, what in FOREIGN if head.startswith(start)), None)


def is_page(head: bytes) -> bool:
    """Whether a file with these first bytes is a page of HTML or XML."""
    return head[:64].removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith(PAGES)


def check_name(name: str, where: str) -> None:
    """Refuse an empty name and one with control characters; `where`: the file and what is named (`a.gguf: a key`)."""
    if not name:
        raise BadInput(f"{where} has an empty name: get the file again or mend the tool that wrote it.")
    if UNPRINTABLE.search(name):
        raise BadInput(
            f"{where} has control characters in its name {shown(name)}: rename it with the tool that wrote it."
        )


@contextmanager
def opened(path: Path) -> Iterator[tuple[Read, int]]:
    """A reader of `path` and its size in bytes; `Surroundings` where the system refuses, `BadInput` for a pipe."""
    try:
        # Without O_NONBLOCK the opening of a named pipe would wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise Surroundings(
            f"{path}: cannot be opened ({error.strerror}): check the path and its permissions."
        ) from error
    try:
        with reading(path):
            status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise BadInput(f"{path}: is not a regular file. Name one that is.")
        yield lambda offset, length: _pread(path, descriptor, offset, length), status.st_size
    finally:
        with reading(path):
            os.close(descriptor)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what the system says of a file that is read into `Surroundings` that names it."""
    try:
        yield
    except OSError as error:
        raise Surroundings(f"{path}: cannot be read ({error.strerror or error}): check the disk.") from error


def _pread(path: Path, descriptor: int, offset: int, length: int) -> bytes:
    with reading(path):
        return os.pread(descriptor, length, offset)
