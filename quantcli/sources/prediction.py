"""Checkpoints whose layers for multi-token prediction are in a separate module: see `models.prediction`."""

from __future__ import annotations

from dataclasses import replace

from quantcli import models
from quantcli.checkpoint import Checkpoint
from quantcli.models import prediction


def named_as_layers(source: Checkpoint) -> Checkpoint:
    """Return the checkpoint with such layers named like layers after the last; stored tensors keep their names."""
    architecture, layers = models.find(source.config), source.config.get("num_hidden_layers")
    if architecture is None or not architecture.mtp_module or type(layers) is not int:
        return source
    named = {prediction.as_layer(name, layers): weight for name, weight in source.weights.items()}
    weights = {name: replace(weight, name=name) for name, weight in named.items()}
    return replace(source, weights=dict(sorted(weights.items())))
