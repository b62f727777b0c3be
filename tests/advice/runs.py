"""Rows of messages that say what else would work: of commands and of runs."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from quantcli.cli.app import app
from quantcli.convert.running import confirm, open_files, publishing
from quantcli.convert.running.workplace import Workplace
from tests.advice.row import Row
from tests.builders import tiny_llama
from tests.runs import simulate_gpu

INTO = "convert {dense} {out}"


def interrupts(patch: pytest.MonkeyPatch, tmp: Path) -> None:
    """Ctrl-C once something is done."""
    from quantcli.cli.output import Output

    @contextmanager
    def progress(self: Output, total: int) -> Any:
        def tick(count: int, name: str) -> None:
            raise KeyboardInterrupt

        yield tick

    patch.setattr(Output, "progress", progress)


def fails(error: BaseException, module: str, name: str) -> Callable[[pytest.MonkeyPatch, Path], None]:
    """A function of the package raises this instead."""

    def change(patch: pytest.MonkeyPatch, tmp: Path) -> None:
        def raising(*args: Any, **options: Any) -> Any:
            raise error

        patch.setattr(f"quantcli.{module}.{name}", raising)

    return change


def no_gpu(patch: pytest.MonkeyPatch, tmp: Path) -> None:
    import mlx.core as mx

    patch.setattr(mx, "default_device", lambda: mx.Device(mx.DeviceType.cpu, 0))


def terminal(patch: pytest.MonkeyPatch, tmp: Path) -> None:
    """Few rows are shown."""
    from quantcli.cli import diff

    patch.setattr(diff, "ROWS", 3)
    patch.setattr(diff, "_is_terminal", lambda: True)


def made(*names: str) -> Callable[[Path], None]:
    """These files are there already."""

    def make(tmp: Path) -> None:
        for name in names:
            (tmp / name).parent.mkdir(exist_ok=True)
            (tmp / name).write_text("{}")

    return make


def unfinished(tmp: Path) -> None:
    """An interrupted run has left what it had done."""
    tiny_llama(tmp / "own")
    with pytest.MonkeyPatch.context() as patch:
        interrupts(patch, tmp)
        result = CliRunner().invoke(app, ["convert", str(tmp / "own"), str(tmp / "out")])
    assert result.exit_code == 130, result.output


def completed(tmp: Path) -> None:
    """A run has ended."""
    tiny_llama(tmp / "own")
    result = CliRunner().invoke(app, ["convert", str(tmp / "own"), str(tmp / "out")])
    assert result.exit_code == 0, result.output


def loses_writes(patch: pytest.MonkeyPatch, tmp: Path) -> None:
    """The kernel says of an output's file that what was written is lost."""

    def lost(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    patch.setattr(open_files, "os", SimpleNamespace(**{**vars(os), "fsync": lost}))


def damages_at_last(patch: pytest.MonkeyPatch, tmp: Path) -> None:
    """What was published is found to be other than what was verified."""

    def found(paths: Mapping[Path, str], *arguments: Any, **options: Any) -> dict[Path, str]:
        return dict.fromkeys(paths, "other")

    patch.setattr(confirm, "sha256_of", found)


def changes_at_last(patch: pytest.MonkeyPatch, tmp: Path) -> None:
    """What was to be replaced is found changed, once."""
    from quantcli.convert.running import destination

    patch.setattr(destination, "in_the_way", lambda folder, report: ["a.txt"] if folder.name == "replaced" else [])


def appears_at_last(patch: pytest.MonkeyPatch, tmp: Path) -> None:
    """Somebody else writes a folder of the output's name before it gets that."""
    from quantcli.convert.running import workplace

    def stage(*arguments: Any) -> None:
        publishing.stage(*arguments)
        made("out/a.txt")(tmp)

    patch.setattr(workplace, "stage", stage)


QUANTIZED = "convert {tmp}/own {out} -s affine4-g64"


def unfinished_on(device: str) -> Callable[[Path], None]:
    """An interrupted run on a machine with a GPU has left what it had done."""

    def leave(tmp: Path) -> None:
        tiny_llama(tmp / "own")
        with pytest.MonkeyPatch.context() as patch:
            simulate_gpu(patch)
            interrupts(patch, tmp)
            options = ["-s", "affine4-g64", "--device", device]
            result = CliRunner().invoke(app, ["convert", str(tmp / "own"), str(tmp / "out"), *options])
        assert result.exit_code == 130, result.output

    return leave


def cannot_be_tidied(patch: pytest.MonkeyPatch, tmp: Path) -> None:
    """The disk fails once the output has its name, and its work folder is to go."""
    publish = Workplace.publish

    def publishing(self: Workplace, *arguments: Any, **options: Any) -> None:
        publish(self, *arguments, **options)
        fails(OSError(errno.EIO, os.strerror(errno.EIO)), "convert.running.workplace", "Workplace._clear")(patch, tmp)

    patch.setattr(Workplace, "publish", publishing)


ROWS = (
    Row("convert/running/conversion.py", "is complete, and", INTO, INTO + " --resume", 5, patch=cannot_be_tidied),
    Row("cli/convert.py", "--resume", INTO, INTO + " --resume", 130, patch=interrupts),
    Row("cli/convert.py", "instead of --force", INTO + " --force", INTO + " --resume", 130, patch=interrupts),
    Row("cli/diff.py", "more weights, none of them", "diff {dense} {q8}", "diff {dense} {q8} --all", 0, patch=terminal),
    Row("cli/diff.py", "more. --all", "diff {deep} {dense}", "diff {deep} {dense} --all", 0, patch=terminal),
    Row(
        "cli/command.py",
        "not enough memory",
        INTO,
        INTO + " --max-memory 100MB --threads 1",
        5,
        patch=fails(MemoryError(), "convert.planning.plan", "make"),
    ),
    Row(
        "convert/planning/devices.py",
        "finds no GPU on this machine. Use --device cpu",
        INTO + " --device gpu",
        INTO + " --device cpu",
        5,
        patch=no_gpu,
    ),
    *(
        Row(
            "convert/running/conversion.py",
            "started on another device",
            f"{QUANTIZED} --resume --device {other}",
            (f"{QUANTIZED} --resume --device {begun}", f"{QUANTIZED} --force --device {other}"),
            5,
            before=unfinished_on(begun),
            patch=lambda patch, tmp: simulate_gpu(patch),
            stays_patched=True,
        )
        for begun, other in (("cpu", "gpu"), ("auto", "cpu"))
    ),
    Row(
        "convert/running/conversion.py",
        "MLX finds none",
        QUANTIZED + " --resume",
        QUANTIZED + " --force",
        5,
        before=unfinished_on("gpu"),
        patch=no_gpu,
        stays_patched=True,
    ),
    Row(
        "convert/running/conversion.py",
        "not enough memory",
        INTO,
        INTO + " --resume --max-memory 100MB --threads 1",
        5,
        patch=fails(MemoryError(), "convert.running.run", "write"),
    ),
    Row(
        "convert/running/run.py",
        "--dtype f32 or --dtype bf16",
        "convert {large} {out} --dtype f16",
        ("convert {large} {out} --dtype f32", "convert {large} {out2} --dtype bf16"),
        4,
    ),
    Row(
        "convert/running/run.py",
        "--scale-dtype f32, which",
        "convert {large} {out} -s affine4-g64 --scale-dtype f16",
        "convert {large} {out} -s affine4-g64 --scale-dtype f32",
        4,
    ),
    Row(
        "convert/running/run.py",
        "to leave this weight dense",
        "convert {awq_zeros} {out}",
        ("convert {awq_zeros} {out} --scheme f16", "convert {awq_zeros} {gguf} --scheme f16"),
        4,
    ),
    Row(
        "convert/running/run.py",
        "to leave this weight dense",
        "convert {awq_zero} {out}",
        ("convert {awq_zero} {out} --override 'model.layers.1.mlp.up_proj.weight=f16'",),
        4,
    ),
    Row(
        "convert/running/run.py",
        "to leave this weight dense",
        "convert {awq_zero} {gguf}",
        ("convert {awq_zero} {gguf} --override 'blk.1.ffn_up.weight=f16'",),
        4,
    ),
    Row(
        "convert/running/run.py",
        "to leave this weight dense",
        "convert {huge} {gguf} -s q8_0",
        ("convert {huge} {gguf} -s q8_0 --override 'blk.0.ffn_down.weight=f32'", "convert {huge} {gguf2} --scheme f32"),
        4,
    ),
    Row(
        "convert/running/gguf_process.py",
        "to verify again",
        "convert {dense} {gguf} --verify",
        "convert {dense} {gguf} --verify --resume",
        5,
        patch=fails(EOFError(), "convert.running.gguf_process.pickle", "load"),
    ),
    Row(
        "convert/running/complete.py",
        "--verify to check its data",
        "convert {tmp}/own {out} --resume",
        "convert {tmp}/own {out} --resume --verify",
        0,
        before=completed,
    ),
    Row(
        "convert/running/confirm.py",
        "--resume to convert again",
        INTO + " --verify",
        INTO + " --verify --resume",
        6,
        patch=damages_at_last,
    ),
    Row(
        "convert/running/open_files.py",
        "--resume to write the lost part",
        INTO,
        INTO + " --resume",
        5,
        patch=loses_writes,
    ),
    Row(
        "sources/unfinished.py",
        "Finish it with --resume",
        "inspect {out}.partial/output",
        ("convert {tmp}/own {out} --resume", "inspect {out}"),
        5,
        before=unfinished,
    ),
    Row(
        "convert/running/workplace.py",
        "Fix that, then use --resume",
        INTO,
        INTO + " --resume",
        5,
        patch=fails(OSError(28, "No space left on device"), "convert.running.workplace.os", "pwrite"),
    ),
    Row(
        "convert/running/destination.py",
        "Choose another name, or use --force",
        INTO,
        (INTO + " --force", INTO + "2"),
        5,
        before=made("out/config.json", "out/model.safetensors"),
    ),
    Row(
        "convert/running/destination.py",
        "quant's output and model folders",
        INTO + " --force",
        (INTO + "2 --force", INTO + " --force"),
        5,
        before=made("out/config.json", "out/model.safetensors", "out/sub/a.txt"),
        after=lambda tmp: os.rename(tmp / "out/sub", tmp / "sub"),
    ),
    Row(
        "convert/running/destination.py",
        "only parts that its report lists",
        "convert {dense} {tmp}/x.gguf --force",
        ("convert {dense} {tmp}/y.gguf --force", "convert {dense} {tmp}/x.gguf --force"),
        5,
        before=made("x-00001-of-00002.gguf"),
        after=lambda tmp: os.rename(tmp / "x-00001-of-00002.gguf", tmp / "other.gguf"),
    ),
    Row(
        "convert/running/destination.py",
        "to check it again",
        INTO + " --force",
        INTO + " --resume",
        5,
        before=made("out/config.json", "out/model.safetensors"),
        patch=changes_at_last,
    ),
    Row(
        "convert/running/workplace.py",
        "was created during",
        INTO,
        INTO + " --resume",
        5,
        patch=appears_at_last,
        after=lambda tmp: os.rename(tmp / "out", tmp / "away"),
    ),
    Row(
        "convert/running/workplace.py",
        "contains an unfinished run",
        "convert {tmp}/own {out}",
        ("convert {tmp}/own {out} --resume", "convert {tmp}/own {out} --force"),
        5,
        before=unfinished,
    ),
    Row(
        "convert/running/workplace.py",
        "contains a run of another source",
        "convert {tmp}/own {out} --resume --dtype f32",
        ("convert {tmp}/own {out} --resume", "convert {tmp}/own {out} --force --dtype f32"),
        5,
        before=unfinished,
    ),
)
