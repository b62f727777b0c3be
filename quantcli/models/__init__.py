"""Architectures by name, and the questions that other packages ask about them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from quantcli.containers.gguf_values import Value
from quantcli.errors import NotPossible
from quantcli.models import rebuilt
from quantcli.models.base import Architecture, Computed, Found, Tensor
from quantcli.models.families import FAMILIES
from quantcli.models.families.aliases import ALIASES
from quantcli.models.families.untabled import UNTABLED
from quantcli.models.generation import sampling
from quantcli.models.hyperparameters import Hyperparameters, from_config
from quantcli.models.keys import Key
from quantcli.models.mlx_lm import nested_spelled, spelled, stated, unread_by_mlx_lm
from quantcli.models.multimodal import Multimodal
from quantcli.models.ops import Op, PermuteRows
from quantcli.models.pooling import pooling
from quantcli.models.recognition import Recognized, recognize
from quantcli.models.rope import Rope
from quantcli.models.sixteen_bits import BOTH, SixteenBits, model_types
from quantcli.models.stored import Shape, nothing, stored
from quantcli.models.unsaid import Unsaid, unsaid

ARCHITECTURES: dict[str, Architecture] = {family.name: family for family in FAMILIES}

#: Every known `model_type`.
KINDS = tuple(kind for architecture in FAMILIES for kind in architecture.model_types)

#: The hint in errors about unknown architectures.
SEE_FAMILIES = "`quant architectures [--json]` lists the supported families and formats."


def find(config: Mapping[str, Any]) -> Architecture | None:
    """Return the architecture of a `config.json` object (the text model's, if it has towers); None if unknown."""
    return _recognized(config).architecture


def of_model_type(kind: str) -> Architecture | None:
    """Return the first family with a model type, None if there is none; classes distinguish several."""
    return next((family for family in FAMILIES if kind in family.model_types), None)


def unknown_class(config: Mapping[str, Any]) -> str | None:
    """Return the entry of `architectures` that no table of its `model_type` names; None if there is none."""
    return _recognized(config).unlisted


def text_settings(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the settings of a `config.json` object that the tables read: the text model's, if it has known towers."""
    return _recognized(config).settings


def multimodal(config: Mapping[str, Any]) -> Multimodal | None:
    """Return the class of a model with towers from its `config.json` object; None for text models and unknown ones."""
    return _recognized(config).multimodal


def _recognized(config: Mapping[str, Any]) -> Recognized:
    return recognize(config, FAMILIES, ALIASES)


def by_gguf(metadata: Mapping[str, Any]) -> Architecture | None:
    """Return the family of GGUF metadata (key -> value, or `Value`), by `general.architecture`, then by `when`."""
    values = {key: value.value if isinstance(value, Value) else value for key, value in metadata.items()}
    name = values.get("general.architecture")
    own = {key.removeprefix(f"{name}."): value for key, value in values.items()}
    named = sorted((a for a in FAMILIES if a.gguf == name), key=lambda a: a.when is None)
    return next((a for a in named if a.when is None or a.when(own)), None)


def sixteen_bits(config: Mapping[str, Any], metadata: Mapping[str, Any]) -> tuple[str, SixteenBits]:
    """Return the 16-bit dtypes in which a model works, after the model type that decides.

    config: the config.json object. metadata: GGUF's, which takes precedence; may be empty. In a model that contains
    others (`text_config`) the first type with a restriction decides.
    """
    architecture = by_gguf(metadata) if metadata else None
    if architecture is not None:
        return architecture.name, architecture.sixteen_bits
    of = {kind: family.sixteen_bits for family in FAMILIES for kind in family.model_types} | dict(UNTABLED)
    kinds = model_types(config)
    return next(((kind, of[kind]) for kind in kinds if of.get(kind, BOTH).why), (kinds[0] if kinds else "", BOTH))


def mlx_keys(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys that an MLX folder's config.json needs in addition for mlx-lm to read the same settings."""
    recognized = _recognized(config)
    if recognized.multimodal is not None and recognized.architecture is not None:
        around = recognized.multimodal.mlx_around
        return spelled(config, None) | nested_spelled(config, recognized.settings, recognized.architecture, around)
    return stated(config, recognized.architecture) | spelled(config, recognized.architecture)


def config_from_gguf(
    metadata: Mapping[str, Any],
    tensors: Mapping[str, Shape],
    values: Callable[[str], Sequence[float]] = nothing,
    dtype: str | None = None,
    where: str = "GGUF metadata",
) -> dict[str, Any]:
    """Rebuild the `config.json` object of a GGUF file with the keys that published checkpoints use.

    metadata: key -> value, or `Value`. tensors: shapes, rows first. values: reads a tensor's numbers; called only for
    those that hold rotary factors. dtype: our name of the output weights' dtype; None omits `torch_dtype`. Raises
    `BadInput` for contradictory metadata, `NotPossible` for an architecture that is not in the table.
    """
    return rebuild(metadata, tensors, values, dtype, where).config


@dataclass(frozen=True)
class Rebuilt:
    """A rebuilt config.json, and the keys of the GGUF file that it does not have.

    unsaid: the architecture's keys that config.json cannot state. unread_by_mlx_lm: those that it states and mlx-lm
    ignores. idle: keys that change nothing. pooling: how token vectors become one vector, which separate files state.
    """

    config: dict[str, Any]
    unsaid: list[Unsaid]
    unread_by_mlx_lm: list[Unsaid]
    idle: list[str]
    pooling: str | None


def rebuild(
    metadata: Mapping[str, Any],
    tensors: Mapping[str, Shape],
    values: Callable[[str], Sequence[float]] = nothing,
    dtype: str | None = None,
    where: str = "GGUF metadata",
) -> Rebuilt:
    """Rebuild config.json as `config_from_gguf` does, and list the keys that it does not have."""
    file = stored(metadata, tensors, values, where)
    architecture = by_gguf(metadata)
    if architecture is None:
        name = file.every.text("general.architecture", "")
        raise NotPossible(
            f"{where}: architecture {name!r} is not supported, so config.json cannot be written for it. {SEE_FAMILIES}"
        )
    kind = next(iter(architecture.classes)) if architecture.kind is None else architecture.kind(file)
    config = rebuilt.config(file, architecture, kind, dtype)
    pooled = pooling(file)
    left, idle = unsaid(file, architecture, config, architecture.hyperparameters(config, where))
    return Rebuilt(config, left, unread_by_mlx_lm(file, architecture, config), idle, pooled)


def sampling_from_gguf(metadata: Mapping[str, Any], where: str = "GGUF metadata") -> dict[str, Any]:
    """Return the sampling values of GGUF metadata under generation_config.json's keys; {} if there are none."""
    return sampling(stored(metadata, {}, nothing, where))


def from_gguf(
    metadata: Mapping[str, Any], where: str = "GGUF metadata", tensors: Mapping[str, Shape] | None = None
) -> Hyperparameters:
    """Read hyperparameters from GGUF metadata (key -> value, or `Value`), without rotary factors, which are in tensors.

    tensors: shapes, if the file is available. Raises `BadInput`, `NotPossible`.
    """
    shapes = {name: shape for name, shape in (tensors or {}).items() if not name.startswith("rope_f")}
    config = config_from_gguf(metadata, shapes, where=where)
    architecture = by_gguf(metadata)
    assert architecture is not None
    return architecture.hyperparameters(config, where)


__all__ = [
    "ALIASES",
    "ARCHITECTURES",
    "FAMILIES",
    "KINDS",
    "SEE_FAMILIES",
    "Architecture",
    "Computed",
    "Found",
    "Hyperparameters",
    "Key",
    "Multimodal",
    "Op",
    "PermuteRows",
    "Rebuilt",
    "Rope",
    "SixteenBits",
    "Tensor",
    "Unsaid",
    "by_gguf",
    "config_from_gguf",
    "find",
    "from_config",
    "from_gguf",
    "mlx_keys",
    "multimodal",
    "of_model_type",
    "rebuild",
    "sampling_from_gguf",
    "sixteen_bits",
    "spelled",
    "stored",
    "text_settings",
    "unknown_class",
]
