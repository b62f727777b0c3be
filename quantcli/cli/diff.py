"""`quant diff A B`: the differences between the weights of two checkpoints, and what else differs."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quantcli.cli.command import command
from quantcli.cli.options import (
    CHECKPOINT,
    CHECKS,
    Json,
    MaxMemory,
    Quiet,
    Threads,
    Verbose,
    memory_bound,
    thread_count,
)
from quantcli.cli.output import Column, Output
from quantcli.containers.hostile import UNPRINTABLE
from quantcli.errors import CheckFailed, WrongUsage

if TYPE_CHECKING:
    from quantcli.convert.comparing.compare import Comparison, WeightDifference
    from quantcli.convert.comparing.tensor import Tensor

#: Rows on a terminal without --all.
ROWS = 40

#: Verdicts whose plural has other words.
COUNTED = {"DIFFERS": "differ", "SHAPES": "with different shapes"}

#: Names of tensors or keys that are listed as not compared; JSON lists all of them.
NAMES = 32

#: Characters of a setting's value, of its key and of a reason that are shown.
WIDTH, KEY_WIDTH, REASON_WIDTH = 60, 120, 240
#: Characters that are shown before the first difference of two long texts.
BEFORE = 20

#: Heading of options in the help.
SHOWN = "What to compare"


@command
def diff(
    a: Annotated[
        str, typer.Argument(metavar="A", help=f"{CHECKPOINT} The error of each weight of B is relative to A.")
    ],
    b: Annotated[str, typer.Argument(metavar="B", help=CHECKPOINT)],
    filter_: Annotated[
        str | None,
        typer.Option(
            "--filter", metavar="GLOB", rich_help_panel=SHOWN, help="Compare only weights whose names match."
        ),
    ] = None,
    everything: Annotated[
        bool,
        typer.Option(
            "--all", rich_help_panel=SHOWN, help=f"List every weight, not only the {ROWS} worst (applies to terminals)."
        ),
    ] = False,
    max_rmse: Annotated[
        float | None,
        typer.Option(
            metavar="X", rich_help_panel=CHECKS,
            help="Fail if the relative RMSE of a weight is above X, or a weight is missing.",
        ),
    ] = None,
    strict: Annotated[
        bool,
        typer.Option("--strict", rich_help_panel=CHECKS, help="Fail if anything differs or was not compared."),
    ] = False,
    max_memory: MaxMemory = None,
    threads: Threads = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> None:  # fmt: skip
    """Compare two checkpoints.

    Compares weights, settings and tokenizers. The two checkpoints may have different formats.
    """
    from quantcli.convert.comparing import compare
    from quantcli.sources.detect import open_source
    from quantcli.sources.resolve import local_source

    if max_rmse is not None and not 0 <= max_rmse < math.inf:
        raise WrongUsage(f"--max-rmse: expected a number of at least 0, such as 0.05, found {max_rmse}.")
    out = Output(as_json, quiet, verbose)
    memory = memory_bound(max_memory)
    first, second = (open_source(local_source(text, None, quiet=quiet or as_json)) for text in (a, b))
    out.warn([f"{label}: {line}" for label, source in (("A", first), ("B", second)) for line in source.warnings])
    aligned = compare.chosen(first, second, filter_)
    with out.progress(compare.nbytes(aligned)) as tick:
        found = compare.compare(first, second, aligned, memory, thread_count(threads), tick)
    out.json(compare.as_json(found))
    if not quiet:
        show(found, out, everything or not _is_terminal())
    if max_rmse is not None:
        check("--max-rmse", compare.failures(found, max_rmse), "weights")
    if strict:
        check("--strict", compare.unequal(found), "differences or items not compared")


def _is_terminal() -> bool:
    return sys.stdout.isatty()


def check(option: str, failures: list[str], what: str) -> None:
    """Raise `CheckFailed` with the first failure, which is the worst, and their number."""
    if failures:
        more = f" ({len(failures)} {what} in total)" if len(failures) > 1 else ""
        raise CheckFailed(f"{option}: {UNPRINTABLE.sub('?', failures[0])}{more}.")


def show(found: Comparison, out: Output, everything: bool) -> None:
    """Print weights, the worst first, then what one side lacks, what else differs, and totals."""
    for label, source in (("A", found.a), ("B", found.b)):
        out.text(f"{label}  {source.root} ({source.kind}, {len(source.weights)} weights)")
    _weights(found, out, everything)
    _missing("A", found.only_a, out, everything)
    _missing("B", found.only_b, out, everything)
    if found.fields:
        settings = [(_short(f.key, KEY_WIDTH), *_sides(f.a, f.b)) for f in found.fields]
        out.table([Column("setting"), Column("A"), Column("B")], settings)
    if found.tokenizer:
        rows = [
            (t.what if i == 0 else "", str(t.count) if i == 0 else "", _short(p["at"]), *_sides(p["a"], p["b"]))
            for t in found.tokenizer for i, p in enumerate(t.first)
        ]  # fmt: skip
        columns = [Column("tokenizer"), Column("differences", right=True), Column("first at"), Column("A"), Column("B")]
        out.table(columns, rows)
    for f in found.uncounted:
        out.text(f"not counted as a difference: {_short(f.key, KEY_WIDTH)}: {_short(f.a)}, {_short(f.b)}")
    for left in found.not_compared:
        names = [_short(name, KEY_WIDTH) for name in left.names[:NAMES]]
        more = f" and {len(left.names) - NAMES} more" if len(left.names) > NAMES else ""
        listed = f": {', '.join(names)}{more}" if names else ""
        out.text(f"not compared: {left.what} of {left.side}{listed} ({_short(left.reason, REASON_WIDTH)})")
    for note in found.notes:
        out.note(f"note: {note}")
    _totals(found, out)


def _weights(found: Comparison, out: Output, everything: bool) -> None:
    listed = found.weights if everything else found.weights[:ROWS]
    columns = [
        Column("weight"), Column("A"), Column("B"), Column("rel. RMSE", right=True),
        Column("MSE", right=True, wide_only=True), Column("max error", right=True, wide_only=True),
        Column("cosine", right=True, wide_only=True), Column("result"),
    ]  # fmt: skip
    if listed:
        out.table(columns, [_row(weight) for weight in listed])
    if len(listed) < len(found.weights):
        out.text(f"{len(found.weights) - len(listed)} more weights, none of them worse. --all lists them.")


def _row(weight: WeightDifference) -> tuple[str, ...]:
    a, b = weight.a.kind, weight.b.kind
    difference = weight.difference
    if difference is None:
        shapes = f": {_shape(weight.a)}, {_shape(weight.b)}" if weight.a.shape != weight.b.shape else ""
        return weight.name, a, b, "-", "-", "-", "-", f"{weight.result}{shapes}"
    result = f"{difference.nonfinite} values are NaN or Inf on one side only" if difference.nonfinite else weight.result
    numbers = (f"{x:.4g}" for x in (difference.relative_rmse, difference.mse, difference.largest))
    return weight.name, a, b, *numbers, f"{difference.cosine:.6f}", result


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape))


def _missing(label: str, tensors: tuple[Tensor, ...], out: Output, everything: bool) -> None:
    listed = tensors if everything else tensors[:ROWS]
    for tensor in listed:
        out.text(f"only in {label}: {tensor.name} ({tensor.kind}, {_shape(tensor)})")
    if len(listed) < len(tensors):
        out.text(f"only in {label}: {len(tensors) - len(listed)} more. --all lists them.")


def _sides(a: Any, b: Any) -> tuple[str, str]:
    """Return two values, each on one line; long texts begin shortly before their first difference."""
    if not (isinstance(a, str) and isinstance(b, str)) or max(len(a), len(b)) <= WIDTH:
        return _short(a), _short(b)
    same = next((at for at, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    start = max(0, same - BEFORE)
    return _short(_from(a, start)), _short(_from(b, start))


def _from(text: str, start: int) -> str:
    return f"...{text[start:]}" if start else text


def _short(value: Any, width: int = WIDTH) -> str:
    """Return a value on one line, without control characters."""
    if value is None:
        return "-"
    text = value if isinstance(value, str) else str(value)
    text = UNPRINTABLE.sub("?", text.replace("\n", "\\n"))
    return text if len(text) <= width else f"{text[: width - 3]}..."


def _totals(found: Comparison, out: Output) -> None:
    from quantcli.convert.comparing.compare import Verdict

    counts = [
        f"{count} {COUNTED.get(verdict.name, verdict.value)}" for verdict in Verdict if (count := found.count(verdict))
    ]
    lacking = [f"{len(ds)} only in {side}" for side, ds in (("A", found.only_a), ("B", found.only_b)) if ds]
    out.text(f"{len(found.weights)} weights in both: {', '.join([*counts, *lacking]) or 'none'}")
    total = found.total
    if total.unequal:
        out.text(
            f"overall: relative RMSE {total.relative_rmse:.4g}, MSE {total.mse:.4g}, max error {total.largest:.4g}, "
            f"cosine {total.cosine:.6f}"
        )
    if not found.fields and not found.tokenizer:
        exception = ", except for what was not compared" if found.not_compared else ""
        out.text(f"settings and tokenizer are the same{exception}")
