"""From what the user typed to a checkpoint: a local path always wins, else a Hub id.

`local_source` downloads what a conversion needs; `survey_source` opens headers only, of the Hub by range requests.
"""

from __future__ import annotations

from pathlib import Path

from quantcli.checkpoint import Checkpoint
from quantcli.containers.entries import leads_somewhere
from quantcli.containers.hostile import shown
from quantcli.errors import BadInput, WrongUsage
from quantcli.sources.detect import open_folder, open_source
from quantcli.sources.gguf import from_header
from quantcli.sources.tensor_files import is_shard
from quantcli.sources.unfinished import refuse_unfinished


def local_source(text: str, revision: str | None, *, quiet: bool = False) -> Path:
    """The local path of a source, downloaded where it is a Hub id. Raises `BadInput`, `Surroundings`."""
    path = _local(text, revision)
    if path is not None and is_shard(path.name) and not path.is_dir():
        raise BadInput(f"{path}: one of several files of a model. Name the folder: {path.parent}.")
    if path is not None:
        return path
    from quantcli.sources import hub

    found = hub.parse_id(text, revision)
    if found is None:
        raise _nothing(text)
    return hub.download(found, progress=not quiet)


def survey_source(text: str, revision: str | None) -> Checkpoint:
    """The checkpoint that a source names, headers only. Raises `BadInput`, `NotPossible`, `Surroundings`."""
    path = _local(text, revision)
    if path is not None:
        return open_source(path)
    from quantcli.sources import hub, remote

    found = hub.parse_id(text, revision)
    if found is None:
        raise _nothing(text)
    opened = remote.open_remote(found)
    if isinstance(opened, Path):
        return open_source(opened)
    if opened.gguf_headers:
        first = opened.tensor_files[0]
        return from_header(opened.gguf_headers[first], opened.path(first))
    return open_folder(opened)


def _local(text: str, revision: str | None) -> Path | None:
    # An empty text would be the current folder.
    if not text or not leads_somewhere(text):
        return None
    if revision is not None:
        raise WrongUsage(f"--revision {revision}: {text} is a local path, which has no revisions.")
    refuse_unfinished([Path(text)])
    return Path(text)


def _nothing(text: str) -> BadInput:
    return BadInput(f"{shown(text)}: there is no such file or folder, and it is no Hub id (org/name[@revision]).")
