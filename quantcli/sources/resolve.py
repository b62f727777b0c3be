"""From the text of a SOURCE argument to a checkpoint: a local path takes precedence over a Hub id.

`local_source` downloads what a conversion needs. `survey_source` reads headers only, from the Hub by range requests.
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
    """Return the local path of a source; download it if it is a Hub id. Raises `BadInput`, `Surroundings`."""
    path = _local(text, revision)
    if path is not None and is_shard(path.name) and not path.is_dir():
        raise BadInput(f"{path}: is one of several files of a model. Give the folder as the source: {path.parent}.")
    if path is not None:
        return path
    from quantcli.sources import hub

    hub_id = hub.parse_id(text, revision)
    if hub_id is None:
        raise _not_found(text)
    return hub.download(hub_id, progress=not quiet)


def survey_source(text: str, revision: str | None) -> Checkpoint:
    """Open the checkpoint that a source names, headers only. Raises `BadInput`, `NotPossible`, `Surroundings`."""
    path = _local(text, revision)
    if path is not None:
        return open_source(path)
    from quantcli.sources import hub, remote

    hub_id = hub.parse_id(text, revision)
    if hub_id is None:
        raise _not_found(text)
    opened = remote.open_remote(hub_id)
    if isinstance(opened, Path):
        return open_source(opened)
    if opened.gguf_headers:
        first = opened.tensor_files[0]
        return from_header(opened.gguf_headers[first], opened.path(first))
    return open_folder(opened)


def _local(text: str, revision: str | None) -> Path | None:
    # An empty text would mean the current folder.
    if not text or not leads_somewhere(text):
        return None
    if revision is not None:
        raise WrongUsage(f"--revision applies only to a Hub id; {text} is a local path.")
    refuse_unfinished([Path(text)])
    return Path(text)


def _not_found(text: str) -> BadInput:
    return BadInput(f"{shown(text)}: there is no such file or folder, and it is not a Hub id (org/name[@revision]).")
