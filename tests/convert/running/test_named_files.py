"""`--force` never deletes what the command reads, by whatever names it is reached: data-loss tests on real mounts."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from quantcli.cli.app import app
from quantcli.convert.planning.named_files import MOST_LINKS, first_lost, ways
from quantcli.errors import Surroundings, WrongUsage
from tests.builders import tiny_llama
from tests.mounts import bound
from tests.runs import beside, run, tree


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tiny_llama(tmp_path / "data" / "model")


@pytest.fixture
def old(source: Path, tmp_path: Path) -> Path:
    """An old output that --force may replace."""
    run(source, tmp_path / "data" / "out", scheme="f32")
    return tmp_path / "data" / "out"


def quant(*arguments: object) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)))


def refused(source: Path, output: Path, *options: object, named: str = "") -> None:
    """--force is exit 2, whether or not it is given; the command and the library leave everything as it is."""
    folder = output.parent
    before = {path: path.lstat().st_mtime_ns for path in sorted(folder.rglob("*"))}
    for force in ([], ["--force"]):
        done = quant("convert", source, output, *options, *force)
        assert done.exit_code == 2 and done.stderr.count("error: ") == 1, done.stderr
        assert named in done.stderr and str(output) in done.stderr
    assert {path: path.lstat().st_mtime_ns for path in sorted(folder.rglob("*"))} == before


class TestSourceIsOutput:
    """Before: --force replaced the source by the output made of it (exit 0)."""

    def test_a_folder_by_a_bind_mount(self, source: Path, tmp_path: Path) -> None:
        with bound(source.parent, tmp_path / "mnt") as mnt:
            refused(source, mnt / "model", "--to", "hf", "-s", "f32")
            refused(mnt / "model", source, "-s", "affine4-g32")
            for place in (mnt / "model", source):
                with pytest.raises(WrongUsage):
                    run(source, place, to="hf", force=True)

    def test_a_folder_that_holds_it_and_one_inside(self, source: Path, tmp_path: Path) -> None:
        with bound(tmp_path / "data", tmp_path / "mnt") as mnt:
            refused(source, mnt)
            refused(source, mnt / "model" / "out")

    def test_a_mount_point_itself(self, source: Path, tmp_path: Path) -> None:
        with bound(source, tmp_path / "mnt") as mnt:
            refused(source, mnt)
            refused(mnt, source)

    def test_a_file_by_a_bind_mount(self, source: Path, tmp_path: Path) -> None:
        run(source, tmp_path / "data" / "x.gguf", scheme="q8_0")
        with bound(tmp_path / "data", tmp_path / "mnt") as mnt:
            refused(tmp_path / "data" / "x.gguf", mnt / "x.gguf", "-s", "q4_0", "--allow-requantize")
            with pytest.raises(WrongUsage):
                run(tmp_path / "data" / "x.gguf", mnt / "x.gguf", scheme="f32", force=True)

    def test_a_volume_that_ignores_case(self, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A stand-in for stat: the volume finds `model` by the name `MODEL`, and lists the former."""
        ignores_case(monkeypatch, "MODEL", "model")
        refused(source, source.with_name("MODEL"), "--to", "hf")

    def test_two_names_of_a_file_on_a_volume_that_ignores_case(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """With a hard link elsewhere the link count alone would say that nothing is lost."""
        file = tmp_path / "m.gguf"
        file.write_bytes(b"data")
        os.link(file, tmp_path / "other.gguf")
        with monkeypatch.context() as patch:
            ignores_case(patch, "M.gguf", "m.gguf")
            assert first_lost(ways([file]), [tmp_path / "M.gguf"])
        os.link(file, tmp_path / "M.gguf")
        assert first_lost(ways([file]), [tmp_path / "M.gguf"]) is None


def ignores_case(patch: pytest.MonkeyPatch, name: str, listed: str) -> None:
    """Calls that look a name up find another one under it."""
    for call in ("stat", "lstat", "listdir", "scandir", "open"):
        patch.setattr(os, call, renaming(getattr(os, call), name, listed))


def renaming(function: Callable[..., Any], name: str, listed: str) -> Callable[..., Any]:
    def call(path: Any = ".", *arguments: Any, **options: Any) -> Any:
        if isinstance(path, str | Path):
            path = os.sep.join(listed if part == name else part for part in str(path).split(os.sep))
        return function(path, *arguments, **options)

    return call


class TestWayThroughOutput:
    """Before: the old output went, and with it what the source's links led to."""

    def test_a_source_file_is_a_link_into_output(self, source: Path, old: Path, tmp_path: Path) -> None:
        linked = tiny_llama(tmp_path / "linked")
        (linked / "model.safetensors").unlink()
        (linked / "model.safetensors").symlink_to(old / "model.safetensors")
        refused(linked, old, "-s", "affine4-g32", named="linked/model.safetensors")

    def test_a_link_to_a_link_to_it(self, old: Path, tmp_path: Path) -> None:
        """Data that lies elsewhere is not lost, but what is read is no longer there by its name."""
        linked = tiny_llama(tmp_path / "linked")
        (linked / "model.safetensors").rename(tmp_path / "weights")
        (linked / "model.safetensors").symlink_to(old / "link")
        (old / "link").symlink_to("../../weights")
        refused(linked, old, named="linked/model.safetensors")

    def test_a_folder_on_the_way_is_a_link_into_it(self, old: Path, tmp_path: Path) -> None:
        (old / "1_Pooling").mkdir()
        tiny_llama(old / "1_Pooling" / "deep")
        (tmp_path / "link").symlink_to(old / "1_Pooling")
        refused(tmp_path / "link" / "deep", old)
        refused(tmp_path / "data" / ".." / "link" / "deep", old)

    def test_a_folder_in_it_has_another_path(self, source: Path, old: Path, tmp_path: Path) -> None:
        """A bind mount of what lies in OUTPUT: neither path nor links of the source show that."""
        (old / "1_Pooling").mkdir()
        for name in ("config.json", "model.safetensors"):
            (source / name).rename(old / "1_Pooling" / name)
        with bound(old / "1_Pooling", tmp_path / "mnt") as mnt:
            before = tree(old)
            with pytest.raises(WrongUsage):
                run(mnt, old, force=True)
            assert tree(old) == before

    def test_a_file_in_it_has_another_path(self, source: Path, old: Path, tmp_path: Path) -> None:
        before = tree(old)
        with bound(old / "model.safetensors", source / "model.safetensors"):
            assert (source / "model.safetensors").stat().st_nlink == 1
            done = quant("convert", source, old, "--force", "-s", "affine4-g32")
            assert done.exit_code == 2 and "source" not in done.stdout
        assert tree(old) == before

    @pytest.mark.parametrize("option", ["--recipe", "--tokenizer"])
    def test_files_of_options_of_a_folder(self, source: Path, old: Path, tmp_path: Path, option: str) -> None:
        with bound(tmp_path / "data", tmp_path / "mnt") as mnt:
            refused(source, old, option, mnt / "out", named="/mnt/out")

    def test_files_of_options_of_a_gguf(self, source: Path, tmp_path: Path) -> None:
        """OUTPUT is the file that an option names; before, all of these replaced it."""
        output = tmp_path / "x.gguf"
        output.write_text("attn_v=q8_0")
        (tmp_path / "link").symlink_to(output)
        for option, value in (
            ("--tensor-type-file", output), ("--tensor-type-file", tmp_path / "link"),
            ("--override-kv", f"tokenizer.chat_template=str:@{output}"),
        ):  # fmt: skip
            refused(source, output, option, value, "-s", "q4_0", named="x.gguf")
            assert output.read_text() == "attn_v=q8_0"

    def test_the_work_folder(self, source: Path, old: Path, tmp_path: Path) -> None:
        """It is cleared: what an option names there is moved first."""
        (tmp_path / "data" / "new.partial" / "output").mkdir(parents=True)
        recipe = tmp_path / "data" / "new.partial" / "output" / "recipe.toml"
        recipe.write_text('scheme = "f32"\n')
        for force in ([], ["--force"]):
            done = quant("convert", source, tmp_path / "data" / "new", "--recipe", recipe, *force)
            assert done.exit_code == 5 and str(recipe) in done.stderr and recipe.exists()


class TestNoLoss:
    def test_hard_links_that_stay_elsewhere(self, source: Path, old: Path, tmp_path: Path) -> None:
        shared = tiny_llama(tmp_path / "shared")
        (shared / "model.safetensors").unlink()
        os.link(old / "model.safetensors", shared / "model.safetensors")
        before = tree(shared)
        run(shared, old, scheme="affine4-g32", force=True)
        assert tree(shared) == before and beside(old) == ["model", "out"]

    def test_a_hard_link_of_a_gguf(self, source: Path, tmp_path: Path) -> None:
        run(source, tmp_path / "a.gguf", scheme="f16")
        before = (tmp_path / "a.gguf").read_bytes()
        os.link(tmp_path / "a.gguf", tmp_path / "b.gguf")
        run(tmp_path / "a.gguf", tmp_path / "b.gguf", scheme="q8_0", force=True)
        assert (tmp_path / "a.gguf").read_bytes() == before != (tmp_path / "b.gguf").read_bytes()

    def test_every_hard_link_lies_in_it(self, source: Path, tmp_path: Path) -> None:
        folder = tiny_llama(tmp_path / "folder")
        os.link(folder / "model.safetensors", folder / "model-2.safetensors")
        assert first_lost(ways([folder / "model.safetensors"]), [folder])
        os.link(folder / "model.safetensors", tmp_path / "elsewhere")
        assert first_lost(ways([tmp_path / "elsewhere"]), [folder]) is None

    def test_links_in_a_circle(self, tmp_path: Path) -> None:
        (tmp_path / "a").symlink_to("b")
        (tmp_path / "b").symlink_to("a")
        with pytest.raises(OSError, match="Too many levels"):
            ways([tmp_path / "a"])
        for number in range(MOST_LINKS):
            (tmp_path / str(number)).symlink_to(str(number + 1))
        (tmp_path / str(MOST_LINKS)).write_text("mine")
        assert first_lost(ways([tmp_path / "0"]), [tmp_path / str(MOST_LINKS)])


class TestMeanwhile:
    """What has become a part of OUTPUT while the run went on: exit 5, the work folder stays, nothing is deleted."""

    def changed(self, source: Path, old: Path, change: Callable[[], object], **options: Any) -> dict[str, bytes]:
        left = [change]

        def tick(count: int, name: str) -> None:
            if left:
                left.pop()()

        with pytest.raises(Surroundings) as caught:
            run(source, old, force=True, progress=tick, **options)
        assert caught.value.exit_code == 5 and str(old.parent) in str(caught.value)
        assert old.with_name(f"{old.name}.partial").is_dir()
        return tree(old)

    def test_the_source_has_moved_into_output(self, source: Path, old: Path) -> None:
        """Before: the source was deleted with the old output, exit 0: size and time are those it had."""
        file = source / "model.safetensors"
        data = file.read_bytes()

        def move() -> None:
            file.rename(old / "model-2.safetensors")
            file.symlink_to(old / "model-2.safetensors")

        found = self.changed(source, old, move, scheme="affine4-g32")
        assert found["model-2.safetensors"] == data == file.read_bytes()
        file.unlink()
        (old / "model-2.safetensors").rename(file)
        run(source, old, scheme="affine4-g32", resume=True)
        assert beside(old) == ["model", "out"]

    def test_the_source_has_taken_outputs_name(self, source: Path, old: Path, tmp_path: Path) -> None:
        """Before: the source was deleted, exit 0."""
        link = tmp_path / "link"
        link.symlink_to(source)
        before = tree(source)

        def move() -> None:
            old.rename(tmp_path / "data" / "away")
            source.rename(old)
            link.unlink()
            link.symlink_to(old)

        assert self.changed(link, old, move, scheme="affine4-g32") == before

    def test_a_recipe_has_moved_into_output(self, source: Path, old: Path, tmp_path: Path) -> None:
        recipe = tmp_path / "recipe.toml"
        recipe.write_text('scheme = "f32"\n')

        def move() -> None:
            recipe.rename(old / "config.json")
            recipe.symlink_to(old / "config.json")

        self.changed(source, old, move, recipe=recipe)
        assert recipe.read_text() == 'scheme = "f32"\n'


def test_a_large_folder_is_not_walked_to_be_refused(source: Path, old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OUTPUT may be a home folder by mistake: what is in it is looked at only until that is clear."""
    for number in range(300):
        (old / f"folder-{number}").mkdir()
        (old / f"folder-{number}" / "note").write_text("mine")
    listed: list[str] = []
    real = os.listdir

    def counting(path: Any = ".") -> list[str]:
        listed.append(str(path))
        return real(path)

    monkeypatch.setattr(os, "listdir", counting)
    for force in (False, True):
        with pytest.raises(Surroundings):
            run(source, old, force=force)
    assert len(listed) < 50
    with monkeypatch.context() as patch:
        patch.setattr(os, "listdir", counting)
        assert quant("convert", source, source.parent, "--force").exit_code == 2
    assert len(listed) < 50
