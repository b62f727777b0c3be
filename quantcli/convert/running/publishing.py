"""Publishing: how a complete output gets its name, loses it again, and how a crash in between is recovered.

Nothing is overwritten or deleted here: when `publish` returns, an old output is complete in `OUTPUT.partial/replaced`;
the caller deletes it once the new output is on disk under its name.

    a folder, none before          output -> OUTPUT
    a folder for a folder          output <-> OUTPUT in one step; then output -> replaced
    a file for a file              OUTPUT gets a second name in replaced; output/x <-> OUTPUT in one step
    more files than one            old ones -> replaced, part 1 first; output/x -> x, part 1 last: as long as there is
                                   no part 1, no loader takes what is there for a model

An old report moves to `replaced` before its file, a new one gets its name after its file: a report is never next to a
file that it does not describe. If the file system cannot swap two names, or has no hard links, the old output moves to
`replaced` first: for a moment nothing has the name OUTPUT. After a crash, the next run puts it back.

Between two changes that depend on each other the folders are flushed, the one that gains a name before the one that
loses it: a power cut then undoes the later change or both, and nothing is lost from both folders.

Which of two outputs is the new one can be seen without the journal, which may be damaged: of folders by the report,
which has a second name in the work folder; of files by the old one's second name.
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
    """Write the report to the work folder; for a folder, also into the folder."""
    held = places.grown / places.report.name
    if places.is_folder and is_there(held):
        os.unlink(held)
    written(places, places.staged, report)
    if places.is_folder and not link(places.staged, held):
        written(places, held, report)
    sync(places.grown)


def written(places: Places, path: Path, data: bytes) -> None:
    """Write a file in the work folder, replacing an old one; flush it and its name to disk."""
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
    """Give a staged output its name. Raises `FileExistsError` if something else has taken it.

    old: the files or the folder that it replaces. check_old: called with each of them after it has lost its name;
    raises if it may no longer be deleted, and then it gets its name back.
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
    """Flush names to disk after something moved into the work folder, its own first, so that nothing is in neither."""
    for folder in reversed(_folders(places)):
        sync(folder)


def _flush_out(places: Places) -> None:
    """Flush names to disk after something moved out of the work folder, its own last."""
    for folder in _folders(places):
        sync(folder)


def _folders(places: Places) -> list[Path]:
    """Return the folders whose names change, the outermost first."""
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
    """Create the folder for old files, and flush its name to disk before anything is moved into it."""
    places.replaced.mkdir(exist_ok=True)
    sync(places.partial)


def _exchanged_file(places: Places, grown: Path, final: Path, kept: Path) -> bool:
    """Swap a new file with an old one, whose second name is `kept`, in one step; return whether that was possible."""
    if not link(final, kept):
        return False
    _flush_in(places)
    if not exchange(grown, final):
        os.unlink(kept)
        return False
    if not is_one(grown, kept):
        exchange(grown, final)
        os.unlink(kept)
        raise FileExistsError(f"{final} was replaced during the run")
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
    """Move old files to `replaced`, in this order."""
    for path in old:
        if is_there(path):
            os.rename(path, places.replaced / path.name)
            _flush_in(places)


def take_back(places: Places) -> None:
    """Undo a complete or partial `publish`: the new output is unfinished again, the old one has its name again."""
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
    """Move new files that have their names back to the work folder; then give old ones theirs, part 1 last."""
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
    """Give an old output its name back. Raises `Surroundings` if something else has it."""
    if is_one(old, place):
        os.unlink(old)
        return
    try:
        rename_new(old, place)
    except FileExistsError as error:
        raise Surroundings(f"{old}: is the old output, but {place} exists again. Move one of them.") from error


def is_publishing(places: Places) -> bool:
    """Return whether `publish` was started and its leftovers still exist."""
    return any(map(is_there, (places.staged, places.replaced)))


def recovered(places: Places, is_complete: bool) -> bool:
    """Recover from a process that died while publishing; return whether the new output has its name.

    places: those of that process. is_complete: its journal says that everything was on disk.
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
    """Recover files: they are published if all have their names; otherwise take them back."""
    waiting = [name for name in places.parts if _is_waiting(places, name)]
    if not waiting and all(is_there(places.final(name)) for name in places.parts):
        return True
    _take_back_files(places)
    return False


def _is_waiting(places: Places, name: str) -> bool:
    """Return whether a new file does not have its name yet."""
    grown, final, kept = places.grown / name, places.final(name), places.replaced / name
    return is_there(grown) and not is_one(grown, final) and not is_one(grown, kept)


def _put_report(places: Places) -> None:
    """Give the report of a published file its name."""
    if is_one(places.staged, places.report):
        os.unlink(places.staged)
        return
    try:
        rename_new(places.staged, places.report)
    except FileExistsError as error:
        raise Surroundings(
            f"{places.report}: already exists. Move it: the report in {REPORT} gets this name."
        ) from error
