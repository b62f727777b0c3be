"""What --verify and --resume say of an output that was damaged: between check and publishing, or long afterwards."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quantcli.convert.running import conversion, hashing, reference_readers
from quantcli.errors import Surroundings, VerificationFailed
from tests.builders import tiny_llama
from tests.runs import beside, finish, quant, run, tree

TARGETS = [
    ("out", {"scheme": "affine4-g64"}),
    ("out", {"to": "hf", "scheme": "f16"}),
    ("out.gguf", {"scheme": "q4_0"}),
    ("out.gguf", {"scheme": "q4_0", "shard_size": 30_000}),
]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("source") / "tiny")


def large_file(output: Path) -> Path:
    """A file of an output, finished or growing, that holds tensors."""
    folder = output if output.is_dir() else output.parent
    found = [p for p in sorted(folder.rglob("*")) if p.suffix in (".gguf", ".safetensors") and p.is_file()]
    return found[-1]


def flip(path: Path, offset: int = -100) -> None:
    """Flip one bit; the time of the file stays, as it does when a disk fails."""
    stat = path.stat()
    with open(path, "r+b") as handle:
        handle.seek(offset, os.SEEK_END if offset < 0 else os.SEEK_SET)
        byte = handle.read(1)[0]
        handle.seek(-1, os.SEEK_CUR)
        handle.write(bytes([byte ^ 16]))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def split_or_one(output: Path) -> dict[str, bytes]:
    """Everything of an output, whatever its parts are; reports aside."""
    if output.is_dir():
        return tree(output)
    paths = sorted(output.parent.glob(f"{output.stem}*.gguf"))
    return {path.name: path.read_bytes() for path in paths if path.is_file()}


def afterwards(patch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Do something once, behind the last look at the growing output."""
    real = reference_readers.check

    def check(*arguments: Any) -> Any:
        found = real(*arguments)
        act()
        return found

    patch.setattr(reference_readers, "check", check)


class TestBetweenCheckAndPublishing:
    @pytest.mark.parametrize(("name", "options"), TARGETS)
    @pytest.mark.parametrize("replaces", [False, True])
    def test_damage_is_found_and_the_old_output_comes_back(
        self, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, options: Any, replaces: bool
    ) -> None:
        output = tmp_path / "here" / name
        if replaces:
            run(source, output, **{**options, "scheme": "bf16"})
        old, names = split_or_one(output), beside(output) if replaces else []
        with monkeypatch.context() as patch:
            afterwards(patch, lambda: flip(large_file(output.with_name(f"{name}.partial") / "output")))
            with pytest.raises(VerificationFailed, match=r"changed after it was verified.*--resume"):
                run(source, output, check=True, force=replaces, **options)
        assert split_or_one(output) == old
        assert beside(output) == sorted([*names, f"{name}.partial"])
        run(source, output, check=True, resume=True, **options)
        run(source, tmp_path / "good" / name, **options)
        assert split_or_one(output) == split_or_one(tmp_path / "good" / name)
        assert not output.with_name(f"{name}.partial").exists()

    def test_without_verify_nothing_is_read_twice(
        self, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        hashed: list[Path] = []
        real = conversion.sha256_of

        def count(paths: Any, *rest: Any, **options: Any) -> Any:
            listed = list(paths)
            hashed.extend(listed)
            return real(listed, *rest, **options)

        monkeypatch.setattr(conversion, "sha256_of", count)
        monkeypatch.setattr(conversion, "check_published", None)
        run(source, tmp_path / "out", scheme="affine4-g64")
        assert len(hashed) == len(set(hashed)) == len(tree(tmp_path / "out"))

    def test_an_interruption_there_brings_the_old_output_back(
        self, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The files are read once more for as long as it takes; Ctrl-C is heard meanwhile."""
        run(source, tmp_path / "out", scheme="f16")
        old = tree(tmp_path / "out")
        real = conversion.check_published

        def interrupt(*arguments: Any) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            real(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(conversion, "check_published", interrupt)
            with pytest.raises(KeyboardInterrupt):
                run(source, tmp_path / "out", scheme="affine4-g64", check=True, force=True)
        assert tree(tmp_path / "out") == old
        run(source, tmp_path / "out", scheme="affine4-g64", check=True, resume=True)
        run(source, tmp_path / "good", scheme="affine4-g64")
        assert tree(tmp_path / "out") == tree(tmp_path / "good") and beside(tmp_path / "out") == ["good", "out"]

    @pytest.mark.parametrize(("name", "options"), TARGETS)
    def test_a_kill_there_brings_the_old_output_back(
        self, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, options: Any
    ) -> None:
        class Killed(BaseException):
            pass

        def die(*arguments: Any) -> None:
            raise Killed

        output = tmp_path / "here" / name
        run(source, output, **{**options, "scheme": "bf16"})
        old = split_or_one(output)
        with monkeypatch.context() as patch:
            patch.setattr(conversion, "check_published", die)
            patch.setattr(conversion.Workplace, "take_back", lambda place: None)
            with pytest.raises(Killed):
                run(source, output, check=True, force=True, **options)
        with pytest.raises(Surroundings):
            run(source, output, **options)
        assert split_or_one(output) == old
        run(source, output, check=True, resume=True, **options)
        run(source, tmp_path / "good" / name, **options)
        assert split_or_one(output) == split_or_one(tmp_path / "good" / name)

    @pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="the system drops no pages")
    def test_pages_are_dropped_before_reading(
        self, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        dropped: list[str] = []
        real = os.posix_fadvise

        def drop(descriptor: int, *rest: int) -> None:
            dropped.append(os.readlink(f"/proc/self/fd/{descriptor}"))
            real(descriptor, *rest)

        monkeypatch.setattr(hashing.os, "posix_fadvise", drop)
        run(source, tmp_path / "plain.gguf", scheme="q4_0")
        assert dropped == []
        run(source, tmp_path / "x.gguf", scheme="q4_0", check=True)
        assert dropped == [
            str(tmp_path / name) for name in ("x.gguf.partial/output/x.gguf", "x.gguf", "x.gguf.report.json")
        ]


class TestComplete:
    @pytest.mark.parametrize(("name", "options"), TARGETS)
    def test_damage_afterwards(self, source: Path, tmp_path: Path, name: str, options: Any) -> None:
        output = tmp_path / "here" / name
        run(source, output, check=True, **options)
        names = beside(output)
        flip(large_file(output if output.is_dir() else output.parent / name))
        given = run(source, output, resume=True, **options)
        assert given["verified"] is False and "--verify" in given["notes"][-1]
        damaged = split_or_one(output)
        with pytest.raises(VerificationFailed, match="is not what was written"):
            run(source, output, resume=True, check=True, **options)
        assert split_or_one(output) == damaged and beside(output) == names

    @pytest.mark.parametrize(("name", "options"), TARGETS)
    def test_verified_later(self, source: Path, tmp_path: Path, name: str, options: Any) -> None:
        """The whole check against the source; the report says so from then on."""
        output = tmp_path / "here" / name
        first = run(source, output, **options)
        good, names = split_or_one(output), beside(output)
        given = run(source, output, resume=True, check=True, **options)
        path = output / "quant_report.json" if output.is_dir() else output.with_name(f"{name}.report.json")
        assert json.loads(path.read_text()) == given and not first["verified"] and given["verified"]
        assert given["weights"] == first["weights"] and given["files"] == first["files"]
        assert given["reference_readers"] and all("sha256" in entry for entry in given["sources"])
        assert split_or_one(output) == good and beside(output) == names

    def test_a_damaged_sidecar_header_or_size(self, source: Path, tmp_path: Path) -> None:
        run(source, tmp_path / "good" / "out", scheme="affine4-g64", check=True)
        for name, offset in (("tokenizer.json", 10), ("config.json", 3), ("model.safetensors", 20)):
            shutil.copytree(tmp_path / "good" / "out", tmp_path / "out")
            flip(tmp_path / "out" / name, offset)
            with pytest.raises(VerificationFailed, match="[Cc]onvert again"):
                run(source, tmp_path / "out", scheme="affine4-g64", resume=True, check=True)
            shutil.rmtree(tmp_path / "out")

    def test_on_the_command_line(self, source: Path, tmp_path: Path) -> None:
        command = ("convert", source, tmp_path / "x.gguf", "-s", "q4_0", "--resume")
        assert finish(quant(*command, "--verify"))[0] == 0
        flip(tmp_path / "x.gguf")
        code, out, err = finish(quant(*command))
        assert code == 0 and "--verify" in out and "verified" not in out, err
        code, out, err = finish(quant(*command, "--verify"))
        assert code == 6 and "verified" not in out and str(tmp_path / "x.gguf") in err

    def test_a_source_that_changes_meanwhile(
        self, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Is the reason given, not the output; exit 5."""
        copy = Path(shutil.copytree(source, tmp_path / "copy"))
        run(copy, tmp_path / "out")
        report = (tmp_path / "out" / "quant_report.json").read_bytes()
        afterwards(monkeypatch, lambda: flip(copy / "model.safetensors"))
        with pytest.raises(Surroundings, match=r"model\.safetensors: changed"):
            run(copy, tmp_path / "out", resume=True, check=True)
        assert (tmp_path / "out" / "quant_report.json").read_bytes() == report
        assert beside(tmp_path / "out") == ["copy", "out"]


def test_resume_does_again_what_verification_found_damaged(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With --verify or without: what was found damaged is not published."""
    real = conversion.verify.check

    def damaged(plan: Any, output: Path, *rest: Any) -> None:
        flip(output / "model.safetensors")
        real(plan, output, *rest)

    run(source, tmp_path / "good", scheme="affine4-g64")
    for name in ("a", "b"):
        with monkeypatch.context() as patch, pytest.raises(VerificationFailed):
            patch.setattr(conversion.verify, "check", damaged)
            run(source, tmp_path / name, scheme="affine4-g64", check=True)
        run(source, tmp_path / name, scheme="affine4-g64", resume=True, check=name == "b")
        assert tree(tmp_path / name) == tree(tmp_path / "good")


def test_padding_that_is_not_zero(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a GGUF file whose tensors do not fill their last 32 bytes."""
    odd = tiny_llama(tmp_path / "odd", num_hidden_layers=1, vocab_size=97)
    plan_of = conversion.verify.check

    def damaged(plan: Any, output: Path, *rest: Any) -> None:
        (file,) = plan.files
        sizes = conversion.verify._part_sizes(plan)
        ends = sorted(offset + sizes[slot] for slot, offset in file.slots.items())
        gap = next(end for end in ends if end % 32)
        flip(output, gap)
        plan_of(plan, output, *rest)

    monkeypatch.setattr(conversion.verify, "check", damaged)
    with pytest.raises(VerificationFailed, match=r"padding at byte \d+ is not zero"):
        run(odd, tmp_path / "x.gguf", scheme="q4_0", overrides=("*norm*=f32",), check=True)
