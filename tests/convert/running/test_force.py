"""What `--force` may delete: what quant wrote, by its report, and model folders; never what somebody put there."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from quantcli.cli.app import app
from quantcli.convert.running import mounts
from quantcli.convert.running.destination import MOST_NAMED, Taken
from quantcli.convert.running.model_files import is_models
from quantcli.sources.folder import DEEPEST
from tests.builders import tiny_llama
from tests.mounts import bound, tmpfs
from tests.runs import beside, run, tree


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("source") / "tiny")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model folder that no report tells of."""
    return tiny_llama(tmp_path / "out")


def put(folder: Path, name: str, data: bytes = b"mine") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def forced(source: Path, output: Path, *options: str) -> Result:
    return CliRunner().invoke(app, ["convert", str(source), str(output), "--force", *options])


def refused(source: Path, output: Path, *named: str) -> None:
    """--force is exit 5, in a line that lists what is in the way; nothing is deleted, nothing is left."""
    before = {path: path.lstat().st_mtime_ns for path in output.parent.rglob("*")}
    done = forced(source, output)
    assert done.exit_code == 5 and done.stderr.count("error: ") == 1, done.stderr
    assert all(name in done.stderr for name in (*named, str(output))), done.stderr
    assert {path: path.lstat().st_mtime_ns for path in output.parent.rglob("*")} == before
    plain = CliRunner().invoke(app, ["convert", str(source), str(output)])
    assert plain.exit_code == 5 and "already exists" in plain.stderr and "--force" not in plain.stderr


#: Before, --force deleted those whose suffix is .json, .jsonl, .md, .py, .png or .safetensors, in .git too.
NOT_MODELS = [
    "thesis.md", "results.json", "train.py", "data.jsonl", "figure.png", "notes.txt", "thesis.odt", ".env",
    "adapters.safetensors", "adapter_model.safetensors", "optimizer.safetensors", "model.gguf", "optimizer.pt",
    "data/config.json", "checkpoint-100/model.safetensors", "1_Pooling/thesis.md", ".cache/config.json",
    "__pycache__/config.json", ".git/config.json", ".git/model.safetensors", "src/.git/HEAD", ".gitignore",
]  # fmt: skip

#: What a model folder may hold, wherever it comes from.
OF_MODELS = [
    "README.md", "LICENSE", "LICENSE.txt", "NOTICE", "USE_POLICY.md", ".gitattributes", "generation_config.json",
    "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "tokenizer.model", "qwen.tiktoken",
    "chat_template.jinja", "preprocessor_config.json", "modeling_tiny.py", "configuration_tiny.py",
    "model-00002-of-00002.safetensors", "model.safetensors.index.json", "1_Pooling/config.json", "modules.json",
    "additional_chat_templates/tool.jinja", "quantization_config.json", "hf_quant_config.json",
    ".DS_Store", "1_Pooling/.DS_Store", ".cache/huggingface/download/config.json.metadata",
    ".cache/huggingface/.gitignore", "__pycache__/modeling_tiny.cpython-311.pyc",
]  # fmt: skip


class TestModelFolders:
    @pytest.mark.parametrize("name", NOT_MODELS)
    def test_a_file_that_no_model_has_is_in_the_way(self, source: Path, model: Path, name: str) -> None:
        put(model, name)
        refused(source, model, name[: name.index(".git") + 4] if ".git/" in name else name)
        assert (model / name).read_bytes() == b"mine"

    def test_all_that_models_have_is_not(self, source: Path, model: Path) -> None:
        for name in OF_MODELS:
            put(model, name)
        (model / "2_Normalize").mkdir()
        assert forced(source, model, "-s", "affine4-g32").exit_code == 0
        assert beside(model) == ["out"] and not (model / "README.md").exists()

    @pytest.mark.parametrize(
        "names",
        [
            ["config.json"],
            ["config.json", "tokenizer.json", "README.md"],
            ["model.safetensors"],
            ["config.json", "m.gguf"],
        ],
    )
    def test_a_folder_without_tensors_or_settings_is_no_model(
        self, source: Path, tmp_path: Path, names: list[str]
    ) -> None:
        """Before: config.json was enough to be deleted."""
        for name in names:
            put(tmp_path / "out", name)
        refused(source, tmp_path / "out", *names)

    def test_a_folder_of_other_tensors_is_no_model_folder(self, source: Path, tmp_path: Path) -> None:
        folder = tmp_path / "out"
        for name in ("config.json", "pytorch_model.bin", "adapters.safetensors"):
            put(folder, name)
        refused(source, folder, "config.json", "pytorch_model.bin", "adapters.safetensors")

    def test_what_is_no_file_is_in_the_way(self, source: Path, model: Path, tmp_path: Path) -> None:
        def link(path: Path) -> None:
            path.symlink_to(put(tmp_path, "elsewhere"))

        makes: list[Callable[[Path], object]] = [link, os.mkfifo, Path.mkdir]
        for make, name in zip(makes, ("LICENSE", "README.md", ".git"), strict=True):
            make(model / name)
            refused(source, model, name)
            (model / name).rmdir() if name == ".git" else (model / name).unlink()
        assert forced(source, model).exit_code == 0 and (tmp_path / "elsewhere").exists()

    def test_folders_of_folders(self, source: Path, model: Path) -> None:
        """Deeper than any model's, though empty: what walks through them to delete them has a stack to lose."""
        (model / "/".join("d" * (DEEPEST + 2))).mkdir(parents=True)
        refused(source, model, "/".join("d" * DEEPEST))

    def test_many_are_listed_as_some_and_more(self, source: Path, model: Path) -> None:
        for number in range(MOST_NAMED + 1):
            put(model, f"thesis-{number}.md")
        done = forced(source, model)
        assert f"thesis-{MOST_NAMED - 1}.md and more." in done.stderr and f"thesis-{MOST_NAMED}" not in done.stderr
        (model / f"thesis-{MOST_NAMED}.md").unlink()
        (model / "thesis-0.md").rename(model / "thesis\x1b[2J.md")
        done = forced(source, model)
        assert "thesis?[2J.md, thesis-1.md" in done.stderr and f" and thesis-{MOST_NAMED - 1}.md." in done.stderr


class TestReports:
    def test_what_quant_wrote_goes_whatever_it_is_called(self, tmp_path: Path) -> None:
        """Every small file next to the weights is copied: the report names them."""
        source = tiny_llama(tmp_path / "source")
        for name in ("thesis.odt", "data.csv"):
            put(source, name)
        run(source, tmp_path / "out", scheme="f32")
        assert (tmp_path / "out" / "thesis.odt").exists()
        put(tmp_path / "out", ".DS_Store")
        assert forced(source, tmp_path / "out", "-s", "affine4-g32").exit_code == 0

    @pytest.mark.parametrize("change", ["longer", "another", "history", "no report", "no report of quant"])
    def test_what_has_changed_since_stays(self, tmp_path: Path, change: str) -> None:
        """Before: a file of a name in the report went, whatever it had become."""
        source = tiny_llama(tmp_path / "source")
        put(source, "data.csv")
        run(source, tmp_path / "out", scheme="f32")
        report = tmp_path / "out" / "quant_report.json"
        if change == "longer":
            put(tmp_path / "out", "data.csv", b"years of work")
        elif change == "another":
            put(tmp_path / "out", "data2.csv")
        elif change == "history":
            (tmp_path / "out" / ".git").mkdir()
        elif change == "no report":
            report.unlink()
        else:
            report.write_text(json.dumps({"files": [{"name": "data.csv", "bytes": 4}]}))
        refused(source, tmp_path / "out", {"another": "data2.csv", "history": ".git"}.get(change, "data.csv"))

    def test_a_part_of_what_quant_wrote_is_enough(self, source: Path, tmp_path: Path) -> None:
        """Without its weights a folder is no model folder, but all that is left was written by quant."""
        run(source, tmp_path / "out", scheme="f32")
        (tmp_path / "out" / "model.safetensors").unlink()
        assert forced(source, tmp_path / "out").exit_code == 0

    @pytest.mark.parametrize(
        "report", ["{", "[]", '{"report_version": 1}', '{"report_version": 1, "files": [3, {"name": 3}, {"bytes": 1}]}']
    )
    def test_a_report_that_tells_nothing(self, source: Path, tmp_path: Path, report: str) -> None:
        put(tmp_path / "out", "quant_report.json", report.encode())
        put(tmp_path / "out", "config.json", b"{}")
        refused(source, tmp_path / "out", "config.json", "quant_report.json")

    def test_a_file_that_is_no_report_of_ours_stays(self, source: Path, tmp_path: Path) -> None:
        """Before: --force wrote over it, though without --force it was refused."""
        report = put(tmp_path, "x.gguf.report.json", b'{"mine": true}')
        done = forced(source, tmp_path / "x.gguf")
        assert done.exit_code == 5 and str(report) in done.stderr and report.read_bytes() == b'{"mine": true}'
        report.unlink()
        report.mkdir()
        assert forced(source, tmp_path / "x.gguf").exit_code == 5 and report.is_dir()


class TestMounts:
    def test_a_folder_that_holds_a_mount_point(self, source: Path, model: Path, tmp_path: Path) -> None:
        """Deleting the old folder would go on into what is mounted there."""
        for mount in (tmpfs(model / "1_Pooling"), bound(tiny_llama(tmp_path / "other"), model / "1_Pooling")):
            with mount as place:
                put(place, "config.json")
                before = tree(place)
                for force in (False, True):
                    with pytest.raises(Taken, match=f"contains {place}, which is a mount point"):
                        run(source, model, force=force)
                assert tree(place) == before
        (model / "1_Pooling").rmdir()

    def test_where_the_system_lists_no_mounts(
        self, source: Path, model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """Another file system is seen by its device."""
        monkeypatch.setattr(mounts, "MOUNTS", tmp_path / "nothing")
        with tmpfs(model / "1_Pooling") as place:
            put(place, "config.json")
            with pytest.raises(Taken, match="contains 1_Pooling"):
                run(source, model, force=True)
        (model / "1_Pooling").rmdir()

    def test_a_folder_bound_from_the_same_file_system(self, source: Path, tmp_path: Path) -> None:
        """Before: found when all work was done, as a rename that fails; exit 5 then."""
        folder = tiny_llama(tmp_path / "folder")
        with bound(folder, tmp_path / "a b") as place:
            with pytest.raises(Taken, match="a b: is a mount point"):
                run(source, place, force=True)
            assert beside(place) == ["a b", "folder"]

    def test_a_file_that_is_bound(self, source: Path, tmp_path: Path) -> None:
        place, other = put(tmp_path, "x.gguf"), put(tmp_path, "other")
        with bound(other, place), pytest.raises(Taken, match="is a mount point"):
            run(source, place, force=True)
        assert other.read_bytes() == b"mine"


def test_the_table_is_one_of_its_own() -> None:
    """A conversion copies every small file next to the weights; that does not make it a model's."""
    assert not any(map(is_models, ("data.csv", "notes.txt", "recipe.txt", "a.json", "a.md", "a.py", "a.png", "a.bin")))
    assert all(map(is_models, OF_MODELS)) and not any(is_models(name) for name in NOT_MODELS if ".git/" not in name)
