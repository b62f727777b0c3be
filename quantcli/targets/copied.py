"""Sidecar files that an output folder gets, byte for byte, and those that it does not get.

A file that cannot be copied as what it is, is never left out without a word:

    a link within the folder, or into the Hub's cache     followed
    a link to somewhere else                              left out, with a warning: nobody published what it leads to
    a link to nothing, a pipe, a git-lfs pointer          an error that names it
    a web page in place of settings or a vocabulary       an error that names it
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from quantcli.checkpoint import Checkpoint, Passed
from quantcli.containers.entries import real_path
from quantcli.containers.hostile import LFS, foreign, opened
from quantcli.errors import BadInput
from quantcli.sources.folder import LocalFolder
from quantcli.sources.sidecars import FOLDERS, has_vocabulary
from quantcli.targets.base import OutputFile
from quantcli.tokenizers.files import is_tokenizers

#: Why a file of settings is not copied.
OTHER_LAYOUT = "it describes how the source's weights are stored, and the output stores them differently"
#: What no web page is called.
NO_PAGES = (".json", ".model", ".tiktoken")
ELSEWHERE = "it is a link that leads out of the folder"


def copied(source: Checkpoint, *, settings: bool = False, dense: bool = False) -> tuple[list[OutputFile], list[Passed]]:
    """Return the files to copy to an output folder, and those not copied. Raises `BadInput`, `Surroundings`.

    settings: with the files that say how weights are stored. dense: no weight of the output is quantized, so that the
    file that says how to quantize a dense source counts on.
    """
    root = source.root if source.root.is_dir() else source.root.parent
    odd = LocalFolder(root).odd(FOLDERS)
    if odd:
        what = "a link to a file that does not exist" if (root / odd[0]).is_symlink() else "not a regular file"
        raise BadInput(f"{root / odd[0]}: is {what}, so it cannot be copied. Remove it, or replace it with the file.")
    own = [path for path in source.sidecars if source.tokenizer is None or not _is_tokenizers(path, root)]
    kept = [*own, *(source.settings if settings else ())]
    if dense and not settings and source.kind == "hf" and source.beside is not None:
        kept.append(source.beside)
    others = [path for path in source.settings if path not in kept]
    passed = [*source.passed, *(Passed(str(path.relative_to(root)), OTHER_LAYOUT) for path in others)]
    files = []
    for path in sorted(kept):
        name = path.relative_to(root).as_posix()
        if _leads_elsewhere(path, root):
            passed.append(Passed(name, ELSEWHERE, warns=True))
        else:
            files.append(OutputFile(name, _size(path), copy_of=path))
    return [*files, *of_tokenizer(source)], passed


def of_tokenizer(source: Checkpoint) -> list[OutputFile]:
    """Return the files of the tokenizer given by `--tokenizer`. Raises `BadInput`, `Surroundings`."""
    folder, files = source.tokenizer, source.tokenizer_files
    return [OutputFile(p.relative_to(folder).as_posix(), _size(p), copy_of=p) for p in files] if folder else []


def _is_tokenizers(path: Path, root: Path) -> bool:
    return is_tokenizers(path.relative_to(root).as_posix())


def _size(path: Path) -> int:
    """Return the size of a file, in bytes. Raises `BadInput` for a git-lfs pointer or a web page in its place."""
    with opened(path) as (read, size):
        head = read(0, min(size, 64))
        if head.startswith(LFS):
            raise BadInput(f"{path}: is a git-lfs pointer, not the file itself. Fetch it with `git lfs pull`.")
        if path.suffix in NO_PAGES and (what := foreign(head)):
            raise BadInput(f"{path}: is {what}.")
    return size


def _leads_elsewhere(path: Path, root: Path) -> bool:
    """Whether a path leads, through links, out of its folder and of the Hub's cache."""
    real = real_path(path)
    if real.parent.name == "blobs" and real.parent.parent.name.startswith("models--"):
        return False
    return not any(real.is_relative_to(place) for place in (real_path(root), *_caches(root)))


def _caches(root: Path) -> Iterable[Path]:
    """The folders in which huggingface_hub keeps what a snapshot's links lead to."""
    real = real_path(root)
    if real.parent.name == "snapshots":
        yield real.parent.parent / "blobs"
    home = os.environ.get("HF_HOME") or "~/.cache/huggingface"
    yield Path(os.environ.get("HF_HUB_CACHE") or f"{home}/hub").expanduser().resolve()


def warnings(passed: Sequence[Passed], files: Iterable[OutputFile], root: Path) -> list[str]:
    """Return a warning per reason why files that may matter are not copied, and one for a missing tokenizer."""
    kinds: dict[str, list[str]] = {}
    for file in passed:
        if file.warns:
            kinds.setdefault(file.reason, []).append(file.name)
    found = [
        f"{root}: {names[0]} is not copied: {reason}."
        if len(names) == 1
        else f"{root}: {len(names)} files are not copied (first: {names[0]}): {reason}."
        for reason, names in kinds.items()
    ]
    if not has_vocabulary(file.name for file in files):
        found.append(f"{root}: contains no tokenizer files, so the output has none.")
    return found
