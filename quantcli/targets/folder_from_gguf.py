"""What stands beside the weights of a folder that is made of a GGUF file: its settings and tokenizer, rebuilt.

config.json, generation_config.json                       from the metadata and the tensors' shapes
tokenizer.json, tokenizer_config.json, chat templates     from the vocabulary
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from quantcli import models
from quantcli.checkpoint import Checkpoint
from quantcli.targets.base import OutputFile, Settings, gguf_dtype
from quantcli.targets.names import Model
from quantcli.targets.shards import json_file
from quantcli.tokenizers import write
from quantcli.tokenizers.stored import from_metadata
from quantcli.virtual import values_of


def config(source: Checkpoint, settings: Settings) -> dict[str, Any]:
    """The object for config.json, in the spelling of published checkpoints. Raises `BadInput`, `NotPossible`."""
    return _rebuilt(source, settings.asked_dtype or gguf_dtype(source)).config


def _rebuilt(source: Checkpoint, dtype: str | None) -> models.Rebuilt:
    shapes = {name: weight.shape for name, weight in source.weights.items()}

    def values(name: str) -> Sequence[float]:
        weight = source.weights[name]
        found: list[float] = (
            values_of(weight, None, 0, math.prod(weight.shape[:-1])).astype(np.float64).reshape(-1).tolist()
        )
        return found

    return models.rebuild(source.metadata, shapes, values, dtype, str(source.root))


def left_out(source: Checkpoint, *, for_mlx: bool) -> list[str]:
    """Warnings that name the settings of the file that config.json, or mlx-lm where it reads it, does without."""
    rebuilt, where = _rebuilt(source, None), source.root
    warnings = []
    if rebuilt.unsaid:
        warnings.append(f"{where}: {_listed(rebuilt.unsaid)} no place in the output's config.json.")
    if for_mlx and rebuilt.unread_by_mlx_lm:
        warnings.append(
            f"{where}: {_listed(rebuilt.unread_by_mlx_lm)} a place in config.json that mlx-lm does not read."
        )
    return warnings


def _listed(keys: Sequence[models.Unsaid]) -> str:
    """The keys with their values, as the subject of a sentence."""
    return f"{', '.join(map(str, keys))}: {len(keys)} {'setting has' if len(keys) == 1 else 'settings have'}"


def files(source: Checkpoint, *, for_mlx: bool) -> tuple[list[OutputFile], list[str]]:
    """generation_config.json and the tokenizer's files, and warnings of what these and config.json cannot say."""
    where = str(source.root)
    model = Model.of(source)
    notes = left_out(source, for_mlx=for_mlx)
    made = [json_file("generation_config.json", models.generation_config_from_gguf(source.metadata, where))]
    vocabulary = from_metadata(source.metadata, where)
    if vocabulary is None:
        return made, [*notes, f"{where}: holds no tokenizer, so the folder has none."]
    written = write.files(vocabulary, model.known().vocabulary, model.hyperparameters.context_length)
    made += [OutputFile(name, len(data), ((0, data),)) for name, data in written.files.items()]
    return made, [*notes, *written.warnings]
