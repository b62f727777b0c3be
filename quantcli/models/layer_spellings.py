"""Both spellings of `layer_types`: transformers 5 renames kinds of layers in every config.json that it reads and saves.

    published                  saved by transformers 5
    mamba                      linear_attention
    attention                  full_attention
    deepseek_sparse_attention  indexed_attention
    qwen_sparse_attention      indexed_attention

Configs of some classes have the list under another key, `layers_block_type`, which is used if `layer_types` is missing.

The tables use transformers 5's names. llama.cpp's converter supports one of the two for each model, and writes a file
that does not load for the other. Source: transformers 5.23 (configuration_utils.py, remap_legacy_layer_types).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Keys of config.json that list kinds of layers.
LISTS = ("layer_types", "mtp_layer_types")
#: Another key for the list.
OTHER_KEY = "layers_block_type"
#: Published kind of layer -> the tables' name.
RENAMED = {
    "mamba": "linear_attention",
    "attention": "full_attention",
    "deepseek_sparse_attention": "indexed_attention",
    "qwen_sparse_attention": "indexed_attention",
}


def respelled(config: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return the lists of a config.json object that need the tables' names of kinds, with these names.

    >>> respelled({"layer_types": ["mamba", "attention"], "mtp_layer_types": ["full_attention"]})
    {'layer_types': ['linear_attention', 'full_attention']}
    >>> respelled({"layers_block_type": ["mamba"]})
    {'layer_types': ['linear_attention']}
    """
    lists = {key: value for key in LISTS if isinstance(value := config.get(key), list)}
    made = {key: _renamed(value) for key, value in lists.items()}
    changed = {key: value for key, value in made.items() if value != lists[key]}
    other = config.get(OTHER_KEY)
    if isinstance(other, list) and config.get(LISTS[0]) is None:
        changed[LISTS[0]] = _renamed(other)
    return changed


def repeats(config: Mapping[str, Any]) -> bool:
    """Return whether the other key lists the same kinds of layers as `layer_types`."""
    other, kinds = config.get(OTHER_KEY), config.get(LISTS[0])
    return isinstance(other, list) and isinstance(kinds, list) and _renamed(other) == _renamed(kinds)


def _renamed(kinds: list[Any]) -> list[Any]:
    return [RENAMED.get(kind, kind) if isinstance(kind, str) else kind for kind in kinds]
