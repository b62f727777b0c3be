"""Which family a config.json object is of, by its classes and model types.

    architectures of the text model's block  ->  the family that lists the class
    else the class, or the model type, of a model with towers (`Multimodal`)  ->  the family that lists it
    else the model type of the text model's block, whose class transformers makes of it alone
    else the model type, or the one that it is another name of (families/aliases.py)

A class that the families of a model type do not list has other tensors, or makes something else of them: it is unknown.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from quantcli.containers.hostile import shown
from quantcli.models.base import Architecture
from quantcli.models.multimodal import Multimodal, text_block, text_settings


@dataclass(frozen=True)
class Recognized:
    """A family, None for an unknown model; unlisted: the class that its model type's families do not list.

    settings: config.json as the tables read it, the text model's alone and under a model type of the family.
    multimodal: what the text model is in.
    """

    architecture: Architecture | None
    settings: Mapping[str, Any]
    unlisted: str | None = None
    multimodal: Multimodal | None = None


def recognize(config: Mapping[str, Any], families: Sequence[Architecture], aliases: Mapping[str, str]) -> Recognized:
    """The family of a config.json object, whose text model is nested, flat, or all there is."""
    block, listed = text_block(config), _multimodal(config, families)
    if listed is not None and not _classes(block or {}):
        return _of_listed(config, block, *listed, aliases)
    if block is None or (_kind(block, aliases) is None and not _classes(block)):
        return _by_type(config, families, aliases)
    assumed = {} if listed is None else {"model_type": listed[1].text}
    found = _by_type({"architectures": None, **assumed, **block}, families, aliases)
    if found.architecture is None:
        return Recognized(None, config, found.unlisted)
    if not _classes(block) and (others := [name for name in _classes(config) if not _generates(name)]):
        return Recognized(None, config, shown(others[0]))
    kind = str(found.settings["model_type"])
    own = found.architecture.classes.get(kind, next(iter(found.architecture.classes.values())))
    around = listed[1] if listed is not None else Multimodal(str(config.get("model_type")), "", kind)
    settings = {**text_settings(config, around), "model_type": kind, "architectures": _classes(block) or [own]}
    return Recognized(found.architecture, settings, None, around)


def _of_listed(
    config: Mapping[str, Any],
    block: Mapping[str, Any] | None,
    family: Architecture,
    multimodal: Multimodal,
    aliases: Mapping[str, str],
) -> Recognized:
    """What a class of models with towers is by its family's table."""
    unlisted = next((name for name in _classes(config) if name not in _listed(family)), None)
    if unlisted is not None:
        return Recognized(None, config, shown(unlisted))
    kind = _kind(config if block is None else block, aliases)
    if kind not in family.model_types and (block is None or kind is None):
        kind = multimodal.text
    if kind not in family.model_types:
        return Recognized(None, config)
    settings = {"architectures": [multimodal.class_name], **text_settings(config, multimodal), "model_type": kind}
    return Recognized(family, settings, None, multimodal)


def _by_type(config: Mapping[str, Any], families: Iterable[Architecture], aliases: Mapping[str, str]) -> Recognized:
    """The family of a text model by itself: of those of its model type the one that lists its classes."""
    kind = _kind(config, aliases)
    of_type = [family for family in families if kind in family.model_types]
    unlisted = [[name for name in _classes(config) if name not in _listed(family)] for family in of_type]
    fitting = next((family for family, names in zip(of_type, unlisted, strict=True) if not names), None)
    if fitting is None:
        return Recognized(None, config, shown(unlisted[0][0]) if unlisted else None)
    settings = config if config.get("model_type") == kind else {**config, "model_type": kind}
    return Recognized(fitting, settings)


def _kind(config: Mapping[str, Any], aliases: Mapping[str, str]) -> str | None:
    """The model type, of another name the one that it stands for."""
    stated = config.get("model_type")
    return aliases.get(stated, stated) if isinstance(stated, str) else None


def _classes(config: Mapping[str, Any]) -> list[Any]:
    """The classes that config.json names."""
    stated = config.get("architectures")
    return [] if stated is None else stated if isinstance(stated, list) else [stated]


def _generates(name: Any) -> bool:
    """Whether a class around a text model computes its logits, as that does by itself."""
    return isinstance(name, str) and name.endswith("ForConditionalGeneration")


def _listed(family: Architecture) -> tuple[str, ...]:
    """Every class that a family's table describes, those with towers included."""
    return (*family.classes.values(), *family.aliases, *(one.class_name for one in family.multimodal))


def _multimodal(config: Mapping[str, Any], families: Iterable[Architecture]) -> tuple[Architecture, Multimodal] | None:
    """The model with towers that config.json describes at its top: by class, else by model type."""
    classes, kind = _classes(config), config.get("model_type")
    known = [(family, one) for family in families for one in family.multimodal]
    by_class = next((pair for pair in known if pair[1].class_name in classes), None)
    return by_class or next((pair for pair in known if pair[1].model_type == kind), None)
