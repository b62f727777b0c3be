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
    shapes = Model.of(source).shapes
    dtype = settings.asked_dtype or gguf_dtype(source)

    def values(name: str) -> Sequence[float]:
        weight = source.weights[name]
        found: list[float] = (
            values_of(weight, None, 0, math.prod(weight.shape[:-1])).astype(np.float64).reshape(-1).tolist()
        )
        return found

    return models.config_from_gguf(source.metadata, shapes, values, dtype, str(source.root))


def files(source: Checkpoint) -> tuple[list[OutputFile], list[str]]:
    """generation_config.json and the tokenizer's files, and warnings of what these cannot say."""
    where = str(source.root)
    model = Model.of(source)
    made = [json_file("generation_config.json", models.generation_config_from_gguf(source.metadata, where))]
    notes = _miscounted(model)
    vocabulary = from_metadata(source.metadata, where)
    if vocabulary is None:
        return made, [*notes, f"{where}: holds no tokenizer, so the folder has none."]
    written = write.files(vocabulary, model.known().vocabulary, model.hyperparameters.context_length)
    made += [OutputFile(name, len(data), ((0, data),)) for name, data in written.files.items()]
    return made, [*notes, *written.warnings]


def _miscounted(model: Model) -> list[str]:
    """A warning where the file counts layers for multi-token prediction that are ordinary ones."""
    file = models.stored(model.source.metadata, model.shapes, where=str(model.source.root))
    stated = file.integer("nextn_predict_layers", 0, least=0)
    if file.layers - file.trunk >= stated:
        return []
    return [
        f"{model.source.root}: nextn_predict_layers is {stated}, but layers without nextn.eh_proj are ordinary ones: "
        f"{file.predicting} remain for multi-token prediction."
    ]
