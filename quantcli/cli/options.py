"""Arguments and options that several commands share, and how their values are read."""

from __future__ import annotations

import functools
import inspect
import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, ParamSpec

import typer
from typer.core import TyperCommand

from quantcli.errors import QuantError, Surroundings, WrongUsage

P = ParamSpec("P")

Source = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE", help="A model folder, a .gguf or .safetensors file, or a Hub id org/name[@revision]."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors and asked-for data only.")]
Verbose = Annotated[
    int, typer.Option("--verbose", "-v", count=True, help="All warnings; -vv: where an error came from.")
]
MaxMemory = Annotated[
    str | None,
    typer.Option(
        "--max-memory", metavar="SIZE", help="For weights in work [default: 1/4 of the machine's, at most 4GB]."
    ),
]
Threads = Annotated[int | None, typer.Option(metavar="N", help="[default: all]")]
Revision = Annotated[str | None, typer.Option(metavar="NAME", help="Branch, tag or commit of a Hub id.")]


class Interrupted(QuantError):
    """Ctrl-C."""

    exit_code = 130


def command(function: Callable[P, None]) -> Callable[P, None]:
    """A command that ends with our exit codes: one sentence on stderr, no traceback unless -vv asks for it."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        from quantcli.cli.output import Output, flush

        given = inspect.signature(function).bind(*args, **kwargs).arguments
        out = Output(verbose=given.get("verbose", 0))
        try:
            _refuse_empty(given)
            with Output(quiet=given.get("quiet", False)).hearing():
                function(*args, **kwargs)
            flush()
        except KeyboardInterrupt:
            out.error(Interrupted("interrupted."))
            raise typer.Exit(130) from None
        except QuantError as error:
            out.error(error)
            raise typer.Exit(error.exit_code) from None
        except OSError as error:
            where = error.filename or "standard output"
            out.error(Surroundings(f"{where}: {error.strerror or error}. Check it, then run the command again."))
            raise typer.Exit(Surroundings.exit_code) from None
        except MemoryError:
            out.error(Surroundings("not enough memory; lower --max-memory or --threads."))
            raise typer.Exit(Surroundings.exit_code) from None

    return run


class OrderedCommand(TyperCommand):
    """A command that remembers in which order its options were given, which their values alone do not say."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        _, _, given = self.make_parser(ctx).parse_args(args=list(args))
        ctx.meta[ORDER] = [parameter.name for parameter in given]
        return super().parse_args(ctx, args)


ORDER = "quantcli.order"


def in_order(context: typer.Context, options: Mapping[str, Iterable[Any] | None]) -> tuple[Any, ...]:
    """The values of repeatable options (by the names of their parameters) as they followed each other."""
    values = {name: iter(given or ()) for name, given in options.items()}
    return tuple(next(values[name]) for name in context.meta[ORDER] if name in values)


def _refuse_empty(given: Mapping[str, object]) -> None:
    """An option whose value is empty is one that a script forgot to fill: never the same as one not given."""
    for name, value in given.items():
        values = value if isinstance(value, list) else [value]
        if any(isinstance(v, str) and not v.strip() for v in values):
            raise WrongUsage(f"--{name.strip('_').replace('_', '-')} is empty: leave it out or give it a value.")


#: Below this a slab would hold less than a row or two.
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
    """A number of bytes: `300MB`, `5G`, `2GiB`, `1000`. Raises `WrongUsage`.

    >>> parse_size("300MB", "--max-memory"), parse_size("1.5 GiB", "--max-memory")
    (300000000, 1610612736)
    """
    found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,6})?) ?([kmgt]i?)?b?", text.strip().lower())
    if found is None:
        raise WrongUsage(f"{option} {text!r} is no size; write it like 300MB, 5GB or 2GiB.")
    size = int(float(found[1]) * UNITS[found[2] or ""])
    if size <= 0:
        raise WrongUsage(f"{option} {text!r} has to be above 0.")
    return size


def thread_count(threads: int | None) -> int:
    """`--threads`, by default as many as this process may run on. Raises `WrongUsage`."""
    if threads is not None and threads < 1:
        raise WrongUsage(f"--threads {threads}: at least 1.")
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return threads or allowed


def memory_bound(text: str | None) -> int:
    """`--max-memory` in bytes. Raises `WrongUsage`."""
    if text is None:
        return default_memory()
    size = parse_size(text, "--max-memory")
    if size < LEAST_MEMORY:
        raise WrongUsage(f"--max-memory {text}: at least {LEAST_MEMORY // 10**6}MB is needed for weights in work.")
    return size


def default_memory() -> int:
    """A quarter of the machine's memory, at most 4 GB."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(machine // 4, 4 * 10**9)
