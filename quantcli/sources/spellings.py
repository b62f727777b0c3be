"""Names that settings may use for a module of a text model that is stored with or without towers.

    model.language_model.layers.0.mlp.up_proj    in transformers' classes
    language_model.model.layers.0.mlp.up_proj    in older classes, and still in stored releases
    model.layers.0.mlp.up_proj                   in the text model alone

Quantizers list modules by the names in their version of transformers, which may differ from the stored names.
"""

from __future__ import annotations

#: Prefixes of a text model's names in models with towers, in place of its usual prefix.
NESTED = ("model.language_model.", "language_model.model.", "language_model.", "model.text_model.", "text_model.")
#: All prefixes of modules' names; of two that start alike, the longer one first.
STARTS = (*NESTED, "model.", "")


def spellings(module: str) -> tuple[str, ...]:
    """Return the names that settings may use for a module, its stored name first.

    >>> spellings("language_model.model.layers.0.mlp")[:3]
    ('language_model.model.layers.0.mlp', 'model.language_model.layers.0.mlp', 'language_model.layers.0.mlp')
    >>> "model.vision_tower.fc" in spellings("vision_tower.fc"), "lm_head" in spellings("language_model.lm_head")
    (True, True)
    """
    rest = next(module.removeprefix(start) for start in STARTS if module.startswith(start))
    return tuple(dict.fromkeys((module, *(start + rest for start in STARTS))))
