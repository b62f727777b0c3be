"""GGUF in several files: cut as llama-gguf-split and llama-quantize cut, and never a half-made set under its names."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from quantcli.cli.app import app
from quantcli.containers import gguf, gguf_write
from quantcli.convert.running import run as runner
from quantcli.errors import BadInput, NotPossible, QuantError, Surroundings, WrongUsage
from quantcli.recipes.llama_cpp import Facts, Tensor, assign
from quantcli.schemes import ggml_scheme
from quantcli.sources.detect import open_source
from quantcli.targets.base import Placed
from quantcli.targets.gguf_split import by_size
from tests.builders import tiny_llama
from tests.conversions import converted, planned, values
from tests.convert.test_golden_gguf import metadata, tensors, theirs
from tests.runs import beside, dies_after, moments, run

SIZE = 12_000


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("source") / "tiny", num_hidden_layers=1)


@pytest.fixture(scope="module")
def whole(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "whole.gguf"
    converted(shared / "fixtures" / "models" / "tiny-llama", path, scheme="q4_k_m", check=False)
    return path


@pytest.fixture(scope="module")
def good(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("good")
    run(source, folder / "x.gguf", scheme="q4_0", shard_size=SIZE)
    return parts(folder)


def parts(folder: Path) -> dict[str, bytes]:
    """Every GGUF file of a folder."""
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.gguf"))}


def cut(path: Path, groups: Sequence[Sequence[str]], prefix: Path) -> Path:
    """A GGUF file in parts that hold the tensors named, written without the target; the first part."""
    whole, raw, firsts = gguf.read(path), path.read_bytes(), []
    for number, names in enumerate(groups):
        keys: dict[str, Any] = dict(whole.metadata) if number == 0 else {}
        keys |= {"split.no": ("uint16", number), "split.tensors.count": ("int32", len(whole.tensors))}
        keys |= {"split.count": ("uint16", len(groups))}
        infos = [whole.tensors[name] for name in names]
        header, offsets, size = gguf_write.header(keys, [(t.name, t.shape, t.type_name or "") for t in infos])
        data = bytearray(header.ljust(size, b"\0"))
        for info in infos:
            data[offsets[info.name] : offsets[info.name] + info.nbytes] = raw[info.offset : info.offset + info.nbytes]
        firsts.append(prefix.with_name(f"{prefix.name}-{number + 1:05d}-of-{len(groups):05d}.gguf"))
        firsts[-1].write_bytes(data)
    return firsts[0]


def check_manifests(shared: Path, folder: Path, label: str, count: int) -> None:
    """Every part of a folder is what llama.cpp's tool wrote: metadata and its order, tensors, places, bytes."""
    written = sorted(folder.glob(f"{label}-*.gguf"))
    assert len(written) == count
    for path in written:
        manifest = json.loads((shared / "fixtures" / "gguf" / "split" / f"{path.stem}.json").read_text())
        assert tensors(path) == theirs(manifest)
        found = metadata(path, manifest["metadata"])
        assert found == manifest["metadata"] and list(found) == list(manifest["metadata"])
        assert path.stat().st_size == manifest["file_size"]


class TestPartition:
    def test_by_size_as_llama_gguf_split(self, shared: Path, tmp_path: Path, whole: Path) -> None:
        assert converted(whole, tmp_path / "size1M.gguf", shard_size=10**6)["verified"]
        check_manifests(shared, tmp_path, "size1M", 3)

    def test_as_llama_quantize_keeps_a_split(self, shared: Path, tmp_path: Path, whole: Path) -> None:
        manifests = sorted((shared / "fixtures" / "gguf" / "split").glob("tensors8-0*.json"))
        groups = [[t["name"] for t in json.loads(path.read_text())["tensors"]] for path in manifests]
        first = cut(whole, groups, tmp_path / "tensors8")
        converted(first, tmp_path / "kept.gguf", scheme="q8_0", keep_split=True, allow_requantize=True)
        check_manifests(shared, tmp_path, "kept", 5)

    @pytest.mark.parametrize("number", [1, 3])
    def test_kept_as_it_is(self, shared: Path, tmp_path: Path, number: int) -> None:
        folder = shared / "fixtures" / "gguf" / "files"
        converted(folder / f"micro-q2_k-split-0000{number}-of-00003.gguf", tmp_path / "out.gguf", keep_split=True)
        for path in sorted(tmp_path.glob("*.gguf")):
            source = folder / path.name.replace("out", "micro-q2_k-split")
            assert tensors(path) == tensors(source)
        assert len(parts(tmp_path)) == 3

    def test_in_the_order_of_the_parts(self, source: Path, tmp_path: Path) -> None:
        """A split source in another order than llama-quantize's keeps its own."""
        converted(source, tmp_path / "whole.gguf", scheme="bf16")
        names = list(gguf.read(tmp_path / "whole.gguf").tensors)[::-1]
        groups = [names[:5], [], names[5:]]
        first = cut(tmp_path / "whole.gguf", groups, tmp_path / "odd")
        converted(first, tmp_path / "out.gguf", scheme="q4_0", keep_split=True)
        kept = sorted(tmp_path.glob("out-*.gguf"))
        assert [list(gguf.read(path).tensors) for path in kept] == groups
        converted(first, tmp_path / "joined.gguf", scheme="q4_0")
        joined, apart = values(tmp_path / "joined.gguf"), values(kept[2])
        assert joined.keys() == apart.keys() and all((joined[n] == apart[n]).all() for n in joined)

    @pytest.mark.parametrize("size", [1, 3_000, SIZE, 40_000])
    @pytest.mark.parametrize("scheme", ["q8_0", "q4_0", "f32"])
    def test_the_rule(self, source: Path, tmp_path: Path, scheme: str, size: int) -> None:
        """A tensor that would make a part too large begins the next; what holds one tensor alone may be larger."""
        plan = planned(source, tmp_path / "out.gguf", scheme=scheme, shard_size=size)
        converted(source, tmp_path / "whole.gguf", scheme=scheme)
        converted(source, tmp_path / "out.gguf", scheme=scheme, shard_size=size)
        sizes = {t["name"]: t["nbytes"] for t in tensors(tmp_path / "whole.gguf")}
        padded = {name: nbytes + -nbytes % 32 for name, nbytes in sizes.items()}
        found = [list(gguf.read(tmp_path / file.name).tensors) for file in plan.files]
        assert [name for part in found for name in part] == list(padded)
        for here, after in zip(found, [*found[1:], None], strict=True):
            held = sum(padded[name] for name in here)
            assert held <= size or len(here) == 1
            assert after is None or held + padded[after[0]] > size

    @pytest.mark.parametrize(("most", "counts"), [(191, [2, 1]), (192, [3]), (128, [2, 1]), (127, [1, 1, 1])])
    def test_sizes_are_padded(self, most: int, counts: list[int]) -> None:
        """34 bytes count as 64; what reaches the size exactly still fits."""
        scheme = ggml_scheme("q8_0")
        assert scheme is not None
        placed = [Placed(name, (1, 32), scheme) for name in "abc"]
        assert [len(part) for part in by_size(placed, most)] == counts

    def test_layers_count_in_the_order_of_the_parts(self) -> None:
        """The mixtures' counters go with the order in which llama-quantize handles tensors."""
        tensors = [Tensor(f"blk.{layer}.ffn_down.weight", (256, 256), "bf16") for layer in reversed(range(16))]
        facts = Facts("llama", 16, 8, 8)
        sorted_, stored = (assign(tensors, "q4_k_m", facts, in_order=word) for word in (False, True))
        assert [sorted_[t.name].scheme for t in reversed(tensors)] == [stored[t.name].scheme for t in tensors]
        assert [d.scheme for d in sorted_.values()].count("q6_k") == 8
        assert any(sorted_[t.name].scheme != stored[t.name].scheme for t in tensors)

    def test_what_fits_is_one_plain_file(self, source: Path, tmp_path: Path) -> None:
        converted(source, tmp_path / "out.gguf", scheme="q8_0", shard_size=10**9)
        converted(source, tmp_path / "plain" / "out.gguf", scheme="q8_0")
        assert parts(tmp_path) == parts(tmp_path / "plain")
        converted(tmp_path / "out.gguf", tmp_path / "kept" / "out.gguf", keep_split=True)
        assert list(parts(tmp_path / "kept")) == ["out.gguf"]

    def test_pruned_and_kept(self, tmp_path: Path) -> None:
        model = tiny_llama(tmp_path / "tiny")
        converted(model, tmp_path / "whole.gguf", scheme="q8_0")
        names = list(gguf.read(tmp_path / "whole.gguf").tensors)
        groups = [[n for n in names if not n.startswith("blk.1")], [n for n in names if n.startswith("blk.1")]]
        first = cut(tmp_path / "whole.gguf", groups[::-1], tmp_path / "split")
        converted(first, tmp_path / "out.gguf", keep_split=True, prune_layers="0")
        kept = [gguf.read(path) for path in sorted(tmp_path.glob("out-*.gguf"))]
        assert [set(map(blk, header.tensors)) for header in kept] == [{"blk.0"}, {""}]
        assert {header.metadata["split.tensors.count"].value for header in kept} == {sum(len(h.tensors) for h in kept)}


def blk(name: str) -> str:
    return name[:5] if name.startswith("blk.") else ""


class TestRefused:
    def refused(self, error: type[QuantError], match: str, source: Path, output: Path, **options: Any) -> None:
        with pytest.raises(error, match=match):
            planned(source, output, **options)

    def test_options(self, source: Path, tmp_path: Path) -> None:
        both = {"shard_size": 1, "keep_split": True}
        self.refused(WrongUsage, "--keep-split and --shard-size", source, tmp_path / "out.gguf", **both)
        self.refused(WrongUsage, "--keep-split applies only to GGUF", source, tmp_path / "out", keep_split=True)
        self.refused(NotPossible, "--keep-split.*only to GGUF sources", source, tmp_path / "out.gguf", keep_split=True)

    def test_a_source_is_no_output(self, source: Path, tmp_path: Path) -> None:
        converted(source, tmp_path / "x.gguf", shard_size=SIZE)
        first, *_, last = sorted(tmp_path.glob("x-*.gguf"))
        self.refused(WrongUsage, "is a file of SOURCE", last, tmp_path / "x.gguf", keep_split=True)
        self.refused(WrongUsage, "is a file of SOURCE", last, first)
        converted(last, tmp_path / "x.gguf")

    def test_too_many_parts(self, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("quantcli.targets.gguf_split.MAX_PARTS", 3)
        self.refused(NotPossible, "out.gguf .*12 parts.* 3", source, tmp_path / "out.gguf", shard_size=1)

    def test_every_name_is_to_be_free(self, source: Path, tmp_path: Path) -> None:
        names = [file.name for file in planned(source, tmp_path / "out.gguf", shard_size=SIZE).files]
        assert len(names) > 2
        for name in (*names, "out.gguf"):
            (tmp_path / name).write_bytes(b"mine")
            with pytest.raises(Surroundings, match=f"{name}: already exists"):
                run(source, tmp_path / "out.gguf", shard_size=SIZE)
            assert beside(tmp_path / "out.gguf") == [name]
            (tmp_path / name).unlink()
        (tmp_path / names[1]).mkdir()
        with pytest.raises(Surroundings, match=f"{names[1]}: is a folder"):
            run(source, tmp_path / "out.gguf", shard_size=SIZE, force=True)


class TestOutput:
    def test_dry_run_names_every_part_and_its_size(self, source: Path, tmp_path: Path) -> None:
        arguments = ["convert", str(source), str(tmp_path / "out.gguf"), "-s", "q4_0", "--shard-size", "12k", "--json"]
        dry = CliRunner().invoke(app, [*arguments, "--dry-run"])
        assert dry.exit_code == 0 and not list(tmp_path.iterdir())
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0
        report = json.loads((tmp_path / "out.gguf.report.json").read_text())
        sizes = {file["name"]: file["bytes"] for file in json.loads(dry.stdout)["files"]}
        assert sizes == {name: len(data) for name, data in parts(tmp_path).items()}
        assert beside(tmp_path / "out.gguf") == [*sizes, "out.gguf.report.json"]
        assert {f["name"]: f["sha256"] for f in report["files"]} == {
            name: hashlib.sha256(data).hexdigest() for name, data in parts(tmp_path).items()
        }

    def test_inspect_of_any_part(self, source: Path, tmp_path: Path) -> None:
        converted(source, tmp_path / "out.gguf", scheme="q4_0", shard_size=SIZE)
        converted(source, tmp_path / "whole.gguf", scheme="q4_0")
        listed = open_source(tmp_path / "whole.gguf").weights.keys()
        for path in sorted(tmp_path.glob("out-*.gguf")):
            assert open_source(path).weights.keys() == listed
            result = CliRunner().invoke(app, ["inspect", str(path), "--json"])
            assert result.exit_code == 0
            assert {weight["name"] for weight in json.loads(result.stdout)["weights"]} == listed

    @pytest.mark.parametrize("number", [0, 4])
    def test_a_part_that_there_is_not(self, source: Path, tmp_path: Path, number: int) -> None:
        """A copy under a name of its own must not stand for the others, which lie beside it."""
        converted(source, tmp_path / "whole.gguf", scheme="q4_0")
        names = list(gguf.read(tmp_path / "whole.gguf").tensors)
        first = cut(tmp_path / "whole.gguf", [names[:2], names[2:4], names[4:]], tmp_path / "x")
        assert open_source(first).weights.keys() == set(names)
        shutil.copy(first, tmp_path / f"x-{number:05d}-of-00003.gguf")
        with pytest.raises(BadInput, match=f"part {number}, but there are 3 parts"):
            open_source(tmp_path / f"x-{number:05d}-of-00003.gguf")

    def test_there_and_back(self, source: Path, tmp_path: Path) -> None:
        converted(source, tmp_path / "whole.gguf", scheme="q4_0")
        converted(tmp_path / "whole.gguf", tmp_path / "out.gguf", shard_size=SIZE)
        second = sorted(tmp_path.glob("out-*.gguf"))[1]
        converted(second, tmp_path / "joined.gguf")
        assert (tmp_path / "joined.gguf").read_bytes() == (tmp_path / "whole.gguf").read_bytes()

    def test_old_parts_are_replaced(self, source: Path, tmp_path: Path) -> None:
        """And the file that had OUTPUT's own name."""
        run(source, tmp_path / "out.gguf", scheme="q4_0", shard_size=SIZE)
        (tmp_path / "out.gguf").write_bytes(b"old")
        names = list(parts(tmp_path))
        run(source, tmp_path / "out.gguf", scheme="q4_1", shard_size=SIZE + 1_000, force=True)
        assert [name for name in names if name in parts(tmp_path)] == names[:-1] and names[-1] == "out.gguf"
        assert {w.scheme.name for w in open_source(tmp_path / names[0]).weights.values()} == {"q4_1", "q8_0", "f32"}

    @pytest.mark.parametrize("size", [SIZE * 2, None])
    def test_no_old_part_stays_behind(self, source: Path, tmp_path: Path, size: int | None) -> None:
        """Where the new output is cut into fewer parts, or not at all."""
        run(source, tmp_path / "out.gguf", scheme="q4_0", shard_size=SIZE)
        old = set(parts(tmp_path))
        report = run(source, tmp_path / "out.gguf", scheme="q4_0", shard_size=size, force=True)
        new = {file["name"] for file in report["files"]}
        assert not old & new
        assert beside(tmp_path / "out.gguf") == sorted({*new, "out.gguf.report.json"})

    def test_old_parts_that_are_the_source_stay(self, source: Path, tmp_path: Path) -> None:
        run(source, tmp_path / "out.gguf", scheme="q4_0", shard_size=SIZE)
        old = parts(tmp_path)
        run(tmp_path / next(iter(old)), tmp_path / "out.gguf", force=True)
        assert {name: data for name, data in parts(tmp_path).items() if name in old} == old
        assert (tmp_path / "out.gguf").is_file()

    def test_a_complete_output_is_complete(self, source: Path, tmp_path: Path) -> None:
        options = {"scheme": "q4_0", "shard_size": SIZE}
        first = run(source, tmp_path / "out.gguf", check=True, **options)
        given = run(source, tmp_path / "out.gguf", resume=True, **options)
        assert given["files"] == first["files"] and "--verify" in given["notes"][-1] and not given["verified"]
        next(iter(sorted(tmp_path.glob("out-*.gguf")))).unlink()
        with pytest.raises(Surroundings, match="already exists"):
            run(source, tmp_path / "out.gguf", resume=True, **options)


class TestDeath:
    """Whatever was the last change on disk: no part 1 beside parts that are not its own."""

    @pytest.fixture(autouse=True)
    def journal_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(runner, "FLUSH_SECONDS", 0.0)
        monkeypatch.setattr(os, "fsync", lambda descriptor: None)

    def test_at_any_change(self, source: Path, tmp_path: Path, good: dict[str, bytes]) -> None:
        output = tmp_path / "x.gguf"
        options = {"scheme": "q4_0", "shard_size": SIZE}
        between = 0
        for _ in moments(source, output, **options):
            there = parts(tmp_path)
            assert there.items() <= good.items()
            assert there == good or next(iter(good)) not in there
            between += 0 < len(there) < len(good)
            run(source, output, resume=True, **options)
            assert beside(output) == [*good, "x.gguf.report.json"] and parts(tmp_path) == good
            for path in tmp_path.iterdir():
                path.unlink()
        assert between >= len(good) - 1

    @pytest.mark.parametrize("was", ["parts", "file"])
    def test_while_an_output_is_replaced(self, source: Path, tmp_path: Path, good: dict[str, bytes], was: str) -> None:
        """Old, new, or neither; what runs next without a word puts the old one back and goes no further."""
        output, new = tmp_path / "x.gguf", {"scheme": "q4_0", "shard_size": SIZE}
        before: dict[str, Any] = {"scheme": "q4_1", "shard_size": SIZE if was == "parts" else None}
        run(source, tmp_path / "old" / "x.gguf", **before)
        old = parts(tmp_path / "old")
        assert (old.keys() == good.keys()) == (was == "parts")
        seen = set()
        for changes in range(1000):
            output = tmp_path / str(changes) / "x.gguf"
            run(source, output, **before)
            if not dies_after(changes, source, output, force=True, **new):
                break
            there = parts(output.parent)
            mixed = there not in (old, good)
            if mixed:
                seen.add("between")
                assert next(iter(good)) not in there
            if mixed and changes % 2:
                with pytest.raises(Surroundings, match="already exists|unfinished run"):
                    run(source, output, **new)
                assert parts(output.parent) == old
            seen.add("old" if there == old else "new")
            if there != good:
                run(source, output, **new, **({"resume": True} if has_begun(output) else {"force": True}))
            assert parts(output.parent) == good
            if (tmp_path / str(changes) / "x.gguf.partial").exists():
                run(source, output, resume=True, **new)
            assert beside(output) == [*good, "x.gguf.report.json"]
        assert seen == {"old", "new", "between"}

    def test_another_partition_takes_over(self, source: Path, tmp_path: Path, good: dict[str, bytes]) -> None:
        """A run that died between its parts' renames is undone by its own names, whatever the next run cuts."""
        output = tmp_path / "x.gguf"
        options = {"scheme": "q4_0", "shard_size": SIZE}
        for changes in range(1000):
            if not dies_after(changes, source, output, **options):
                break
            if 0 < len(parts(tmp_path)) < len(good):
                run(source, output, scheme="q4_1", force=True)
                assert beside(output) == ["x.gguf", "x.gguf.report.json"]
                return
            run(source, output, force=True, **options)
            for path in tmp_path.iterdir():
                path.unlink()
        raise AssertionError("no run died between its renames")


def has_begun(output: Path) -> bool:
    """Whether a journal's first line is there, which knows of --force."""
    journal = output.with_name(f"{output.name}.partial") / ".journal"
    return journal.exists() and journal.read_bytes().count(b"\n") > 0
