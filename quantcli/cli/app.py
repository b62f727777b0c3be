"""`quant`: the commands, each in a file of its own. Nothing that is slow to import is imported here."""

from __future__ import annotations

import io
import os
import sys
from typing import Annotated

import typer

import quantcli
from quantcli.cli import architectures, convert, diff, inspection, schemes
from quantcli.cli.command import MOST_COLUMNS, OrderedCommand, QuantCommand, QuantGroup
from quantcli.cli.examples import EXAMPLES, FIRST_STEPS

app = typer.Typer(
    name="quant",
    cls=QuantGroup,
    context_settings={"max_content_width": MOST_COLUMNS},
    epilog=FIRST_STEPS,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"quant {quantcli.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Convert model checkpoints between formats, rounding weights only where the conversion requires it.

    `quant COMMAND --help` explains each command.
    """


app.command("convert", cls=OrderedCommand, epilog=EXAMPLES["convert"])(convert.convert)
app.command("inspect", cls=QuantCommand, epilog=EXAMPLES["inspect"])(inspection.inspect)
app.command("diff", cls=QuantCommand, epilog=EXAMPLES["diff"])(diff.diff)
app.command("schemes", cls=QuantCommand, epilog=EXAMPLES["schemes"])(schemes.schemes)
app.command("architectures", cls=QuantCommand, epilog=EXAMPLES["architectures"])(architectures.architectures)


def main() -> None:
    """Run the `quant` command."""
    # numpy's linear algebra is never used; its threads would only slow down the start.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Names may hold characters that a terminal's encoding, or any encoding, lacks.
            stream.reconfigure(errors="backslashreplace")
    # A closed stream is None.
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    app()
