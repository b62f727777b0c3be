"""Runs that die and are taken up again: at every write to the disk, by signals, after the journal was torn."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import quantcli
from quantcli.convert.running import conversion, renames
from quantcli.convert.running import run as runner
from quantcli.errors import Surroundings, VerificationFailed
from tests.builders import tiny_llama
from tests.conversions import planned
from tests.runs import beside, dies_after, interrupted, journal_entries, moments, run, tree

TARGETS = [("out", "affine4-g64"), ("out.gguf", "q4_0")]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("source") / "tiny")


@pytest.fixture(scope="module")
def smaller(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("source") / "smaller", num_hidden_layers=1)


@pytest.fixture(autouse=True)
def journal_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step is journalled by itself; nothing waits for a disk."""
    monkeypatch.setattr(runner, "FLUSH_SECONDS", 0.0)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.mark.parametrize(("name", "scheme"), TARGETS)
def test_power_fails_at_any_change(smaller: Path, tmp_path: Path, name: str, scheme: str) -> None:
    """Whatever was the last thing on disk: no half-made output, and --resume ends with the undisturbed bytes."""
    source = smaller
    run(source, tmp_path / "good" / name, scheme=scheme)
    good = tree(tmp_path / "good" / name)
    output = tmp_path / "new" / "folder" / name
    died = 0
    for _ in moments(source, output, scheme=scheme):
        died += 1
        assert not output.exists() or tree(output) == good
        run(source, output, scheme=scheme, resume=True)
        assert tree(output) == good
        assert not any(output.with_name(f"{name}.partial").glob("output*"))
        clear(output)
    assert died > 40


def clear(output: Path) -> None:
    for path in sorted(output.parents[1].rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    output.parents[1].rmdir()


@pytest.mark.parametrize(
    "lacking",
    ["", *(pytest.param(what, marks=pytest.mark.slow) for what in ("swaps", "links")), "swaps and links"],
)
@pytest.mark.parametrize(("name", "scheme"), TARGETS)
def test_power_fails_while_an_output_is_replaced(
    smaller: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, scheme: str, lacking: str
) -> None:
    """The old output or the new one is there; on a file system that cannot swap two names, or (a folder) has no hard
    links, the old one may be in `replaced`, and is put back by whatever runs next.
    """
    source = smaller
    run(source, tmp_path / "good" / name, scheme=scheme)
    run(source, tmp_path / "old" / name, scheme="f32")
    good, old = tree(tmp_path / "good" / name), tree(tmp_path / "old" / name)
    output = tmp_path / "here" / name
    run(source, output, scheme="f32")
    if "swaps" in lacking:
        monkeypatch.setattr(renames, "flagged_rename", refuses(errno.EINVAL))
    if "links" in lacking:
        monkeypatch.setattr(os, "link", refuses(errno.EPERM))
    seen = set()
    for changes in range(1000):
        if not dies_after(changes, source, output, scheme=scheme, force=True):
            break
        if not output.exists():
            seen.add("between")
            kept = output.with_name(f"{name}.partial") / "replaced"
            assert tree(kept if name == "out" else kept / name) == old
            with pytest.raises(Surroundings, match="already exists|an unfinished run"):
                run(source, output, scheme=scheme)
        seen.add("old" if tree(output) == old else "new")
        assert report_fits(output)
        assert tree(output) in (old, good)
        if tree(output) == old:
            run(source, output, scheme=scheme, resume=True, force=False) if has_begun(output) else run(
                source, output, scheme=scheme, force=True
            )
        assert tree(output) == good
        run(source, output, scheme="f32", force=True)
        assert tree(output) == old and beside(output) == ([name] if name == "out" else [name, f"{name}.report.json"])
    assert seen == ({"old", "new", "between"} if lacking else {"old", "new"})


def refuses(number: int) -> Callable[..., None]:
    """A call of the system that a file system does not know."""

    def call(*arguments: Any, **options: Any) -> None:
        raise OSError(number, os.strerror(number))

    return call


def report_fits(output: Path) -> bool:
    """A report that stands beside a file describes this file."""
    report = output.with_name(f"{output.name}.report.json")
    if output.is_dir() or not report.exists():
        return True
    stated: str = json.loads(report.read_text())["files"][0]["sha256"]
    return stated == hashlib.sha256(output.read_bytes()).hexdigest()


def has_begun(output: Path) -> bool:
    """Whether a journal's first line is there, which knows of --force."""
    journal = output.with_name(f"{output.name}.partial") / ".journal"
    return journal.exists() and journal.read_bytes().count(b"\n") > 0


class TestResume:
    def test_only_the_rest_is_done(self, source: Path, tmp_path: Path) -> None:
        interrupted(source, tmp_path / "out", scheme="affine4-g64")
        assert beside(tmp_path / "out") == ["out.partial"]
        done: list[tuple[int, str]] = []
        report = run(
            source, tmp_path / "out", scheme="affine4-g64", resume=True, threads=2, memory=1 << 16,
            progress=lambda *told: done.append(told),
        )  # fmt: skip
        lines = 21
        assert len({name for _, name in done}) == lines and sum(count for count, _ in done) == sum(
            len(data) for name, data in tree(tmp_path / "out").items() if name == "model.safetensors"
        ) - header_size(tmp_path / "out" / "model.safetensors")
        run(source, tmp_path / "good", scheme="affine4-g64")
        assert tree(tmp_path / "out") == tree(tmp_path / "good")
        good = json.loads((tmp_path / "good" / "quant_report.json").read_text())
        assert [w["relative_rmse"] for w in report["weights"]] == pytest.approx(
            [w["relative_rmse"] for w in good["weights"]], rel=1e-5
        )

    def test_needs_a_word(self, source: Path, tmp_path: Path) -> None:
        interrupted(source, tmp_path / "out")
        with pytest.raises(Surroundings, match=r"an unfinished run.*--resume.*--force"):
            run(source, tmp_path / "out")
        run(source, tmp_path / "out", force=True)
        assert beside(tmp_path / "out") == ["out"]

    def test_refuses_another_plan(self, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        sentence = r"another source, .*--resume .*--force"
        interrupted(source, tmp_path / "out", scheme="affine4-g64")
        with pytest.raises(Surroundings, match=sentence):
            run(source, tmp_path / "out", scheme="affine8-g64", resume=True)
        with pytest.raises(Surroundings, match=sentence):
            run(source, tmp_path / "out", scheme="affine4-g64", dtype="f16", resume=True)
        with monkeypatch.context() as patch:
            patch.setattr(quantcli, "__version__", "0.0.0")
            with pytest.raises(Surroundings, match=sentence):
                run(source, tmp_path / "out", scheme="affine4-g64", resume=True)
        stat = (source / "model.safetensors").stat()
        try:
            os.utime(source / "model.safetensors", ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
            with pytest.raises(Surroundings, match=sentence):
                run(source, tmp_path / "out", scheme="affine4-g64", resume=True)
        finally:
            os.utime(source / "model.safetensors", ns=(stat.st_atime_ns, stat.st_mtime_ns))
        run(source, tmp_path / "out", scheme="affine4-g64", resume=True)

    def test_refuses_another_recipe(self, source: Path, tmp_path: Path) -> None:
        """What a recipe's file says counts, not only its name."""
        recipe = tmp_path / "rules.toml"
        recipe.write_text('scheme = "affine4-g64"\n')
        interrupted(source, tmp_path / "out", recipe=recipe)
        recipe.write_text('scheme = "affine8-g64"\n')
        with pytest.raises(Surroundings, match=r"another source, .*--resume .*--force"):
            run(source, tmp_path / "out", recipe=recipe, resume=True)
        recipe.write_text('scheme = "affine4-g64"\n')
        run(source, tmp_path / "out", recipe=recipe, resume=True)

    def test_without_a_beginning_it_begins(self, source: Path, tmp_path: Path) -> None:
        run(source, tmp_path / "out", resume=True)
        assert beside(tmp_path / "out") == ["out"]

    def test_a_complete_output_is_complete(self, source: Path, tmp_path: Path) -> None:
        for name in ("out", "out.gguf"):
            run(source, tmp_path / name, check=True)
            assert run(source, tmp_path / name, resume=True)["totals"]["grades"] == {"exact": 21}
            with pytest.raises(Surroundings, match="already exists"):
                run(source, tmp_path / name, resume=True, scheme="f32")
        (tmp_path / "out" / "config.json").write_text("{}")
        with pytest.raises(Surroundings, match="already exists"):
            run(source, tmp_path / "out", resume=True)

    @pytest.mark.parametrize(
        "tail", [b'{"step": 3, "err', b"\0" * 40, b'{"step": "x", "error": 1}\n', b"[1]\n", b"\xff\n"]
    )
    def test_a_torn_line(self, source: Path, tmp_path: Path, tail: bytes) -> None:
        interrupted(source, tmp_path / "out", scheme="affine4-g64")
        journal = tmp_path / "out.partial" / ".journal"
        whole = journal.read_bytes()
        journal.write_bytes(whole + tail)
        interrupted(source, tmp_path / "out", after=16, scheme="affine4-g64", resume=True)
        now = journal.read_bytes()
        assert now.startswith(whole) and len(now) > len(whole) and all(journal_entries(tmp_path / "out.partial"))
        run(source, tmp_path / "out", scheme="affine4-g64", resume=True)
        run(source, tmp_path / "good", scheme="affine4-g64")
        assert tree(tmp_path / "out") == tree(tmp_path / "good")

    def test_a_lost_journal_begins_again(self, source: Path, tmp_path: Path) -> None:
        interrupted(source, tmp_path / "out")
        (tmp_path / "out.partial" / ".journal").write_bytes(b"quant journal 1\n0123")
        run(source, tmp_path / "out", resume=True)
        run(source, tmp_path / "good")
        assert tree(tmp_path / "out") == tree(tmp_path / "good")

    def test_a_lost_file_is_written_again(self, source: Path, tmp_path: Path) -> None:
        """What the journal calls finished counts only where its file still is what was made."""
        options = {"scheme": "affine4-g64", "shard_size": 10_000}
        run(source, tmp_path / "good", **options)
        for damage in (Path.unlink, lambda path: os.truncate(path, 100)):
            interrupted(source, tmp_path / "out", after=18, **options)
            shards = sorted((tmp_path / "out.partial" / "output").glob("*.safetensors"))
            for shard in shards[:2]:
                damage(shard)
            run(source, tmp_path / "out", resume=True, **options)
            assert tree(tmp_path / "out") == tree(tmp_path / "good")
            run(source, tmp_path / "out", force=True)
            for path in sorted((tmp_path / "out").iterdir()):
                path.unlink()

    def test_a_replacement_is_resumed_as_one(self, source: Path, tmp_path: Path) -> None:
        run(source, tmp_path / "out", scheme="f32")
        interrupted(source, tmp_path / "out", scheme="affine4-g64", force=True)
        run(source, tmp_path / "out", scheme="affine4-g64", resume=True)
        run(source, tmp_path / "good", scheme="affine4-g64")
        assert tree(tmp_path / "out") == tree(tmp_path / "good") and beside(tmp_path / "out") == ["good", "out"]

    def test_data_is_on_disk_before_its_line(
        self, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nothing that a step wrote is unflushed when the journal calls the step finished."""
        plan = planned(source, tmp_path / "out", scheme="affine4-g64", shard_size=10_000)
        owners = {
            (file.name, offset): index
            for file in plan.files
            for (weight, _), offset in file.slots.items()
            for index, step in enumerate(plan.steps)
            if step.name == weight
        }
        opened: dict[int, str] = {}
        unflushed: set[tuple[str, int]] = set()
        flushed_late: list[int] = []
        finished: list[int] = []

        def opens(path: Any, *arguments: Any, **options: Any) -> int:
            descriptor = real_open(path, *arguments, **options)
            opened[descriptor] = Path(path).name
            return descriptor

        def writes(descriptor: int, data: Any, offset: int) -> int:
            unflushed.add((opened[descriptor], offset))
            return real_pwrite(descriptor, data, offset)

        def flushes(descriptor: int) -> None:
            before = {entry for entry in unflushed if entry[0] == opened[descriptor]}
            real_fsync(descriptor)
            unflushed.difference_update(before)

        def records(descriptor: int, data: bytes) -> int:
            step = None if data.startswith(b"quant journal") else json.loads(data.partition(b" ")[2]).get("step")
            if step is not None:
                finished.append(step)
                flushed_late.extend(step for entry in list(unflushed) if owners.get(entry) == step)
            return real_write(descriptor, data)

        real_open, real_pwrite, real_fsync, real_write = os.open, os.pwrite, os.fsync, os.write
        for name, fake in (("open", opens), ("pwrite", writes), ("fsync", flushes), ("write", records)):
            monkeypatch.setattr(os, name, fake)
        run(source, tmp_path / "out", scheme="affine4-g64", shard_size=10_000)
        assert sorted(finished) == list(range(21)) and flushed_late == []


def header_size(path: Path) -> int:
    return 8 + int.from_bytes(path.read_bytes()[:8], "little")


def test_a_failed_verification_is_kept(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> None:
        raise VerificationFailed("x: differs.")

    monkeypatch.setattr(conversion.verify, "check", fail)
    with pytest.raises(VerificationFailed):
        run(source, tmp_path / "out", check=True)
    assert beside(tmp_path / "out") == ["out.partial"]
