"""Every model family for `quant architectures`: its names, the formats it is converted between, its tests.

All facts come from the families' tables, except those on tests: families/tested.json, which tools/families.py writes.
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

#: What a family's conversions are tested against; test data is not part of the package.
TESTED = Path(models.__file__).parent / "families" / "tested.json"


@dataclass(frozen=True)
class Tested:
    """What the conversions of a family are tested against.

    tokenizers: kinds of vocabularies, and how they split text. cases: tiny models whose metadata and tensors are
    compared with llama.cpp's converter; metadata_cases: those whose metadata is. logits: cases whose logits are
    compared in transformers and mlx-lm, converted there and back. quantized: models of published sizes whose types are
    compared with llama-quantize's for every preset.
    """

    tokenizers: tuple[str, ...] = ()
    cases: tuple[str, ...] = ()
    metadata_cases: tuple[str, ...] = ()
    logits: tuple[str, ...] = ()
    quantized: tuple[str, ...] = ()


@dataclass(frozen=True)
class Family:
    """One model family.

    model_types: values of config.json's `model_type`, without those of an earlier family that only the class
    distinguishes; other_names: aliases of them. towers: types of models with towers whose text model it is. mlx: the
    types of both kinds that mlx-lm loads. formats: it is converted from each to each other. prediction: the formats
    that keep layers for multi-token prediction.
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
        """Every model type that config.json may have at the top level or in its text model's block."""
        return (*self.model_types, *self.other_names, *self.towers)

    @property
    def directions(self) -> tuple[str, ...]:
        """The supported conversions, such as `hf-gguf`."""
        return tuple(f"{one}-{other}" for one, other in permutations(self.formats, 2))


def families() -> list[Family]:
    """Return all families, by name."""
    tested = {name: _tested(record) for name, record in json.loads(TESTED.read_text()).items()}
    listed = [_family(architecture, tested.get(architecture.name, Tested())) for architecture in models.FAMILIES]
    return sorted(listed, key=lambda family: family.name)


def of_name(name: str) -> list[Family]:
    """Return the families of a model type, class, GGUF architecture or family name; empty if there is none."""
    return [one for one in families() if name in (one.name, one.gguf, *one.names, *one.classes)]


def as_json(family: Family) -> dict[str, Any]:
    """Return a family as `quant architectures --json` prints it."""
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
    """Return the model types that mlx-lm loads, with their aliases."""
    excluded = {kind for limit in architecture.limits if limit.dialect == "mlx" for kind in limit.excludes}
    plain = tuple(kind for kind in own if kind not in excluded)
    nested = (one.model_type for one in around if one.mlx is not None)
    return (*plain, *_other_names(plain), *nested)


def _other_names(kinds: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name, kind in models.ALIASES.items() if kind in kinds)


def _classes(architecture: Architecture) -> tuple[str, ...]:
    around = (one.class_name for one in architecture.multimodal)
    return (*dict.fromkeys((*architecture.classes.values(), *architecture.aliases, *around)),)
