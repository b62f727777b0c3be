"""`quant convert SOURCE OUTPUT`: make a plan, print it, carry it out."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quantcli.cli import choices
from quantcli.cli.command import command, in_order
from quantcli.cli.options import (
    LIMITS,
    Json,
    MaxMemory,
    Quiet,
    Source,
    Threads,
    Verbose,
    memory_bound,
    parse_size,
    thread_count,
)
from quantcli.cli.output import Column, Output, size
from quantcli.errors import WrongUsage

if TYPE_CHECKING:
    from quantcli.convert.planning.steps import Plan, Step

#: Headings of the options in the help.
INPUT, QUALITY, GGUF, MLX, OUTPUT = "What to convert", "Quality", "GGUF output", "MLX output", "Output"


@command
def convert(
    context: typer.Context,
    source: Source,
    output: Annotated[
        Path,
        typer.Argument(
            metavar="OUTPUT", readable=False,
            help="Path of the output: a GGUF file if it ends in .gguf, otherwise a folder.",
        ),
    ],
    revision: Annotated[
        str | None,
        typer.Option(metavar="NAME", rich_help_panel=INPUT, help="Branch, tag or commit of a model on the Hub."),
    ] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", rich_help_panel=INPUT, help="Take the tokenizer's files from this folder."),
    ] = None,
    drop: Annotated[
        list[str] | None,
        typer.Option(
            metavar="GLOB", rich_help_panel=INPUT, help="Drop the tensors of SOURCE whose names match; repeatable."
        ),
    ] = None,
    prune_layers: Annotated[
        str | None,
        typer.Option(metavar="N,N,...", rich_help_panel=INPUT, help="Drop these layers (from GGUF to GGUF only)."),
    ] = None,
    allow_nonfinite: Annotated[
        bool,
        typer.Option(
            "--allow-nonfinite", rich_help_panel=INPUT,
            help="Copy NaN and Inf in weights, scales and FP8 codes instead of refusing them.",
        ),
    ] = False,
    allow_unknown_architecture: Annotated[
        bool,
        typer.Option(
            "--allow-unknown-architecture", rich_help_panel=INPUT,
            help="Quantize a model whose architecture quant does not know (only from folder to folder).",
        ),
    ] = False,
    scheme: Annotated[
        str | None,
        typer.Option(
            "--scheme", "-s", metavar="NAME", rich_help_panel=QUALITY, autocompletion=choices.scheme_names,
            help="Scheme, preset or mixture for the model; `quant schemes` lists schemes.  [default: keep]",
        ),
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", rich_help_panel=QUALITY,
            help="Read the scheme of each weight from a recipe, an MLX config.json, hf2q JSON or another model.",
        ),
    ] = None,
    override: Annotated[
        list[str] | None,
        typer.Option(
            metavar="GLOB=SCHEME", rich_help_panel=QUALITY,
            help="Set the scheme of the weights whose names match; repeatable, the last match wins.",
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        choices.DTYPE.option(
            heading=QUALITY,
            help="Cast dense weights to this dtype before quantizing.  [default: the stored dtype]",
        ),
    ] = None,
    lossless: Annotated[
        str | None,
        choices.LOSSLESS.option(
            heading=QUALITY, help="Refuse a plan that changes any value (exact) or any quantized code (codes)."
        ),
    ] = None,
    allow_requantize: Annotated[
        bool,
        typer.Option(
            "--allow-requantize", rich_help_panel=QUALITY, help="Allow rounding weights that are already quantized."
        ),
    ] = False,
    fallback: Annotated[
        str,
        typer.Option(
            metavar="auto|SCHEME|none", rich_help_panel=QUALITY, autocompletion=choices.fallback_names,
            help="Scheme for quantized weights that the output's format cannot store; none refuses them.",
        ),
    ] = "auto",
    pure: Annotated[
        bool,
        typer.Option(
            "--pure",
            rich_help_panel=GGUF,
            help="Use a preset's base type for all weights instead of its mixture.",
        ),
    ] = False,
    leave_output_tensor: Annotated[
        bool, typer.Option("--leave-output-tensor", rich_help_panel=GGUF, help="Do not quantize output.weight.")
    ] = False,
    output_tensor_type: Annotated[
        str | None, typer.Option(metavar="TYPE", rich_help_panel=GGUF, help="Set the type of output.weight.")
    ] = None,
    token_embedding_type: Annotated[
        str | None, typer.Option(metavar="TYPE", rich_help_panel=GGUF, help="Set the type of token_embd.weight.")
    ] = None,
    tensor_type: Annotated[
        list[str] | None,
        typer.Option(
            metavar="REGEX=TYPE", rich_help_panel=GGUF,
            help="Set the type of the tensors whose names match; repeatable, the first match wins.",
        ),
    ] = None,
    tensor_type_file: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE", rich_help_panel=GGUF,
            help="Read --tensor-type rules from FILE, separated by whitespace; repeatable, tried in the order given.",
        ),
    ] = None,
    imatrix: Annotated[
        Path | None,
        typer.Option(metavar="FILE", rich_help_panel=GGUF, help="Use this importance matrix (.dat or .gguf)."),
    ] = None,
    include_weights: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT", rich_help_panel=GGUF,
            help="Use the importance matrix only for weights whose names contain TEXT; repeatable.",
        ),
    ] = None,
    exclude_weights: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT", rich_help_panel=GGUF,
            help="Do not use the importance matrix for weights whose names contain TEXT; repeatable.",
        ),
    ] = None,
    search: Annotated[
        str,
        choices.SEARCH.option(
            heading=GGUF, help="Write llama-quantize's bytes (ggml), or search longer for a smaller error (best)."
        ),
    ] = "ggml",
    override_kv: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=TYPE:VALUE", rich_help_panel=GGUF,
            help="Set a metadata key; TYPE is int, float, bool or str; repeatable.",
        ),
    ] = None,
    keep_split: Annotated[
        bool,
        typer.Option(
            "--keep-split",
            rich_help_panel=GGUF,
            help="Split the output into the same parts as the GGUF source.",
        ),
    ] = False,
    bits: Annotated[
        int | None, typer.Option(metavar="N", rich_help_panel=MLX, help="Bits of the scheme (mlx-lm's --q-bits).")
    ] = None,
    group_size: Annotated[
        int | None,
        typer.Option(metavar="N", rich_help_panel=MLX, help="Group size of the scheme (mlx-lm's --q-group-size)."),
    ] = None,
    mode: Annotated[
        str | None, choices.MODE.option(heading=MLX, help="Mode of the scheme (mlx-lm's --q-mode).")
    ] = None,
    scale_dtype: Annotated[
        str | None, choices.SCALE_DTYPE.option(heading=MLX, help="Dtype of MLX scales and biases.")
    ] = None,
    max_memory: MaxMemory = None,
    threads: Threads = None,
    device: Annotated[
        str, choices.DEVICE.option(heading=LIMITS, help="Where to compute; auto uses a GPU only for MLX's schemes.")
    ] = "auto",
    to: Annotated[
        str | None, choices.TARGET.option(heading=OUTPUT, help="Output format, if OUTPUT's name does not imply it.")
    ] = None,
    shard_size: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE", rich_help_panel=OUTPUT,
            help="Maximum total size of the tensors in one file.  [default: 5GB in a folder, no limit for GGUF]",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", rich_help_panel=OUTPUT, help="Print the plan and write nothing.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", rich_help_panel=OUTPUT, help="Continue an interrupted run.")
    ] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force", rich_help_panel=OUTPUT, help="Replace an existing output once the new one is complete."
        ),
    ] = False,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify", rich_help_panel=OUTPUT,
            help=(
                "Read the output back, with quant and with the format's reference library, and check it against the "
                "plan."
            ),
        ),
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", rich_help_panel=OUTPUT, help="Treat warnings as errors.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> None:  # fmt: skip
    """Convert a checkpoint to another format.

    The output is an MLX folder, a GGUF file or, with --to hf, a Hugging Face folder. Without -s, quantized weights keep
    their codes wherever the output can store them.
    """
    from quantcli.convert.planning.devices import available
    from quantcli.convert.planning.plan import make
    from quantcli.convert.planning.request import Request
    from quantcli.convert.running.conversion import convert as carry_out
    from quantcli.convert.running.interrupt import ignore_from_now_on
    from quantcli.convert.running.report import plan_summary
    from quantcli.convert.running.run import Resources
    from quantcli.sources.resolve import local_source

    out = Output(as_json, quiet, verbose)
    request = Request(
        output=_checked_output(output), to=to, scheme=scheme, bits=bits,
        group_size=group_size, mode=mode, recipe=recipe, overrides=tuple(override or ()), pure=pure,
        leave_output_tensor=leave_output_tensor, output_tensor_type=output_tensor_type,
        token_embedding_type=token_embedding_type,
        tensor_types=in_order(context, {"tensor_type": tensor_type, "tensor_type_file": tensor_type_file}),
        imatrix=imatrix, search=search,
        include_weights=tuple(include_weights or ()), exclude_weights=tuple(exclude_weights or ()),
        override_kv=tuple(override_kv or ()), prune_layers=prune_layers, keep_split=keep_split,
        tokenizer=tokenizer,
        drop=tuple(drop or ()),
        dtype=dtype, scale_dtype=scale_dtype, lossless=lossless, allow_requantize=allow_requantize,
        allow_unknown_architecture=allow_unknown_architecture, fallback=fallback,
        allow_nonfinite=allow_nonfinite, strict=strict, device=available(device),
        shard_size=parse_size(shard_size, "--shard-size") if shard_size else None,
    )  # fmt: skip
    memory = memory_bound(max_memory)
    resources = Resources(memory, thread_count(threads))
    if resume and force:
        raise WrongUsage("--resume and --force cannot be used together. Use one of them.")
    path = local_source(source, revision, quiet=quiet or as_json)
    _refuse_overlap(path, request.output)
    plan = make(_open(path), request, dry_run=dry_run)
    out.warn(plan.warnings)
    if dry_run:
        out.json(plan_summary(plan))
        show_plan(plan, out)
        return
    try:
        with out.progress(sum(f.size for f in plan.files if f.slots)) as tick:
            report = carry_out(plan, resources, tick, resume=resume, force=force, check=verify)
    except KeyboardInterrupt:
        ignore_from_now_on()
        way = "--resume instead of --force" if force else "--resume"
        out.note(
            f"interrupted: finished work is kept in {output}.partial. Run the same command with {way} to continue."
        )
        raise typer.Exit(130) from None
    out.json(report)
    if not quiet:
        show_report(report, out)


def _open(path: Path) -> Any:
    from quantcli.sources.detect import open_source

    return open_source(path)


def _checked_output(output: Path) -> Path:
    if not output.name or output.name in (".", ".."):
        raise WrongUsage(f"OUTPUT: {str(output)!r} does not name a new file or folder.")
    return output


def _refuse_overlap(source: Path, output: Path) -> None:
    """Refuse an OUTPUT that is SOURCE, is inside it or contains it, whatever paths lead to them."""
    from quantcli.containers.entries import real_path
    from quantcli.convert.planning.named_files import first_lost, leads_through, ways
    from quantcli.convert.running.workplace import surroundings

    real = real_path(source)
    read = real.parent if real.suffix == ".safetensors" else real  # its folder's config and tokenizer are read too
    with surroundings(output, "Check the path and its permissions"):
        lies_inside = read.is_dir() and leads_through(output.parent, read)
        if lies_inside or first_lost(ways([source, read]), [output], deep=False):
            raise WrongUsage(f"OUTPUT {output}: is SOURCE, is inside it or contains it. Choose a path outside SOURCE.")


def show_plan(plan: Plan, out: Output) -> None:
    """Print what a dry run shows: every weight, with layers folded, then totals."""
    from quantcli.convert.inspecting.survey import fold
    from quantcli.convert.planning.devices import ON_CPU

    uses_gpu = any(step.devices != ON_CPU for step in plan.steps)
    titles = ("weight", "shape", "from", "to", "route", "grade", *(["device"] if uses_gpu else []), "reason")
    listed = [(step.name, _cells(step, with_device=uses_gpu)) for step in plan.steps]
    out.table([Column(title) for title in titles], [(name, *cells) for name, _, cells in fold(listed)])
    for line in left_out((tensor.name, tensor.reason) for tensor in plan.left):
        out.text(line)
    for line in left_out(((file.name, file.reason) for file in plan.passed), "files"):
        out.text(line)
    for note in plan.notes:
        out.text(note)
    for file in plan.files:
        out.text(f"{size(file.size):>10}  {file.name}")
    out.text(f"{size(plan.nbytes):>10}  total ({plan.nbytes} bytes), without the report")


def _cells(step: Step, *, with_device: bool) -> tuple[str, ...]:
    return (
        "x".join(map(str, step.shape)), step.was or "-", step.scheme.name, str(step.route), str(step.grade),
        *([step.devices.made_on.value] if with_device else []), step.reason,
    )  # fmt: skip


def left_out(listed: Iterable[tuple[str, str]], what: str = "tensors") -> list[str]:
    """Return a line for each reason why tensors or files (name, reason) are not in the output."""
    names: dict[str, list[str]] = {}
    for name, reason in listed:
        names.setdefault(reason, []).append(name)
    return [
        f"dropped: {alike[0]}: {reason}"
        if len(alike) == 1
        else f"dropped: {len(alike)} {what} (first: {alike[0]}): {reason}"
        for reason, alike in names.items()
    ]


def show_report(report: dict[str, Any], out: Output) -> None:
    """Print what a finished run shows: where the output is, and what was done to how many weights."""
    totals = report["totals"]
    schemes = ", ".join(f"{count} {name}" for name, count in totals["schemes"].items())
    routes = ", ".join(f"{count} {name}" for name, count in totals["routes"].items())
    grades = ", ".join(f"{count} {name}" for name, count in totals["grades"].items())
    split = f" in {len(report['files'])} parts" if report["target"] == "gguf" and len(report["files"]) > 1 else ""
    out.text(f"{report['output']}{split}: {size(report['bytes'])}, {len(report['weights'])} weights: {schemes}")
    out.text(f"  {routes}; {grades}" + (f"; {totals['fallbacks']} fallbacks" if totals["fallbacks"] else ""))
    if "gpu" in totals["devices"]:
        out.text("  devices: " + ", ".join(f"{count} {name}" for name, count in totals["devices"].items()))
    for line in left_out((tensor["name"], tensor["reason"]) for tensor in report["left_out"]):
        out.text(f"  {line}")
    for line in left_out(((file["name"], file["reason"]) for file in report["files_left_out"]), "files"):
        out.text(f"  {line}")
    for note in report["notes"]:
        out.text(f"  {note}")
    worst = max(report["weights"], key=lambda w: w["relative_rmse"])
    if worst["relative_rmse"]:
        rmse = f"{worst['relative_rmse']:.4f}" if worst["relative_rmse"] >= 1e-4 else f"{worst['relative_rmse']:.1e}"
        out.text(f"  largest relative RMSE {rmse} ({worst['name']})")
    if report["verified"]:
        readers = " and ".join(r["name"] for r in report["reference_readers"] if r["files"])
        opens = f"; opens in {readers}" if readers else ""
        out.text(f"  verified: the output was read back, and every weight matches the plan{opens}")
    for reader in report["reference_readers"]:
        for note in reader["notes"]:
            out.text(f"  {note}")
