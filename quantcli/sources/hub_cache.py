"""The files of a repository that are missing from a snapshot in the Hub's cache, because they were not downloaded.

models--org--name/snapshots/COMMIT/     links to the files that were downloaded
models--org--name/trees/COMMIT.json     the names and sizes of all files, which huggingface_hub stores
"""

from __future__ import annotations

from pathlib import Path

from quantcli.containers.entries import real_path


def not_downloaded(root: Path) -> dict[str, int]:
    """Return name -> bytes of the files of a snapshot's commit that are missing; empty for any other folder."""
    real = real_path(root)
    storage = real.parent.parent
    if real.parent.name != "snapshots" or not storage.name.startswith("models--"):
        return {}
    from huggingface_hub import get_cached_repo_tree
    from huggingface_hub.errors import CachedRepoTreeNotFoundError, HFValidationError

    repo = storage.name.removeprefix("models--").replace("--", "/", 1)
    try:
        tree = get_cached_repo_tree(repo, revision=real.name, cache_dir=storage.parent)
    except (CachedRepoTreeNotFoundError, HFValidationError):
        return {}  # the snapshot was made by an older version of the library, or by hand
    return {file.path: file.size for file in tree if not (root / file.path).exists()}


def cached_file(path: Path) -> tuple[str, str] | None:
    """Return the commit and the hash of a file in the Hub's cache, from its path; None for any other file."""
    if not path.is_symlink() or path.readlink().parent.name != "blobs":
        return None
    folders = path.absolute().parts
    places = [i for i, name in enumerate(folders[:-2]) if name == "snapshots"]
    return (folders[places[-1] + 1] if places else ""), path.readlink().name
