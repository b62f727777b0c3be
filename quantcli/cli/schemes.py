"""`quant schemes [NAME]`: every quantization scheme, what it costs and what reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from quantcli.cli import choices
from quantcli.cli.command import command
from quantcli.cli.options import Json, Quiet, Verbose
from quantcli.cli.output import Column, Output
from quantcli.errors import WrongUsage

if TYPE_CHECKING:
    from quantcli.convert.inspecting.catalogue import Entry

#: An entry's zero point -> how the table calls it, as the legend explains.
ZERO_POINTS = {"integer": "int", "float": "bias", None: ""}

#: Stands below the table.
LEGEND = (
    "kind: ct is compressed-tensors, bnb is bitsandbytes; awq weights are copied, never created",
    "bits: stored bits per weight, including scales; a per-tensor scale is not counted",
    "scale: dtype of the scales; float is f16, bf16 or f32, counted as 16 bits",
    "zero point: int is an integer zero point per group, bias is a float bias or minimum",
    "group: number of weights that share a scale; block: bytes of a GGML block",
    "RMSE%: rounding error of normally distributed weights, relative to their RMS",
    "stored in: the output formats that can hold the scheme",
    "not listed: int2 to int8 and uint2 to uint7 with other group sizes, nf4 and fp4 with",
    "any even group size; the bits of -channel schemes are for rows of 1024 weights",
)


@command
def schemes(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME", autocompletion=choices.listed_schemes, help="Print everything about this scheme."
        ),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> None:
    """List the quantization schemes.

    Prints bits per weight, scales, group sizes, rounding error, the formats that can store each scheme and the
    programs that read it.
    """
    from quantcli.convert.inspecting.catalogue import as_json as entry_json
    from quantcli.convert.inspecting.catalogue import catalogue

    out = Output(as_json, quiet, verbose)
    entries = catalogue() if name is None else _named(name)
    out.json({"schemes_version": 1, "schemes": [entry_json(entry) for entry in entries]})
    if name is None:
        _table(entries, out)
    for entry in entries if name is not None else ():
        _describe(entry, out)


def _named(name: str) -> list[Entry]:
    """Return the schemes of a name, of all kinds. Raises `WrongUsage` for an unknown name."""
    from quantcli.convert.inspecting.catalogue import of_name
    from quantcli.recipes.names import canonical, problem

    entries = of_name(canonical(name) or name.strip().lower())
    if not entries:
        why = problem(name) if canonical(name) is None else f"the scheme {name!r} is not supported yet"
        raise WrongUsage(f"{why}. `quant schemes` lists the supported schemes.")
    return entries


def _table(entries: list[Entry], out: Output) -> None:
    from quantcli.schemes.readers import READERS

    columns = [
        Column("scheme"), Column("kind"), Column("bits", right=True), Column("scale"), Column("zero point"),
        Column("group", right=True), Column("block", right=True), Column("RMSE%", right=True), Column("stored in"),
    ]  # fmt: skip
    out.table(columns, [_row(entry) for entry in entries])
    for line in LEGEND:
        out.text(line)
    demanding = [entry.name for entry in entries if entry.needs_importance]
    out.text(f"require an importance matrix: {', '.join(demanding) or 'none'}")
    for family, readers in READERS.items():
        out.text(f"readers of {family}: {', '.join(readers)}")


def _row(entry: Entry) -> tuple[str, ...]:
    from quantcli.convert.inspecting.catalogue import decimal
    from quantcli.targets import TARGETS

    scale = "float" if len(entry.scales) > 1 else "".join(entry.scales).removeprefix("f8_") or "-"
    zero = ZERO_POINTS[entry.zero_point] or "-"
    targets = "all" if len(entry.targets) == len(TARGETS) else " ".join(entry.targets)
    group, block = str(entry.group or "-"), str(entry.block[1] if entry.block else "-")
    return (
        entry.name, entry.family, decimal(entry.bits), scale, zero, group, block, f"{100 * entry.rounding:.3g}",
        targets,
    )  # fmt: skip


def _describe(entry: Entry, out: Output) -> None:
    from quantcli.convert.inspecting.catalogue import decimal

    facts = {
        "scheme": f"{entry.name} ({entry.family})",
        "bits per weight": decimal(entry.bits) + (", with 16-bit scales" if len(entry.scales) > 1 else ""),
        "scale": " or ".join(entry.scales) or "none",
        "scales stored": ("as tensors" if entry.separate_scales else "in the blocks") if entry.scales else "none",
        "zero point": ZERO_POINTS[entry.zero_point] or "none",
        "group": f"{entry.group} weights share a scale" if entry.group else "none",
        "block": f"{entry.block[0]} weights in {entry.block[1]} bytes" if entry.block else "none",
        "rounding": f"{entry.rounding:.4%} relative RMSE of normally distributed weights",
        "importance matrix": "required" if entry.needs_importance else "not required",
        "GGUF": "yes" if "gguf" in entry.targets else "no",
        "stored in": ", ".join(entry.targets) or "none",
        "read by": ", ".join(entry.readers),
    }
    for key, value in facts.items():
        out.text(f"{key + ':':<19}{value}")
