"""The runner: what stands where when it ends, what it refuses to touch, its memory, its dry run."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from quantcli.convert.running.destination import Taken
from quantcli.errors import BadInput, NotPossible, Surroundings
from tests.builders import BF16, LLAMA, folder_of, llama_shapes, llama_tensors, tiny_awq, tiny_llama
from tests.conversions import config, planned, stored
from tests.runs import ROOT, beside, finish, quant, run, tree


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("source") / "tiny")


OUTPUTS = [
    ("out", {"scheme": "affine4-g64"}), ("out", {"scheme": "f32"}), ("out", {"shard_size": 40_000}),
    ("out", {"scheme": "mxfp4"}), ("out", {"scheme": "mixed_3_6"}),
    ("out", {"scheme": "affine8-g32", "shard_size": 9_000}),
    ("out", {"to": "hf", "scheme": "f16"}), ("out", {"to": "hf", "shard_size": 30_000}),
    ("out.gguf", {}), ("out.gguf", {"scheme": "q4_0"}), ("out.gguf", {"scheme": "q8_0", "pure": True}),
    ("out.gguf", {"scheme": "f16"}), ("out.gguf", {"scheme": "bf16"}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options"), OUTPUTS)
def test_plan_predicts_every_byte(source: Path, tmp_path: Path, name: str, options: dict[str, object]) -> None:
    plan = planned(source, tmp_path / name, **options)
    assert beside(tmp_path / name) == []
    run(source, tmp_path / name, **options)
    sizes = {name: len(data) for name, data in tree(tmp_path / name).items()}
    assert sizes == {"" if name.endswith(".gguf") else file.name: file.size for file in plan.files}


def test_awq_plan_predicts_every_byte(tmp_path: Path) -> None:
    source = tiny_awq(tmp_path / "awq")
    for name, options in (("out", {}), ("hf", {"to": "hf"}), ("dense", {"to": "hf", "scheme": "f16"})):
        plan = planned(source, tmp_path / name, **options)
        run(source, tmp_path / name, **options, check=True)
        assert {k: len(v) for k, v in tree(tmp_path / name).items()} == {file.name: file.size for file in plan.files}


def test_dry_run_says_sizes_and_writes_nothing(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "new" / "out.gguf"
    code, text, _ = finish(quant("convert", source, output, "-s", "q4_0", "--dry-run", "--json"))
    assert code == 0 and beside(tmp_path / "x") == []
    told = json.loads(text)
    run(source, output, scheme="q4_0")
    assert told["files"] == [{"name": "out.gguf", "bytes": output.stat().st_size}]
    assert told["bytes"] == output.stat().st_size


def test_nothing_but_the_output_is_left(source: Path, tmp_path: Path) -> None:
    run(source, tmp_path / "a" / "b" / "mlx", scheme="affine4-g64", check=True)
    run(source, tmp_path / "a" / "x.gguf", scheme="q4_0", check=True)
    assert beside(tmp_path / "a" / "x") == ["b", "x.gguf", "x.gguf.report.json"]
    assert beside(tmp_path / "a" / "b" / "x") == ["mlx"]
    assert not [path for path in (tmp_path / "a").rglob(".*")]


class TestOutputTaken:
    def test_file_and_folder(self, source: Path, tmp_path: Path) -> None:
        for name, way in (("out", r"another name\."), ("out.gguf", "another name, .*--force")):
            (tmp_path / name).write_text("mine")
            with pytest.raises(Taken, match=f"already exists.*{way}"):
                run(source, tmp_path / name)
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder" / "note").write_text("mine")
        with pytest.raises(Taken, match="already exists"):
            run(source, tmp_path / "folder")
        assert beside(tmp_path / "x") == ["folder", "out", "out.gguf"]

    def test_force_replaces_models_only(self, source: Path, tmp_path: Path) -> None:
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder" / "note").write_text("mine")
        with pytest.raises(Taken, match="contains note"):
            run(source, tmp_path / "folder", force=True)
        (tmp_path / "file").write_text("mine")
        with pytest.raises(Taken, match="is a file"):
            run(source, tmp_path / "file", force=True)
        (tmp_path / "folder.gguf").mkdir()
        with pytest.raises(Taken, match="is a folder"):
            run(source, tmp_path / "folder.gguf", force=True)
        assert beside(tmp_path / "x") == ["file", "folder", "folder.gguf"]
        assert (tmp_path / "folder" / "note").read_text() == "mine"

    @pytest.mark.parametrize("name", ["out", "out.gguf"])
    def test_force_replaces(self, source: Path, tmp_path: Path, name: str) -> None:
        run(source, tmp_path / name, scheme="f32")
        before = tree(tmp_path / name)
        report = run(source, tmp_path / name, scheme="f16", force=True)
        assert report["totals"]["schemes"].get("f16") and tree(tmp_path / name) != before
        assert not (tmp_path / f"{name}.partial").exists()

    def test_empty_folder_is_taken(self, source: Path, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        run(source, tmp_path / "out", scheme="affine4-g64")
        assert (tmp_path / "out" / "config.json").is_file()
        (tmp_path / "out.gguf").mkdir()
        with pytest.raises(Taken, match="already exists"):
            run(source, tmp_path / "out.gguf")

    def test_a_link_is_neither_replaced_nor_followed(self, source: Path, tmp_path: Path) -> None:
        """Before, --force replaced the link. Now the target is named, which is what may have been meant."""
        run(source, tmp_path / "real", scheme="f32")
        before = tree(tmp_path / "real")
        (tmp_path / "empty").mkdir()
        for name, target in (
            ("a", "real"), ("b", "empty"), ("c.gguf", "nowhere"), ("d.gguf.report.json", "mine"),
        ):  # fmt: skip
            link = tmp_path / name
            link.symlink_to(tmp_path / target)
            for words in ({"force": True}, {"resume": True}, {}):
                with pytest.raises(Surroundings, match=f"{name}: is a link to {tmp_path / target}"):
                    run(source, tmp_path / name.removesuffix(".report.json"), scheme="f32", **words)
            assert link.is_symlink()
            link.unlink()
        assert tree(tmp_path / "real") == before and beside(tmp_path / "x") == ["empty", "real"]

    def test_taken_while_it_ran(self, source: Path, tmp_path: Path) -> None:
        """Somebody else's file is not overwritten by the rename; the work is kept."""
        for name in ("out", "out.gguf"):
            output = tmp_path / name

            def squat(count: int, weight: str, output: Path = output) -> None:
                output.write_text("mine")

            with pytest.raises(Taken, match="already exists"):
                run(source, output, progress=squat)
            assert output.read_text() == "mine"
            output.unlink()
            run(source, output, resume=True)
            assert not (tmp_path / f"{name}.partial").exists()

    def test_the_report_has_its_place(self, source: Path, tmp_path: Path) -> None:
        (tmp_path / "x.gguf.report.json").mkdir()
        with pytest.raises(Taken, match="is a folder"):
            run(source, tmp_path / "x.gguf")
        assert beside(tmp_path / "x") == ["x.gguf.report.json"]


class TestPartialTaken:
    def test_a_file_or_link(self, source: Path, tmp_path: Path) -> None:
        (tmp_path / "out.partial").write_text("mine")
        with pytest.raises(Surroundings, match="is not a folder"):
            run(source, tmp_path / "out", force=True)
        (tmp_path / "x.gguf.partial").symlink_to(tmp_path)
        with pytest.raises(Surroundings, match="is not a folder"):
            run(source, tmp_path / "x.gguf", force=True)
        assert (tmp_path / "out.partial").read_text() == "mine"

    def test_somebody_elses_folder(self, source: Path, tmp_path: Path) -> None:
        (tmp_path / "out.partial").mkdir()
        (tmp_path / "out.partial" / "thesis.tex").write_text("mine")
        for force in (False, True):
            with pytest.raises(Surroundings, match=r"contains thesis\.tex"):
                run(source, tmp_path / "out", force=force)
        assert beside(tmp_path / "out.partial" / "x") == ["thesis.tex"]

    def test_the_parent_is_a_file(self, source: Path, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("mine")
        with pytest.raises(Surroundings):
            run(source, tmp_path / "file" / "out")


class TestNothingIsLeft:
    """Exits 3 and 4."""

    def broken(self, root: Path, value: float, dtype: object = BF16) -> Path:
        tensors = llama_tensors(LLAMA, dtype)  # type: ignore[arg-type]
        tensors["model.layers.1.mlp.down_proj.weight"][3, 5] = value
        return folder_of(root, tensors, LLAMA)

    @pytest.mark.parametrize("options", [{}, {"scheme": "affine4-g64"}, {"scheme": "f16"}, {"scheme": "mxfp4"}])
    def test_nan(self, tmp_path: Path, options: dict[str, str]) -> None:
        for value, word in ((np.nan, "NaN"), (np.inf, "Inf")):
            source = self.broken(tmp_path / word, value)
            with pytest.raises(BadInput, match=rf"model\.layers\.1\.mlp\.down_proj\.weight: holds {word}"):
                run(source, tmp_path / "new" / "deeper" / "out", **options)
            assert not (tmp_path / "new").exists()

    def test_overflow(self, tmp_path: Path) -> None:
        source = self.broken(tmp_path / "source", 1e6, np.dtype(np.float32))
        (tmp_path / "old").mkdir()
        with pytest.raises(NotPossible, match="--dtype f32 or --dtype bf16"):
            run(source, tmp_path / "old" / "out", scheme="f16", dtype="f16")
        assert beside(tmp_path / "old" / "x") == []

    def test_an_old_output_survives(self, source: Path, tmp_path: Path) -> None:
        run(source, tmp_path / "out", scheme="f32")
        before = tree(tmp_path / "out")
        with pytest.raises(BadInput):
            run(self.broken(tmp_path / "nan", np.nan), tmp_path / "out", force=True)
        assert tree(tmp_path / "out") == before and beside(tmp_path / "out") == ["nan", "out"]

    def test_nonfinite_values_are_copied_where_that_is_asked(self, tmp_path: Path) -> None:
        source = self.broken(tmp_path / "source", np.nan)
        for name, options in (("same", {}), ("f16", {"dtype": "f16"}), ("hf", {"to": "hf", "scheme": "f32"})):
            report = run(source, tmp_path / name, allow_nonfinite=True, check=True, **options)
            assert all(0 <= weight["relative_rmse"] < 1 for weight in report["weights"])
        quantized = {"scheme": "affine4-g64", "allow_nonfinite": True}
        with pytest.raises(
            BadInput, match=r"holds NaN at \[\d+, \d+\].*--allow-nonfinite .*--override '.*=keep'"
        ) as caught:
            run(source, tmp_path / "x", **quantized)
        run(source, tmp_path / "x", overrides=(str(caught.value).split("'")[-2],), **quantized)


def test_empty_tensors(tmp_path: Path) -> None:
    """A weight without rows is a weight, and without slabs."""
    tensors = {"a.weight": np.zeros((0, 64), BF16), "b": np.zeros((4, 0), np.float32), "c": np.ones(3, np.float16)}
    source = folder_of(tmp_path / "source", tensors, {"model_type": "other"})
    for name, options in (("same", {}), ("f32", {"dtype": "f32"}), ("hf", {"to": "hf"})):
        run(source, tmp_path / name, check=True, **options)
        assert {k: v.shape for k, v in stored(tmp_path / name).items()} == {k: v.shape for k, v in tensors.items()}


def test_many_shards_need_few_open_files(source: Path, tmp_path: Path) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 40
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 10, hard))
    try:
        run(source, tmp_path / "out", shard_size=1)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(list((tmp_path / "out").glob("*.safetensors"))) == 21
    assert config(tmp_path / "out")["model_type"] == "llama"


PEAKS = """
import resource, shutil, sys
from pathlib import Path
from tests.runs import run

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

tiny, large, budget = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
cases = [("out", "affine4-g64"), ("out", "f32"), ("out.gguf", "q4_0"), ("out", None), ("out", "mxfp4")]
for source in (tiny, large):
    for name, scheme in cases:
        output = source.with_name("outputs") / name
        run(source, output, memory=budget, threads=2, scheme=scheme)
        print(peak())
        shutil.rmtree(output.parent)
"""


def test_memory_is_bounded(tmp_path: Path) -> None:
    """Tensors larger than the budget add no more than the budget to what a tiny model needs, interpreter and all."""
    budget = 24 << 20
    tiny, large = tiny_llama(tmp_path / "tiny"), hollow_llama(tmp_path / "large", 560_000)
    assert (large / "model.safetensors").stat().st_size > 8 * budget
    command = [sys.executable, "-c", PEAKS, str(tiny), str(large), str(budget)]
    found = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    peaks = [int(line) for line in found.split()]
    assert len(peaks) == 10
    assert peaks[-1] - peaks[4] < budget, [peak - peaks[4] for peak in peaks]


def hollow_llama(root: Path, inner: int) -> Path:
    """A model of one layer whose three large matrices are holes in its file."""
    tiny_llama(root, num_hidden_layers=1)
    changed = {**LLAMA, "num_hidden_layers": 1, "intermediate_size": inner}
    (root / "config.json").write_text(json.dumps(changed))
    entries, size = {}, 0
    for name, shape in llama_shapes(changed).items():
        entries[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [size, size + 2 * math.prod(shape)]}
        size = entries[name]["data_offsets"][1]
    header = json.dumps(entries).encode()
    (root / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    os.truncate(root / "model.safetensors", 8 + len(header) + size)
    return root
