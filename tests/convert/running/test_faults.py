"""What the surroundings do to a run: full disks, no permission, changing sources, a second run. Each is exit 5."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import resource
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from quantcli.convert.running import conversion, renames
from quantcli.convert.running import run as runner
from quantcli.errors import BadInput, Surroundings
from tests.builders import tiny_llama
from tests.conversions import planned
from tests.runs import beside, finish, quant, run, tree


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tiny_llama(tmp_path / "source")


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    """A small tmpfs; the test is skipped where it may not be mounted."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("a tmpfs cannot be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def one_sentence(err: str) -> str:
    """The only line of an error."""
    lines = [line for line in err.splitlines() if not line.startswith("warning:")]
    assert len(lines) == 1 and lines[0].startswith("error: ") and lines[0].endswith("."), err
    return lines[0]


class TestFullDisk:
    def test_is_seen_before_work_starts(self, source: Path, tmp_path: Path) -> None:
        with mounted(tmp_path / "small", "size=1100k"):
            code, _, err = finish(quant("convert", source, tmp_path / "small" / "out", "-s", "f32"))
            assert code == 5 and re.search(r"has \d+ bytes free; the output needs \d+", one_sentence(err))
            assert beside(tmp_path / "small" / "x") == []

    def test_fills_while_it_is_written(self, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Somebody else's data takes the room; once it is gone, --resume goes on."""
        monkeypatch.setattr(conversion, "SPARE_BYTES", 0)
        with mounted(tmp_path / "small", "size=600k"):
            output, other = tmp_path / "small" / "out", tmp_path / "small" / "other"

            def grow(count: int, name: str) -> None:
                with contextlib.suppress(OSError), open(other, "ab") as handle:
                    handle.write(b"x" * (1 << 19))

            with pytest.raises(Surroundings, match="No space left on device.*--resume"):
                run(source, output, scheme="f32", progress=grow)
            assert beside(output) == ["other", "out.partial"]
            other.unlink()
            run(source, output, scheme="f32", resume=True)
            assert beside(output) == ["out"]
            run(source, tmp_path / "good", scheme="f32")
            assert tree(output) == tree(tmp_path / "good")

    @pytest.mark.parametrize("call", ["pwrite", "fsync", "ftruncate", "mkdir", "flagged_rename", "write"])
    def test_any_call_may_fail(self, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
        """Each is a sentence that names a path, leaves no output, and is no obstacle afterwards."""
        good = tmp_path / "good"
        run(source, good, scheme="affine4-g64")
        failed = 0
        for count in range(100):
            output = tmp_path / str(count) / "out"
            with monkeypatch.context() as patch:
                owner = renames if call == "flagged_rename" else os
                patch.setattr(owner, call, failing(getattr(owner, call), count))
                try:
                    run(source, output, scheme="affine4-g64")
                    break
                except Surroundings as error:
                    failed += 1
                    assert "No space left on device" in str(error) and str(tmp_path) in str(error)
            # The very last call flushes the folder that names the finished output.
            assert not output.exists() or tree(output) == tree(good)
            run(source, output, scheme="affine4-g64", resume=True)
            assert tree(output) == tree(good)
        assert failed >= {"flagged_rename": 1}.get(call, 2)

    def test_limited_file_size(self, source: Path, tmp_path: Path) -> None:
        def limit() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

        # Python would cut its compiled modules off at this size too, and read them the next time.
        environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
        process = quant("convert", source, tmp_path / "out.gguf", "-s", "f32", preexec_fn=limit, env=environment)
        code, _, err = finish(process)
        assert code == 5 and re.search("File too large.*--resume", one_sentence(err))
        assert beside(tmp_path / "out.gguf") == ["out.gguf.partial", "source"]


def failing(function: Callable[..., Any], after: int) -> Callable[..., Any]:
    """`function`, that fails once, at its call number `after`."""
    calls = [0]

    def call(*arguments: Any, **options: Any) -> Any:
        calls[0] += 1
        if calls[0] == after + 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return function(*arguments, **options)

    return call


class TestPermission:
    def test_read_only_folder(self, source: Path, tmp_path: Path) -> None:
        with mounted(tmp_path / "sealed", "ro"):
            code, _, err = finish(quant("convert", source, tmp_path / "sealed" / "out", "-s", "affine4-g64"))
            assert code == 5 and "Read-only file system" in one_sentence(err)

    def test_forbidden_folder(self, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        real = os.mkdir

        def refuse(path: Any, *arguments: Any, **options: Any) -> None:
            if str(path).endswith(".partial"):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            real(path, *arguments, **options)

        monkeypatch.setattr(os, "mkdir", refuse)
        with pytest.raises(Surroundings, match=r"out\.partial: Permission denied"):
            run(source, tmp_path / "out")
        assert beside(tmp_path / "out") == ["source"]

    def test_a_mount_point_is_no_output(self, source: Path, tmp_path: Path) -> None:
        with mounted(tmp_path / "volume", "size=8m"):
            for force in (False, True):
                with pytest.raises(Surroundings, match="is a mount point"):
                    run(source, tmp_path / "volume", force=force)
            run(source, tmp_path / "volume" / "out")


class TestSourceChanges:
    def changes(self, source: Path, tmp_path: Path, change: Callable[[], object], **options: Any) -> str:
        """Convert while `change` is done to the source, once; what the error says."""
        left = [change]

        def tick(count: int, name: str) -> None:
            if left:
                left.pop()()

        with pytest.raises(Surroundings) as caught:
            run(source, tmp_path / "out", progress=tick, **options)
        assert beside(tmp_path / "out") == ["out.partial", "source"]
        with pytest.raises(Surroundings):
            run(source, tmp_path / "out", resume=True, **options)
        return str(caught.value)

    SENTENCE = "changed during conversion. Run again with --force once nothing writes to it."

    def test_in_its_time(self, source: Path, tmp_path: Path) -> None:
        file = source / "model.safetensors"
        told = self.changes(source, tmp_path, lambda: os.utime(file, ns=(0, 1)), scheme="affine4-g64")
        assert told == f"{file}: {self.SENTENCE}"

    def test_in_a_small_file(self, source: Path, tmp_path: Path) -> None:
        file = source / "tokenizer_config.json"
        told = self.changes(source, tmp_path, lambda: file.write_text('{"a": 1}'))
        assert told == f"{file}: {self.SENTENCE}"

    @pytest.mark.parametrize("options", [{"scheme": "affine4-g64"}, {}, {"scheme": "f32", "check": True}])
    def test_it_shrinks(self, source: Path, tmp_path: Path, options: dict[str, Any]) -> None:
        """Its end is missed while it is read; the reason is that it changed, not that it is bad."""
        file = source / "model.safetensors"
        with pytest.raises(Surroundings, match="changed during conversion"):
            run(source, tmp_path / "out", progress=lambda *_: os.truncate(file, 5000), **options)
        assert beside(tmp_path / "out") == ["out.partial", "source"]

    def test_it_is_gone(self, source: Path, tmp_path: Path) -> None:
        file = source / "model.safetensors"
        with pytest.raises(Surroundings, match="changed during conversion"):
            run(source, tmp_path / "out", progress=lambda *_: file.unlink(missing_ok=True), scheme="affine4-g64")

    def test_it_turns_bad(self, source: Path, tmp_path: Path) -> None:
        """NaN that was not there when the run began."""
        file = source / "model.safetensors"

        def spoil(count: int, name: str) -> None:
            with open(file, "r+b") as handle:
                handle.seek(-100_000, os.SEEK_END)
                handle.write(b"\xff" * 100_000)

        with pytest.raises(Surroundings, match="changed during conversion"):
            run(source, tmp_path / "out", progress=spoil, scheme="affine4-g64")

    def test_it_changes_while_it_is_verified(
        self, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = conversion.verify.check

        def check(*arguments: Any) -> None:
            real(*arguments)
            (source / "config.json").touch()

        monkeypatch.setattr(conversion.verify, "check", check)
        with pytest.raises(Surroundings, match=r"config\.json: changed during conversion"):
            run(source, tmp_path / "out", check=True)
        assert beside(tmp_path / "out") == ["out.partial", "source"]

    def test_a_read_error_names_the_source(self, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*arguments: Any) -> int:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        plan = planned(source, tmp_path / "out", scheme="affine4-g64")
        monkeypatch.setattr(os, "preadv", fail)
        with pytest.raises(Surroundings, match=r"source/model\.safetensors: .*Input/output error"):
            conversion.convert(plan, runner.Resources(1 << 28, 2), lambda *_: None)
        assert beside(tmp_path / "out") == ["out.partial", "source"]


class TestTwoRuns:
    @pytest.mark.parametrize("word", [None, "--resume", "--force"])
    def test_the_second_waits_outside(self, source: Path, tmp_path: Path, word: str | None) -> None:
        output = tmp_path / "out"
        first = quant("convert", source, output, "-s", "affine4-g64", "--threads", 1, nap=0.03)
        while not (tmp_path / "out.partial" / ".journal").exists() and first.poll() is None:
            time.sleep(0.01)
        time.sleep(0.2)
        options = {"resume": word == "--resume", "force": word == "--force"}
        with pytest.raises(Surroundings, match="another run is writing it"):
            run(source, output, scheme="affine4-g64", **options)
        code, _, err = finish(first)
        assert code == 0, err
        run(source, tmp_path / "good", scheme="affine4-g64")
        assert tree(output) == tree(tmp_path / "good") and beside(output) == ["good", "out", "source"]

    def test_other_outputs_are_free(self, source: Path, tmp_path: Path) -> None:
        def also(count: int, name: str) -> None:
            if not (tmp_path / "second").exists():
                run(source, tmp_path / "second")

        run(source, tmp_path / "first", progress=also)
        assert tree(tmp_path / "first") == tree(tmp_path / "second")

    def test_a_lock_of_a_removed_journal_is_none(
        self, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The other run ended, and took its journal with it, between our open and our lock."""
        import fcntl

        real = fcntl.flock

        def late(descriptor: int, operation: int) -> None:
            (tmp_path / "out.partial" / ".journal").unlink()
            real(descriptor, operation)

        monkeypatch.setattr(fcntl, "flock", late)
        with pytest.raises(Surroundings, match="another run is writing it"):
            run(source, tmp_path / "out")


def test_too_little_memory_is_a_sentence(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(runner, "make", fail)
    with pytest.raises(Surroundings, match="not enough memory.*--resume .*--max-memory"):
        run(source, tmp_path / "out", scheme="affine4-g64")
    assert beside(tmp_path / "out") == ["out.partial", "source"]


def test_errors_of_workers_end_the_run(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever goes wrong where slabs are cut or made: the run ends with it, and does not wait for ever."""

    def broken(*arguments: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(runner, "make", broken)
    with pytest.raises(ZeroDivisionError):
        run(source, tmp_path / "out", scheme="affine4-g64", threads=3)
    assert beside(tmp_path / "out") == ["out.partial", "source"]


def test_a_download_that_is_not_what_it_is_named(source: Path, tmp_path: Path) -> None:
    """In the Hub's cache a large file is named by its SHA-256: --verify hashes it."""
    file = source / "model.safetensors"
    blob = tmp_path / "blobs" / ("0" * 64)
    blob.parent.mkdir()
    file.rename(blob)
    file.symlink_to(blob)
    run(source, tmp_path / "out")
    with pytest.raises(BadInput, match="is damaged: .*Download it again"):
        run(source, tmp_path / "out2", check=True)
    assert beside(tmp_path / "out") == ["blobs", "out", "source"]
