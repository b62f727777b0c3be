"""Arguments and options that several commands share, and how their values are read."""

from __future__ import annotations

import os
import re
from typing import Annotated

import typer

from quantcli.cli.command import GENERAL
from quantcli.errors import WrongUsage

#: Headings of options in the help of several commands.
LIMITS = "Limits"
CHECKS = "Checks (exit code 1 if they fail)"

#: What an argument that names a checkpoint may be.
CHECKPOINT = "A model folder, a .gguf or .safetensors file, or a Hub id: org/name[@revision]."

Source = Annotated[str, typer.Argument(metavar="SOURCE", help=CHECKPOINT)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.", rich_help_panel=GENERAL)]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print only errors and the requested data.", rich_help_panel=GENERAL)
]
Verbose = Annotated[
    int,
    typer.Option(
        "--verbose", "-v", count=True, show_default=False, rich_help_panel=GENERAL,
        help="Print all warnings; -vv adds a traceback to errors.",
    ),
]  # fmt: skip
MaxMemory = Annotated[
    str | None,
    typer.Option(
        "--max-memory", metavar="SIZE", rich_help_panel=LIMITS,
        help="Memory limit for weights being processed.  [default: a quarter of RAM, at most 4 GB]",
    ),
]  # fmt: skip
Threads = Annotated[
    int | None,
    typer.Option(metavar="N", help="Number of threads.  [default: all available cores]", rich_help_panel=LIMITS),
]

#: Bytes; with less, a slab would hold only a row or two.
LEAST_MEMORY = 16_000_000

UNITS = {
    "": 1,
    "k": 10**3,
    "m": 10**6,
    "g": 10**9,
    "t": 10**12,
    "ki": 1 << 10,
    "mi": 1 << 20,
    "gi": 1 << 30,
    "ti": 1 << 40,
}


def parse_size(text: str, option: str) -> int:
    """Return a size such as `300MB`, `5G`, `2GiB` or `1000` in bytes. Raises `WrongUsage`.

    >>> parse_size("300MB", "--max-memory"), parse_size("1.5 GiB", "--max-memory")
    (300000000, 1610612736)
    """
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,6})?) ?([kmgt]i?)?b?", text.strip().lower())
    if match is None:
        raise WrongUsage(f"{option}: expected a size such as 300MB, 5GB or 2GiB, found {text!r}.")
    size = int(float(match[1]) * UNITS[match[2] or ""])
    if size <= 0:
        raise WrongUsage(f"{option}: expected a size above 0, found {text!r}.")
    return size


def thread_count(threads: int | None) -> int:
    """Return `--threads`, by default the number of cores that this process may use. Raises `WrongUsage`."""
    if threads is not None and threads < 1:
        raise WrongUsage(f"--threads: expected a number of at least 1, found {threads}.")
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return threads or allowed


def memory_bound(text: str | None) -> int:
    """Return `--max-memory` in bytes. Raises `WrongUsage`."""
    if text is None:
        return default_memory()
    size = parse_size(text, "--max-memory")
    if size < LEAST_MEMORY:
        raise WrongUsage(f"--max-memory: expected at least {LEAST_MEMORY // 10**6}MB, found {text}.")
    return size


def default_memory() -> int:
    """Return a quarter of the machine's memory, at most 4 GB, in bytes."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(machine // 4, 4 * 10**9)
