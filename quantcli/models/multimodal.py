"""Models with towers for images or sound, seen as the text model in them: what their config.json says of it.

    text_config nested                             flat, as older releases are published
    {"model_type": "mistral3",                     {"model_type": "qwen2_5_vl",
     "text_config": {"model_type": "mistral",       "hidden_size": 3584, ...
                     "hidden_size": 5120, ...},
     "vision_config": {...}}                        "vision_config": {...}}

The settings of the text model are those of its block, over those around it that do not speak of a tower. Sources:
llama.cpp (conversion/base.py: `load_hparams`, `get_model_architecture`), transformers' configuration classes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from quantcli.models.sixteen_bits import NESTED

#: Settings of a tower, or of what joins it to the text model; the blocks of every part but the text model too.
OF_TOWERS = re.compile(
    r"image|video|vision|visual|audio|speech|modality|projector|merge|downsample|select_layer|select_feature"
    r"|^(?:mm|boi|eoi|boa|eoa|tokens_per_second|scale_factor|image_seq_length|feature_layer)(?:_|$)|_config$"
)
#: Blocks that say how weights are stored, not what a part of the model is.
STORED_AS = ("quantization_config", "compression_config")
#: What a table's names of tensors in the text model begin with.
TABLES = "model."
#: What the class around the text model decides, since it has the output matrix.
OUTER = ("tie_word_embeddings",)


#: What the names of a tower begin with in the folders of mlx-vlm, whatever releases call it. mlx-lm drops these.
MLX_TOWER = "vision_tower."


@dataclass(frozen=True)
class Spelling:
    """What names begin with in the releases of a class: those of the text model's layers, and those of its tower.

    transformers' class knows no others, and mlx-vlm's none of the tower but these and its own.
    """

    layers: str
    tower: str


@dataclass(frozen=True)
class Multimodal:
    """A class of models with towers whose text model is of a family.

    model_type, class_name: as config.json has them at the top. text: the family's model type that counts where
    config.json names none for the text model. mlx: what mlx-lm puts before the names of the text model's tensors;
    None: mlx-lm has no such model. lifted: block and key of a tower's settings that the text model needs too.
    spelling: of releases, where mlx-vlm has names of its own. assumes: what the class assumes of its text model in
    place of what that by itself does. mlx_around: settings of the text model that mlx-lm reads around its block.
    mlx_vlm: what further names begin with in mlx-vlm's folders, and in releases.
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
        """The name in an MLX folder of a tensor of a tower, which mlx-lm drops at the top only.

        >>> names = Spelling("model.language.", "model.visual.")
        >>> vision = Multimodal("vl", "VL", "llama", "language_model.", spelling=names)
        >>> vision.tower_in_mlx("model.visual.norm.weight"), vision.tower_in_mlx("model.projector.weight")
        ('vision_tower.norm.weight', 'projector.weight')
        """
        bare = name.removeprefix(TABLES)
        start = bare if self.spelling is None else self.spelling.tower.removeprefix(TABLES)
        return MLX_TOWER + bare.removeprefix(start) if start != bare and bare.startswith(start) else bare

    def in_hf(self, name: str, *, is_from_mlx: bool = True) -> str:
        """The name in a release of a stored tensor, which an MLX folder may have under another.

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
        found = next((start for start in starts if name.startswith(start)), None)
        return name if found is None else starts[found] + name.removeprefix(found)


def text_block(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The block of config.json that describes the text model; None in a flat one."""
    return next((block for key in NESTED if isinstance(block := config.get(key), Mapping)), None)


def text_settings(config: Mapping[str, Any], multimodal: Multimodal | None = None) -> dict[str, Any]:
    """The settings of the text model: its block over those around it, without those of the towers.

    multimodal: says which of the latter are lifted to the text model's.

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
