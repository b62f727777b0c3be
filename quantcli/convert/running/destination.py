"""What stands under an output's names: whether it may be replaced, and that nothing which a run reads goes with it.

nothing, an empty folder                         free
a link, a mount point                            never replaced
a folder                                         with --force, if in_the_way (old_output.py) finds nothing
NAME.gguf                                        with --force, whatever file it is
NAME-?????-of-?????.gguf                         with --force, those that our report names, with their sizes
NAME.gguf.report.json                            with --force, if it is one of ours
parts that are files of SOURCE, their report     count as nothing: `convert m-00001-of-00003.gguf m.gguf`
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

#: A message names so many files.
MOST_NAMED = 5


class Taken(Surroundings):
    """Something stands under the output's name."""


class Destination:
    """The names of an output. sources: the files that hold SOURCE's tensors; named: every path that the options name.

    Methods raise `OSError` where the system refuses to look.
    """

    def __init__(self, places: Places, sources: Iterable[Path], named: Iterable[Path]) -> None:
        self.places, self.sources, self.named = places, tuple(sources), tuple(named)

    def old_files(self) -> list[Path]:
        """What counts as an old output: of a GGUF every file of its name, however the old one was split, but the
        report; of a folder the folder, unless it is empty.
        """
        here = self.places
        if here.is_folder:
            return [here.output] if is_there(here.output) and not is_empty_folder(here.output) else []
        wanted = [here.output, *map(here.final, here.parts)]
        source = ways(self.sources)
        further = [path for path in parts_of(here.output) if not _is_of(path, source)]
        return [path for path in dict.fromkeys([*wanted, *further]) if is_there(path)]

    def refuse_taken(self, *, replaces: bool) -> None:
        """Raise `Taken` where the names are not free, nor may be taken. replaces: an old output may go."""
        here, old = self.places, self.old_files()
        for path in dict.fromkeys([here.output, *old, *([] if here.is_folder else [here.report])]):
            _refuse_fixed(path)
        if not here.is_folder and (odd := self._report_blocked()):
            raise Taken(odd)
        blocked = self._folder_blocked(old) if here.is_folder else self._files_blocked(old)
        report = [] if here.is_folder or self._is_sources_report() else [here.report]
        standing = [*old, *filter(is_there, report)]
        if standing and not replaces:
            way_out = "choose another name" if blocked else "choose another name, or --force to replace it"
            raise Taken(f"{standing[0]}: exists already; {way_out}.")
        if blocked:
            raise Taken(blocked)

    def _folder_blocked(self, old: Sequence[Path]) -> str | None:
        """Why an old folder may not be replaced, as a sentence."""
        for place in old:
            if not place.is_dir():
                return f"{place}: is a file, which this output would not be; remove it yourself."
            if odd := _listed(in_the_way(place, self.places.report)):
                return (
                    f"{place}: --force replaces only what quant wrote or a model folder, and this one holds {odd}; "
                    "move that away, or choose another name."
                )
        return None

    def _report_blocked(self) -> str | None:
        """Why no report can get its name next to a file, as a sentence."""
        report = self.places.report
        if not is_there(report) or (is_regular(report) and old_report(report) is not None):
            return None
        if is_regular(report):
            return f"{report}: exists and is no report of ours, but one has to go there; move it away."
        kind = "a folder" if report.is_dir() else "no regular file"
        return f"{report}: is {kind}, and the report has to go there; move it away."

    def _files_blocked(self, old: Sequence[Path]) -> str | None:
        """Why old files may not be replaced, as a sentence."""
        here = self.places
        if odd := next((path for path in old if not is_regular(path)), None):
            kind = "a folder" if odd.is_dir() else "no regular file"
            return f"{odd}: is {kind}, which this output would not be; remove it yourself."
        told = sizes(old_report(here.report))
        parts = [path for path in old if path != here.output and told.get(path.name) != os.lstat(path).st_size]
        if not parts:
            return None
        return (
            f"{here.output}: --force replaces only parts that its report names, and not "
            f"{_listed(path.name for path in parts)}; move that away, or choose another name."
        )

    def _is_sources_report(self) -> bool:
        """Whether the report is that of files of SOURCE, of those that are there."""
        told = [self.places.final(name) for name in sizes(old_report(self.places.report))]
        there, source = [path for path in told if is_there(path)], ways(self.sources)
        return bool(there) and all(_is_of(path, source) for path in there)

    def refuse(self, error: type[Surroundings] | type[WrongUsage], *, replaces: bool) -> None:
        """Raise `error` where something that the options name would go, `Taken` as `refuse_taken` does."""
        self.refuse_loss(error, deep=False)
        self.refuse_taken(replaces=replaces)
        self.refuse_loss(error, deep=True)

    def refuse_loss(self, error: type[Surroundings] | type[WrongUsage], *, deep: bool) -> None:
        """Raise `error` where something that the options name goes with what this output replaces. deep: looks into an
        old folder too, for what is reached by another way.
        """
        here = self.places
        going = [here.output, *map(here.final, here.parts), *self.old_files()]
        lost = first_lost(ways(self.named), dict.fromkeys(going), deep=deep)
        if lost is not None:
            way_out = "move it" if error is Surroundings else "choose another name"
            raise error(f"{here.output}: replacing it would delete {lost.path}, which is read; {way_out}.")

    def check_old(self) -> Callable[[Path], None]:
        """What is asked of each old file, or the old folder, that has lost its name and is about to be deleted: it
        raises where that is not what `refuse_taken` and `refuse_loss` have seen, because it has changed since.
        """
        here, named = self.places, ways(self.named)

        def check(path: Path) -> None:
            lost = first_lost(named, [path])
            odd = _listed(in_the_way(path, path / here.report.name)) if here.is_folder else ""
            if lost is not None or odd or is_regular(path) == here.is_folder:
                raise Surroundings(f"{here.output}: has changed meanwhile, and stays; --resume looks at it again.")

        return check

    def refuse_loss_of_work(self) -> None:
        """Raise `Surroundings` where something that the options name lies in the work folder."""
        lost = first_lost(ways(self.named), [self.places.partial])
        if lost is not None:
            raise Surroundings(f"{lost.path}: lies in the work folder {self.places.partial}; move it out of there.")


def _is_of(path: Path, files: Iterable[Way]) -> bool:
    """Whether a path, which is there, is one of these files, or a link on the way to one."""
    return any(way.has_entry(path) for way in files)


def _refuse_fixed(path: Path) -> None:
    """Raise `Surroundings` for a link, which is no output either, `Taken` for a mount point or a folder that holds one,
    which no rename replaces.
    """
    if path.is_symlink():
        raise Surroundings(f"{path}: is a link to {os.path.realpath(path)}; name that, or remove the link.")
    mounted = mounted_in(path) if is_there(path) else None
    if mounted is not None:
        where = "is" if mounted in (path, real_path(path)) else f"holds {mounted}, which is"
        raise Taken(f"{path}: {where} a mount point, which cannot be replaced by a rename; choose a name inside it.")


def _listed(names: Iterable[str]) -> str:
    """Some names for a message, empty without any; characters that steer a terminal left out."""
    first = [UNPRINTABLE.sub("?", name) for name in islice(names, MOST_NAMED + 1)]
    if len(first) > MOST_NAMED:
        return f"{', '.join(first[:MOST_NAMED])} and more"
    return " and ".join(filter(None, [", ".join(first[:-1]), *first[-1:]]))
