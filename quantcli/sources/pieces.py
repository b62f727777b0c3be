"""Files that were cut into pieces, which `cat` joins: `X.gguf.part1of2`, `X.gguf-split-a`, `X.gguf.part00`.

The parts of a split GGUF file (`X-00001-of-00002.gguf`) are not such pieces: each is a complete file.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable
from pathlib import Path

#: The name of the joined file, then the piece's number or letters.
PIECE = re.compile(
    r"(?P<joined>.+\.(?:gguf|safetensors))"
    r"[-._](?:(?:part|split|chunk)[-._]?(?:\d{1,4}|[a-z]{1,2})(?:[-._]?of[-._]?\d{1,4})?|\d{2,4}|a[a-z])",
    re.IGNORECASE,
)
NUMBER = re.compile(r"\d+")
#: The most pieces that a message names.
MOST_NAMED = 8


def joined_name(name: str) -> str | None:
    """Return the name of the file that a piece belongs to; None for any other name.

    >>> joined_name("m.Q6_K.gguf-split-a"), joined_name("m.gguf.part1of2"), joined_name("m-00001-of-00002.gguf")
    ('m.Q6_K.gguf', 'm.gguf', None)
    """
    match = PIECE.fullmatch(name)
    return match["joined"] if match else None


def among(names: Iterable[str], joined: str | None = None) -> list[str]:
    """Return the pieces of one file, in order. joined: its name; by default the first name that has pieces."""
    pieces = [name for name in names if joined_name(name) is not None]
    target = joined or min(filter(None, map(joined_name, pieces)), default=None)
    return sorted((name for name in pieces if joined_name(name) == target), key=_place)


def advice(pieces: list[str]) -> str:
    """Return a hint that says how to join pieces."""
    joined = joined_name(pieces[0])
    assert joined is not None
    named = " ".join(map(shlex.quote, pieces[:MOST_NAMED])) + (" ..." if len(pieces) > MOST_NAMED else "")
    if len(pieces) == 1:
        return f"Download the other pieces, then join all of them in order: `cat PIECE ... > {shlex.quote(joined)}`."
    return f"Join all pieces in order: `cat {named} > {shlex.quote(joined)}`."


def of_file(path: Path, error: str) -> str | None:
    """Return another error for an unreadable file (`error`) that is a piece, or has pieces next to it; else None."""
    try:
        here = os.listdir(path.parent)
    except OSError:
        here = [path.name]
    joined = joined_name(path.name)
    if joined is not None:
        return f"{path}: is one piece of a split file. {advice(among(here, joined))}"
    pieces = among(here, path.name)
    if not pieces:
        return None
    return f"{error} Next to it is {pieces[0]}, a piece of the same file. {advice(pieces)}"


def _place(name: str) -> tuple[int, int, str]:
    """Return a sort key for a piece: the first number in its ending, or its letters."""
    ending = name[len(joined_name(name) or "") :].lower()
    number = NUMBER.search(ending)
    return (int(number[0]) if number else 0, len(ending), ending)
