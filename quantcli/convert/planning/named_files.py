"""The files that the options of a conversion name, and whether one of them is lost when paths are deleted.

Two paths may lead to one file: through links, bind mounts, a volume that ignores case. So nothing here is compared by
its name only: of every path that an option names, each folder and link that the system passes on the way to the file is
identified by device and inode.

    a folder on the way is deleted                           lost: SOURCE is OUTPUT, is in it or is a link into it
    the entry is deleted, under this or another name         lost
    every hard link of the file is deleted                   lost
    a hard link remains somewhere else                       not lost
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

#: A path with more links is taken for a loop (as Linux does).
MOST_LINKS = 40

#: The file of an `--override-kv KEY=str:@FILE`; a second @ belongs to the text.
TEXT_OF_FILE = re.compile("=str:@([^@].*)", re.DOTALL)

#: Device and inode.
Identity = tuple[int, int]


def named_files(source: Checkpoint, request: Request, read: Iterable[Path]) -> tuple[Path, ...]:
    """Return every file and folder that the options name, SOURCE first, with the files of each folder.

    read: the files of SOURCE that the plan was made from.
    """
    named = [source.root, *read]
    named += [path for path in (request.recipe, request.imatrix, request.tokenizer) if path is not None]
    named += [path for path in request.tensor_types if isinstance(path, Path)]
    named += [Path(match[1]) for text in request.override_kv if (match := TEXT_OF_FILE.search(text))]
    held = [folder / name for folder in named if folder.is_dir() for name in LocalFolder(folder).names()]
    return tuple(dict.fromkeys([*named, *held]))


@dataclass(frozen=True)
class Lookup:
    """A name that is looked up in a folder on the way to a file, and the entry found there."""

    place: str
    folder: Identity
    name: str
    entry: Identity


@dataclass(frozen=True)
class Way:
    """How the system gets from a path to what it names. links: number of hard links of a file; 0 otherwise."""

    path: Path
    lookups: tuple[Lookup, ...]
    end: Identity
    links: int

    def has_entry(self, path: Path) -> bool:
        """Return whether the existing entry of that name is passed on the way, or is its end."""
        status, folder = os.lstat(path), identity(os.stat(path.parent))
        return any(_is_same(lookup, folder, path.name, identity(status)) for lookup in self.lookups)


def identity(status: os.stat_result) -> Identity:
    """Return device and inode, which two paths share only if they lead to one file."""
    return status.st_dev, status.st_ino


def ways(paths: Iterable[Path]) -> tuple[Way, ...]:
    """Return the way of each path that exists; others have nothing to lose."""
    result = []
    for path in paths:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            lookups = tuple(_lookups(path))
            status = os.stat(path)
            links = status.st_nlink if stat.S_ISREG(status.st_mode) else 0
            result.append(Way(path, lookups, identity(status), links))
    return tuple(result)


def _lookups(path: Path) -> Iterator[Lookup]:
    """Yield every name that is looked up on the way, following links one at a time. Raises `OSError`."""
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
    """Return whether a path, as far as it exists, is that of a folder or leads through it."""
    wanted, passed = identity(os.stat(folder)), set()
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for lookup in _lookups(path):
            passed |= {lookup.folder, lookup.entry}
    return wanted in passed


def first_lost(named: Iterable[Way], going: Iterable[Path], *, deep: bool = True) -> Way | None:
    """Return the first way whose file is lost when these paths are deleted with everything in them; None if none is.

    deep: also search the folders for hard links; otherwise only files that are reached through these paths are found,
    which takes no time even for large folders. Raises `OSError`.
    """
    gone = _gone((path for path in going if is_there(path)), deep)
    return next((way for way in named if gone.holds(way)), None)


@dataclass(frozen=True)
class _Gone:
    """What is deleted: folders, hard links of files, and the entries at the top (folder, name, identity)."""

    folders: frozenset[Identity]
    links: Counter[Identity]
    entries: tuple[tuple[Identity, str, Identity], ...]

    def holds(self, way: Way) -> bool:
        """Return whether a file is deleted, or something on the way to it."""
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
    """Yield the status of a path and of everything in a folder; links are not followed."""
    left = [path]
    while left:
        place = left.pop()
        status = os.lstat(place)
        yield status
        if stat.S_ISDIR(status.st_mode):
            left += [place / name for name in os.listdir(place)]


def _is_same(lookup: Lookup, folder: Identity, name: str, entry: Identity) -> bool:
    """Return whether a name in a folder is the entry that was looked up.

    Usually, two names are two entries (hard links of one file); a volume that ignores case finds one entry by both, and
    lists it once.
    """
    if (lookup.folder, lookup.entry) != (folder, entry):
        return False
    return lookup.name == name or not {lookup.name, name} <= {*os.listdir(lookup.place)}
