"""A write that fails behind its back: the kernel tells of it once, and only those who had the file open."""

from __future__ import annotations

import errno
import os
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from quantcli.convert.running import run as runner
from quantcli.convert.running.open_files import OpenFiles
from quantcli.errors import Surroundings
from tests.builders import tiny_llama
from tests.runs import beside, journal_entries, run, tree

TARGETS = [("out", "affine4-g64"), ("out.gguf", "q4_0")]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("source") / "smaller", num_hidden_layers=1)


def failing(lost: int, patch: pytest.MonkeyPatch) -> dict[str, int]:
    """Lose the write number `lost`: it returns as if it were done.

    As Linux does it, the next fsync of a descriptor that was open meanwhile says so, once, and the page counts as clean
    from then on; a descriptor that is opened later hears nothing.
    """
    seen = {"writes": 0, "lost": 0, "told": 0}
    inodes: dict[int, int] = {}
    pending: set[int] = set()
    real_open, real_close, real_pwrite, real_fsync = os.open, os.close, os.pwrite, os.fsync

    def opens(*arguments: Any, **options: Any) -> int:
        descriptor = real_open(*arguments, **options)
        inodes[descriptor] = os.fstat(descriptor).st_ino
        pending.discard(descriptor)
        return descriptor

    def closes(descriptor: int) -> None:
        inodes.pop(descriptor, None)
        pending.discard(descriptor)
        real_close(descriptor)

    def writes(descriptor: int, data: Any, offset: int) -> int:
        seen["writes"] += 1
        if seen["writes"] != lost + 1:
            return real_pwrite(descriptor, data, offset)
        seen["lost"] = 1
        pending.update(one for one, inode in inodes.items() if inode == inodes[descriptor])
        return len(data)

    def syncs(descriptor: int) -> None:
        if descriptor in pending:
            pending.discard(descriptor)
            seen["told"] += 1
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real_fsync(descriptor)

    for name, fake in (("open", opens), ("close", closes), ("pwrite", writes), ("fsync", syncs)):
        patch.setattr(os, name, fake)
    return seen


@pytest.mark.parametrize("seconds", [0.0, 5.0])
@pytest.mark.parametrize(("name", "scheme"), TARGETS)
def test_no_write_is_lost_unseen(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, scheme: str, seconds: float
) -> None:
    """Exit 5 that names the file; --resume gives the same bytes."""
    monkeypatch.setattr(runner, "FLUSH_SECONDS", seconds)
    run(source, tmp_path / "good" / name, scheme=scheme)
    good = tree(tmp_path / "good" / name)
    for number in count():
        output = tmp_path / str(number) / name
        with monkeypatch.context() as patch:
            seen = failing(number, patch)
            try:
                run(source, output, scheme=scheme)
            except Surroundings as error:
                assert seen["told"] == 1 and "Input/output error" in str(error) and str(output.parent) in str(error)
            else:
                assert not seen["lost"]
                break
        assert beside(output) == [f"{name}.partial"]
        run(source, output, scheme=scheme, resume=True)
        assert tree(output) == good
    assert number > 10


def test_steps_of_a_file_that_failed_are_not_journalled(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often it is synced again; those of other files are."""
    monkeypatch.setattr(runner, "FLUSH_SECONDS", 0.0)
    synced: list[int] = []
    real = os.fsync

    def sync(descriptor: int) -> None:
        if os.readlink(f"/proc/self/fd/{descriptor}").rpartition("/")[2].startswith("model-00002-of-"):
            synced.append(descriptor)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(descriptor)

    if not Path("/proc/self/fd").exists():
        pytest.skip("the system does not tell the names of open files")
    monkeypatch.setattr(os, "fsync", sync)
    with pytest.raises(Surroundings, match=r"model-00002-of-\d+\.safetensors.*Input/output error"):
        run(source, tmp_path / "out", scheme="f16", shard_size=9_000)
    assert len(synced) == 1
    steps = [entry["step"] for entry in journal_entries(tmp_path / "out.partial") if "step" in entry]
    monkeypatch.setattr(os, "fsync", real)
    run(source, tmp_path / "out", scheme="f16", shard_size=9_000, resume=True)
    run(source, tmp_path / "good", scheme="f16", shard_size=9_000)
    assert tree(tmp_path / "out") == tree(tmp_path / "good") and len(steps) < 12


class TestOpenFiles:
    def test_open_from_the_first_write_to_the_fsync(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        opened: list[str] = []
        real = os.open

        def opens(path: Any, *arguments: Any, **options: Any) -> int:
            opened.append(str(path))
            return real(path, *arguments, **options)

        monkeypatch.setattr(os, "open", opens)
        files = OpenFiles(tmp_path)
        assert not files.resize("x", 8) and files.resize("x", 8)
        files.write("x", 0, memoryview(b"1234"))
        files.write("x", 4, memoryview(b"5678"))
        files.sync("x")
        assert opened.count("x") == 1 and (tmp_path / "x").read_bytes() == b"12345678"
        files.write("x", 0, memoryview(b"9"))
        files.sync("x")
        files.close()
        assert opened.count("x") == 2

    def test_a_write_during_an_fsync_keeps_the_file_open(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        files = OpenFiles(tmp_path)
        real, closed = os.fsync, []
        monkeypatch.setattr(os, "fsync", lambda d: (real(d), files.write("x", 1, memoryview(b"2"))))
        monkeypatch.setattr(os, "close", closed.append)
        files.write("x", 0, memoryview(b"1"))
        before = len(closed)
        files.sync("x")
        assert len(closed) == before
        monkeypatch.undo()
        files.sync("x")
        files.close()
        assert (tmp_path / "x").read_bytes() == b"12"
