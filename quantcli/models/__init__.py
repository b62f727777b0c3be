"""Architectures by name, and what is asked of the table of them."""

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

#: Every `model_type` that is known.
KINDS = tuple(kind for architecture in FAMILIES for kind in architecture.model_types)

#: The end of an error that refuses an unknown architecture.
SEE_FAMILIES = "`quant architectures [--json]` lists the supported families and formats."


def find(config: Mapping[str, Any]) -> Architecture | None:
    """The architecture of a `config.json` object, of a model with towers that of its text model; None if unknown."""
    return _recognized(config).architecture


def of_model_type(kind: str) -> Architecture | None:
    """The first family that has a model type: of several, classes tell the others apart. None where none has it."""
    return next((family for family in FAMILIES if kind in family.model_types), None)


def unknown_class(config: Mapping[str, Any]) -> str | None:
    """The entry of `architectures` that no table of its `model_type` names; None where there is none."""
    return _recognized(config).unlisted


def text_settings(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """A `config.json` object as the tables read it: of a known model with towers the settings of its text model."""
    return _recognized(config).settings


def multimodal(config: Mapping[str, Any]) -> Multimodal | None:
    """The class of models with towers that a `config.json` object is of; None for text models, and unknown ones."""
    return _recognized(config).multimodal


def _recognized(config: Mapping[str, Any]) -> Recognized:
    return recognize(config, FAMILIES, ALIASES)


def by_gguf(metadata: Mapping[str, Any]) -> Architecture | None:
    """The architecture of GGUF metadata (key -> value, or `Value`): by `general.architecture`, then by `when`."""
    values = {key: value.value if isinstance(value, Value) else value for key, value in metadata.items()}
    name = values.get("general.architecture")
    own = {key.removeprefix(f"{name}."): value for key, value in values.items()}
    named = sorted((a for a in FAMILIES if a.gguf == name), key=lambda a: a.when is None)
    return next((a for a in named if a.when is None or a.when(own)), None)


def sixteen_bits(config: Mapping[str, Any], metadata: Mapping[str, Any]) -> tuple[str, SixteenBits]:
    """The model type that decides, and the 16-bit dtypes in which the model of config.json or GGUF metadata works.

    It is the first type in which one does not work, of a model that is made of others (`text_config`).
    """
    architecture = by_gguf(metadata) if metadata else None
    if architecture is not None:
        return architecture.name, architecture.sixteen_bits
    of = {kind: family.sixteen_bits for family in FAMILIES for kind in family.model_types} | dict(UNTABLED)
    kinds = model_types(config)
    return next(((kind, of[kind]) for kind in kinds if of.get(kind, BOTH).why), (kinds[0] if kinds else "", BOTH))


def mlx_keys(config: Mapping[str, Any]) -> dict[str, Any]:
    """What an MLX folder's config.json needs beside its source's keys for mlx-lm to read the same settings."""
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
    """The `config.json` object of a GGUF file, as published checkpoints spell it.

    metadata: key -> value, or `Value`. tensors: shapes, rows first. values: reads a tensor's numbers, asked for those
    that hold rotary factors only. dtype: our name of what the weights become; None leaves `torch_dtype` out. Raises
    `BadInput` for metadata that contradict themselves, `NotPossible` for an architecture that is not in the table.
    """
    return rebuild(metadata, tensors, values, dtype, where).config


@dataclass(frozen=True)
class Rebuilt:
    """A config.json, and what of the file has no part in it.

    unsaid: the architecture's keys that it does not say. unread_by_mlx_lm: those that it says and mlx-lm does not read.
    idle: keys that change nothing. pooling: how tokens become one vector, which is said in files of its own.
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
    """`config_from_gguf`, and what of the file has no part in it."""
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
    """The sampling values of GGUF metadata as generation_config.json spells them; empty where there are none."""
    return sampling(stored(metadata, {}, nothing, where))


def from_gguf(
    metadata: Mapping[str, Any], where: str = "GGUF metadata", tensors: Mapping[str, Shape] | None = None
) -> Hyperparameters:
    """Hyperparameters of GGUF metadata (key -> value, or `Value`), but for rotary factors, which stand in tensors.

    tensors: shapes, where the file is at hand. Raises `BadInput`, `NotPossible`.
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
