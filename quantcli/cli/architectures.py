"""`quant architectures [NAME]`: every model family, the formats it is converted between, and its tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from quantcli.cli import choices
from quantcli.cli.command import command
from quantcli.cli.options import Json, Quiet, Verbose
from quantcli.cli.output import Column, Output
from quantcli.errors import WrongUsage

if TYPE_CHECKING:
    from quantcli.convert.inspecting.architectures import Family

#: Stands below the table; each line fits a terminal of 60 columns.
LEGEND = (
    "GGUF: the architecture's name in GGUF files",
    "formats: models convert between any two of these",
    "cases: tiny models tested against llama.cpp's converter",
    "model types: model_type in config.json; + marks models with",
    "vision or audio towers; only their text model is converted",
    "`quant architectures NAME` prints everything about a family",
)


@command
def architectures(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME", autocompletion=choices.listed_families,
            help="Print everything about one family: a model type, a class or a GGUF architecture.",
        ),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> None:  # fmt: skip
    """List the supported model families.

    Prints model types, formats, tokenizers and what the conversions are tested against.
    """
    from quantcli.convert.inspecting.architectures import as_json as family_json
    from quantcli.convert.inspecting.architectures import families

    out = Output(as_json, quiet, verbose)
    shown = families() if name is None else _named(name)
    out.json({"architectures_version": 1, "architectures": [family_json(family) for family in shown]})
    if name is None:
        _table(shown, out)
    for family in shown if name is not None else ():
        _describe(family, out)


def _named(name: str) -> list[Family]:
    """Return the families of a name. Raises `WrongUsage` for an unknown name."""
    from quantcli.containers.hostile import shown
    from quantcli.convert.inspecting.architectures import of_name

    named = of_name(name.strip())
    if not named:
        raise WrongUsage(f"{shown(name)} is not a supported model family. `quant architectures` lists them.")
    return named


def _table(families: list[Family], out: Output) -> None:
    columns = [
        Column("GGUF"), Column("formats"), Column("tokenizers", wide_only=True),
        Column("cases", right=True, wide_only=True), Column("model types"),
    ]  # fmt: skip
    out.table(columns, [_row(family) for family in families])
    for line in LEGEND:
        out.text(line)


def _row(family: Family) -> tuple[str, ...]:
    tested = family.tested
    kinds = dict.fromkeys(tokenizer.partition(" ")[0] for tokenizer in tested.tokenizers)
    cases = str(len(tested.cases) + len(tested.metadata_cases))
    types = (*family.model_types, *family.other_names, *(f"{name}+" for name in family.towers))
    return family.gguf, " ".join(family.formats), " ".join(kinds) or "-", cases, ", ".join(types)


def _describe(family: Family, out: Output) -> None:
    tested = family.tested
    facts = {
        "family": (family.name,),
        "model types": family.model_types,
        "other names": family.other_names,
        "with towers": family.towers,
        "classes": family.classes,
        "GGUF": (family.gguf,),
        "directions": family.directions,
        "in mlx-lm": family.mlx,
        "MTP layers": family.prediction,
        "tokenizers": tested.tokenizers,
        "tensors tested": tested.cases,
        "metadata tested": tested.metadata_cases,
        "logits tested": tested.logits,
        "llama-quantize": tested.quantized,
    }
    for key, values in facts.items():
        out.text(f"{key + ':':<17}{', '.join(values) or 'none'}")
