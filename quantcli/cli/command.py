"""What all commands share: how they end, and how their help is laid out.

Options stand under the headings that they name (typer's `rich_help_panel`), examples at the end. The help is printed by
typer's plain formatter: importing rich would double the time that `--help` takes.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ParamSpec

import typer
from typer.core import TyperCommand, TyperGroup

from quantcli.errors import QuantError, Surroundings, WrongUsage

P = ParamSpec("P")

#: Heading of the options that all commands have.
GENERAL = "General options"

#: Widest first column of the help: on terminals of at least this many columns, and on narrower ones.
FULL_WIDTH, FIRST_COLUMN, NARROW_FIRST_COLUMN = 68, 30, 22

#: Widest help, in columns.
MOST_COLUMNS = 100

ORDER = "quantcli.order"


class Interrupted(QuantError):
    """Ctrl-C."""

    exit_code = 130


def command(function: Callable[P, None]) -> Callable[P, None]:
    """Wrap a command so that it ends with our exit codes: one error on stderr, a traceback only with -vv."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        from quantcli.cli.output import Output, flush

        given = inspect.signature(function).bind(*args, **kwargs).arguments
        out = Output(verbose=given.get("verbose", 0))
        try:
            _refuse_empty(given)
            with Output(quiet=given.get("quiet", False)).log_notes():
                function(*args, **kwargs)
            flush()
        except KeyboardInterrupt:
            out.error(Interrupted("interrupted."))
            raise typer.Exit(Interrupted.exit_code) from None
        except QuantError as error:
            out.error(error)
            raise typer.Exit(error.exit_code) from None
        except OSError as error:
            where = error.filename or "standard output"
            out.error(Surroundings(f"{where}: {error.strerror or error}. Check it, then run the command again."))
            raise typer.Exit(Surroundings.exit_code) from None
        except MemoryError:
            out.error(Surroundings("not enough memory. Lower --max-memory or --threads."))
            raise typer.Exit(Surroundings.exit_code) from None

    return run


def _refuse_empty(given: Mapping[str, object]) -> None:
    """Refuse an option with an empty value, such as an unset variable of a script: it does not mean "not given"."""
    for name, value in given.items():
        values = value if isinstance(value, list) else [value]
        if any(isinstance(v, str) and not v.strip() for v in values):
            raise WrongUsage(f"--{name.strip('_').replace('_', '-')} is empty. Give it a value or leave it out.")


class QuantCommand(TyperCommand):
    """A command whose errors are ours, and whose help has headings and examples."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        from quantcli.cli.output import Output

        try:
            return super().parse_args(ctx, args)
        except WrongUsage as error:  # of a `Choice`
            Output().error(error)
            raise typer.Exit(error.exit_code) from None

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return [piece.strip("{}") for piece in super().collect_usage_pieces(ctx)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        _write_parameters(self.get_params(ctx), ctx, formatter)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        _write_examples(self.epilog, formatter)


class OrderedCommand(QuantCommand):
    """A command that remembers the order in which its options were given."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        _, _, given = self.make_parser(ctx).parse_args(args=list(args))
        ctx.meta[ORDER] = [parameter.name for parameter in given]
        return super().parse_args(ctx, args)


class QuantGroup(TyperGroup):
    """`quant` itself: its help ends with examples too."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        _write_examples(self.epilog, formatter)


def in_order(context: typer.Context, options: Mapping[str, Iterable[Any] | None]) -> tuple[Any, ...]:
    """Return the values of repeatable options (by the names of their parameters) in the order given."""
    values = {name: iter(given or ()) for name, given in options.items()}
    return tuple(next(values[name]) for name in context.meta[ORDER] if name in values)


def _write_parameters(parameters: Sequence[Any], ctx: Any, formatter: Any) -> None:
    """Write arguments, then options by heading, all aligned at one column."""
    sections: dict[str, list[tuple[str, str]]] = {}
    for parameter in parameters:
        record = parameter.get_help_record(ctx)
        if record is None:
            continue
        if parameter.param_type_name == "argument":
            sections.setdefault("Arguments", []).append((parameter.metavar, parameter.help))
        else:
            sections.setdefault(parameter.rich_help_panel or GENERAL, []).append(record)
    most = FIRST_COLUMN if formatter.width >= FULL_WIDTH else NARROW_FIRST_COLUMN
    column = min(most, max(len(name) for rows in sections.values() for name, _ in rows))
    for heading, rows in sections.items():
        with formatter.section(heading):
            formatter.write_dl([(name.ljust(column), text) for name, text in rows], col_max=column)


def _write_examples(examples: str | None, formatter: Any) -> None:
    if examples:
        with formatter.section("Examples"):
            for line in examples.splitlines():
                formatter.write(f"{'':>{formatter.current_indent}}{line}\n")
