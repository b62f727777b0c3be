"""Two models are never mixed in one output, though their files have one size and one time."""

from __future__ import annotations

import os
import re
import resource
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantcli.checkpoint import Part
from quantcli.convert.planning.plan import make
from quantcli.convert.planning.request import Request
from quantcli.convert.planning.stamps import stamps
from quantcli.convert.running import run as runner
from quantcli.convert.running import sample
from quantcli.convert.running.fingerprint import fingerprint
from quantcli.convert.running.held_sources import HeldSources
from quantcli.errors import Surroundings
from quantcli.sources.detect import open_source
from tests.builders import LLAMA, llama_tensors, safetensors_bytes, sharded, tiny_llama
from tests.conversions import planned
from tests.runs import beside, interrupted, run, tree

LINEAR = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tiny_llama(tmp_path / "source")


@pytest.fixture(autouse=True)
def journal_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "FLUSH_SECONDS", 0.0)


def rewritten(file: Path, data: bytes) -> None:
    """Other contents in the same file, with its size and its times as they can be set."""
    stat = file.stat()
    assert len(data) == stat.st_size
    with open(file, "r+b") as handle:
        handle.write(data)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def replaced(file: Path, data: bytes) -> None:
    """Another file under that name, of the same size and time."""
    stat = file.stat()
    other = file.with_name("other")
    other.write_bytes(data)
    os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    other.rename(file)


def other_model(*changed: str) -> bytes:
    """`tiny_llama`'s tensor file with other values, of some tensors or of all."""
    ours, others = llama_tensors(LLAMA), llama_tensors(LLAMA, seed=1)
    for name in set(ours) - set(changed) if changed else ():
        others[name] = ours[name]
    others = {
        n: a if not n.endswith("norm.weight") or (changed and n not in changed) else a * 2 for n, a in others.items()
    }
    return safetensors_bytes(others)


class TestAcrossRuns:
    def refused(self, source: Path, output: Path, change: Callable[[], None], **options: Any) -> None:
        run(source, output.with_name("good") / output.name, **options)
        interrupted(source, output, **options)
        before = {path: path.read_bytes() for path in source.iterdir()}
        change()
        with pytest.raises(Surroundings, match=r"another source.*--resume.*--force"):
            run(source, output, resume=True, **options)
        for path, data in before.items():
            rewritten(path, data)
        run(source, output, resume=True, **options)
        assert tree(output) == tree(output.with_name("good") / output.name)

    @pytest.mark.parametrize(("name", "scheme"), [("out", "affine4-g64"), ("out.gguf", "q4_0")])
    def test_another_model(self, source: Path, tmp_path: Path, name: str, scheme: str) -> None:
        file = source / "model.safetensors"
        self.refused(source, tmp_path / name, lambda: rewritten(file, other_model()), scheme=scheme)

    @pytest.mark.parametrize("tensor", [LINEAR, "model.norm.weight", "lm_head.weight"])
    def test_another_tensor(self, source: Path, tmp_path: Path, tensor: str) -> None:
        file = source / "model.safetensors"
        self.refused(source, tmp_path / "out", lambda: rewritten(file, other_model(tensor)), scheme="affine4-g64")

    def test_another_setting(self, source: Path, tmp_path: Path) -> None:
        file = source / "config.json"
        text = file.read_bytes().replace(b"10000.0", b"50000.0")
        self.refused(source, tmp_path / "out", lambda: rewritten(file, text), scheme="affine4-g64")

    def test_another_importance_matrix(self, source: Path, tmp_path: Path) -> None:
        """Of which no file of the output says what it holds."""
        run(source, tmp_path / "plain.gguf")
        plan = planned(tmp_path / "plain.gguf", tmp_path / "x.gguf", scheme="q4_0")
        step = next(step for step in plan.steps if step.name == "blk.0.ffn_down.weight")
        keys = set()
        for value in (None, 1, 2):
            weighed = replace(step, importance=value and np.full((1, 128), value, np.float32))  # type: ignore[arg-type]
            steps = tuple(weighed if one is step else one for one in plan.steps)
            keys.add(fingerprint(replace(plan, steps=steps)))
        assert len(keys) == 3

    def test_a_copy_of_the_source_goes_on(self, source: Path, tmp_path: Path) -> None:
        """Another inode, another ctime, another folder: the same model."""
        run(source, tmp_path / "good", scheme="affine4-g64")
        interrupted(source, tmp_path / "out", scheme="affine4-g64")
        shutil.copytree(source, tmp_path / "copy", copy_function=shutil.copy2)
        run(tmp_path / "copy", tmp_path / "out", scheme="affine4-g64", resume=True)
        assert tree(tmp_path / "out") == tree(tmp_path / "good")

    def test_another_commit_of_the_hub(self, source: Path, tmp_path: Path) -> None:
        storage = tmp_path / "models--org--name"
        (storage / "blobs").mkdir(parents=True)
        keys = set()
        for commit in ("a" * 40, "b" * 40):
            snapshot = storage / "snapshots" / commit
            snapshot.mkdir(parents=True)
            for number, path in enumerate(sorted(source.iterdir())):
                blob = storage / "blobs" / (str(number) * 64)
                if not blob.exists():
                    shutil.copy2(path, blob)
                (snapshot / path.name).symlink_to(os.path.relpath(blob, snapshot))
            keys.add(fingerprint(planned(snapshot, tmp_path / "out")))
        assert len(keys) == 2


class TestWithinARun:
    """The file is the same by size and mtime; what the system alone sets tells."""

    def refused(self, source: Path, output: Path, file: Path, change: Callable[[], object], **options: Any) -> None:
        left = [change]

        def tick(count: int, name: str) -> None:
            if left:
                left.pop()()

        with pytest.raises(Surroundings) as caught:
            run(source, output, progress=tick, scheme="affine4-g64", **options)
        assert str(caught.value).startswith(f"{file}: changed during conversion") and not left
        assert beside(output) == ["out.partial", "source"]

    @pytest.mark.parametrize("change", [rewritten, replaced])
    @pytest.mark.parametrize("check", [False, True])
    def test_another_model(self, source: Path, tmp_path: Path, change: Any, check: bool) -> None:
        file = source / "model.safetensors"
        self.refused(source, tmp_path / "out", file, lambda: change(file, other_model()), check=check)

    @pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
    @pytest.mark.parametrize("change", [rewritten, replaced])
    def test_a_small_file(self, source: Path, tmp_path: Path, change: Any, name: str) -> None:
        file = source / name
        self.refused(source, tmp_path / "out", file, lambda: change(file, file.read_bytes()[::-1]))

    def test_replaced_for_a_while(self, source: Path, tmp_path: Path) -> None:
        """Another file had its name, and it has it again."""
        file, aside = source / "model.safetensors", tmp_path / "aside"

        def swap() -> None:
            data = file.read_bytes()
            os.link(file, aside)
            replaced(file, other_model())
            assert file.read_bytes() != data
            aside.replace(file)

        self.refused(source, tmp_path / "out", file, swap)

    def test_a_file_with_the_inode_of_another(self, source: Path, tmp_path: Path) -> None:
        """While a file is held open its inode's number is not given to another file."""
        file = source / "model.safetensors"
        held = HeldSources(stamps(open_source(source)))
        number = file.stat().st_ino
        file.unlink()
        for i in range(50):
            path = tmp_path / str(i)
            path.write_bytes(b"x")
            assert path.stat().st_ino != number
        held.close()

    def test_more_files_than_may_be_open(self, tmp_path: Path) -> None:
        tensors = llama_tensors(LLAMA)
        shards = {
            f"model-{i:05}-of-{len(tensors):05}.safetensors": {n: a} for i, (n, a) in enumerate(tensors.items(), 1)
        }
        source = sharded(tmp_path / "source", shards, LLAMA)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        used = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 40
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + 10, hard))
        try:
            run(source, tmp_path / "good", scheme="affine4-g64")
            last = sorted(source.glob("*.safetensors"))[-1]
            with pytest.raises(Surroundings, match=f"{last.name}: changed"):
                run(source, tmp_path / "out", progress=lambda *_: rewritten(last, last.read_bytes()))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class TestSample:
    def test_one_block_of_every_tensor(self, source: Path) -> None:
        checkpoint = open_source(source)
        chosen = sample._chosen(checkpoint)
        assert {part.name for part in chosen} == set(checkpoint.weights)
        for part in chosen:
            offset, length = sample._block(part)
            assert length == min(4096, part.nbytes) and part.offset <= offset <= part.offset + part.nbytes - length

    def test_of_many_tensors_so_many_spread_evenly(self, source: Path) -> None:
        checkpoint = open_source(source)
        weight = next(iter(checkpoint.weights.values()))
        weights = {
            str(i): replace(weight, name=str(i), parts={"weight": Part(str(i), "f32", (8, 8), source, i * 256)})
            for i in range(10_000)
        }
        places = [part.offset // 256 for part in sample._chosen(replace(checkpoint, weights=weights))]
        assert len(places) == 4096 and places[0] == 0
        gaps = {after - before for before, after in zip(places, [*places[1:], 10_000], strict=True)}
        assert gaps == {2, 3}

    def test_of_a_large_sidecar_a_part(self) -> None:
        assert list(sample._spread(100)) == [(0, 100)] and list(sample._spread(1 << 16)) == [(0, 1 << 16)]
        blocks = list(sample._spread(10 << 20))
        assert len(blocks) == 16 and blocks[0] == (0, 4096) and blocks[-1] == ((10 << 20) - 4096, 4096)


class TestBeforeTheRun:
    """A file that is replaced after its header was read and before the plan has stamped it: its tensors lie elsewhere.

    Before: they were read at the places of the old ones, exit 0.
    """

    def refused(self, file: Path, other: Path, output: Path, opened: Path) -> None:
        source = open_source(opened)
        os.replace(other, file)
        with pytest.raises(Surroundings, match=re.escape(f"{file}: changed after it was opened")):
            make(source, Request(output=output))
        make(open_source(opened), Request(output=output))

    def test_a_folder(self, source: Path, tmp_path: Path) -> None:
        other = tmp_path / "other"
        other.write_bytes(safetensors_bytes(dict(reversed(llama_tensors(LLAMA).items()))))
        self.refused(source / "model.safetensors", other, tmp_path / "out", source)

    def test_its_config(self, source: Path, tmp_path: Path) -> None:
        shutil.copy(source / "config.json", tmp_path / "other")
        self.refused(source / "config.json", tmp_path / "other", tmp_path / "out", source)

    def test_a_file_of_a_folder(self, source: Path, tmp_path: Path) -> None:
        file = source / "model.safetensors"
        shutil.copy(file, tmp_path / "other")
        self.refused(file, tmp_path / "other", tmp_path / "out", file)

    @pytest.mark.parametrize("size", [None, 40_000])
    def test_a_gguf(self, source: Path, tmp_path: Path, size: int | None) -> None:
        for place in ("a", "b"):
            run(source, tmp_path / place / "m.gguf", scheme="f16", shard_size=size)
        parts = sorted((tmp_path / "a").glob("*.gguf"))
        assert (len(parts) == 1) == (size is None)
        self.refused(parts[-1], tmp_path / "b" / parts[-1].name, tmp_path / "out.gguf", parts[0])
