"""Settings and tokenizer of a folder made from a GGUF file, rebuilt from its metadata.

config.json, generation_config.json                       from the metadata and the tensors' shapes
tokenizer.json, tokenizer_config.json, chat templates     from the vocabulary
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from quantcli import models
from quantcli.checkpoint import Checkpoint, Vocabulary
from quantcli.targets.base import OutputFile
from quantcli.targets.copied import of_tokenizer
from quantcli.targets.model import Model
from quantcli.targets.shards import json_file
from quantcli.tokenizers import gguf_keys, write
from quantcli.tokenizers.stored import from_metadata, special_ids
from quantcli.virtual import values_of

#: What a rebuilt config.json says in any case, null where neither a file nor its family does.
TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def config(source: Checkpoint, dtype: str) -> dict[str, Any]:
    """Return the object of config.json, as published checkpoints spell it. Raises `BadInput`, `NotPossible`."""
    return rebuilt(source, dtype).config


def rebuilt(source: Checkpoint, dtype: str | None = None) -> models.Rebuilt:
    """Return the same, with the file's settings that it lacks."""
    shapes = Model.of(source).shapes

    def values(name: str) -> Sequence[float]:
        weight = source.weights[name]
        found: list[float] = (
            values_of(weight, None, 0, math.prod(weight.shape[:-1])).astype(np.float64).reshape(-1).tolist()
        )
        return found

    made = models.rebuild(source.metadata, shapes, values, dtype, str(source.root))
    ids = token_ids(source, from_metadata(source.metadata, str(source.root)))
    return replace(made, config=dict(sorted((dict.fromkeys(TOKEN_IDS) | ids | made.config).items())))


def token_ids(source: Checkpoint, vocabulary: Vocabulary | None) -> dict[str, int | list[int]]:
    """Return the ids of special tokens, under the keys of config.json and generation_config.json."""
    if vocabulary is not None:
        return write.token_ids(vocabulary)
    named, _ = special_ids(source.metadata, str(source.root))
    found: dict[str, int | list[int]] = {
        f"{key}_token_id": named[role] for key, role in (("bos", "bos"), ("pad", "padding")) if role in named
    }
    listed = list(dict.fromkeys(named[role] for role in ("eos", "eot", "eom") if role in named))
    if listed:
        found["eos_token_id"] = listed if len(listed) > 1 else listed[0]
    return found


def files(source: Checkpoint) -> tuple[list[OutputFile], list[str]]:
    """Return generation_config.json and the tokenizer's files, and warnings about what they cannot hold."""
    where = str(source.root)
    model = Model.of(source)
    vocabulary = from_metadata(source.metadata, where)
    generation: dict[str, Any] = models.sampling_from_gguf(source.metadata, where) | token_ids(source, vocabulary)
    if vocabulary is not None and vocabulary.suppressed:
        generation["suppress_tokens"] = list(vocabulary.suppressed)
    made = [json_file("generation_config.json", dict(sorted(generation.items())))]
    lost = gguf_keys.dropped(source.metadata, where)
    if source.tokenizer is not None:
        return [*made, *of_tokenizer(source)], lost
    if vocabulary is None:
        return made, [f"{where}: contains no tokenizer, so the output has none.", *lost]
    written = write.files(vocabulary, model.known().vocabulary, model.hyperparameters.context_length)
    made += [OutputFile(name, len(data), ((0, data),)) for name, data in written.files.items()]
    return made, [*vocabulary.warnings, *written.warnings, *lost]
