"""`quant architectures [NAME]`: every family of models, what it is converted between, what it is tested against."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from quantcli.cli.options import Json, Quiet, Verbose, command
from quantcli.cli.output import Column, Output
from quantcli.errors import WrongUsage

if TYPE_CHECKING:
    from quantcli.convert.inspecting.architectures import Family

#: Stands below the table; each line fits a terminal of 60 columns.
LEGEND = (
    "formats: the family is converted from each to each other",
    "cases: tiny models compared with llama.cpp's converter",
    "model types: model_type in config.json; those with + have",
    "towers, and are converted by their text model",
    "`quant architectures NAME` prints everything about a family",
)


@command
def architectures(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="One family in full: a model type, a class or a GGUF architecture."),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> None:
    """List the families of models: model types, formats, tokenizers, what they are tested against."""
    from quantcli.convert.inspecting.architectures import as_json as family_json
    from quantcli.convert.inspecting.architectures import families

    out = Output(as_json, quiet, verbose)
    found = families() if name is None else _named(name)
    out.json({"architectures_version": 1, "architectures": [family_json(family) for family in found]})
    if name is None:
        _table(found, out)
    for family in found if name is not None else ():
        _tell(family, out)


def _named(name: str) -> list[Family]:
    """The families that a name is of. Raises `WrongUsage` with a way on."""
    from quantcli.containers.hostile import shown
    from quantcli.convert.inspecting.architectures import of_name

    found = of_name(name.strip())
    if not found:
        raise WrongUsage(f"{shown(name)} is not known. `quant architectures` lists what is.")
    return found


def _table(families: list[Family], out: Output) -> None:
    columns = [
        Column("GGUF"), Column("formats"), Column("tokenizers", aside=True), Column("cases", right=True, aside=True),
        Column("model types"),
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


def _tell(family: Family, out: Output) -> None:
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
        "tensors": tested.cases,
        "metadata": tested.metadata_cases,
        "logits": tested.logits,
        "llama-quantize": tested.quantized,
    }
    for key, values in facts.items():
        out.text(f"{key + ':':<16}{', '.join(values) or 'none'}")
