"""`quant`: puts the commands together. What they do stands in their own files; nothing heavy is imported here."""

from __future__ import annotations

import io
import os
import sys
from typing import Annotated

import typer

import quantcli
from quantcli.cli import architectures, convert, diff, inspection, schemes
from quantcli.cli.options import OrderedCommand

app = typer.Typer(
    name="quant",
    help="Converts model checkpoints between formats and never rounds a weight that it does not have to round.",
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
    """Converts model checkpoints between formats and never rounds a weight that it does not have to round."""


app.command("convert", cls=OrderedCommand)(convert.convert)
app.command("inspect")(inspection.inspect)
app.command("diff")(diff.diff)
app.command("schemes")(schemes.schemes)
app.command("architectures")(architectures.architectures)


def main() -> None:
    """The `quant` command."""
    # numpy's linear algebra is never used: its threads would only cost start-up.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Names may hold what a terminal's encoding, or any, cannot say.
            stream.reconfigure(errors="backslashreplace")
    # A closed stream is None.
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    app()
