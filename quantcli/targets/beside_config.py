"""What of a GGUF's settings stands beside config.json in a folder made of it, and what stands nowhere."""

from __future__ import annotations

from collections.abc import Sequence

from quantcli.checkpoint import Checkpoint
from quantcli.models import Unsaid
from quantcli.targets import folder_from_gguf, sentence_transformers
from quantcli.targets.base import OutputFile

#: So many keys are listed in one warning.
MOST_LISTED = 20


def beside_config(source: Checkpoint, *, for_mlx: bool) -> tuple[list[OutputFile], list[str]]:
    """Files for settings that config.json has no key for, and warnings of those that it, or mlx-lm, does without."""
    rebuilt, where = folder_from_gguf.rebuilt(source), source.root
    files = sentence_transformers.files(rebuilt.pooling, rebuilt.config["hidden_size"]) if rebuilt.pooling else []
    warnings = []
    if rebuilt.unsaid:
        warnings.append(f"{where}: {_listed(rebuilt.unsaid)} no place in the output's config.json.")
    if for_mlx and rebuilt.unread_by_mlx_lm:
        unread = _listed(rebuilt.unread_by_mlx_lm)
        warnings.append(f"{where}: {unread} a place in config.json that mlx-lm does not read.")
    return files, warnings


def _listed(keys: Sequence[Unsaid]) -> str:
    """The keys with their values, as the subject of a sentence."""
    more = f" and {len(keys) - MOST_LISTED} more" if len(keys) > MOST_LISTED else ""
    count = "1 setting has" if len(keys) == 1 else f"{len(keys)} settings have"
    return f"{', '.join(map(str, keys[:MOST_LISTED]))}{more}: {count}"
