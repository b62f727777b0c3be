"""Which files the options of a conversion name, and whether one of them is lost when other paths go.

Two paths may lead to one file: through links, bind mounts, a volume that ignores case. So nothing here is compared by
its name alone: of every path that an option names, each folder and each link that the system passes on its way to the
file is known by device and inode.

    a folder on the way goes                          lost: SOURCE is OUTPUT, lies in it or is a link that leads into it
    the entry itself goes, by this or another name    lost
    every hard link of the file goes                  lost
    a hard link stays somewhere else                  no loss
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from quantcli.checkpoint import Checkpoint
from quantcli.containers.entries import is_there
from quantcli.convert.planning.request import Request
from quantcli.sources.folder import LocalFolder

#: A path with more links is one that leads in a circle (Linux gives up there too).
MOST_LINKS = 40

#: The file of an `--override-kv KEY=str:@FILE`; a second @ is one of the text.
TEXT_OF_FILE = re.compile("=str:@([^@].*)", re.DOTALL)

#: Device and inode.
Identity = tuple[int, int]


def named_files(source: Checkpoint, request: Request, read: Iterable[Path]) -> tuple[Path, ...]:
    """Every file and folder that the options name, SOURCE first; of a folder also the files in it. read: the files of
    SOURCE that a plan was made with.
    """
    named = [source.root, *read]
    named += [path for path in (request.recipe, request.imatrix, request.tokenizer) if path is not None]
    named += [path for path in request.tensor_types if isinstance(path, Path)]
    named += [Path(match[1]) for text in request.override_kv if (match := TEXT_OF_FILE.search(text))]
    held = [folder / name for folder in named if folder.is_dir() for name in LocalFolder(folder).names()]
    return tuple(dict.fromkeys([*named, *held]))


@dataclass(frozen=True)
class Lookup:
    """A name that is looked up in a folder on the way to a file, and what it is there."""

    place: str
    folder: Identity
    name: str
    entry: Identity


@dataclass(frozen=True)
class Way:
    """How the system gets from a path to what it names. links: the hard links of a file; 0 of anything else."""

    path: Path
    lookups: tuple[Lookup, ...]
    end: Identity
    links: int

    def has_entry(self, path: Path) -> bool:
        """Whether the entry of that name, which is there, is passed on the way or is its end."""
        status, folder = os.lstat(path), identity(os.stat(path.parent))
        return any(_is_same(lookup, folder, path.name, identity(status)) for lookup in self.lookups)


def identity(status: os.stat_result) -> Identity:
    """Device and inode, which two files share only if they are one."""
    return status.st_dev, status.st_ino


def ways(paths: Iterable[Path]) -> tuple[Way, ...]:
    """The way of each path; one that leads nowhere has none, because nothing is lost with it."""
    found = []
    for path in paths:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            lookups = tuple(_lookups(path))
            status = os.stat(path)
            links = status.st_nlink if stat.S_ISREG(status.st_mode) else 0
            found.append(Way(path, lookups, identity(status), links))
    return tuple(found)


def _lookups(path: Path) -> Iterator[Lookup]:
    """Every name that is looked up on the way, links followed one at a time."""
    folder, left, links = os.getcwd(), [*reversed(path.parts)], 0
    inside = identity(os.lstat(folder))
    while left:
        name = left.pop()
        if name in (os.sep, os.pardir):
            folder = os.sep if name == os.sep else os.path.dirname(folder)
            inside = identity(os.lstat(folder))
            continue
        entry = os.path.join(folder, name)
        status = os.lstat(entry)
        yield Lookup(folder, inside, name, identity(status))
        if stat.S_ISLNK(status.st_mode):
            links += 1
            if links > MOST_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
            left += reversed(Path(os.readlink(entry)).parts)
        else:
            folder, inside = entry, identity(status)


def leads_through(path: Path, folder: Path) -> bool:
    """Whether a path, as much of it as is there, is that of a folder or leads through it."""
    wanted, passed = identity(os.stat(folder)), set()
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for lookup in _lookups(path):
            passed |= {lookup.folder, lookup.entry}
    return wanted in passed


def first_lost(named: Iterable[Way], going: Iterable[Path], *, deep: bool = True) -> Way | None:
    """The first way whose file is lost, or no longer there by its name, when these paths go with all that is in them.

    None without one. deep: looks at everything in folders that go; else only files that are reached through these are
    found, which costs nothing however large a folder is. Raises `OSError`.
    """
    gone = _gone((path for path in going if is_there(path)), deep)
    return next((way for way in named if gone.holds(way)), None)


@dataclass(frozen=True)
class _Gone:
    """What goes: folders, hard links of files, and the entries at the top (folder, name, what it is)."""

    folders: frozenset[Identity]
    links: Counter[Identity]
    entries: tuple[tuple[Identity, str, Identity], ...]

    def holds(self, way: Way) -> bool:
        """Whether a file goes, or something on the way to it."""
        return (
            way.end in self.folders
            or any(lookup.folder in self.folders for lookup in way.lookups)
            or 0 < way.links <= self.links[way.end]
            or any(_is_same(lookup, *entry) for lookup in way.lookups for entry in self.entries)
        )


def _gone(paths: Iterable[Path], deep: bool) -> _Gone:
    folders: set[Identity] = set()
    links: Counter[Identity] = Counter()
    entries = []
    for path in paths:
        entries.append((identity(os.stat(path.parent)), path.name, identity(os.lstat(path))))
        for status in _statuses(path) if deep else [os.lstat(path)]:
            if stat.S_ISDIR(status.st_mode):
                folders.add(identity(status))
            else:
                links[identity(status)] += 1
    return _Gone(frozenset(folders), links, tuple(entries))


def _statuses(path: Path) -> Iterator[os.stat_result]:
    """Of a path and, of a folder, of everything in it; links are not followed."""
    left = [path]
    while left:
        place = left.pop()
        status = os.lstat(place)
        yield status
        if stat.S_ISDIR(status.st_mode):
            left += [place / name for name in os.listdir(place)]


def _is_same(lookup: Lookup, folder: Identity, name: str, entry: Identity) -> bool:
    """Whether a name in a folder is the one that was looked up. Where letters count, two names are two entries (hard
    links of one file); a volume that ignores case finds one entry by both, and lists it once.
    """
    if (lookup.folder, lookup.entry) != (folder, entry):
        return False
    return lookup.name == name or not {lookup.name, name} <= {*os.listdir(lookup.place)}
