"""What a power cut may leave: every change of the disk is recorded, and folders are built that hold part of them.

A model of a file system follows the recorded calls and knows what was synced. In it files and folders have numbers, and
a folder holds names of numbers. After a power cut,

    data of a file     that was written since its last fsync is lost, is zeros, is there, or some of each
    a name             that was made, changed or removed since the last fsync of its folder is so, or as before
    a rename           has happened or not; where one of its two folders is synced, its other side has happened or not:
                       a file may have both names, or none
    a swap             has happened or not, until both folders are synced

each independently of all others. Real file systems promise more.
"""

from __future__ import annotations

import copy
import itertools
import os
import random
import threading
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from quantcli.convert.running import renames
from tests.faults.disk import Call
from tests.runs import Died

#: The number of the folder in which everything happens.
ROOT = 0
#: Path -> the first path of the same file, and its bytes; of a folder itself, and None.
State = dict[str, tuple[str, bytes | None]]


@dataclass(frozen=True)
class Entry:
    """A name in a folder is given to a number, or (None) taken from the number `was`."""

    folder: int
    name: str
    number: int | None
    was: int | None = None


@dataclass(frozen=True)
class Named:
    """Names that change in one call."""

    entries: tuple[Entry, ...]
    is_swap: bool = False


@dataclass(frozen=True)
class Written:
    """Bytes of a file at an offset; None: it is cut or extended to that length."""

    number: int
    offset: int
    data: bytes | None

    def put(self, content: bytearray, loss: str) -> None:
        """Do this to the content of the file, but for what is lost of it."""
        if loss == "lost":
            return
        end = self.offset + len(self.data or b"")
        if self.data is None:
            del content[end:]
        content.extend(bytes(max(0, end - len(content))))
        if self.data is not None:
            content[self.offset : end] = bytes(len(self.data)) if loss == "zeros" else self.data


@dataclass(frozen=True)
class Synced:
    """A file or a folder that was brought to disk."""

    number: int


Change = Named | Written | Synced


@dataclass
class Disk:
    """Contents by number of a file, names by number of a folder."""

    files: dict[int, bytearray] = field(default_factory=dict)
    folders: dict[int, dict[str, int]] = field(default_factory=lambda: {ROOT: {}})

    def enter(self, entry: Entry) -> None:
        names = self.folders[entry.folder]
        if entry.number is not None:
            names[entry.name] = entry.number
        elif names.get(entry.name) == entry.was:
            del names[entry.name]

    def numbers(self) -> dict[str, int]:
        """Path -> number of everything that can be reached."""
        reached: dict[str, int] = {}
        left = [("", ROOT)]
        while left:
            above, number = left.pop()
            for name, inside in self.folders[number].items():
                reached[f"{above}{name}"] = inside
                if inside in self.folders:
                    left.append((f"{above}{name}/", inside))
        return reached

    def state(self) -> State:
        first: dict[int, str] = {}
        return {
            path: (first.setdefault(number, path), bytes(self.files[number]) if number in self.files else None)
            for path, number in sorted(self.numbers().items())
        }


def state_of(folder: Path) -> State:
    """The state of a folder on the real disk."""
    first: dict[int, str] = {}
    paths = {str(path.relative_to(folder)): path for path in folder.rglob("*")}
    return {
        name: (first.setdefault(path.lstat().st_ino, name), None if path.is_dir() else path.read_bytes())
        for name, path in sorted(paths.items())
    }


def lay_out(state: State, folder: Path) -> None:
    """Build a state in a new folder on the real disk."""
    folder.mkdir()
    for name, (first, content) in state.items():
        if content is None:
            (folder / name).mkdir()
        elif first != name:
            os.link(folder / first, folder / name)
        else:
            (folder / name).write_bytes(content)


def _disk_of(state: State) -> Disk:
    disk, numbers = Disk(), {"": ROOT}
    for number, (path, (first, content)) in enumerate(state.items(), 1):
        numbers[path] = numbers.get(first, number)
        if content is None:
            disk.folders[number] = {}
        else:
            disk.files[numbers[path]] = bytearray(content)
        above, _, name = path.rpartition("/")
        disk.enter(Entry(numbers[above], name, numbers[path]))
    return disk


class Recorder:
    """A handler for `intercepted` that records what changes in a folder, and dies after so many changes where `left`
    says so.

    The model is compared with the real folder after every change: no change has escaped it.
    """

    def __init__(self, folder: Path, left: int | None = None) -> None:
        self.folder, self.left = folder, left
        self.changes: list[Change] = []
        self.start = _disk_of(state_of(folder))
        self._now = copy.deepcopy(self.start)
        self._open: dict[int, int] = {}
        self._lock = threading.RLock()

    @property
    def folders(self) -> Set[int]:
        """The numbers of folders, of those too that are gone."""
        return self._now.folders.keys()

    def __call__(self, call: Call) -> Any:
        if not (call.is_change or call.kind in ("open", "close")):
            return call.carry_out()
        with self._lock:
            count = len(self.changes)
            if call.is_change and self.left is not None and count >= self.left:
                raise Died
            result = call.carry_out()
            for change in self._noted(call, result):
                self.changes.append(change)
                self._follow(change)
            if len(self.changes) > count:
                assert self._now.state() == state_of(self.folder), call
            return result

    def _noted(self, call: Call, result: Any) -> Iterator[Change]:
        """What a call that has been carried out has changed."""
        if call.name == "close":
            self._open.pop(call.arguments[0], None)
        elif call.kind in ("write", "fsync"):
            number = self._open.get(call.arguments[0])
            if number is not None:
                yield self._of_descriptor(call, number, result)
        elif self._is_inside(call.path):
            yield from self._opened(call, result) if call.name == "open" else self._renamed(call)

    def _is_inside(self, path: str) -> bool:
        return path == str(self.folder) or path.startswith(f"{self.folder}/")

    def _of_descriptor(self, call: Call, number: int, result: Any) -> Change:
        descriptor, *rest = call.arguments
        if call.name == "fsync":
            return Synced(number)
        if call.name == "ftruncate":
            return Written(number, rest[0], None)
        offset = rest[1] if call.name == "pwrite" else os.lseek(descriptor, 0, os.SEEK_CUR) - result
        return Written(number, offset, bytes(memoryview(rest[0]).cast("B")[:result]))

    def _opened(self, call: Call, descriptor: int) -> Iterator[Change]:
        folder, name, number = self._found(call.path)
        if number is None:
            number = self._new()
            self._now.files[number] = bytearray()
            yield Named((Entry(folder, name, number),))
        elif call.flags & os.O_TRUNC:
            yield Written(number, 0, None)
        self._open[descriptor] = number

    def _renamed(self, call: Call) -> Iterator[Change]:
        folder, name, number = self._found(call.path)
        if call.name == "mkdir":
            number = self._new()
            self._now.folders[number] = {}
            yield Named((Entry(folder, name, number),))
        elif call.kind in ("unlink", "rmdir"):
            yield Named((Entry(folder, name, None, number),))
        else:
            into, new_name, taken = self._found(call.other)
            if call.name == "link":
                yield Named((Entry(into, new_name, number),))
            elif call.name == "flagged_rename" and call.flags == renames.RENAME_EXCHANGE:
                yield Named((Entry(folder, name, taken), Entry(into, new_name, number)), is_swap=True)
            elif number != taken:  # a rename of a file to its second name does nothing
                yield Named((Entry(into, new_name, number), Entry(folder, name, None, number)))

    def _new(self) -> int:
        return 1 + max({*self._now.files, *self._now.folders})

    def _found(self, path: str) -> tuple[int, str, int | None]:
        """The folder that holds a path, the name in it, and what has this name."""
        parts = Path(path).relative_to(self.folder).parts
        if not parts:
            return ROOT, "", ROOT
        folder = ROOT
        for part in parts[:-1]:
            folder = self._now.folders[folder][part]
        return folder, parts[-1], self._now.folders[folder].get(parts[-1])

    def _follow(self, change: Change) -> None:
        if isinstance(change, Named):
            for entry in change.entries:
                self._now.enter(entry)
        elif isinstance(change, Written):
            change.put(self._now.files[change.number], "kept")


class Cut:
    """What has reached the disk, and what a power cut may undo, as changes are followed one by one."""

    def __init__(self, recorder: Recorder) -> None:
        self._start = recorder.start
        self._folders = recorder.folders
        self._synced = {number: bytes(content) for number, content in self._start.files.items()}
        self._written: dict[int, list[Written]] = {}
        self._named: list[tuple[Named, set[int]]] = []

    def follow(self, change: Change) -> None:
        if isinstance(change, Named):
            self._named.append((change, set()))
        elif isinstance(change, Written):
            self._written.setdefault(change.number, []).append(change)
        else:
            self._synced[change.number] = self._content(change.number, ["kept"])
            self._written.pop(change.number, None)
            for _, folders in self._named:
                folders.add(change.number)

    def _content(self, number: int, losses: Sequence[str]) -> bytes:
        content = bytearray(self._synced.get(number, b""))
        for written, loss in zip(self._written.get(number, []), itertools.cycle(losses), strict=False):
            written.put(content, loss)
        return bytes(content)

    def _sides(self, named: Named, synced: set[int]) -> tuple[list[Entry], list[Entry]]:
        """The entries of a change that are certain, and those that may be undone, together."""
        certain = [entry for entry in named.entries if entry.folder in synced]
        others = [entry for entry in named.entries if entry.folder not in synced]
        if others and named.is_swap:
            return [], list(named.entries)
        if any(entry.number in self._folders for entry in certain):  # a folder never has two names
            return list(named.entries), []
        return certain, others

    def open_questions(self) -> list[int]:
        """Which changes of names may be undone, wholly or on one side."""
        return [i for i, change in enumerate(self._named) if self._sides(*change)[1]]

    def state(self, happened: Set[int], losses: Callable[[], Sequence[str]]) -> State:
        """What is there after a cut. happened: those of the open questions that are not undone; losses: gives for each
        file what becomes of its writes, in turn.
        """
        names = copy.deepcopy(self._start.folders)
        disk = Disk(folders={number: names.get(number, {}) for number in self._folders})
        for i, change in enumerate(self._named):
            certain, others = self._sides(*change)
            for entry in [*certain, *(others if i in happened else ())]:
                disk.enter(entry)
        for number in {*self._synced, *self._written, *disk.numbers().values()} - self._folders:
            disk.files[number] = bytearray(self._content(number, losses()))
        return disk.state()


def states(recorder: Recorder, most: int, draw: random.Random, begin: int = 0) -> Iterator[tuple[int, State]]:
    """What cuts may leave, each state once: after each change from `begin` on at most so many, with its number."""
    cut, seen = Cut(recorder), set[int]()
    for number, change in enumerate(recorder.changes, 1):
        cut.follow(change)
        for happened, losses in _choices(cut.open_questions(), most, draw) if number > begin else ():
            state = cut.state(happened, losses)
            key = hash(tuple(state.items()))
            if key not in seen or number == len(recorder.changes):
                seen.add(key)
                yield number, state


def _choices(
    questions: Sequence[int], most: int, draw: random.Random
) -> Iterator[tuple[Set[int], Callable[[], Sequence[str]]]]:
    """All names or none, with data lost, zeros or there; each name alone and each missing; some of everything."""

    def mixed() -> Sequence[str]:
        return draw.choice([["lost"], ["zeros"], ["kept"], draw.choices(["lost", "zeros", "kept"], k=7)])

    every = frozenset(questions)
    for happened in (frozenset[int](), every):
        for loss in ("lost", "zeros", "kept"):
            yield happened, partial(list, [loss])
    further = [*({one} for one in questions), *(every - {one} for one in questions)]
    further += [{one for one in questions if draw.random() < 0.5} for _ in range(most)]
    singles = further[: 2 * len(questions)]
    for happened in draw.sample(singles, min(len(singles), most // 2)) + further[len(singles) : most]:
        yield happened, mixed
