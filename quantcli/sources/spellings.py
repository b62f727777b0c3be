"""Names that settings may have for a module of a text model which is stored with towers, or was saved without them.

    model.language_model.layers.0.mlp.up_proj    as transformers' classes have it
    language_model.model.layers.0.mlp.up_proj    as older ones had it, and releases still store it
    model.layers.0.mlp.up_proj                   as the text model by itself has it

Quantizers list modules as their tool's transformers named them, which is not always how the tensors are stored.
"""

from __future__ import annotations

#: What the names of a text model begin with in models with towers, in place of its own prefix.
NESTED = ("model.language_model.", "language_model.model.", "language_model.", "model.text_model.", "text_model.")
#: All that names of modules begin with, the longest first where one is the beginning of another.
STARTS = (*NESTED, "model.", "")


def spellings(module: str) -> tuple[str, ...]:
    """The names that settings may have for a module, its stored one first.

    >>> spellings("language_model.model.layers.0.mlp")[:3]
    ('language_model.model.layers.0.mlp', 'model.language_model.layers.0.mlp', 'language_model.layers.0.mlp')
    >>> "model.vision_tower.fc" in spellings("vision_tower.fc"), "lm_head" in spellings("language_model.lm_head")
    (True, True)
    """
    rest = next(module.removeprefix(start) for start in STARTS if module.startswith(start))
    return tuple(dict.fromkeys((module, *(start + rest for start in STARTS))))
