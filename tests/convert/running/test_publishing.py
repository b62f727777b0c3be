"""An output gets its name without overwriting anything, and an old one is deleted only once the new one is on disk."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quantcli.convert.running import renames
from quantcli.convert.running import run as runner
from quantcli.convert.running.destination import Taken
from quantcli.convert.running.places import Places
from quantcli.convert.running.publishing import publish, recovered, stage, take_back
from quantcli.errors import Surroundings
from tests.builders import tiny_llama
from tests.mounts import tmpfs
from tests.runs import beside, dies_after, run, tree

#: What a file system may lack: the calls that refuse, with the number of their error.
LACKING = {
    "nothing": {},
    "swaps": {"flagged_rename": errno.EINVAL},
    "links": {"link": errno.EPERM},
    "both": {"flagged_rename": errno.ENOSYS, "link": errno.ENOTSUP},
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("source") / "tiny", num_hidden_layers=1)


@pytest.fixture(params=LACKING)
def lacking(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file system that lacks something; stand-ins for its calls."""
    word: str = request.param
    for call, number in LACKING[word].items():
        monkeypatch.setattr(os if call == "link" else renames, call, refusing(number))
    return word


def refusing(number: int) -> Callable[..., None]:
    def call(*arguments: Any, **options: Any) -> None:
        raise OSError(number, os.strerror(number))

    return call


class TestRenames:
    def test_a_swap(self, tmp_path: Path) -> None:
        for place in (tmp_path, tmp_path / "memory"):
            with tmpfs(tmp_path / "memory"):
                one, other = place / "one", place / "other"
                one.mkdir()
                (one / "a").write_text("a")
                other.write_text("other")
                assert renames.exchange(one, other)
                assert one.read_text() == "other" and (other / "a").read_text() == "a"
                with pytest.raises(FileNotFoundError):
                    renames.exchange(one, place / "nothing")
                assert not (place / "nothing").exists()

    def test_a_name_that_has_to_be_free(self, tmp_path: Path, lacking: str) -> None:
        for make in (Path.touch, Path.mkdir, lambda path: path.symlink_to("nowhere")):
            for is_folder in (False, True):
                old, new = tmp_path / "old", tmp_path / "new"
                old.mkdir() if is_folder else old.write_text("old")
                make(new)
                with pytest.raises(FileExistsError):
                    renames.rename_new(old, new)
                assert old.exists() and os.path.lexists(new) and (is_folder or old.read_text() == "old")
                new.rmdir() if new.is_dir() else new.unlink()
                renames.rename_new(old, new)
                assert beside(new) == ["new"]
                new.rmdir() if is_folder else new.unlink()

    def test_a_file_system_that_cannot_swap(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "a").touch()
        (tmp_path / "b").touch()
        for number in renames.LACKING:
            monkeypatch.setattr(renames, "flagged_rename", refusing(number))
            assert not renames.exchange(tmp_path / "a", tmp_path / "b")
        monkeypatch.setattr(renames, "flagged_rename", refusing(errno.EIO))
        with pytest.raises(OSError, match="Input/output"):
            renames.exchange(tmp_path / "a", tmp_path / "b")


#: A kind of output: its parts, and the old files that it replaces.
KINDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "folder": ((), ()),
    "folder for folder": ((), ("out",)),
    "file": (("out",), ()),
    "file for file": (("out",), ("out",)),
    "parts": (("out-1", "out-2"), ()),
    "parts for file": (("out-1", "out-2"), ("out",)),
    "parts for parts": (("out-1", "out-2"), ("out-1", "out-2", "out-3")),
    "file for parts": (("out",), ("out-1", "out-2")),
}


class Output:
    """An output of a kind, about to be published; old files say `old`, new ones `new`."""

    def __init__(self, folder: Path, kind: str) -> None:
        folder.mkdir()
        parts, old = KINDS[kind]
        output, has_old = folder / "out", bool(old)
        report = output / "report" if not parts else folder / "out.report"
        self.places, self.folder = Places(output, report, parts), folder
        self.old = [folder / name for name in old]
        self.places.grown.mkdir(parents=True)
        for path in [self.places.grown / name for name in parts or ("tensors",)]:
            path.write_text("new")
        for path in [folder / name for name in old] if parts else [output / "tensors"] * has_old:
            path.parent.mkdir(exist_ok=True)
            path.write_text("old")
        if has_old:
            report.write_text("old")
        self.before = self.standing()
        stage(self.places, b"new")

    def standing(self) -> dict[str, str]:
        """Every file under the names of the output."""
        files = (path for path in sorted(self.folder.rglob("*")) if path.is_file())
        return {
            str(path.relative_to(self.folder)): path.read_text()
            for path in files
            if not path.is_relative_to(self.places.partial)
        }

    def waiting(self) -> set[str]:
        """What the files are that wait in the work folder for their names."""
        return {(self.places.grown / name).read_text() for name in self.places.parts or ("tensors",)}

    def publish(self, check: Callable[[Path], None] = lambda path: None) -> None:
        publish(self.places, self.old, check)

    @property
    def published(self) -> dict[str, str]:
        """What stands once it has its name."""
        parts = KINDS_BY_PARTS(self.places)
        return dict.fromkeys(sorted(parts), "new")


def KINDS_BY_PARTS(places: Places) -> list[str]:
    return [*places.parts, "out.report"] if places.parts else ["out/report", "out/tensors"]


@pytest.mark.parametrize("kind", KINDS)
class TestSteps:
    def test_the_old_output_is_complete_until_it_is_deleted(self, tmp_path: Path, kind: str, lacking: str) -> None:
        output = Output(tmp_path / "x", kind)
        seen: list[Path] = []
        output.publish(seen.append)
        assert output.standing() == output.published
        kept = output.places.replaced
        assert seen == (
            [] if not output.old else [kept] if output.places.is_folder else [kept / p.name for p in output.old]
        )
        for path in seen:
            assert (path / "tensors" if path.is_dir() else path).read_text() == "old"
        assert recovered(output.places, True)

    def test_taken_back(self, tmp_path: Path, kind: str, lacking: str) -> None:
        """The old output has its name again, the new one waits in the work folder, and can be published again."""
        output = Output(tmp_path / "x", kind)
        output.publish()
        for _ in range(2):
            take_back(output.places)
            assert output.standing() == output.before
            assert not recovered(output.places, True)
            stage(output.places, b"new")
            output.publish()
            assert output.standing() == output.published

    def test_an_old_output_that_has_changed_comes_back(self, tmp_path: Path, kind: str, lacking: str) -> None:
        def refuse(path: Path) -> None:
            raise Surroundings("it has changed.")

        output = Output(tmp_path / "x", kind)
        if output.old:
            with pytest.raises(Surroundings, match="it has changed"):
                output.publish(refuse)
            assert output.standing() == output.before

    def test_what_has_appeared_meanwhile_stays(self, tmp_path: Path, kind: str, lacking: str) -> None:
        """Before: a file was overwritten."""
        for name in KINDS[kind][0] or ("out",):
            output = Output(tmp_path / name, kind)
            if output.places.output.with_name(name) in output.old:
                continue
            appeared = output.places.final(name)
            appeared.mkdir() if output.places.is_folder else appeared.write_text("mine")
            (appeared / "mine" if appeared.is_dir() else appeared).write_text("mine")
            with pytest.raises((FileExistsError, OSError)):
                output.publish()
            found = output.standing()
            mine = f"{name}/mine" if output.places.is_folder else name
            assert found.pop(mine) == "mine" and found == output.before

    @pytest.mark.parametrize("word", ["known", "lost"])
    def test_killed_at_any_change(
        self, tmp_path: Path, kind: str, lacking: str, word: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Published or not, by what is there alone, whether or not the journal's last line is: then all of the new
        output stands, or all of the old one, with the new one in the work folder.
        """
        monkeypatch.setattr(os, "fsync", lambda descriptor: None)
        seen = set()
        for changes in range(100):
            output = Output(tmp_path / str(changes), kind)
            died = died_after(changes, output)
            if recovered(output.places, word == "known"):
                assert output.standing() == output.published
                seen.add("new")
            else:
                assert output.standing() == output.before
                assert output.waiting() == {"new"}
                seen.add("old")
            if not died:
                break
        assert seen == {"old", "new"} and changes > 1

    def test_taken_back_after_it_was_killed_at_any_change(
        self, tmp_path: Path, kind: str, lacking: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Before: of two folders that were swapped already, the old one counted as the new one in the work folder."""
        monkeypatch.setattr(os, "fsync", lambda descriptor: None)
        for changes in range(100):
            output = Output(tmp_path / str(changes), kind)
            died = died_after(changes, output)
            if recovered(output.places, True):
                take_back(output.places)
            assert output.standing() == output.before and output.waiting() == {"new"}
            if not died:
                return
        raise AssertionError("publishing changes the disk more than 100 times")

    def test_killed_while_it_is_taken_back(
        self, tmp_path: Path, kind: str, lacking: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(os, "fsync", lambda descriptor: None)
        for changes in range(100):
            output = Output(tmp_path / str(changes), kind)
            output.publish()
            died = died_after(changes, output, take_back=True)
            if recovered(output.places, True):
                assert output.standing() == output.published
            else:
                assert output.standing() == output.before
            if not died:
                return


def died_after(changes: int, output: Output, *, take_back: bool = False) -> bool:
    """Publish, or take back, until that many changes of the disk are made; whether it died of it."""
    from quantcli.convert.running import publishing
    from tests.runs import Died, Power

    with pytest.MonkeyPatch.context() as patch:
        Power(changes, patch)
        try:
            publishing.take_back(output.places) if take_back else output.publish()
        except Died:
            return True
    return False


class TestRuns:
    @pytest.fixture(autouse=True)
    def at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(runner, "FLUSH_SECONDS", 0.0)

    @pytest.mark.parametrize(("name", "size"), [("out", None), ("out.gguf", None), ("out.gguf", 12_000)])
    def test_nothing_is_deleted_before_the_new_output_is_on_disk(
        self, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, size: int | None
    ) -> None:
        """Before: an old file was gone with the rename that gave a new one its name, flushed or not."""
        run(source, tmp_path / name, scheme="f16", shard_size=size)
        inodes = {path.stat().st_ino for path in tmp_path.rglob("*") if path.is_file()}
        flushed: list[int] = []
        deleted: list[tuple[int, int]] = []

        def flushing(descriptor: int) -> None:
            real_fsync(descriptor)
            flushed.append(os.fstat(descriptor).st_ino)

        def deleting(path: Any, *arguments: Any, **options: Any) -> None:
            status = os.stat(path, dir_fd=options.get("dir_fd"), follow_symlinks=False)
            if status.st_ino in inodes and status.st_nlink == 1:
                deleted.append((status.st_ino, len(flushed)))
            real_unlink(path, *arguments, **options)

        def replacing(old: Any, new: Any) -> None:
            if os.path.lexists(new) and os.lstat(new).st_ino in inodes:
                deleted.append((os.lstat(new).st_ino, len(flushed)))
            real_replace(old, new)

        real_fsync, real_unlink, real_replace = os.fsync, os.unlink, os.replace
        for call, fake in (("fsync", flushing), ("unlink", deleting), ("replace", replacing), ("rename", replacing)):
            monkeypatch.setattr(os, call, fake)
        report = run(source, tmp_path / name, scheme="f32", shard_size=size, force=True)
        assert {inode for inode, _ in deleted} == inodes
        new = {path.stat().st_ino for path in tmp_path.rglob("*") if path.is_file() and "report" not in path.name}
        first = min(count for _, count in deleted)
        # The last flushes: of the folder with the output's names, then of the work folder and what is in it.
        assert new <= {*flushed[:first]} and tmp_path.stat().st_ino in flushed[first - 4 : first]
        assert len(report["files"]) == len(new)

    @pytest.mark.parametrize(("name", "size"), [("out", None), ("out.gguf", None), ("out.gguf", 12_000)])
    @pytest.mark.parametrize("force", [False, True])
    def test_what_appears_between_the_look_and_the_rename(
        self, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacking: str, name: str, size: int | None,
        force: bool,
    ) -> None:  # fmt: skip
        """Before: a file of that name was overwritten, exit 0. Now exit 5; when it is gone, --resume ends the run."""
        appeared: list[Path] = []
        real = os.fsync

        def appearing(descriptor: int) -> None:
            real(descriptor)
            staged = tmp_path / f"{name}.partial" / "report.json"
            if staged.exists() and not appeared:
                grown = staged.parent / "output"
                place = tmp_path / name if name == "out" else tmp_path / min(p.name for p in grown.iterdir())
                place.write_text("mine")
                appeared.append(place)

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", appearing)
            with pytest.raises(Taken, match="was created during the run"):
                run(source, tmp_path / name, scheme="q8_0" if name != "out" else "f16", shard_size=size, force=force)
        (place,) = appeared
        assert place.read_text() == "mine" and (tmp_path / f"{name}.partial").is_dir()
        assert beside(tmp_path / name) == sorted([place.name, f"{name}.partial"])
        place.unlink()
        run(source, tmp_path / name, scheme="q8_0" if name != "out" else "f16", shard_size=size, resume=True)
        assert not (tmp_path / f"{name}.partial").exists()

    def test_a_file_put_into_the_old_folder_at_the_last_moment(
        self, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacking: str
    ) -> None:
        """Before: it was deleted with the old folder. Now the old folder has its name again, with the file."""
        run(source, tmp_path / "out", scheme="f16")
        before = tree(tmp_path / "out")
        real = os.fsync

        def appearing(descriptor: int) -> None:
            real(descriptor)
            if (tmp_path / "out.partial" / "report.json").exists() and (tmp_path / "out").exists():
                (tmp_path / "out" / "thesis.odt").write_text("mine")

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", appearing)
            with pytest.raises(Surroundings, match="changed during the run"):
                run(source, tmp_path / "out", scheme="f32", force=True)
        assert tree(tmp_path / "out") == before | {"thesis.odt": b"mine"}
        with pytest.raises(Taken, match=r"contains thesis\.odt"):
            run(source, tmp_path / "out", scheme="f32", resume=True)
        (tmp_path / "out" / "thesis.odt").unlink()
        run(source, tmp_path / "out", scheme="f32", resume=True)
        assert beside(tmp_path / "out") == ["out"]

    def test_a_full_disk_while_names_change(
        self, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacking: str
    ) -> None:
        """Whichever rename fails: exit 5, and the next command has all of the old output or all of the new one."""
        for name, scheme in (("out", "affine4-g32"), ("out.gguf", "q8_0")):
            run(source, tmp_path / "good" / name, scheme=scheme)
            for count in range(20):
                output = tmp_path / lacking / str(count) / name
                run(source, output, scheme="f32")
                old = tree(output)
                with monkeypatch.context() as patch:
                    fail_at(patch, count)
                    try:
                        run(source, output, scheme=scheme, force=True)
                        break
                    except Surroundings as error:
                        assert "No space left on device" in str(error)
                with pytest.raises(Surroundings):
                    run(source, output, scheme=scheme)
                assert tree(output) in (old, tree(tmp_path / "good" / name))
                run(source, output, scheme=scheme, resume=True)
                assert tree(output) == tree(tmp_path / "good" / name)
            assert count >= (2 if name == "out" else 3)


def fail_at(patch: pytest.MonkeyPatch, count: int) -> None:
    """The disk is full at the change of a name with that number, and at no other."""
    calls = [0]

    def failing(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            calls[0] += 1
            if calls[0] == count + 1:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return function(*arguments, **options)

        return call

    for owner, name in ((os, "rename"), (os, "link"), (renames, "flagged_rename")):
        patch.setattr(owner, name, failing(getattr(owner, name)))


def test_an_output_of_an_older_version_is_put_back(source: Path, tmp_path: Path) -> None:
    """It died between its two renames: the old folder is in `replaced`, and no report has a second name."""
    run(source, tmp_path / "out", scheme="f32")
    old = tree(tmp_path / "out")
    assert dies_after(60, source, tmp_path / "out", scheme="affine4-g32", force=True)
    shutil.move(tmp_path / "out", tmp_path / "out.partial" / "replaced")
    with pytest.raises(Surroundings):
        run(source, tmp_path / "out", scheme="affine4-g32")
    assert tree(tmp_path / "out") == old
