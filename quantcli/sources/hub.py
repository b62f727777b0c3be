"""The Hugging Face Hub as a source: `org/name[@revision][:FILE.gguf]`, its list of files, its download.

Source: the client library huggingface_hub, whose environment variables (HF_HOME, HF_HUB_CACHE, HF_TOKEN, HF_ENDPOINT,
HF_HUB_OFFLINE ...) and cache are used. Only what a conversion needs is downloaded: config.json, the sidecar files that
are copied (`sidecars`), the tensor files that `tensor_files` chooses; never a pickle. `remote` reads headers only.
"""

from __future__ import annotations

import glob
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from quantcli.containers.hostile import LARGEST_COUNT, UNPRINTABLE, shown
from quantcli.containers.json_text import MAX_BYTES, load_object
from quantcli.errors import BadInput, NotPossible, Surroundings, WrongUsage
from quantcli.sources.hub_errors import patiently, reaching, settings
from quantcli.sources.sidecars import SETTINGS, sort_out
from quantcli.sources.tensor_files import INDEX, choose

#: The files that describe how weights are stored.
CONFIGS = ("config.json", *SETTINGS)
LIBRARY = "quantcli"

_NAME = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?"
_ID = re.compile(rf"({_NAME}/{_NAME})(?:@([^:]*))?(?::(.*))?")
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*(?:/[A-Za-z0-9_][A-Za-z0-9._+-]*)*")
_SPLIT = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class HubId:
    """A model on the Hub. repo: `org/name`. revision: a branch, tag, `refs/pr/N` or commit. file: one of its GGUFs."""

    repo: str
    revision: str = "main"
    file: str | None = None

    def __str__(self) -> str:
        return (
            self.repo
            + (f"@{self.revision}" if self.revision != "main" else "")
            + (f":{self.file}" if self.file else "")
        )


@dataclass(frozen=True)
class FileInfo:
    """A file on the Hub: its bytes, and its SHA-256 if the Hub stores it as a large file."""

    size: int
    sha256: str | None


@dataclass(frozen=True)
class Listing:
    """A repository's files at one commit."""

    commit: str
    files: Mapping[str, FileInfo]


def parse_id(text: str, revision: str | None = None) -> HubId | None:
    """Parse `org/name[@revision][:FILE.gguf]`; return None for an existing path, or a text of another form.

    revision: the value of `--revision`. Raises `WrongUsage` if it is malformed, or if `text` has another one.

    >>> parse_id("org/name@v1.0:model-q4_0.gguf")
    HubId(repo='org/name', revision='v1.0', file='model-q4_0.gguf')
    >>> parse_id("./org/name"), parse_id("org/name.gguf"), parse_id("org/name/")
    (None, None, None)
    """
    match = _ID.fullmatch(text)
    if match is None or os.path.exists(text):
        return None
    repo, named, file = match.groups()
    if max(map(len, repo.split("/"))) > 96 or "--" in repo or ".." in repo:
        return None
    if repo.lower().endswith((".git", ".gguf", ".safetensors")):
        return None
    if (named is not None and not _is_revision(named)) or (file is not None and not _is_gguf_path(file)):
        return None
    if revision is not None and not _is_revision(revision):
        raise WrongUsage(
            f"--revision {shown(revision)}: is not the name of a branch, tag or commit. Use one such as main or v1.0."
        )
    if revision is not None and named not in (None, revision):
        raise WrongUsage(f"{text}: names revision {named}, but --revision names {revision}. Use one of them.")
    return HubId(repo, named or revision or "main", file)


def _is_revision(text: str) -> bool:
    return len(text) <= 255 and ".." not in text and _REVISION.fullmatch(text) is not None


def _is_gguf_path(text: str) -> bool:
    return text.endswith(".gguf") and is_plain_path(text)


def is_plain_path(name: str) -> bool:
    """Return whether a name from a list of files is inside its folder and can be printed."""
    return not UNPRINTABLE.search(name) and "\\" not in name and not {"", ".", ".."} & set(name.split("/"))


def list_files(hub_id: HubId) -> Listing:
    """Request the files of a repository with their sizes. Raises `Surroundings`, `BadInput`."""
    constants = settings()
    from huggingface_hub import HfApi

    with reaching(hub_id.repo, hub_id.revision):
        try:
            api = HfApi(library_name=LIBRARY)
            timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
            info = patiently(
                lambda: api.model_info(hub_id.repo, revision=hub_id.revision, files_metadata=True, timeout=timeout)
            )
            files = {s.rfilename: FileInfo(s.size, s.lfs and s.lfs.sha256) for s in info.siblings or ()}  # type: ignore[arg-type]
            return _checked(Listing(info.sha or "", files), hub_id)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            if isinstance(error, OSError):
                raise
            raise Surroundings(
                f"{hub_id}: {constants.ENDPOINT} does not answer like a Hub. Check HF_ENDPOINT and any proxy."
            ) from error


def _checked(listing: Listing, hub_id: HubId) -> Listing:
    """Return the listing. Raises for paths, sizes and hashes that are invalid: the server is not trusted."""
    if not _COMMIT.fullmatch(listing.commit):
        raise ValueError("no commit")
    for name, info in listing.files.items():
        if not isinstance(name, str) or not is_plain_path(name):
            raise BadInput(
                f"{hub_id}: lists the file {shown(name)}, a path outside the repository. Do not use this source."
            )
        if type(info.size) is not int or not 0 <= info.size <= LARGEST_COUNT:
            raise ValueError("no size")
        if info.sha256 is not None and not _SHA256.fullmatch(info.sha256):
            raise ValueError("no SHA-256")
    return listing


def small_files(sizes: Mapping[str, int]) -> list[str]:
    """Return those of a repository's files (name -> bytes) that outputs get, its config.json and its index."""
    others = sort_out(sizes, ())
    return sorted({*others.copied, *others.layout, *({*CONFIGS, INDEX} & sizes.keys())})


def tensors_of(hub_id: HubId, names: Iterable[str], read_index: Callable[[], bytes]) -> list[str]:
    """Choose the tensor files of a repository as in a local folder, or its GGUF file with all parts.

    Raises `NotPossible` if there are only pickles, or several GGUF models and none is named; `BadInput` if files and
    index contradict each other.
    """
    names = sorted(names)
    ggufs = [name for name in names if name.endswith(".gguf")]
    has_safetensors = any(name.endswith(".safetensors") and "/" not in name for name in names)
    if hub_id.file is not None or (ggufs and not has_safetensors):
        return _gguf_set(hub_id, ggufs)
    return list(choose(names, lambda: load_object(read_index(), f"{hub_id}/{INDEX}"), str(hub_id)).files)


def _gguf_set(hub_id: HubId, ggufs: list[str]) -> list[str]:
    """Return the GGUF file to use, or all parts of a split file, in order."""
    sets: dict[str, list[str]] = {}
    for name in ggufs:
        split = _SPLIT.fullmatch(name)
        sets.setdefault(f"{split[1]} of {split[3]}" if split else name, []).append(name)
    for members in sets.values():
        if hub_id.file in members or (hub_id.file is None and len(sets) == 1):
            return members
    if hub_id.file is not None:
        raise NotPossible(f"{hub_id}: there is no file {hub_id.file}. Its GGUF files: {_listed(ggufs)}.")
    first = [members[0] for members in sets.values()]
    raise NotPossible(
        f"{hub_id}: has several GGUF models ({_listed(first)}). Give one of them, such as {hub_id}:{first[0]}."
    )


def _listed(names: list[str], most: int = 30) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more if names else "none"


def download(hub_id: HubId, *, progress: bool = True) -> Path:
    """Download a model; return its snapshot folder in the Hub's cache, or its (first) GGUF file there.

    progress: show bars on stderr if it is a terminal. Raises `Surroundings`, `NotPossible`, `BadInput`.
    """
    if settings().HF_HUB_OFFLINE:
        return cached(hub_id)
    from huggingface_hub import hf_hub_download, snapshot_download

    listing = list_files(hub_id)
    bar: Any = _progress_bar(progress)

    def read_downloaded() -> bytes:
        if listing.files[INDEX].size > MAX_BYTES:
            raise BadInput(f"{hub_id}/{INDEX}: is {listing.files[INDEX].size} bytes; the limit is {MAX_BYTES}.")
        path = hf_hub_download(hub_id.repo, INDEX, revision=listing.commit, library_name=LIBRARY, tqdm_class=bar)
        return Path(path).read_bytes()

    with reaching(hub_id.repo, hub_id.revision):
        tensors = tensors_of(hub_id, listing.files, read_downloaded)
        needed = _needed({name: info.size for name, info in listing.files.items()}, tensors)
        folder = Path(
            snapshot_download(
                hub_id.repo,
                # The name, not the commit, so that the cache can resolve it offline.
                revision=hub_id.revision,
                allow_patterns=[glob.escape(name) for name in needed],
                library_name=LIBRARY,
                tqdm_class=bar,
            )
        )
    if folder.name != listing.commit:
        raise Surroundings(f"{hub_id}: changed during the download. Run the command again.")
    if name := _missing(folder, needed):
        raise Surroundings(f"{hub_id}: the download is incomplete: {name} is missing. Run the command again.")
    return _opened_as(folder, tensors)


def _needed(sizes: Mapping[str, int], tensors: list[str]) -> list[str]:
    return tensors if tensors[0].endswith(".gguf") else sorted({*tensors, *small_files(sizes)})


def _progress_bar(progress: bool) -> Any:
    """Return a class of progress bars that print nothing; on a terminal None, for huggingface_hub's bars."""
    if progress and sys.stderr.isatty():
        return None
    from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]

    return partial(tqdm, disable=True)


def cached(hub_id: HubId) -> Path:
    """Return the same as `download` from the cache alone. Raises `Surroundings` if files are not in the cache."""
    from huggingface_hub import get_cached_repo_tree, snapshot_download
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    with reaching(hub_id.repo, hub_id.revision):
        # No patterns match no files: this only asks for the folder, whose files are checked below.
        folder = Path(
            snapshot_download(hub_id.repo, revision=hub_id.revision, local_files_only=True, allow_patterns=[])
        )
    try:
        sizes = {file.path: file.size for file in get_cached_repo_tree(hub_id.repo, revision=hub_id.revision)}
    except CachedRepoTreeNotFoundError:
        files = [path for path in folder.rglob("*") if path.is_file()]
        sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}

    def check(needed: list[str]) -> None:
        if name := _missing(folder, needed):
            raise Surroundings(
                f"{hub_id}: is incomplete in the cache: {name} is missing. Unset HF_HUB_OFFLINE to download it."
            )

    def read_cached() -> bytes:
        check([INDEX])
        return (folder / INDEX).read_bytes()

    tensors = tensors_of(hub_id, sizes, read_cached)
    check(_needed(sizes, tensors))
    return _opened_as(folder, tensors)


def _missing(folder: Path, needed: list[str]) -> str | None:
    return next((name for name in needed if not (folder / name).is_file()), None)


def _opened_as(folder: Path, tensors: list[str]) -> Path:
    return folder / tensors[0] if tensors[0].endswith(".gguf") else folder


def cached_sha256(path: Path) -> str | None:
    """Return the SHA-256 of a file in the Hub's cache, where large files are named by it; None if it is not known."""
    if not path.is_symlink():
        return None
    blob = path.readlink()
    return blob.name if blob.parent.name == "blobs" and _SHA256.fullmatch(blob.name) else None
