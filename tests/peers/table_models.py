"""Models of stated settings, with the tensors that their family's table says: names and shapes, no values.

What is up to a checkpoint is not there, the head of a model aside that is not tied.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from quantcli import models
from quantcli.models import Architecture, Hyperparameters
from quantcli.models.agreement import shape_of
from quantcli.models.base import Found, Tensor

Shapes = dict[str, tuple[int, ...]]


def tensors(config: Mapping[str, Any], dialect: str) -> Shapes:
    """Every tensor of the model that a config.json describes, under a dialect's names."""
    architecture, settings = models.find(config), models.text_settings(config)
    assert architecture is not None, config
    h = architecture.hyperparameters(settings)
    head = () if settings.get("tie_word_embeddings") else ("output",)
    return {one.name(dialect): shape_of(one, dialect, h) for one in needed(architecture, h, dialect, head)}


def needed(architecture: Architecture, h: Hyperparameters, dialect: str, further: tuple[str, ...]) -> Iterator[Found]:
    """What the rows of a table stand for. further: roles that are there though no setting says so."""
    predicting = (
        h.settings.integer("num_nextn_predict_layers", 0, least=0) if dialect in (architecture.mtp or ()) else 0
    )
    for row in (row for row in architecture.tensors if not row.read_only):
        for suffix in row.suffixes:
            need = row.need(suffix)
            for layer in range(h.layers + predicting) if "{i}" in row.hf else (0,):
                if row.role in further if need is None else need.holds(h, layer):
                    yield from each(row, suffix, layer, h, dialect)


def each(row: Tensor, suffix: str, layer: int, h: Hyperparameters, dialect: str) -> Iterator[Found]:
    """One for each expert, where the dialect names experts."""
    is_by_expert = "{e}" in row.pattern(dialect)
    for expert in range(row.axes(suffix)[0].of(h)) if is_by_expert else (None,):
        yield Found(row, suffix, layer, expert)
