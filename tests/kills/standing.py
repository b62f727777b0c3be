"""What stands under an output's names after a run has died, and that what runs next loses nothing and completes it."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from quantcli.convert.running.destination import Taken
from quantcli.convert.running.journal import parsed
from quantcli.errors import Surroundings
from tests.kills.runs_that_die import Target, without_reports


@dataclass(frozen=True)
class Scene:
    """A run that may die. before: a folder with what stands there first, an old output with --force, else nothing.

    old, new: path -> bytes of what stands under the output's names before, with its report, and after, without.
    """

    target: Target
    source: Path
    before: Path
    old: dict[str, bytes]
    new: dict[str, bytes]
    check: bool

    @property
    def force(self) -> bool:
        return bool(self.old)

    def begin(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.before, folder)

    def run(self, folder: Path) -> None:
        """The command that dies."""
        self.target.run(self.source, folder, force=self.force, check=self.check)

    def go_on(self, folder: Path) -> None:
        """The right command after it died: --resume, and the same one again where no journal was begun."""
        journal = self.target.partial(folder) / ".journal"
        has_begun = journal.exists() and parsed(journal.read_bytes(), 0).fingerprint is not None
        try:
            self.target.run(self.source, folder, resume=True, check=self.check)
        except Taken:
            if has_begun or not self.force:
                raise
            self.run(folder)

    def run_without_options(self, folder: Path) -> None:
        """The command without --resume and --force replaces nothing, and puts back an old output that lost its name."""
        try:
            self.target.run(self.source, folder, check=self.check)
        except Surroundings:
            assert self.standing(folder) != "neither" or not self.force
        else:
            assert not self.force
            self.finished(folder)

    def standing(self, folder: Path) -> str:
        """Which output has its names: "old", "new", or "neither". One of them is complete, and nothing is a mixture."""
        everything = self.target.everything(folder)
        here, old = without_reports(everything), without_reports(self.old)
        word = "new" if here == self.new else "old" if here == old else "neither"
        if word == "neither":
            assert self.target.name.endswith(".gguf") or not here, sorted(here)
            assert not any(_is_opened(name) for name in here), sorted(here)
        if word != "new":
            kept = self._replaced(folder)
            lost = [name for name, data in self.old.items() if data not in (everything.get(name), kept.get(name))]
            assert not lost, (lost, word)
        else:
            assert everything.keys() == here.keys() or self.report_fits(everything)
        return word if here else "neither"

    def _replaced(self, folder: Path) -> dict[str, bytes]:
        """The files of an old output that has lost its name, by the paths that they had."""
        place = self.target.partial(folder) / "replaced"
        above = "" if self.target.name.endswith(".gguf") else f"{self.target.name}/"
        return {f"{above}{p.relative_to(place)}": p.read_bytes() for p in place.rglob("*") if p.is_file()}

    def report_fits(self, everything: dict[str, bytes]) -> bool:
        """Whether there is one report, which names the files of the new output with their hashes."""
        (report,) = everything.keys() - self.new.keys()
        stated = {file["name"]: file["sha256"] for file in json.loads(everything[report])["files"]}
        return stated == {Path(name).name: hashlib.sha256(data).hexdigest() for name, data in self.new.items()}

    def finished(self, folder: Path) -> None:
        """Nothing stands there but the new output and its report."""
        assert self.standing(folder) == "new"
        assert self.report_fits(self.target.everything(folder))
        tops = {Path(name).parts[0] for name in self.target.everything(folder)}
        assert {path.name for path in folder.iterdir()} == tops


def _is_opened(name: str) -> bool:
    """Whether a loader would begin with this file."""
    return name.endswith("out.gguf") or "-00001-of-" in name


def scene(target: Target, source: Path, folder: Path, *, force: bool, check: bool) -> Scene:
    """A run that replaces an old output, or makes the first one; made in a folder of its own."""
    target.run(source, folder / "good")
    before = folder / "before"
    before.mkdir()
    if force:
        target.run_old(source, before)
    new = target.files(folder / "good")
    return Scene(target, source, before, target.everything(before), new, check)
