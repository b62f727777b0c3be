"""Checkpoints of a model without its head, whose tensors lack the prefix that a whole model's have.

    model.layers.0.mlp.up_proj.weight     Qwen3ForCausalLM
    layers.0.mlp.up_proj.weight           Qwen3Model, as embedding models are saved

Their weights get the names that the architecture's table has; the stored tensors keep theirs, and so does a Hugging
Face folder made of them. Source: transformers (base_model_prefix), llama.cpp (conversion/qwen.py, conversion/llama.py).
"""

from __future__ import annotations

from dataclasses import replace

from quantcli import models
from quantcli.checkpoint import Checkpoint
from quantcli.models import Architecture
from quantcli.models.base import NUMBER


def named_as_whole(source: Checkpoint) -> Checkpoint:
    """The checkpoint with its weights under a whole model's names, where it is one of a model without its head."""
    architecture = models.find(source.config)
    prefix = "" if architecture is None else _prefix(architecture)
    if architecture is None or not prefix or any(name.startswith(prefix) for name in source.weights):
        return source
    short = [name for name in source.weights if not _knows(architecture, name) and _knows(architecture, prefix + name)]
    # One norm by itself is called alike in many models.
    if not any(NUMBER.search(name) or architecture.role(prefix + name) == "token_embd" for name in short):
        return source
    tops = {name.partition(".")[0] for name in short}
    names = {name: prefix + name if name.partition(".")[0] in tops else name for name in source.weights}
    weights = {new: replace(source.weights[old], name=new) for old, new in names.items()}
    return replace(source, weights=dict(sorted(weights.items())), prefix=prefix)


def _prefix(architecture: Architecture) -> str:
    """What the names of the table's tensors begin with, the head's aside, by that of the embedding; empty for none."""
    name = next((row.hf for row in architecture.tensors if row.role == "token_embd"), "")
    first, dot, _ = name.partition(".")
    return first + dot if dot else ""


def _knows(architecture: Architecture, name: str) -> bool:
    return any(architecture.find(name, dialect) for dialect in ("hf", "mlx"))
