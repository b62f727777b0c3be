"""`quant schemes [NAME]`: every number format, what it costs and who reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from quantcli.cli.options import Json, Quiet, Verbose, command
from quantcli.cli.output import Column, Output
from quantcli.errors import WrongUsage

if TYPE_CHECKING:
    from quantcli.convert.inspecting.catalogue import Entry


@command
def schemes(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="One scheme, told in full.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> None:
    """List the number formats: bits per weight, scales, groups, rounding, targets, readers."""
    from quantcli.convert.inspecting.catalogue import as_json as entry_json
    from quantcli.convert.inspecting.catalogue import catalogue

    out = Output(as_json, quiet, verbose)
    found = catalogue() if name is None else _named(name)
    out.json({"schemes_version": 1, "schemes": [entry_json(entry) for entry in found]})
    if name is None:
        _table(found, out)
    for entry in found if name is not None else ():
        _tell(entry, out)


def _named(name: str) -> list[Entry]:
    """The schemes of a name, in all families. Raises `WrongUsage` with a way on."""
    from quantcli.convert.inspecting.catalogue import of_name
    from quantcli.recipes.names import canonical, problem

    found = of_name(canonical(name) or name.strip().lower())
    if not found:
        why = problem(name) if canonical(name) is None else f"{name!r} is a scheme that is not converted yet"
        raise WrongUsage(f"{why}; `quant schemes` lists those that are.")
    return found


def _table(entries: list[Entry], out: Output) -> None:
    from quantcli.schemes.readers import READERS

    columns = [
        Column("scheme"), Column("kind"), Column("bits", right=True), Column("scale"), Column("zero"),
        Column("group", right=True), Column("block", right=True), Column("RMSE%", right=True), Column("to"),
    ]  # fmt: skip
    out.table(columns, [_row(entry) for entry in entries])
    out.text("bits: stored bits per weight, scales included; float: f16, bf16 or f32, counted as 16 bits")
    out.text("group: weights that share a scale; block: bytes of a GGML block; RMSE%: relative, of a Gaussian")
    out.text("ct: compressed-tensors, any int2 to int8, uint2 to uint7, groups N; -channel: in rows of 1024")
    out.text("bnb: bitsandbytes, any even group; what a weight has once, as a scale for all of it, is not counted")
    out.text("zero: int: a zero point a group; bias: a float (bias, minimum); to: targets (awq is kept, not made)")
    needy = [entry.name for entry in entries if entry.needs_importance]
    out.text(f"importance matrix needed: {', '.join(needy) or 'by none of them'}")
    for family, readers in READERS.items():
        out.text(f"{family} is read by {', '.join(readers)}")


def _row(entry: Entry) -> tuple[str, ...]:
    from quantcli.convert.inspecting.catalogue import decimal
    from quantcli.targets import TARGETS

    scale = "float" if len(entry.scales) > 1 else "".join(entry.scales).removeprefix("f8_") or "-"
    zero = {"integer": "int", "float": "bias", None: "-"}[entry.zero_point]
    targets = "all" if len(entry.targets) == len(TARGETS) else " ".join(entry.targets)
    group, block = str(entry.group or "-"), str(entry.block[1] if entry.block else "-")
    return (
        entry.name, entry.family, decimal(entry.bits), scale, zero, group, block, f"{100 * entry.rounding:.3g}",
        targets,
    )  # fmt: skip


def _tell(entry: Entry, out: Output) -> None:
    from quantcli.convert.inspecting.catalogue import decimal

    facts = {
        "scheme": f"{entry.name} ({entry.family})",
        "bits per weight": decimal(entry.bits) + (", with 16-bit scales" if len(entry.scales) > 1 else ""),
        "scale": " or ".join(entry.scales) or "none",
        "scales stored": ("as tensors" if entry.separate_scales else "in the blocks") if entry.scales else "none",
        "zero point": entry.zero_point or "none",
        "group": f"{entry.group} weights share a scale" if entry.group else "none",
        "block": f"{entry.block[0]} weights in {entry.block[1]} bytes" if entry.block else "none",
        "rounding": f"{entry.rounding:.4%} relative RMSE on a Gaussian",
        "importance matrix": "needed" if entry.needs_importance else "not needed",
        "GGUF": "yes" if "gguf" in entry.targets else "no",
        "targets": ", ".join(entry.targets) or "none",
        "read by": ", ".join(entry.readers),
    }
    for key, value in facts.items():
        out.text(f"{key + ':':<19}{value}")
