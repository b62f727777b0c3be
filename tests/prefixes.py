"""Prefixes of a text model's tensors: by itself, in a model with towers as published and as saved anew, without any."""

from __future__ import annotations

from collections.abc import Iterable

EMBEDDING, HEAD = "embed_tokens.weight", "lm_head.weight"
#: Prefix -> what stands before the head's name then.
PREFIXES = {"model.": "", "model.language_model.": "", "language_model.model.": "language_model.", "": ""}


def prefix_of(names: Iterable[str]) -> str:
    """The prefix of a text model, by the name of its embedding."""
    return next(name.removesuffix(EMBEDDING) for name in names if name.endswith(EMBEDDING))


def renamed(names: Iterable[str], prefix: str) -> dict[str, str]:
    """Name -> its name where the text model has another prefix; those of towers stay."""
    names = list(names)
    own = prefix_of(names)

    def other(name: str) -> str:
        if name.endswith(HEAD):
            return PREFIXES[prefix] + HEAD
        return prefix + name.removeprefix(own) if name.startswith(own) else name

    return {name: other(name) for name in names}
