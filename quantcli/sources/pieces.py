"""Files that were cut into pieces of bytes, which `cat` joins: `X.gguf.part1of2`, `X.gguf-split-a`, `X.gguf.part00`.

The parts of a split GGUF file (`X-00001-of-00002.gguf`) are no such pieces: each is a file of its own.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable
from pathlib import Path

#: The name of the joined file; what the piece is called, by its number or letters.
PIECE = re.compile(
    r"(?P<joined>.+\.(?:gguf|safetensors))"
    r"[-._](?:(?:part|split|chunk)[-._]?(?:\d{1,4}|[a-z]{1,2})(?:[-._]?of[-._]?\d{1,4})?|\d{2,4}|a[a-z])",
    re.IGNORECASE,
)
NUMBER = re.compile(r"\d+")
#: A command names so many pieces at most.
MOST_NAMED = 8


def joined_name(name: str) -> str | None:
    """The file that a piece belongs to, None for a file that is called otherwise.

    >>> joined_name("m.Q6_K.gguf-split-a"), joined_name("m.gguf.part1of2"), joined_name("m-00001-of-00002.gguf")
    ('m.Q6_K.gguf', 'm.gguf', None)
    """
    found = PIECE.fullmatch(name)
    return found["joined"] if found else None


def among(names: Iterable[str], joined: str | None = None) -> list[str]:
    """The pieces of one file among files, in their order. joined: of this one; else of the first that has some."""
    found = [name for name in names if joined_name(name) is not None]
    wanted = joined or min(filter(None, map(joined_name, found)), default=None)
    return sorted((name for name in found if joined_name(name) == wanted), key=_place)


def advice(pieces: list[str]) -> str:
    """How to join pieces, as a sentence."""
    joined = joined_name(pieces[0])
    assert joined is not None
    named = " ".join(map(shlex.quote, pieces[:MOST_NAMED])) + (" ..." if len(pieces) > MOST_NAMED else "")
    if len(pieces) == 1:
        return f"Download the other pieces, and join all in their order with `cat PIECE ... > {shlex.quote(joined)}`."
    return f"Join all of them in their order: `cat {named} > {shlex.quote(joined)}`."


def of_file(path: Path, error: str) -> str | None:
    """What to say of a file that cannot be read (`error`) and is a piece, or has pieces of itself next to it."""
    try:
        here = os.listdir(path.parent)
    except OSError:
        here = [path.name]
    joined = joined_name(path.name)
    if joined is not None:
        return f"{path}: one piece of a file that was cut. {advice(among(here, joined))}"
    found = among(here, path.name)
    if not found:
        return None
    return f"{error} Next to it is {found[0]}, a piece of the same file. {advice(found)}"


def _place(name: str) -> tuple[int, int, str]:
    """Where a piece comes: by the first number in its ending, or by its letters."""
    ending = name[len(joined_name(name) or "") :].lower()
    number = NUMBER.search(ending)
    return (int(number[0]) if number else 0, len(ending), ending)
