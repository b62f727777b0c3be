"""Warnings about a recipe's entries that match no weight: one for each kind."""

from __future__ import annotations

import re
from collections.abc import Sequence

from quantcli.recipes.base import Recipe, Subject

#: The number of an expert in a name. Experts that are stored as one weight have the name of the first.
EXPERT = re.compile(r"(?<=\.experts\.)\d+(?=\.)")


def unmatched(recipe: Recipe, subjects: Sequence[Subject]) -> list[str]:
    """Return the warnings. Entries for single experts of one weight count as matched if that of the first does."""
    missing, differing = [], []
    for pattern in recipe.unmatched(subjects):
        first = recipe.entries.get(EXPERT.sub("0", pattern))
        own = recipe.entries.get(pattern)
        if first is None or own is None or first.pattern == pattern or not _matches(recipe, first.pattern, subjects):
            missing.append(pattern)
        elif own.scheme != first.scheme:
            differing.append((f"{pattern} = {own.scheme} and {first.pattern} = {first.scheme}", first.scheme))
    warnings = []
    if missing:
        more = f" (one of {len(missing)} such entries)" if len(missing) > 1 else ""
        warnings.append(f"{recipe.label}: {missing[0]} matches no weight{more}.")
    if differing:
        entries, used = differing[0]
        more = f" (one of {len(differing)} such pairs)" if len(differing) > 1 else ""
        warnings.append(f"{recipe.label}: {entries} apply to parts of one weight{more}. {used} is used.")
    return warnings


def _matches(recipe: Recipe, key: str, subjects: Sequence[Subject]) -> bool:
    return any(key in recipe.keys(subject) for subject in subjects)
