"""An unfinished output is no source, and tensor data that nobody has written is not taken for zeros in silence."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from quantcli.convert.running import run as runner
from quantcli.errors import BadInput, Surroundings
from tests.builders import tiny_llama
from tests.conversions import planned
from tests.runs import finish, interrupted, quant, run


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("source") / "tiny")


@pytest.fixture(autouse=True)
def journal_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "FLUSH_SECONDS", 0.0)


@pytest.mark.parametrize("name", ["out", "out.gguf"])
def test_an_unfinished_output_is_no_source(source: Path, tmp_path: Path, name: str) -> None:
    interrupted(source, tmp_path / name)
    grown = tmp_path / f"{name}.partial" / "output"
    inside = grown / name if name.endswith(".gguf") else grown
    (tmp_path / "link").symlink_to(inside)
    for path in (inside, tmp_path / "link"):
        for command in (("convert", path, tmp_path / "x.gguf", "--verify"), ("inspect", path), ("diff", path, source)):
            code, _, err = finish(quant(*command))
            assert code == 5 and f"{name}.partial: is an unfinished output" in err and "--resume" in err
    assert not list(tmp_path.glob("x.gguf*"))


def test_links_into_an_unfinished_output(source: Path, tmp_path: Path) -> None:
    """As a folder in the Hub's cache is made of."""
    interrupted(source, tmp_path / "out")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "out.partial" / "output").iterdir():
        (tmp_path / "folder" / path.name).symlink_to(path)
    with pytest.raises(Surroundings, match=r"out\.partial: is an unfinished output"):
        run(tmp_path / "folder", tmp_path / "x.gguf")


@pytest.mark.parametrize("journal", [None, "Dear diary,\n"])
def test_other_folders_of_such_a_name_are_sources(source: Path, tmp_path: Path, journal: str | None) -> None:
    shutil.copytree(source, tmp_path / "a.partial" / "tiny")
    if journal is not None:
        (tmp_path / "a.partial" / ".journal").write_text(journal)
    run(tmp_path / "a.partial" / "tiny", tmp_path / "out")


class TestHoles:
    def hollow(self, source: Path, root: Path) -> tuple[Path, str]:
        """A copy of the source without the data of one tensor, and the tensor's name."""
        shutil.copytree(source, root)
        file = root / "model.safetensors"
        data = bytearray(file.read_bytes())
        hole = slice(3 * 4096, 5 * 4096)
        with open(file, "wb") as handle:
            handle.write(data[: hole.start])
            handle.seek(hole.stop)
            handle.write(data[hole.stop :])
        with open(file, "rb") as handle:
            if os.lseek(handle.fileno(), 0, os.SEEK_HOLE) >= len(data):
                pytest.skip("the file system has no holes")
        return root, "model.embed_tokens.weight"

    @pytest.mark.parametrize("name", ["out", "out.gguf"])
    def test_are_a_warning(self, source: Path, tmp_path: Path, name: str) -> None:
        root, tensor = self.hollow(source, tmp_path / "hollow")
        report = run(root, tmp_path / name)
        (warning,) = (text for text in report["warnings"] if "never written" in text)
        assert "model.safetensors: 8192 bytes of tensor data" in warning and tensor in warning
        with pytest.raises(BadInput, match="8192 bytes of tensor data were never written"):
            planned(root, tmp_path / name, strict=True)

    def test_are_exit_3_under_strict(self, source: Path, tmp_path: Path) -> None:
        root, _ = self.hollow(source, tmp_path / "hollow")
        code, _, err = finish(quant("convert", root, tmp_path / "out", "--strict", "--verify"))
        assert code == 3 and "never written" in err and "download it again" in err
        assert not list(tmp_path.glob("out*"))

    def test_at_the_end_of_a_file(self, source: Path, tmp_path: Path) -> None:
        """As a file is that was made at its full size and not filled."""
        shutil.copytree(source, tmp_path / "copy")
        file = tmp_path / "copy" / "model.safetensors"
        size = file.stat().st_size
        os.truncate(file, size // 2)
        os.truncate(file, size)
        report = run(tmp_path / "copy", tmp_path / "out")
        assert any("never written" in text for text in report["warnings"])

    def test_of_written_zeros_nothing_is_said(self, source: Path, tmp_path: Path) -> None:
        shutil.copytree(source, tmp_path / "copy")
        file = tmp_path / "copy" / "model.safetensors"
        data = bytearray(file.read_bytes())
        data[3 * 4096 : 5 * 4096] = bytes(2 * 4096)
        file.write_bytes(data)
        assert not any("written" in text for text in run(tmp_path / "copy", tmp_path / "out")["warnings"])
