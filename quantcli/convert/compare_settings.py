"""What differs between the settings of two checkpoints.

Two GGUF files are held against each other key by key; everything else through `Hyperparameters`, so that one dialect's
spelling is no difference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from quantcli.checkpoint import Checkpoint
from quantcli.containers.gguf_values import Value
from quantcli.convert.compare_values import FieldDifference, differing
from quantcli.convert.survey import model_of
from quantcli.models import Architecture, Hyperparameters
from quantcli.models.keys import COMMON
from quantcli.targets.names import Model

#: Settings that follow from others, or that say how the file spells them.
DERIVED = ("states_head_dim", "rope", "settings")


def fields(a: Checkpoint, b: Checkpoint) -> tuple[tuple[FieldDifference, ...], list[str]]:
    """The settings that differ, and notes on what was not compared. Raises `BadInput`."""
    if a.names == b.names == "gguf":
        return differing(_keys(a.metadata), _keys(b.metadata)), []
    found = []
    for label, source in (("A", a), ("B", b)):
        model = Model.of(source)
        if model.architecture is None:
            return (), [f"{label}: {model_of(source)!r} has no table of settings: they are not compared."]
        hyperparameters = model.hyperparameters
        found.append(
            (source, hyperparameters, _settings(hyperparameters, source) | _own(model.architecture, hyperparameters))
        )
    (first, ours, left), (second, theirs, right) = found
    if first.names != second.names:
        # These kinds of scaling are tensors in GGUF (rope_freqs.weight ...), which are compared as such.
        in_tensor = not {"llama3", "longrope"}.isdisjoint((ours.rope.type, theirs.rope.type))
        left, right = ({k: v for k, v in side.items() if _shared(k, in_tensor)} for side in (left, right))
    return differing(left, right), []


def _shared(key: str, rope_in_tensor: bool) -> bool:
    """Whether both dialects hold a setting as one. A window is in both where the family's own keys have it."""
    if key in ("dtype", "sliding_window"):
        return False
    return key == "rope.theta" or not (rope_in_tensor and key.startswith("rope."))


def _own(architecture: Architecture, hyperparameters: Hyperparameters) -> dict[str, Any]:
    """What the family says beside the common settings: multipliers, windows, experts ..., by GGUF's keys."""
    common = {row.name for row in COMMON}
    rows = [row for row in (*architecture.keys, *architecture.further) if row.name not in common]
    return {row.name: row.value(hyperparameters) for row in rows}


def _settings(found: Hyperparameters, source: Checkpoint) -> dict[str, Any]:
    """Flat, and without what has no effect."""
    flat = {key: value for key, value in asdict(found).items() if key not in DERIVED}
    flat |= {f"rope.{key}": value for key, value in asdict(found.rope).items()}
    if found.rope.type in ("default", "linear"):
        del flat["rope.original_context"]
    if found.sliding_window is not None and found.sliding_window >= found.context_length:
        flat["sliding_window"] = None
    head = Model.of(source).head
    if head is None:
        flat["tie_embeddings"] = "output.weight" not in source.weights
    elif head.is_untied or head.is_tied_after_all:
        flat["tie_embeddings"] = head.weight is None
    return flat


def _keys(metadata: Mapping[str, Value]) -> dict[str, Any]:
    """GGUF's own keys, but those of the tokenizer."""
    return {key: value.value for key, value in metadata.items() if not key.startswith("tokenizer.")}
