"""A config.json under all names that its settings have had, so that spelling is not a difference.

Writers leave defaults out or write them down; transformers 5 writes `dtype` for `torch_dtype` and nests the rope
settings; an MLX folder has both forms. A missing key gets the value that the file has under another name, else its
class's default. A key that is there keeps its value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from quantcli.arrays import TORCH_DTYPES
from quantcli.convert.comparing.values import ABSENT
from quantcli.models import Architecture, spelled
from quantcli.models.hyperparameters import SIZES, settled

DTYPES = ("torch_dtype", "dtype")
SCALING, NESTED = "rope_scaling", "rope_parameters"
#: Names of the rotary base, of the rotated share of a head, and of the base of layers with a window.
THETAS = ("rope_theta", "rotary_emb_base")
PARTIAL = ("partial_rotary_factor", "rotary_pct", "rope_pct")
LOCAL = "rope_local_base_freq"

#: Settings for which null means the same as a missing key.
NULLABLE = (*DTYPES, SCALING, NESTED, *THETAS, *PARTIAL, LOCAL)


@dataclass(frozen=True)
class Spelled:
    """A config.json. written: the keys in the file; every: these and those that follow from them."""

    written: Mapping[str, Any]
    every: Mapping[str, Any]

    @staticmethod
    def of(config: Mapping[str, Any], architecture: Architecture | None, where: str) -> Spelled:
        """Return a config.json with all spellings. Raises `BadInput` if a default cannot be computed."""
        every = dict(config) | spelled(config, architecture)
        if architecture is not None:
            for group in {**SIZES, **architecture.names}.values():
                _fill(every, group)
            every = dict(settled(every, architecture.model_types.get(str(config.get("model_type")), {}), where).values)
        _fill(every, DTYPES)
        for key in DTYPES:
            if isinstance(value := every.get(key), str):
                every[key] = TORCH_DTYPES.get(value, value)
        every[SCALING] = _scaling(every.get(SCALING))
        return Spelled(config, every)

    def value(self, key: str, other: Spelled) -> Any:
        """Return the value of a key that this file or the other has; `ABSENT` if there is none."""
        if key == NESTED and self.every.get(NESTED) is None:
            return self._nested(other.every.get(NESTED))
        if key == NESTED:
            return _with_kinds(self._filled(self.every[NESTED]))
        value = self.every.get(key, ABSENT)
        return ABSENT if value is None and key in NULLABLE else value

    def _filled(self, settings: Any) -> Any:
        """Return `rope_parameters` completed from top-level keys; those by kind of layer stay as they are."""
        if not isinstance(settings, Mapping) or any(isinstance(one, Mapping) for one in settings.values()):
            return settings
        top_level = {names[0]: _first(self.every, names) for names in (THETAS, PARTIAL)}
        return dict(settings) | {k: v for k, v in top_level.items() if v is not None and settings.get(k) is None}

    def _nested(self, like: Any) -> Any:
        """Return `rope_parameters` made from the older keys, by kind of layer if the other's are."""
        scaling = self.every.get(SCALING)
        scaling = dict(scaling) if isinstance(scaling, Mapping) else {}
        first = (_first(self.every, names) for names in (THETAS, PARTIAL))
        made = {"rope_theta": next(first), "partial_rotary_factor": next(first)}
        plain = {key: value for key, value in (scaling | made).items() if value is not None}
        if isinstance(like, Mapping) and "full_attention" in like:
            local = {"rope_theta": self.every.get(LOCAL)}
            return _with_kinds({"full_attention": plain, "sliding_attention": local})
        return _with_kinds(plain)


def _fill(config: dict[str, Any], names: tuple[str, ...]) -> None:
    """Give all names of one setting the value of the first that the file has."""
    value = _first(config, names)
    if value is not None:
        config |= {name: value for name in names if config.get(name) is None}


def _first(config: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((config[name] for name in names if config.get(name) is not None), None)


def _scaling(value: Any) -> Any:
    """Return `rope_scaling` with its kind under both names; None for no scaling."""
    if not isinstance(value, Mapping):
        return value
    kind = value.get("rope_type", value.get("type"))
    if kind in (None, "default") and value.keys() <= {"rope_type", "type"}:
        return None
    return dict(value) | {name: kind for name in ("rope_type", "type") if name not in value}


def _with_kinds(value: Any) -> Any:
    """Return `rope_parameters` with an explicit kind, for each kind of layer."""
    if not isinstance(value, Mapping):
        return value
    if any(isinstance(one, Mapping) for one in value.values()):
        return {key: _with_kinds(one) for key, one in value.items()}
    kind = value.get("rope_type", value.get("type", "default"))
    return {"rope_type": kind} | {key: one for key, one in value.items() if key != "type" or one != kind}
