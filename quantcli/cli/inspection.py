"""`quant inspect SOURCE`: what a checkpoint holds, read from headers only."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quantcli.cli.command import command
from quantcli.cli.options import CHECKS, Json, Quiet, Source, Verbose, parse_size
from quantcli.cli.output import Column, Output, size
from quantcli.errors import BadInput, CheckFailed, WrongUsage

if TYPE_CHECKING:
    from quantcli.checkpoint import Checkpoint

#: Elements of an array that the table of metadata shows.
FIRST = 8

#: Headings of options in the help.
SHOWN, RULES = "What to show", "Rules to try"


@command
def inspect(
    source: Source,
    revision: Annotated[
        str | None,
        typer.Option(metavar="NAME", rich_help_panel=SHOWN, help="Branch, tag or commit of a model on the Hub."),
    ] = None,
    filter_: Annotated[
        str | None,
        typer.Option("--filter", metavar="GLOB", rich_help_panel=SHOWN, help="Show only weights whose names match."),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", rich_help_panel=SHOWN, help="List each layer instead of folding equal layers.")
    ] = False,
    metadata: Annotated[
        bool,
        typer.Option(
            "--metadata",
            rich_help_panel=SHOWN,
            help="Print config.json, or the keys of a GGUF file, instead of the weights.",
        ),
    ] = False,
    as_recipe: Annotated[
        bool,
        typer.Option("--as-recipe", rich_help_panel=SHOWN, help="Print the scheme of every weight as a recipe."),
    ] = False,
    rules: Annotated[
        bool,
        typer.Option(
            "--rules", rich_help_panel=RULES,
            help="Print which rule decides each weight, and which patterns match nothing.",
        ),
    ] = False,
    recipe: Annotated[
        Path | None,
        typer.Option(metavar="FILE", rich_help_panel=RULES, help="Try this recipe, or another model as a recipe."),
    ] = None,
    override: Annotated[
        list[str] | None,
        typer.Option(metavar="GLOB=SCHEME", rich_help_panel=RULES, help="Try this override; repeatable."),
    ] = None,
    max_bpw: Annotated[
        float | None,
        typer.Option(
            metavar="X", rich_help_panel=CHECKS, help="Fail if the model has more than X bits per weight on average."
        ),
    ] = None,
    max_size: Annotated[
        str | None,
        typer.Option(metavar="SIZE", rich_help_panel=CHECKS, help="Fail if the weights take more than SIZE."),
    ] = None,
    require: Annotated[
        list[str] | None,
        typer.Option(
            metavar="GLOB=SCHEME", rich_help_panel=CHECKS,
            help="Fail unless all weights whose names match have this scheme; repeatable.",
        ),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> None:  # fmt: skip
    """Show the weights of a checkpoint.

    Prints shape, scheme, bits per weight and bytes of every weight, and what decided its scheme. Reads only headers.
    For an importance matrix, prints its entries.
    """
    from quantcli.convert.inspecting.survey import matching, requirements, survey
    from quantcli.sources.resolve import survey_source

    out = Output(as_json, quiet, verbose)
    required = [_requirement(text) for text in require or ()]
    if max_bpw is not None and not 0 < max_bpw < math.inf:
        raise WrongUsage(f"--max-bpw: expected a number above 0, found {max_bpw}.")
    shows_rules = bool(rules or recipe or override)
    if metadata and (shows_rules or filter_):
        raise WrongUsage(
            "--metadata prints no weights, so it cannot be used with --filter, --rules, --recipe or --override. "
            "Leave those out."
        )
    if as_recipe and (shows_rules or filter_ or metadata):
        raise WrongUsage(
            "--as-recipe prints all weights, so it cannot be used with --filter, --metadata, --rules, --recipe or "
            "--override. Leave those out."
        )
    limit = parse_size(max_size, "--max-size") if max_size else None
    matrix = _matrix_path(source, revision)
    if matrix and not (metadata and matrix.suffix == ".gguf"):
        asked = {
            "--rules": rules, "--recipe": recipe, "--override": override, "--max-bpw": max_bpw, "--max-size": limit,
            "--require": required, "--metadata": metadata, "--as-recipe": as_recipe,
        }  # fmt: skip
        _refuse_for_matrix(matrix, [option for option, given in asked.items() if given])
        _show_matrix(matrix, filter_, everything, out)
        return
    opened = survey_source(source, revision)
    out.warn(opened.warnings)
    weights = matching(opened, filter_) if filter_ else list(opened.weights.values())
    if filter_ and not weights:
        raise WrongUsage(f"--filter: no weight matches {filter_}.")
    if as_recipe:
        _show_recipe(opened, out)
    elif shows_rules:
        _show_rules(opened, recipe, override or [], {w.name for w in weights}, out)
    elif metadata:
        _show_metadata(opened, out)
    else:
        found = survey(opened, weights)
        out.json(found)
        if not quiet:
            show(found, out, everything)
    unmet = requirements(opened, required, max_bpw, limit)
    for check in unmet[:-1]:
        out.error(CheckFailed(check.message))
    if unmet:
        raise CheckFailed(unmet[-1].message)


def _matrix_path(source: str, revision: str | None) -> Path | None:
    """Return the path of a local importance matrix, None if SOURCE is something else."""
    from quantcli.containers.imatrix import is_matrix

    path = Path(source)
    if revision is not None or path.suffix == ".safetensors" or not os.path.isfile(path):
        return None
    try:
        return path if is_matrix(path) else None
    except BadInput:  # a malformed GGUF file: the reader of checkpoints gives a better message
        return None


def _refuse_for_matrix(path: Path, given: list[str]) -> None:
    if given:
        raise WrongUsage(f"{given[0]} applies only to models, but {path} is an importance matrix. Leave it out.")


def _show_matrix(path: Path, pattern: str | None, everything: bool, out: Output) -> None:
    from quantcli.containers import imatrix
    from quantcli.convert.inspecting.survey import survey_matrix

    found = survey_matrix(imatrix.read(path), str(path), pattern)
    out.json(found)
    if not out.quiet:
        show_matrix(found, out, everything)


def show_matrix(found: dict[str, Any], out: Output, everything: bool = False) -> None:
    """Print the table of an importance matrix; layers are folded unless `everything`."""
    from quantcli.convert.inspecting.survey import fold

    listed = [(e["name"], (e["values"], len(e["counted"]), _span(e["counted"]))) for e in found["entries"]]
    folded = [(name, 1, cells) for name, cells in listed] if everything else fold(listed)
    columns = [
        Column("entry"), Column("values", right=True), Column("counts", right=True), Column(found["unit"], right=True)
    ]  # fmt: skip
    rows = [(name, str(values), str(counts), span) for name, _, (values, counts, span) in folded]
    out.table(columns, rows, f"{found['source']}: importance matrix, {found['form']}")
    chunk_size = f" of {found['chunk_size']} tokens" if found["chunk_size"] else ""
    out.text(f"{len(found['entries'])} entries from {found['chunks']} chunks{chunk_size}")
    out.text(f"datasets: {', '.join(found['datasets']) or 'not recorded'}")


def _span(counts: list[int]) -> str:
    """Return counts on one line.

    >>> _span([4096]), _span([0, 7, 3])
    ('4096', '0-7')
    """
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low}-{high}"


def _requirement(text: str) -> tuple[str, str]:
    from quantcli.recipes import names

    glob, equals, scheme = text.rpartition("=")
    if not (equals and glob and scheme):
        raise WrongUsage(f"--require: expected GLOB=SCHEME, such as '*.down_proj=affine4-g64', found {text!r}.")
    name = names.canonical(scheme)
    if name is None:
        raise WrongUsage(f"--require {text!r}: {names.problem(scheme)}.")
    return glob, name


def show(found: dict[str, Any], out: Output, everything: bool = False) -> None:
    """Print the table of a survey; layers are folded unless `everything`."""
    from quantcli.convert.inspecting.survey import fold, without_numbers

    listed = [
        (w["name"], ("x".join(map(str, w["shape"])), w["scheme"], w["bits_per_weight"], w["bytes"], w["reason"]))
        for w in found["weights"]
    ]
    folded = [(name, 1, cells) for name, cells in listed] if everything else fold(listed, without_numbers)
    columns = [
        Column("weight"), Column("shape", right=True), Column("scheme"), Column("bits/weight", right=True),
        Column("bytes", right=True), Column("decided by"),
    ]  # fmt: skip
    rows = [
        (name, shape, scheme, f"{bits:g}", str(count * stored), reason)
        for name, count, (shape, scheme, bits, stored, reason) in folded
    ]
    total = found["totals"]
    out.table(columns, rows, f"{found['source']}: {found['kind']}, {found['model'] or 'unknown model'}")
    schemes = ", ".join(f"{count} {name}" for name, count in total["schemes"].items())
    out.text(f"{total['weights']} weights: {schemes}")
    bits = f"{total['bits_per_weight']:g} bits per weight"
    out.text(f"{total['parameters']} parameters, {total['bytes']} bytes ({size(total['bytes'])}), {bits}")


def _show_metadata(source: Checkpoint, out: Output) -> None:
    from quantcli.convert.inspecting.survey import metadata, plain

    out.json({"metadata_version": 1, "source": str(source.root), "metadata": metadata(source) if out.as_json else {}})
    values = (source.metadata or source.config_json).items()
    out.table([Column("key"), Column("value")], [(key, text(plain(value, FIRST))) for key, value in values])


def text(value: Any) -> str:
    """Return a metadata value on one line.

    >>> text("a"), text({"length": 9, "first": [[1, 2], ["b"]]})
    ("'a'", "[[1, 2], ['b'], ...] (9 in all)")
    """
    shown = _on_one_line(value)
    return shown if len(shown) <= 200 else f"{shown[:200]}... ({len(shown)} characters)"


def _on_one_line(value: Any) -> str:
    if isinstance(value, dict) and set(value) == {"length", "first"}:
        return f"[{', '.join(map(_on_one_line, value['first']))}, ...] ({value['length']} in all)"
    if isinstance(value, list):
        return f"[{', '.join(map(_on_one_line, value))}]"
    return repr(value) if isinstance(value, str) else str(value)


def _show_recipe(source: Checkpoint, out: Output) -> None:
    from quantcli.convert.planning.model_recipe import Choices, toml

    rules = Choices.of(source).rules()
    out.json({"rule": rules})
    out.text(toml(rules, str(source.root)))


def _show_rules(source: Checkpoint, recipe: Path | None, override: list[str], names: set[str], out: Output) -> None:
    from quantcli.convert.inspecting.rules import explain

    found = explain(source, recipe, override)
    found["weights"] = [w for w in found["weights"] if w["name"] in names]
    out.json(found)
    columns = [Column("weight"), Column("scheme"), Column("decided by")]
    out.table(columns, [(w["name"], w["scheme"], w["reason"]) for w in found["weights"]])
    for pattern in found["unmatched"]:
        out.text(f"no weight matches {pattern}")
