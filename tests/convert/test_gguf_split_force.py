"""Every file of the name counts as the old output of a split GGUF, however that was split; `--force` deletes those that
quant's report names.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from quantcli.cli.app import app
from quantcli.convert.running.destination import Taken
from tests.builders import tiny_llama
from tests.mounts import bound
from tests.runs import beside, run

#: Bytes of a part, and another number that gives fewer parts.
SIZE, LARGER = 60_000, 150_000
REPORT = "m.gguf.report.json"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("source") / "tiny")


@pytest.fixture
def split(source: Path, tmp_path: Path) -> dict[str, bytes]:
    """A split model and its report."""
    run(source, tmp_path / "m.gguf", scheme="f16", shard_size=SIZE)
    return files(tmp_path)


def files(folder: Path) -> dict[str, bytes]:
    """Every file of that folder but those of SOURCE, by name."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("m-*.gguf"))


def quant(*arguments: object) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)))


class TestWithoutForce:
    """Before: the older parts stayed next to the new ones, and their report was replaced, exit 0."""

    @pytest.mark.parametrize("options", [["--shard-size", LARGER], ["--shard-size", SIZE], []])
    def test_any_older_part_is_refused(
        self, source: Path, tmp_path: Path, split: dict[str, bytes], options: list[object]
    ) -> None:
        done = quant("convert", source, tmp_path / "m.gguf", "-s", "f16", *options)
        assert done.exit_code == 5 and "m-00001-of-" in done.stderr and "--force to replace it" in done.stderr
        assert files(tmp_path) == split

    @pytest.mark.parametrize("name", ["m-00002-of-00002.gguf", "m-00007-of-00123.gguf", "m.gguf", REPORT])
    def test_each_of_them_alone(self, source: Path, tmp_path: Path, name: str) -> None:
        content = b'{"report_version": 1, "files": [{"name": "m.gguf", "bytes": 1}]}'
        (tmp_path / name).write_bytes(content)
        for options in ([], ["--shard-size", LARGER]):
            done = quant("convert", source, tmp_path / "m.gguf", *options)
            assert done.exit_code == 5 and f"{name}: already exists" in done.stderr
        assert files(tmp_path) == {name: content}

    def test_other_names_are_free(self, source: Path, tmp_path: Path) -> None:
        others = ("m-1-of-2.gguf", "mm-00001-of-00002.gguf", "m-00001-of-00002.gguf.bak", "x-m-00001-of-00002.gguf")
        for name in (*others, "M-00001-of-00002.gguf"):
            (tmp_path / name).write_bytes(b"mine")
        run(source, tmp_path / "m.gguf")
        assert all((tmp_path / name).read_bytes() == b"mine" for name in others)


class TestSourcesOwnParts:
    """`convert m-00001-of-00003.gguf m.gguf`: they do not count, and stay."""

    @pytest.mark.parametrize("force", [False, True])
    def test_they_are_joined(self, source: Path, tmp_path: Path, split: dict[str, bytes], force: bool) -> None:
        run(tmp_path / names(tmp_path)[0], tmp_path / "whole" / "m.gguf")
        run(tmp_path / names(tmp_path)[1], tmp_path / "m.gguf", force=force)
        parts = {name: data for name, data in split.items() if name != REPORT}
        assert {name: data for name, data in files(tmp_path).items() if name in parts} == parts
        assert (tmp_path / "m.gguf").read_bytes() == (tmp_path / "whole" / "m.gguf").read_bytes()
        assert json.loads((tmp_path / REPORT).read_text())["files"][0]["name"] == "m.gguf"

    @pytest.mark.parametrize("force", [False, True])
    def test_by_another_path(self, tmp_path: Path, split: dict[str, bytes], force: bool) -> None:
        """Before, --force deleted them all: the report named them, and their path was not that of SOURCE."""
        with bound(tmp_path, tmp_path.with_name("mnt")) as mnt:
            run(mnt / names(tmp_path)[0], tmp_path / "m.gguf", force=force)
        tmp_path.with_name("mnt").rmdir()
        assert split.keys() <= files(tmp_path).keys()

    def test_by_links_from_both_sides(self, tmp_path: Path, split: dict[str, bytes]) -> None:
        """A link that SOURCE is named by, and what it leads to, are both files of SOURCE."""
        links = tmp_path / "links"
        links.mkdir()
        for name in names(tmp_path):
            (links / name).symlink_to(tmp_path / name)
        for output in (links / "m.gguf", tmp_path / "m.gguf"):
            run(links / names(tmp_path)[0], output, force=True)
            assert split.keys() <= files(tmp_path).keys()
        assert all((links / name).is_symlink() for name in names(tmp_path))

    def test_one_more_part_counts(self, source: Path, tmp_path: Path, split: dict[str, bytes]) -> None:
        (tmp_path / "m-00001-of-00009.gguf").write_bytes(b"mine")
        first = tmp_path / names(tmp_path)[-1]
        done = quant("convert", first, tmp_path / "m.gguf")
        assert done.exit_code == 5 and "m-00001-of-00009.gguf" in done.stderr
        assert files(tmp_path) == split | {"m-00001-of-00009.gguf": b"mine"}


class TestForce:
    @pytest.mark.parametrize("size", [LARGER, SIZE, None])
    def test_the_parts_that_the_report_names_go(
        self, source: Path, tmp_path: Path, split: dict[str, bytes], size: int | None
    ) -> None:
        report = run(source, tmp_path / "m.gguf", scheme="q8_0", shard_size=size, force=True)
        assert beside(tmp_path / "m.gguf") == sorted([*(file["name"] for file in report["files"]), REPORT])

    @pytest.mark.parametrize("size", [LARGER, None])
    def test_other_parts_are_listed(
        self, source: Path, tmp_path: Path, split: dict[str, bytes], size: int | None
    ) -> None:
        """Before: they stayed next to the new output, or were overwritten where they had its names."""
        others = ("m-00001-of-00099.gguf", "m-00002-of-00099.gguf")
        for name in others:
            (tmp_path / name).write_bytes(b"mine")
        with pytest.raises(Taken) as caught:
            run(source, tmp_path / "m.gguf", scheme="q8_0", shard_size=size, force=True)
        assert " and ".join(others) in str(caught.value)
        assert files(tmp_path) == split | dict.fromkeys(others, b"mine")

    def test_a_part_of_another_size_is_another(self, source: Path, tmp_path: Path, split: dict[str, bytes]) -> None:
        name = names(tmp_path)[1]
        (tmp_path / name).write_bytes(b"downloaded since")
        with pytest.raises(Taken, match=f"not {name}"):
            run(source, tmp_path / "m.gguf", scheme="f16", shard_size=SIZE, force=True)
        assert files(tmp_path) == split | {name: b"downloaded since"}

    def test_without_a_report_no_part_goes(self, source: Path, tmp_path: Path, split: dict[str, bytes]) -> None:
        """Before: those with the names of the new parts were overwritten."""
        (tmp_path / REPORT).unlink()
        with pytest.raises(Taken, match="only parts that its report lists"):
            run(source, tmp_path / "m.gguf", scheme="q8_0", shard_size=SIZE, force=True)
        assert files(tmp_path) == {name: data for name, data in split.items() if name != REPORT}

    def test_what_is_no_file(self, source: Path, tmp_path: Path, split: dict[str, bytes]) -> None:
        for make, kind in ((Path.mkdir, "a folder"), (os.mkfifo, "not a regular file")):
            odd = tmp_path / "m-00001-of-00099.gguf"
            make(odd)
            with pytest.raises(Taken, match=f"{odd.name}: is {kind}"):
                run(source, tmp_path / "m.gguf", force=True)
            odd.rmdir() if odd.is_dir() else odd.unlink()
        assert files(tmp_path) == split

    def test_a_part_of_source_is_exit_2(self, source: Path, tmp_path: Path, split: dict[str, bytes]) -> None:
        """A new part that has the name of one of SOURCE, which is named by another path."""
        with bound(tmp_path, tmp_path.with_name("mnt")) as mnt:
            for options in (["--keep-split"], ["--keep-split", "--force"]):
                done = quant("convert", mnt / names(tmp_path)[0], tmp_path / "m.gguf", *options)
                assert done.exit_code == 2 and "is a file of SOURCE" in done.stderr
        tmp_path.with_name("mnt").rmdir()
        assert files(tmp_path) == split
