"""Settings of a GGUF file that config.json has no key for: those written to other files, and those lost."""

from __future__ import annotations

from collections.abc import Sequence

from quantcli.checkpoint import Checkpoint
from quantcli.models import Unsaid
from quantcli.targets import folder_from_gguf, sentence_transformers
from quantcli.targets.base import OutputFile

#: How many keys one warning lists.
MOST_LISTED = 20


def beside_config(source: Checkpoint, *, for_mlx: bool) -> tuple[list[OutputFile], list[str]]:
    """Return files for settings that config.json has no key for, and warnings about settings that are lost.

    for_mlx: also warn about keys of config.json that mlx-lm does not read.
    """
    rebuilt, where = folder_from_gguf.rebuilt(source), source.root
    files = sentence_transformers.files(rebuilt.pooling, rebuilt.config["hidden_size"]) if rebuilt.pooling else []
    warnings = []
    if rebuilt.unsaid:
        warnings.append(
            f"{where}: the output loses settings that config.json has no key for: {_listed(rebuilt.unsaid)}."
        )
    if for_mlx and rebuilt.unread_by_mlx_lm:
        unread = _listed(rebuilt.unread_by_mlx_lm)
        warnings.append(f"{where}: mlx-lm ignores these settings of the output's config.json: {unread}.")
    return files, warnings


def _listed(keys: Sequence[Unsaid]) -> str:
    """Return the keys with their values, of many the first and how many more there are."""
    more = f" and {len(keys) - MOST_LISTED} more" if len(keys) > MOST_LISTED else ""
    return f"{', '.join(map(str, keys[:MOST_LISTED]))}{more}"
