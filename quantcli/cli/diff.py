"""`quant diff A B`: how far the same weights of two checkpoints are from each other, and what else differs."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quantcli.cli.options import Json, MaxMemory, Quiet, Threads, Verbose, command, memory_bound, thread_count
from quantcli.cli.output import Column, Output
from quantcli.containers.hostile import UNPRINTABLE
from quantcli.errors import CheckFailed, WrongUsage

if TYPE_CHECKING:
    from quantcli.convert.comparing.compare import Comparison, WeightDifference
    from quantcli.convert.comparing.tensor import Tensor

#: Rows on a terminal without --all.
ROWS = 40

#: Verdicts that are worded otherwise of many.
COUNTED = {"DIFFERS": "differ", "SHAPES": "of other shapes"}

#: Names that are listed of what was not compared; JSON has all.
NAMES = 32

#: Characters that are shown of a setting's value, of its key, of a reason.
WIDTH, KEY_WIDTH, REASON_WIDTH = 60, 120, 240
#: So many characters are shown before the first at which two long texts differ.
BEFORE = 20

HELP = "A folder, a .gguf or .safetensors file, or a Hub id org/name[@revision]."


@command
def diff(
    a: Annotated[str, typer.Argument(metavar="A", help=f"{HELP} Errors are relative to it.")],
    b: Annotated[str, typer.Argument(metavar="B", help=HELP)],
    max_rmse: Annotated[
        float | None,
        typer.Option(
            metavar="X", help="Exit with 1 where a weight's relative RMSE is above X, or a weight is missing."
        ),
    ] = None,
    filter_: Annotated[
        str | None, typer.Option("--filter", metavar="GLOB", help="Only weights whose name matches.")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help=f"Every weight, on a terminal too (else the {ROWS} worst).")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 1 if anything differs or was not compared.")
    ] = False,
    max_memory: MaxMemory = None,
    threads: Threads = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> None:
    """Compare the weights, settings and tokenizers of two checkpoints of any kinds."""
    from quantcli.convert.comparing import compare
    from quantcli.sources.detect import open_source
    from quantcli.sources.resolve import local_source

    if max_rmse is not None and not 0 <= max_rmse < math.inf:
        raise WrongUsage(f"--max-rmse {max_rmse}: a number from 0 on, such as 0.05.")
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
        check("--strict", compare.unequal(found), "differences and things not compared")


def _is_terminal() -> bool:
    return sys.stdout.isatty()


def check(option: str, failures: list[str], what: str) -> None:
    """Raise `CheckFailed` with the first of them, which is the worst."""
    if failures:
        more = f" ({len(failures)} {what} in all)" if len(failures) > 1 else ""
        raise CheckFailed(f"{option}: {UNPRINTABLE.sub('?', failures[0])}{more}.")


def show(found: Comparison, out: Output, everything: bool) -> None:
    """Weights, worst first; then what one side lacks, what else differs, and totals."""
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
        columns = [Column("tokenizer"), Column("differ", right=True), Column("at"), Column("A"), Column("B")]
        out.table(columns, rows)
    for f in found.uncounted:
        out.text(f"not counted: {_short(f.key, KEY_WIDTH)}: {_short(f.a)}, {_short(f.b)}")
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
        Column("MSE", right=True, aside=True), Column("max error", right=True, aside=True),
        Column("cosine", right=True, aside=True), Column("result"),
    ]  # fmt: skip
    if listed:
        out.table(columns, [_row(weight) for weight in listed])
    if len(listed) < len(found.weights):
        out.text(f"{len(found.weights) - len(listed)} more weights, none worse; --all shows them.")


def _row(weight: WeightDifference) -> tuple[str, ...]:
    a, b = weight.a.kind, weight.b.kind
    difference = weight.difference
    if difference is None:
        shapes = f": {_shape(weight.a)}, {_shape(weight.b)}" if weight.a.shape != weight.b.shape else ""
        return weight.name, a, b, "-", "-", "-", "-", f"{weight.said}{shapes}"
    said = f"{difference.nonfinite} values NaN or Inf on one side" if difference.nonfinite else weight.said
    numbers = (f"{x:.4g}" for x in (difference.relative_rmse, difference.mse, difference.largest))
    return weight.name, a, b, *numbers, f"{difference.cosine:.6f}", said


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape))


def _missing(label: str, tensors: tuple[Tensor, ...], out: Output, everything: bool) -> None:
    listed = tensors if everything else tensors[:ROWS]
    for tensor in listed:
        out.text(f"only in {label}: {tensor.name} ({tensor.kind}, {_shape(tensor)})")
    if len(listed) < len(tensors):
        out.text(f"only in {label}: {len(tensors) - len(listed)} more; --all shows them.")


def _sides(a: Any, b: Any) -> tuple[str, str]:
    """Two values, each on one line; of two texts that differ further on, the places where they begin to."""
    if not (isinstance(a, str) and isinstance(b, str)) or max(len(a), len(b)) <= WIDTH:
        return _short(a), _short(b)
    same = next((at for at, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    start = max(0, same - BEFORE)
    return _short(_from(a, start)), _short(_from(b, start))


def _from(text: str, start: int) -> str:
    return f"...{text[start:]}" if start else text


def _short(value: Any, width: int = WIDTH) -> str:
    """A value on one line, without characters that steer a terminal."""
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
    lacking = [f"{len(ds)} in {side} only" for side, ds in (("A", found.only_a), ("B", found.only_b)) if ds]
    out.text(f"{len(found.weights)} weights in both: {', '.join([*counts, *lacking]) or 'none'}")
    total = found.total
    if total.unequal:
        out.text(
            f"overall: relative RMSE {total.relative_rmse:.4g}, MSE {total.mse:.4g}, max error {total.largest:.4g}, "
            f"cosine {total.cosine:.6f}"
        )
    if not found.fields and not found.tokenizer:
        aside = ", except for what was not compared" if found.not_compared else ""
        out.text(f"settings and tokenizer are the same{aside}")
