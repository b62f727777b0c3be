"""What exists under an output's names: whether it may be replaced, and whether that would delete a file that is read.

nothing, an empty folder                         free
a link, a mount point                            never replaced
a folder                                         with --force, if in_the_way (old_output.py) finds nothing
NAME.gguf                                        with --force, whatever the file contains
NAME-?????-of-?????.gguf                         with --force, those that quant's report lists, with their sizes
NAME.gguf.report.json                            with --force, if quant wrote it
parts that are files of SOURCE, their report     ignored: `convert m-00001-of-00003.gguf m.gguf`
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path

from quantcli.containers.entries import is_there, real_path
from quantcli.containers.hostile import UNPRINTABLE
from quantcli.convert.planning.named_files import Way, first_lost, ways
from quantcli.convert.running.mounts import mounted_in
from quantcli.convert.running.old_output import in_the_way, old_report, parts_of, sizes
from quantcli.convert.running.places import Places, is_empty_folder, is_regular
from quantcli.errors import Surroundings, WrongUsage

#: Most files that a message names.
MOST_NAMED = 5


class Taken(Surroundings):
    """Something exists under the output's name."""


class Destination:
    """The names of an output. sources: the files with SOURCE's tensors; named: every path that the options name.

    Methods raise `OSError` if the system refuses access.
    """

    def __init__(self, places: Places, sources: Iterable[Path], named: Iterable[Path]) -> None:
        self.places, self.sources, self.named = places, tuple(sources), tuple(named)

    def old_files(self) -> list[Path]:
        """Return the old output: of a GGUF file all files of its name, however split, without the report.

        Of a folder, it is the folder, unless it is empty.
        """
        here = self.places
        if here.is_folder:
            return [here.output] if is_there(here.output) and not is_empty_folder(here.output) else []
        wanted = [here.output, *map(here.final, here.parts)]
        source = ways(self.sources)
        further = [path for path in parts_of(here.output) if not _is_of(path, source)]
        return [path for path in dict.fromkeys([*wanted, *further]) if is_there(path)]

    def refuse_taken(self, *, replaces: bool) -> None:
        """Raise `Taken` if the names are not free and may not be replaced. replaces: an old output may be replaced."""
        here, old = self.places, self.old_files()
        for path in dict.fromkeys([here.output, *old, *([] if here.is_folder else [here.report])]):
            _refuse_fixed(path)
        if not here.is_folder and (odd := self._report_blocked()):
            raise Taken(odd)
        blocked = self._folder_blocked(old) if here.is_folder else self._files_blocked(old)
        report = [] if here.is_folder or self._is_sources_report() else [here.report]
        standing = [*old, *filter(is_there, report)]
        if standing and not replaces:
            hint = "Choose another name" if blocked else "Choose another name, or use --force to replace it"
            raise Taken(f"{standing[0]}: already exists. {hint}.")
        if blocked:
            raise Taken(blocked)

    def _folder_blocked(self, old: Sequence[Path]) -> str | None:
        """Return why an old folder may not be replaced, as a message; None if it may."""
        for place in old:
            if not place.is_dir():
                return f"{place}: is a file, but this output is a folder. Remove it or choose another name."
            if odd := _listed(in_the_way(place, self.places.report)):
                return (
                    f"{place}: --force replaces only quant's output and model folders, and this folder contains "
                    f"{odd}. Move that away, or choose another name."
                )
        return None

    def _report_blocked(self) -> str | None:
        """Return why the report of a file cannot get its name, as a message; None if it can."""
        report = self.places.report
        if not is_there(report) or (is_regular(report) and old_report(report) is not None):
            return None
        if is_regular(report):
            return f"{report}: exists and was not written by quant. Move it: the report is written there."
        kind = "a folder" if report.is_dir() else "not a regular file"
        return f"{report}: is {kind}. Move it: the report is written there."

    def _files_blocked(self, old: Sequence[Path]) -> str | None:
        """Return why old files may not be replaced, as a message; None if they may."""
        here = self.places
        if odd := next((path for path in old if not is_regular(path)), None):
            kind = "a folder" if odd.is_dir() else "not a regular file"
            return f"{odd}: is {kind}, but this output is a file. Remove it or choose another name."
        listed = sizes(old_report(here.report))
        parts = [path for path in old if path != here.output and listed.get(path.name) != os.lstat(path).st_size]
        if not parts:
            return None
        return (
            f"{here.output}: --force replaces only parts that its report lists, not "
            f"{_listed(path.name for path in parts)}. Move that away, or choose another name."
        )

    def _is_sources_report(self) -> bool:
        """Return whether the existing files that the report lists are files of SOURCE."""
        listed = [self.places.final(name) for name in sizes(old_report(self.places.report))]
        existing, source = [path for path in listed if is_there(path)], ways(self.sources)
        return bool(existing) and all(_is_of(path, source) for path in existing)

    def refuse(self, error: type[Surroundings] | type[WrongUsage], *, replaces: bool) -> None:
        """Raise `error` if something that the options name would be deleted, `Taken` as `refuse_taken` does."""
        self.refuse_loss(error, deep=False)
        self.refuse_taken(replaces=replaces)
        self.refuse_loss(error, deep=True)

    def refuse_loss(self, error: type[Surroundings] | type[WrongUsage], *, deep: bool) -> None:
        """Raise `error` if replacing the old output would delete something that the options name.

        deep: also search an old folder for files that are reached by other paths.
        """
        here = self.places
        going = [here.output, *map(here.final, here.parts), *self.old_files()]
        lost = first_lost(ways(self.named), dict.fromkeys(going), deep=deep)
        if lost is not None:
            hint = "Move that file" if error is Surroundings else "Choose another name"
            raise error(f"{here.output}: replacing it would delete {lost.path}, which this conversion reads. {hint}.")

    def check_old(self) -> Callable[[Path], None]:
        """Return a check of each old file or folder that has lost its name and is about to be deleted.

        It raises `Surroundings` if the file or folder has changed since `refuse_taken` and `refuse_loss` saw it.
        """
        here, named = self.places, ways(self.named)

        def check(path: Path) -> None:
            lost = first_lost(named, [path])
            odd = _listed(in_the_way(path, path / here.report.name)) if here.is_folder else ""
            if lost is not None or odd or is_regular(path) == here.is_folder:
                raise Surroundings(
                    f"{here.output}: changed during the run and was not replaced. Use --resume to check it again."
                )

        return check

    def refuse_loss_of_work(self) -> None:
        """Raise `Surroundings` if something that the options name is in the work folder."""
        lost = first_lost(ways(self.named), [self.places.partial])
        if lost is not None:
            raise Surroundings(f"{lost.path}: is in the work folder {self.places.partial}. Move it to another folder.")


def _is_of(path: Path, files: Iterable[Way]) -> bool:
    """Return whether an existing path is one of these files, or a link on the way to one."""
    return any(way.has_entry(path) for way in files)


def _refuse_fixed(path: Path) -> None:
    """Raise `Surroundings` for a link, `Taken` for a mount point or a folder with one: a rename cannot replace them."""
    if path.is_symlink():
        raise Surroundings(
            f"{path}: is a link to {os.path.realpath(path)}. Use that path as OUTPUT, or remove the link."
        )
    mounted = mounted_in(path) if is_there(path) else None
    if mounted is not None:
        where = "is" if mounted in (path, real_path(path)) else f"contains {mounted}, which is"
        raise Taken(f"{path}: {where} a mount point, which a rename cannot replace. Choose a name inside it.")


def _listed(names: Iterable[str]) -> str:
    """Return some names for a message, empty if there are none; control characters are replaced."""
    first = [UNPRINTABLE.sub("?", name) for name in islice(names, MOST_NAMED + 1)]
    if len(first) > MOST_NAMED:
        return f"{', '.join(first[:MOST_NAMED])} and more"
    return " and ".join(filter(None, [", ".join(first[:-1]), *first[-1:]]))
