"""Models with towers for images or sound: the settings and names of the text model in them.

    text_config nested                             flat, in older releases
    {"model_type": "mistral3",                     {"model_type": "qwen2_5_vl",
     "text_config": {"model_type": "mistral",       "hidden_size": 3584, ...
                     "hidden_size": 5120, ...},
     "vision_config": {...}}                        "vision_config": {...}}

The text model's settings are those in its block, then those around it that do not concern a tower. Sources: llama.cpp
(conversion/base.py: `load_hparams`, `get_model_architecture`), transformers' configuration classes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from quantcli.models.sixteen_bits import NESTED

#: Settings of a tower or of its connection to the text model, and blocks of all parts except the text model.
OF_TOWERS = re.compile(
    r"image|video|vision|visual|audio|speech|modality|projector|merge|downsample|select_layer|select_feature"
    r"|^(?:mm|boi|eoi|boa|eoa|tokens_per_second|scale_factor|image_seq_length|feature_layer)(?:_|$)|_config$"
)
#: Blocks that describe how weights are stored, not a part of the model.
STORED_AS = ("quantization_config", "compression_config")
#: The prefix of a table's names of tensors in the text model.
TABLES = "model."
#: Settings of the class around the text model, which has the output matrix.
OUTER = ("tie_word_embeddings",)


#: The prefix of a tower's names in mlx-vlm's folders, for every class of models. mlx-lm drops these tensors.
MLX_TOWER = "vision_tower."


@dataclass(frozen=True)
class Spelling:
    """The prefixes of names in the releases of a class: the text model's layers and the tower.

    transformers' class reads no others; mlx-vlm's reads a tower under this prefix and its own.
    """

    layers: str
    tower: str


@dataclass(frozen=True)
class Multimodal:
    """A class of models with towers whose text model belongs to a family.

    model_type, class_name: at the top level of config.json. text: the text model's type, if config.json has none for
    it. mlx: mlx-lm's prefix of the text model's names; None: mlx-lm has no such model. lifted: block and key of
    settings of a tower that the text model needs too. spelling: the prefixes in releases, if mlx-vlm's differ. assumes:
    defaults of this class for its text model that differ from the text model's class.
    mlx_around: keys of the text model that mlx-lm reads outside its block. mlx_vlm: prefixes in mlx-vlm's folders -> in
    releases.
    """

    model_type: str
    class_name: str
    text: str
    mlx: str | None = None
    lifted: tuple[tuple[str, str], ...] = ()
    spelling: Spelling | None = None
    assumes: Mapping[str, Any] = field(default_factory=dict)
    mlx_around: tuple[str, ...] = ()
    mlx_vlm: Mapping[str, str] = field(default_factory=dict)

    def tower_in_mlx(self, name: str) -> str:
        """Return the name of a tower's tensor in an MLX folder. mlx-lm drops such tensors only without `model.`.

        >>> names = Spelling("model.language.", "model.visual.")
        >>> vision = Multimodal("vl", "VL", "llama", "language_model.", spelling=names)
        >>> vision.tower_in_mlx("model.visual.norm.weight"), vision.tower_in_mlx("model.projector.weight")
        ('vision_tower.norm.weight', 'projector.weight')
        """
        bare = name.removeprefix(TABLES)
        start = bare if self.spelling is None else self.spelling.tower.removeprefix(TABLES)
        return MLX_TOWER + bare.removeprefix(start) if start != bare and bare.startswith(start) else bare

    def in_hf(self, name: str, *, is_from_mlx: bool = True) -> str:
        """Return the name that releases have for a stored tensor; an MLX folder may have another.

        is_from_mlx: whether one of MLX's tools named it.

        >>> names = Spelling("model.language.", "model.visual.")
        >>> vision = Multimodal("vl", "VL", "llama", "language_model.", spelling=names)
        >>> [vision.in_hf(f"{part}.weight") for part in ("language_model.model.norm", "language_model.lm_head")]
        ['model.language.norm.weight', 'lm_head.weight']
        >>> vision.in_hf("vision_tower.norm.weight"), vision.in_hf("model.visual.norm.weight")
        ('model.visual.norm.weight', 'model.visual.norm.weight')
        """
        starts = dict(self.mlx_vlm) if is_from_mlx else {}
        if self.spelling is not None and self.mlx is not None:
            starts |= {self.mlx + TABLES: self.spelling.layers, MLX_TOWER: self.spelling.tower, self.mlx: ""}
        prefix = next((start for start in starts if name.startswith(start)), None)
        return name if prefix is None else starts[prefix] + name.removeprefix(prefix)


def text_block(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the block of config.json that describes the text model; None in a flat config.json."""
    return next((block for key in NESTED if isinstance(block := config.get(key), Mapping)), None)


def text_settings(config: Mapping[str, Any], multimodal: Multimodal | None = None) -> dict[str, Any]:
    """Return the text model's settings: those in its block, then those around it, without those of the towers.

    multimodal: names settings of towers that the text model needs too.

    >>> text_settings({"tie_word_embeddings": True, "text_config": {"hidden_size": 8}, "vision_config": {"depth": 2}})
    {'tie_word_embeddings': True, 'hidden_size': 8}
    """
    around = {key: value for key, value in config.items() if key in STORED_AS or not OF_TOWERS.search(key)}
    outer = {key: config[key] for key in OUTER if config.get(key) is not None}
    assumed = {} if multimodal is None else multimodal.assumes
    made = {**assumed, **around, **(text_block(config) or {}), **outer}
    for name, key in multimodal.lifted if multimodal is not None else ():
        block = config.get(name)
        value = block.get(key) if isinstance(block, Mapping) else config.get(key)
        made |= {} if value is None else {key: value}
    return made
