"""How a complete output gets its name, how it loses it again, and what a process that died meanwhile has left.

Nothing is overwritten, and nothing is deleted here: an old output stands, complete, in `OUTPUT.partial/replaced` when
`publish` returns; whoever calls it deletes that once the new output is on disk under its name.

    a folder, nothing before       output -> OUTPUT
    a folder for a folder          output <-> OUTPUT in one step; then output -> replaced
    a file for a file              OUTPUT gets a second name in replaced; output/x <-> OUTPUT in one step
    more files than one            old ones -> replaced, part 1 first; output/x -> x, part 1 last: as long as there is
                                   no part 1, no loader takes what is there for a model

An old report goes to `replaced` before its file, a new one gets its name after its file: none ever stands next to a
file that it does not describe. Where a file system cannot swap two names, or has no hard links, the old output goes to
`replaced` first: for a moment nothing has the name OUTPUT. What runs next puts it back.

Between two changes that build on each other the folders are flushed, the one that something goes to before the one that
it leaves: a power cut then undoes the later change or both, and nothing is gone from both folders.

Which of two outputs is the new one, is seen without the journal, which may be damaged: of folders by the report, which
has a second name in the work folder; of files by the old one's second name.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from quantcli.containers.entries import is_there
from quantcli.convert.running.guarded import open_file
from quantcli.convert.running.places import REPORT, Places, is_empty_folder, is_one, sync
from quantcli.convert.running.renames import exchange, link, rename_new
from quantcli.errors import Surroundings


def stage(places: Places, report: bytes) -> None:
    """Write the report to disk, where it waits for its name; of a folder, in there too."""
    held = places.grown / places.report.name
    if places.is_folder and is_there(held):
        os.unlink(held)
    written(places, places.staged, report)
    if places.is_folder and not link(places.staged, held):
        written(places, held, report)
    sync(places.grown)


def written(places: Places, path: Path, data: bytes) -> None:
    """Write a file in the work folder anew, and bring it and its name to disk."""
    if is_there(path):
        os.unlink(path)
    name = str(path.relative_to(places.partial))
    descriptor = open_file(places.partial, name, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    with open(descriptor, "wb") as handle:
        handle.write(data)
        handle.flush()
        os.fsync(handle.fileno())
    sync(path.parent)


def publish(places: Places, old: Sequence[Path], check_old: Callable[[Path], None]) -> None:
    """Give a staged output its name. Raises `FileExistsError` where something has it meanwhile.

    old: the files or the folder that it replaces. check_old: is called with each of them once it has lost its name, and
    raises where it has become something that may not go; then it has got its name back.
    """
    try:
        if places.is_folder:
            _publish_folder(places, old)
        elif len(places.parts) == 1 and list(old) in ([], [places.output]):
            _publish_file(places, old)
        else:
            _publish_files(places, old)
        for path in old:
            check_old(places.replaced if places.is_folder else places.replaced / path.name)
    except (FileExistsError, Surroundings):
        take_back(places)
        raise
    _flush_out(places)


def _flush_in(places: Places) -> None:
    """Bring names to disk after something went into the work folder, those in there first: an old output is never gone
    from one place and not yet in the other.
    """
    for folder in reversed(_folders(places)):
        sync(folder)


def _flush_out(places: Places) -> None:
    """Bring names to disk after something came out of the work folder, those in there last."""
    for folder in _folders(places):
        sync(folder)


def _folders(places: Places) -> list[Path]:
    """The folders whose names change, from the outermost inwards."""
    within = [places.replaced] if places.is_folder else [places.grown, places.replaced]
    return [places.output.parent, places.partial, *filter(Path.is_dir, within)]


def _publish_folder(places: Places, old: Sequence[Path]) -> None:
    held = places.grown / places.report.name
    if not old:
        if is_empty_folder(places.output):
            os.rmdir(places.output)
        rename_new(places.grown, places.output)
    elif is_one(held, places.staged) and exchange(places.grown, places.output):
        _flush_out(places)
        os.rename(places.grown, places.replaced)
    else:
        os.rename(places.output, places.replaced)
        _flush_in(places)
        rename_new(places.grown, places.output)


def _publish_file(places: Places, old: Sequence[Path]) -> None:
    grown, final = places.grown / places.parts[0], places.output
    _make_replaced(places)
    _put_away(places, [places.report])
    kept = places.replaced / final.name
    if old and not _exchanged_file(places, grown, final, kept):
        _put_away(places, [final])
        old = []
    if not old:
        rename_new(grown, final)
    _flush_out(places)
    rename_new(places.staged, places.report)


def _make_replaced(places: Places) -> None:
    """The folder for old files, on disk before anything is moved into it."""
    places.replaced.mkdir(exist_ok=True)
    sync(places.partial)


def _exchanged_file(places: Places, grown: Path, final: Path, kept: Path) -> bool:
    """Whether a new file has got the name of an old one, whose second name is `kept`, in one step."""
    if not link(final, kept):
        return False
    _flush_in(places)
    if not exchange(grown, final):
        os.unlink(kept)
        return False
    if not is_one(grown, kept):
        exchange(grown, final)
        os.unlink(kept)
        raise FileExistsError(f"{final} was replaced meanwhile")
    _flush_out(places)
    os.unlink(grown)
    return True


def _publish_files(places: Places, old: Sequence[Path]) -> None:
    first, *others = places.parts
    _make_replaced(places)
    _put_away(places, [places.report, *sorted(old)])
    for name in reversed(others):
        rename_new(places.grown / name, places.final(name))
    _flush_out(places)
    rename_new(places.grown / first, places.final(first))
    _flush_out(places)
    rename_new(places.staged, places.report)


def _put_away(places: Places, old: Iterable[Path]) -> None:
    """Old files to `replaced`, in this order."""
    for path in old:
        if is_there(path):
            os.rename(path, places.replaced / path.name)
            _flush_in(places)


def take_back(places: Places) -> None:
    """Undo `publish`, whole or begun: the new output grows again, the old one has its name again."""
    if places.is_folder:
        _take_back_folder(places)
    else:
        if is_one(places.report, places.staged):
            os.unlink(places.report)
        elif not is_there(places.staged):
            os.rename(places.report, places.staged)
        _take_back_files(places)
    _flush_out(places)


def _take_back_folder(places: Places) -> None:
    is_known = is_one(places.output / places.report.name, places.staged)
    if is_known and is_there(places.grown):  # the two were swapped: this is the old one
        os.rename(places.grown, places.replaced)
        _flush_in(places)
    if is_there(places.grown):
        if is_there(places.replaced):
            _put_back(places.replaced, places.output)
        return
    if is_known and is_there(places.replaced) and exchange(places.replaced, places.output):
        _flush_out(places)
        os.rename(places.replaced, places.grown)
        return
    os.rename(places.output, places.grown)
    _flush_in(places)
    if is_there(places.replaced):
        _put_back(places.replaced, places.output)


def _take_back_files(places: Places) -> None:
    """Every new file that has its name already back to where it grew; then old ones back to theirs, part 1 last."""
    for name in places.parts:
        grown, final = places.grown / name, places.final(name)
        if is_one(grown, places.replaced / name):  # the two were swapped: this is the old one
            os.unlink(grown)
        if is_one(grown, final):
            os.unlink(final)
        elif is_there(final) and not is_there(grown):
            os.rename(final, grown)
    _flush_in(places)
    for kept in sorted(_names(places.replaced), reverse=True):
        _put_back(kept, places.final(kept.name))


def _names(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _put_back(old: Path, place: Path) -> None:
    """An old output back to its name. Raises `Surroundings` where something has that."""
    if is_one(old, place):
        os.unlink(old)
        return
    try:
        rename_new(old, place)
    except FileExistsError as error:
        raise Surroundings(
            f"{old}: is the output that was to be replaced, but {place} is there again; move one away."
        ) from error


def is_publishing(places: Places) -> bool:
    """Whether `publish` has begun, and what it left has not been tidied away."""
    return any(map(is_there, (places.staged, places.replaced)))


def recovered(places: Places, is_complete: bool) -> bool:
    """Put right what a process has left that died while it published; whether the new output has its name.

    places: those of that process. is_complete: its journal says that all was on disk.
    """
    if not (is_complete or is_publishing(places)):
        return False
    is_published = _recovered_folder(places) if places.is_folder else _recovered_files(places)
    _flush_out(places)
    if is_published and not places.is_folder and is_there(places.staged):
        _put_report(places)
        _flush_out(places)
    return is_published


def _recovered_folder(places: Places) -> bool:
    name = places.report.name
    if is_one(places.output / name, places.staged):
        return True
    if is_one(places.replaced / name, places.staged):  # on its way back
        os.rename(places.replaced, places.grown)
        return False
    is_named = not is_there(places.grown)
    if is_there(places.replaced) and not (is_named and is_there(places.output)):
        _put_back(places.replaced, places.output)
        return False
    return is_named


def _recovered_files(places: Places) -> bool:
    """Of files: published where none grows any more, but such as have their names already."""
    waiting = [name for name in places.parts if _is_waiting(places, name)]
    if not waiting and all(is_there(places.final(name)) for name in places.parts):
        return True
    _take_back_files(places)
    return False


def _is_waiting(places: Places, name: str) -> bool:
    """Whether a new file has not got its name yet."""
    grown, final, kept = places.grown / name, places.final(name), places.replaced / name
    return is_there(grown) and not is_one(grown, final) and not is_one(grown, kept)


def _put_report(places: Places) -> None:
    """The report of a published file to its name."""
    if is_one(places.staged, places.report):
        os.unlink(places.staged)
        return
    try:
        rename_new(places.staged, places.report)
    except FileExistsError as error:
        raise Surroundings(f"{places.report}: exists, and the report in {REPORT} has to go there; move it.") from error
