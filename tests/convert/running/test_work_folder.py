"""The work folder: whose it is, and that nothing in it leads elsewhere."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quantcli.convert.running import run as runner
from quantcli.errors import Surroundings
from tests.builders import tiny_llama
from tests.runs import beside, finish, interrupted, quant, run


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("source") / "tiny")


@pytest.fixture(autouse=True)
def journal_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "FLUSH_SECONDS", 0.0)


def contents(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder; None stands for a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


OTHERS: dict[str, Callable[[Path], object]] = {
    "output": lambda folder: (folder / "output").mkdir(),
    "output with a file": lambda folder: ((folder / "output").mkdir(), (folder / "output" / "x").write_text("mine")),
    "replaced": lambda folder: ((folder / "replaced").mkdir(), (folder / "replaced" / "x").write_text("mine")),
    "a report": lambda folder: (folder / "report.json").write_text("{}"),
    "a journal": lambda folder: (folder / ".journal").write_text("Dear diary,\n"),
    "an empty journal": lambda folder: ((folder / ".journal").touch(), (folder / "output").mkdir()),
    "an older journal": lambda folder: (folder / ".journal").write_text('{"fingerprint": "0", "replaces": true}\n'),
    "an older run": lambda folder: (
        (folder / ".journal").write_text(
            '{"fingerprint": "0", "replaces": true}\n{"step": 0, "error": [0, 1, 0, 0]}\n'
        ),
        (folder / "output").mkdir(),
        (folder / "output" / "model.safetensors").write_bytes(b"\1" * 4096),
        (folder / "report.json").write_text('{"report_version": 1}'),
    ),
}


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("what", OTHERS)
def test_somebody_elses_folder_is_not_touched(source: Path, tmp_path: Path, what: str, resume: bool) -> None:
    folder = tmp_path / "out.partial"
    folder.mkdir()
    OTHERS[what](folder)
    before = contents(folder)
    for force in (False, not resume):
        with pytest.raises(Surroundings, match=r"out\.partial: .*[Mm]ove it away"):
            run(source, tmp_path / "out", resume=resume, force=force)
        assert contents(folder) == before and beside(tmp_path / "out") == ["out.partial"]


@pytest.mark.parametrize("journal", [None, b"", b"quant jou", b"\0" * 16])
def test_what_a_power_cut_leaves_of_a_beginning_is_taken_over(
    source: Path, tmp_path: Path, journal: bytes | None
) -> None:
    (tmp_path / "out.partial").mkdir()
    if journal is not None:
        (tmp_path / "out.partial" / ".journal").write_bytes(journal)
    run(source, tmp_path / "out")
    assert beside(tmp_path / "out") == ["out"]


def test_the_journal_is_removed_last(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    real = os.unlink

    def unlink(path: Any, *arguments: Any, **options: Any) -> None:
        if str(path).endswith(".journal"):
            seen.append(sorted(p.name for p in (tmp_path / "out.gguf.partial").iterdir()))
        real(path, *arguments, **options)

    monkeypatch.setattr(os, "unlink", unlink)
    interrupted(source, tmp_path / "out.gguf")
    run(source, tmp_path / "out.gguf", force=True)
    assert seen == [[".journal"]]


class TestLinks:
    def linked(self, source: Path, tmp_path: Path, name: str, *, kind: str) -> Path:
        """An interrupted run in whose work folder `name` was replaced by a link; what it leads to."""
        interrupted(source, tmp_path / "out", scheme="affine4-g64")
        place = tmp_path / "out.partial" / name
        target = tmp_path / "mine"
        if place.is_dir():
            place.rename(target)
        else:
            target.write_bytes(b"\x01" * place.stat().st_size)
            place.unlink()
        place.symlink_to(target) if kind == "symbolic" else place.hardlink_to(target)
        return target

    @pytest.mark.parametrize(
        ("name", "kind"),
        [
            (".journal", "symbolic"), (".journal", "hard"), ("output", "symbolic"),
            ("output/model.safetensors", "symbolic"), ("output/model.safetensors", "hard"),
            ("output/config.json", "symbolic"),
        ],
    )  # fmt: skip
    def test_none_is_followed(self, source: Path, tmp_path: Path, name: str, kind: str) -> None:
        target = self.linked(source, tmp_path, name, kind=kind)
        before = contents(target) if target.is_dir() else target.read_bytes()
        with pytest.raises(Surroundings, match=r"out\.partial.*[Mm]ove it away"):
            run(source, tmp_path / "out", scheme="affine4-g64", resume=True)
        assert (contents(target) if target.is_dir() else target.read_bytes()) == before
        assert not (tmp_path / "out").exists()

    def test_a_link_that_comes_while_it_runs(self, source: Path, tmp_path: Path) -> None:
        """OUTPUT is never a link to somebody's file."""
        grown, target = tmp_path / "out.gguf.partial" / "output" / "out.gguf", tmp_path / "mine"

        def replace(count: int, name: str) -> None:
            if not grown.is_symlink():
                target.write_bytes(grown.read_bytes())
                grown.unlink()
                grown.symlink_to(target)

        with pytest.raises(Surroundings, match="link"):
            run(source, tmp_path / "out.gguf", progress=replace)
        assert not os.path.lexists(tmp_path / "out.gguf")

    def test_a_pipe_does_not_hang(self, source: Path, tmp_path: Path) -> None:
        for name in (".journal", "output/model.safetensors"):
            interrupted(source, tmp_path / "out", scheme="affine4-g64")
            place = tmp_path / "out.partial" / name
            journal = place.read_bytes()
            place.unlink()
            os.mkfifo(place)
            code, _, err = finish(quant("convert", source, tmp_path / "out", "-s", "affine4-g64", "--resume"))
            assert code == 5 and str(place) in err and "Traceback" not in err
            place.unlink()
            place.write_bytes(journal)
            run(source, tmp_path / "out", scheme="affine4-g64", force=True)
            run(source, tmp_path / "other")
            (tmp_path / "out").rename(tmp_path / f"done{name.count('/')}")
            (tmp_path / "other").rename(tmp_path / f"other{name.count('/')}")

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
    @pytest.mark.parametrize("name", [".journal", "output", "output/model.safetensors", "."])
    def test_another_users_files(self, source: Path, tmp_path: Path, name: str) -> None:
        interrupted(source, tmp_path / "out", scheme="affine4-g64")
        os.chown(tmp_path / "out.partial" / name, 12345, -1)
        with pytest.raises(Surroundings, match=r"another user \(id 12345\)"):
            run(source, tmp_path / "out", scheme="affine4-g64", resume=True)
        os.chown(tmp_path / "out.partial" / name, 0, -1)
        run(source, tmp_path / "out", scheme="affine4-g64", resume=True)


class TestHostileReports:
    @pytest.mark.parametrize(
        "text", ["[" * 200_000, '{"report_version": ' * 2000 + "1" + "}" * 2000, "NaN", '{"report_version": 1' * 2]
    )
    def test_next_to_output(self, source: Path, tmp_path: Path, text: str) -> None:
        report = tmp_path / "x.gguf.report.json"
        report.write_text(text)
        for options in ({}, {"resume": True}):
            with pytest.raises(Surroundings, match=r"x\.gguf\.report\.json: exists"):
                run(source, tmp_path / "x.gguf", **options)
        assert report.read_text() == text

    def test_numbers_that_are_none(self, source: Path, tmp_path: Path) -> None:
        """Of a complete output: what its report says is checked before it is believed."""
        run(source, tmp_path / "out", scheme="affine4-g64")
        path = tmp_path / "out" / "quant_report.json"
        good = json.loads(path.read_text())
        for value in (float("nan"), -1, 10**400, "0", None, [[]]):
            good["weights"][0]["relative_rmse"] = value
            path.write_text(json.dumps(good))
            for check in (False, True):
                with pytest.raises(Surroundings, match="already exists"):
                    run(source, tmp_path / "out", scheme="affine4-g64", resume=True, check=check)

    def test_a_pipe_does_not_hang(self, source: Path, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "x.gguf.report.json")
        for words in ((), ("--resume",)):
            code, _, err = finish(quant("convert", source, tmp_path / "x.gguf", *words))
            assert code == 5 and "x.gguf.report.json" in err and "Traceback" not in err
        assert (tmp_path / "x.gguf.report.json").is_fifo()

    @pytest.mark.parametrize("name", ["x.gguf", "out"])
    def test_force_replaces_no_pipe(self, source: Path, tmp_path: Path, name: str) -> None:
        """In the place of the report, next to an old output or in it."""
        run(source, tmp_path / name, scheme="f32")
        report = tmp_path / ("x.gguf.report.json" if name == "x.gguf" else "out/quant_report.json")
        report.unlink()
        os.mkfifo(report)
        before = contents(tmp_path)
        code, _, err = finish(quant("convert", source, tmp_path / name, "--force"))
        assert code == 5 and report.name in err and err.count("error: ") == 1 and "Traceback" not in err
        assert report.is_fifo() and contents(tmp_path) == before


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fail(*arguments: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(Surroundings, match=r"flock .*Choose an OUTPUT on another file system"):
        run(source, tmp_path / "new" / "out")
    assert not (tmp_path / "new").exists()
