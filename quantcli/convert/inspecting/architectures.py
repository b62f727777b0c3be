"""Every family of models, as `quant architectures` tells it: its names, what it is converted between, how it is tested.

All facts come from the families' tables, but for the tests': families/tested.json, which tools/families.py writes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

from quantcli import models
from quantcli.models import Architecture, Multimodal

#: What a family's conversions are compared with; test data is not part of the package.
TESTED = Path(models.__file__).parent / "families" / "tested.json"


@dataclass(frozen=True)
class Tested:
    """What the tests of a family hold its conversions to.

    tokenizers: kinds of vocabularies, and how they split text. cases: tiny models of which llama.cpp's converter made
    all metadata and the SHA-256 of every tensor; metadata_cases: those of which it made the metadata. logits: cases
    whose logits are compared in transformers and mlx-lm, there and back. quantized: models of published sizes whose
    types are compared with llama-quantize's for every preset.
    """

    tokenizers: tuple[str, ...] = ()
    cases: tuple[str, ...] = ()
    metadata_cases: tuple[str, ...] = ()
    logits: tuple[str, ...] = ()
    quantized: tuple[str, ...] = ()


@dataclass(frozen=True)
class Family:
    """One family.

    model_types: those that are told by config.json's `model_type`, without those of a family before it, which the class
    tells apart; other_names: types that stand for one of them. towers: types of models whose text model it is. mlx:
    the types of both kinds that mlx-lm loads. formats: what it is converted between, each two of them both ways.
    prediction: the formats that keep layers for multi-token prediction.
    """

    name: str
    model_types: tuple[str, ...]
    other_names: tuple[str, ...]
    towers: tuple[str, ...]
    classes: tuple[str, ...]
    gguf: str
    mlx: tuple[str, ...]
    formats: tuple[str, ...]
    prediction: tuple[str, ...]
    tested: Tested

    @property
    def names(self) -> tuple[str, ...]:
        """Every model type that config.json may have at its top or in its text model's block."""
        return (*self.model_types, *self.other_names, *self.towers)

    @property
    def directions(self) -> tuple[str, ...]:
        """From which format to which: `hf-gguf`."""
        return tuple(f"{one}-{other}" for one, other in permutations(self.formats, 2))


def families() -> list[Family]:
    """All families, by name."""
    tested = {name: _tested(record) for name, record in json.loads(TESTED.read_text()).items()}
    found = [_family(architecture, tested.get(architecture.name, Tested())) for architecture in models.FAMILIES]
    return sorted(found, key=lambda family: family.name)


def of_name(name: str) -> list[Family]:
    """The families that a model type, a class, a name in GGUF or our own name is of; empty where there is none."""
    return [one for one in families() if name in (one.name, one.gguf, *one.names, *one.classes)]


def as_json(family: Family) -> dict[str, Any]:
    """The family's entry in `quant architectures --json`."""
    return asdict(family) | {"directions": family.directions}


def _tested(record: Mapping[str, list[str]]) -> Tested:
    return Tested(**{key: tuple(values) for key, values in record.items()})


def _family(architecture: Architecture, tested: Tested) -> Family:
    own = tuple(kind for kind in architecture.model_types if models.of_model_type(kind) is architecture)
    towers = tuple(one.model_type for one in architecture.multimodal)
    loaded = _in_mlx(architecture, own, architecture.multimodal)
    return Family(
        name=architecture.name,
        model_types=own,
        other_names=_other_names(own),
        towers=towers,
        classes=_classes(architecture),
        gguf=architecture.gguf,
        mlx=loaded,
        formats=("hf", "gguf", "mlx") if loaded else ("hf", "gguf"),
        prediction=architecture.mtp or (),
        tested=tested,
    )


def _in_mlx(architecture: Architecture, own: tuple[str, ...], around: tuple[Multimodal, ...]) -> tuple[str, ...]:
    """The model types that mlx-lm loads; it has the other names, too."""
    excluded = {kind for limit in architecture.limits if limit.dialect == "mlx" for kind in limit.excludes}
    plain = tuple(kind for kind in own if kind not in excluded)
    nested = (one.model_type for one in around if one.mlx is not None)
    return (*plain, *_other_names(plain), *nested)


def _other_names(kinds: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name, kind in models.ALIASES.items() if kind in kinds)


def _classes(architecture: Architecture) -> tuple[str, ...]:
    around = (one.class_name for one in architecture.multimodal)
    return (*dict.fromkeys((*architecture.classes.values(), *architecture.aliases, *around)),)
