"""Recognition of a config.json object's family, by its classes and model types.

    architectures in the text model's block  ->  the family that lists the class
    else the class, or the model type, of a model with towers (`Multimodal`)  ->  the family that lists it
    else the model type in the text model's block, from which alone transformers creates the text model
    else the model type, or the one that it is an alias of (families/aliases.py)

A class that the families of a model type do not list has other tensors or computes something else: it is unknown.
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
    """The result of recognition.

    architecture: the family, None for an unknown model. settings: those of the text model, with a model type of the
    family. unlisted: the class that the families of the model type do not list. multimodal: the model around the text
    model.
    """

    architecture: Architecture | None
    settings: Mapping[str, Any]
    unlisted: str | None = None
    multimodal: Multimodal | None = None


def recognize(config: Mapping[str, Any], families: Sequence[Architecture], aliases: Mapping[str, str]) -> Recognized:
    """Return the family of a config.json object: a text model, or a model with towers in nested or flat form."""
    block, listed = text_block(config), _multimodal(config, families)
    if listed is not None and not _classes(block or {}):
        return _of_listed(config, block, *listed, aliases)
    if block is None or (_kind(block, aliases) is None and not _classes(block)):
        return _by_type(config, families, aliases)
    assumed = {} if listed is None else {"model_type": listed[1].text}
    recognized = _by_type({"architectures": None, **assumed, **block}, families, aliases)
    if recognized.architecture is None:
        return Recognized(None, config, recognized.unlisted)
    if not _classes(block) and (others := [name for name in _classes(config) if not _generates(name)]):
        return Recognized(None, config, shown(others[0]))
    kind = str(recognized.settings["model_type"])
    own = recognized.architecture.classes.get(kind, next(iter(recognized.architecture.classes.values())))
    around = listed[1] if listed is not None else Multimodal(str(config.get("model_type")), "", kind)
    settings = {**text_settings(config, around), "model_type": kind, "architectures": _classes(block) or [own]}
    return Recognized(recognized.architecture, settings, None, around)


def _of_listed(
    config: Mapping[str, Any],
    block: Mapping[str, Any] | None,
    family: Architecture,
    multimodal: Multimodal,
    aliases: Mapping[str, str],
) -> Recognized:
    """Recognize a model with towers whose class or model type a family lists."""
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
    """Recognize a text model: its family is the one of its model type that lists its classes."""
    kind = _kind(config, aliases)
    of_type = [family for family in families if kind in family.model_types]
    unlisted = [[name for name in _classes(config) if name not in _listed(family)] for family in of_type]
    fitting = next((family for family, names in zip(of_type, unlisted, strict=True) if not names), None)
    if fitting is None:
        return Recognized(None, config, shown(unlisted[0][0]) if unlisted else None)
    settings = config if config.get("model_type") == kind else {**config, "model_type": kind}
    return Recognized(fitting, settings)


def _kind(config: Mapping[str, Any], aliases: Mapping[str, str]) -> str | None:
    """Return the model type; the one that an alias stands for."""
    stated = config.get("model_type")
    return aliases.get(stated, stated) if isinstance(stated, str) else None


def _classes(config: Mapping[str, Any]) -> list[Any]:
    """Return the classes that config.json names."""
    stated = config.get("architectures")
    return [] if stated is None else stated if isinstance(stated, list) else [stated]


def _generates(name: Any) -> bool:
    """Return whether a class around a text model computes the text model's logits."""
    return isinstance(name, str) and name.endswith("ForConditionalGeneration")


def _listed(family: Architecture) -> tuple[str, ...]:
    """Return every class that a family's table describes, those with towers included."""
    return (*family.classes.values(), *family.aliases, *(one.class_name for one in family.multimodal))


def _multimodal(config: Mapping[str, Any], families: Iterable[Architecture]) -> tuple[Architecture, Multimodal] | None:
    """Return the model with towers that config.json's top level describes, by class, else by model type."""
    classes, kind = _classes(config), config.get("model_type")
    known = [(family, one) for family in families for one in family.multimodal]
    by_class = next((pair for pair in known if pair[1].class_name in classes), None)
    return by_class or next((pair for pair in known if pair[1].model_type == kind), None)
