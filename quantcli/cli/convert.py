"""`quant convert SOURCE OUTPUT`: plan, show, carry out."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quantcli.cli.options import (
    Json,
    MaxMemory,
    Quiet,
    Revision,
    Source,
    Threads,
    Verbose,
    command,
    in_order,
    memory_bound,
    parse_size,
    thread_count,
)  # fmt: skip
from quantcli.cli.output import Column, Output, size
from quantcli.dtypes import DENSE_DTYPES
from quantcli.errors import WrongUsage

if TYPE_CHECKING:
    from quantcli.convert.planning.steps import Plan, Step


def _one_of(words: tuple[str, ...], value: str | None, option: str) -> str | None:
    if value is None or value in words:
        return value
    raise WrongUsage(f"{option} {value!r} is none of {', '.join(words)}.")


@command
def convert(
    context: typer.Context,
    source: Source,
    output: Annotated[
        Path, typer.Argument(metavar="OUTPUT", help="NAME.gguf: a GGUF file; anything else: a folder.", readable=False)
    ],
    to: Annotated[
        str | None, typer.Option(metavar="mlx|gguf|hf", help="The target, where OUTPUT does not say.")
    ] = None,
    scheme: Annotated[
        str | None,
        typer.Option("--scheme", "-s", metavar="NAME", help="A scheme or preset for all weights [default: keep]."),
    ] = None,
    bits: Annotated[int | None, typer.Option(metavar="N", help="mlx-lm's spelling of the scheme.")] = None,
    group_size: Annotated[int | None, typer.Option(metavar="N", help="Likewise.")] = None,
    mode: Annotated[str | None, typer.Option(metavar="M", help="Likewise: affine, mxfp4, mxfp8, nvfp4.")] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Overrides: an MLX config.json, hf2q JSON, our rules, a model."),
    ] = None,
    override: Annotated[
        list[str] | None, typer.Option(metavar="GLOB=SCHEME", help="One rule; repeatable, the last match wins.")
    ] = None,
    pure: Annotated[bool, typer.Option("--pure", help="GGUF: the plain type, no mixture.")] = False,
    leave_output_tensor: Annotated[
        bool, typer.Option("--leave-output-tensor", help="GGUF: output.weight as it is.")
    ] = False,
    output_tensor_type: Annotated[str | None, typer.Option(metavar="TYPE", help="GGUF: of output.weight.")] = None,
    token_embedding_type: Annotated[str | None, typer.Option(metavar="TYPE", help="GGUF: of token_embd.")] = None,
    tensor_type: Annotated[
        list[str] | None, typer.Option(metavar="REGEX=TYPE", help="GGUF: first match wins; repeatable.")
    ] = None,
    tensor_type_file: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="GGUF: more, apart by spaces or newlines; in its place.")
    ] = None,
    imatrix: Annotated[
        Path | None, typer.Option(metavar="FILE", help="GGUF: importance matrix, .dat or .gguf.")
    ] = None,
    search: Annotated[
        str, typer.Option(metavar="ggml|best", help="GGUF: ggml's own encodings, or nearer ones in more time.")
    ] = "ggml",
    include_weights: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="GGUF: use the matrix for these only; repeatable.")
    ] = None,
    exclude_weights: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="GGUF: do not use the matrix for these; repeatable.")
    ] = None,
    override_kv: Annotated[
        list[str] | None, typer.Option(metavar="K=TYPE:V", help="GGUF: set a metadata key; repeatable.")
    ] = None,
    prune_layers: Annotated[
        str | None, typer.Option(metavar="N,..", help="GGUF from GGUF: leave these layers out.")
    ] = None,
    keep_split: Annotated[bool, typer.Option("--keep-split", help="GGUF from GGUF: cut into the same parts.")] = False,
    drop: Annotated[
        list[str] | None, typer.Option(metavar="GLOB", help="Leave these tensors of SOURCE out; repeatable.")
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Take the tokenizer's files from this folder.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(metavar="f16|bf16|f32", help="Of all that is dense, before quantizing.")
    ] = None,
    scale_dtype: Annotated[str | None, typer.Option(metavar="f16|bf16|f32", help="Of MLX scales and biases.")] = None,
    lossless: Annotated[
        str | None, typer.Option(metavar="exact|codes", help="Refuse any step of a worse grade.")
    ] = None,
    allow_requantize: Annotated[
        bool, typer.Option("--allow-requantize", help="Round quantized weights again.")
    ] = False,
    allow_unknown_architecture: Annotated[
        bool,
        typer.Option("--allow-unknown-architecture", help="Quantize a folder's model that quant has no table of."),
    ] = False,
    fallback: Annotated[
        str, typer.Option(metavar="auto|SCHEME|none", help="For kept weights that the target cannot hold.")
    ] = "auto",
    allow_nonfinite: Annotated[
        bool, typer.Option("--allow-nonfinite", help="Copy NaN and Inf (in weights, scales and FP8 codes).")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan, write nothing.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace an existing output, once the new one is complete.")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read the output back, with the reference readers too, and check it.")
    ] = False,
    max_memory: MaxMemory = None,
    threads: Threads = None,
    device: Annotated[
        str, typer.Option(metavar="auto|gpu|cpu", help="Where values are computed; auto uses a GPU for MLX's schemes.")
    ] = "auto",
    shard_size: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Of tensors in one file [default: 5GB; a GGUF is not split].")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings are errors.")] = False,
    revision: Revision = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> None:
    """Convert a checkpoint to an MLX folder, a GGUF file or a Hugging Face folder."""
    from quantcli.convert.planning.plan import make
    from quantcli.convert.planning.request import Request
    from quantcli.convert.running.conversion import convert as carry_out
    from quantcli.convert.running.interrupt import ignore_from_now_on
    from quantcli.convert.running.report import plan_summary
    from quantcli.convert.running.run import Resources
    from quantcli.sources.resolve import local_source

    out = Output(as_json, quiet, verbose)
    request = Request(
        output=_checked_output(output), to=_one_of(("mlx", "gguf", "hf"), to, "--to"), scheme=scheme, bits=bits,
        group_size=group_size, mode=mode, recipe=recipe, overrides=tuple(override or ()), pure=pure,
        leave_output_tensor=leave_output_tensor, output_tensor_type=output_tensor_type,
        token_embedding_type=token_embedding_type,
        tensor_types=in_order(context, {"tensor_type": tensor_type, "tensor_type_file": tensor_type_file}),
        imatrix=imatrix, search=search,
        include_weights=tuple(include_weights or ()), exclude_weights=tuple(exclude_weights or ()),
        override_kv=tuple(override_kv or ()), prune_layers=prune_layers, keep_split=keep_split,
        tokenizer=tokenizer,
        drop=tuple(drop or ()),
        dtype=_one_of(DENSE_DTYPES, dtype, "--dtype"), scale_dtype=_one_of(DENSE_DTYPES, scale_dtype, "--scale-dtype"),
        lossless=_one_of(("exact", "codes"), lossless, "--lossless"), allow_requantize=allow_requantize,
        allow_unknown_architecture=allow_unknown_architecture, fallback=fallback,
        allow_nonfinite=allow_nonfinite, strict=strict, device=_device(device),
        shard_size=parse_size(shard_size, "--shard-size") if shard_size else None,
    )  # fmt: skip
    memory = memory_bound(max_memory)
    resources = Resources(memory, thread_count(threads))
    if resume and force:
        raise WrongUsage("--resume goes on with an old run, --force throws it away: give one of them.")
    path = local_source(source, revision, quiet=quiet or as_json)
    _check_apart(path, request.output)
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
        out.note(f"interrupted: what is done is kept in {output}.partial; the same command with {way} goes on.")
        raise typer.Exit(130) from None
    out.json(report)
    if not quiet:
        show_report(report, out)


def _open(path: Path) -> Any:
    from quantcli.sources.detect import open_source

    return open_source(path)


def _checked_output(output: Path) -> Path:
    if not output.name or output.name in (".", ".."):
        raise WrongUsage(f"OUTPUT {str(output)!r} names no file or folder of its own.")
    return output


def _check_apart(source: Path, output: Path) -> None:
    """OUTPUT is never SOURCE, nor inside it, nor a folder that holds it, whatever names lead to them."""
    from quantcli.containers.entries import real_path
    from quantcli.convert.planning.named_files import first_lost, leads_through, ways
    from quantcli.convert.running.workplace import surroundings

    real = real_path(source)
    read = real.parent if real.suffix == ".safetensors" else real  # its folder's config and tokenizer are read too
    with surroundings(output, "check the path and its permissions"):
        lies_inside = read.is_dir() and leads_through(output.parent, read)
        if lies_inside or first_lost(ways([source, read]), [output], deep=False):
            raise WrongUsage(f"OUTPUT {output} is SOURCE, lies inside it or holds it: choose a place beside it.")


def _device(word: str) -> str:
    from quantcli.convert.planning.devices import available

    _one_of(("auto", "gpu", "cpu"), word, "--device")
    return available(word)


def show_plan(plan: Plan, out: Output) -> None:
    """What a dry run prints: every weight, layers folded, then totals."""
    from quantcli.convert.inspecting.survey import fold
    from quantcli.convert.planning.devices import ON_CPU

    uses_gpu = any(step.devices != ON_CPU for step in plan.steps)
    titles = ("weight", "shape", "from", "to", "route", "grade", *(["device"] if uses_gpu else []), "why")
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
    out.text(f"{size(plan.nbytes):>10}  in all ({plan.nbytes} bytes), the report aside")


def _cells(step: Step, *, with_device: bool) -> tuple[str, ...]:
    return (
        "x".join(map(str, step.shape)), step.was or "-", step.scheme.name, str(step.route), str(step.grade),
        *([step.devices.made_on.value] if with_device else []), step.reason,
    )  # fmt: skip


def left_out(listed: Iterable[tuple[str, str]], what: str = "tensors") -> list[str]:
    """A line for each reason why tensors or files (name, reason) have no place in the output."""
    names: dict[str, list[str]] = {}
    for name, reason in listed:
        names.setdefault(reason, []).append(name)
    return [
        f"left out: {alike[0]}: {reason}"
        if len(alike) == 1
        else f"left out: {len(alike)} {what}, {alike[0]} the first: {reason}"
        for reason, alike in names.items()
    ]


def show_report(report: dict[str, Any], out: Output) -> None:
    """What a finished run prints: where the output is, what was done to how many weights."""
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
        out.text(f"  verified: read back, every weight is what the plan promised{opens}")
    for reader in report["reference_readers"]:
        for note in reader["notes"]:
            out.text(f"  {note}")
