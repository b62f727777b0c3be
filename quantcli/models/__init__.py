"""Architectures by name. A new family is one file and one line here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantcli.models.base import Architecture, Computed, Op, PermuteRows, Tensor
from quantcli.models.hyperparameters import Hyperparameters, Rope, from_config, from_gguf, mlx_rope_keys
from quantcli.models.llama import LLAMA
from quantcli.models.qwen2 import QWEN2
from quantcli.models.qwen3 import QWEN3

ARCHITECTURES: dict[str, Architecture] = {
    "llama": LLAMA,
    "qwen2": QWEN2,
    "qwen3": QWEN3,
}

#: Every `model_type` that is known.
KINDS = tuple(kind for architecture in ARCHITECTURES.values() for kind in architecture.model_types)


def find(config: Mapping[str, Any]) -> Architecture | None:
    """The architecture of a `config.json` object, by its `model_type`; None for a family that is not in the table."""
    kind = config.get("model_type")
    return next((a for a in ARCHITECTURES.values() if kind in a.model_types), None) if isinstance(kind, str) else None


def by_gguf(name: str) -> Architecture | None:
    """The architecture that a GGUF file's `general.architecture` names."""
    return next((a for a in ARCHITECTURES.values() if a.gguf == name), None)


__all__ = [
    "ARCHITECTURES",
    "KINDS",
    "Architecture",
    "Computed",
    "Hyperparameters",
    "Op",
    "PermuteRows",
    "Rope",
    "Tensor",
    "by_gguf",
    "find",
    "from_config",
    "from_gguf",
    "mlx_rope_keys",
]
