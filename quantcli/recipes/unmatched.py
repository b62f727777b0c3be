"""Warnings of a recipe file's entries that match no weight: one line for each kind."""

from __future__ import annotations

import re
from collections.abc import Sequence

from quantcli.recipes.base import Recipe, Subject

#: The number of an expert in a name; recipes see the first one's of experts that are stored as one weight.
EXPERT = re.compile(r"(?<=\.experts\.)\d+(?=\.)")


def unmatched(recipe: Recipe, subjects: Sequence[Subject]) -> list[str]:
    """The warnings. Experts of one weight that are listed one by one are matched by the first of them."""
    missing, differing = [], []
    for pattern in recipe.unmatched(subjects):
        first = recipe.entries.get(EXPERT.sub("0", pattern))
        own = recipe.entries.get(pattern)
        if first is None or own is None or first.pattern == pattern or not _matches(recipe, first.pattern, subjects):
            missing.append(pattern)
        elif own.scheme != first.scheme:
            differing.append(f"{pattern} is to be {own.scheme}, {first.pattern} {first.scheme}")
    found = []
    if missing:
        more = f", nor do {len(missing) - 1} more of its entries" if len(missing) > 1 else ""
        found.append(f"{recipe.label}: {missing[0]} matches no weight{more}.")
    if differing:
        more = f" ({len(differing)} such entries)" if len(differing) > 1 else ""
        found.append(f"{recipe.label}: {differing[0]}, but they are one weight, which gets the latter{more}.")
    return found


def _matches(recipe: Recipe, key: str, subjects: Sequence[Subject]) -> bool:
    return any(key in recipe.keys(subject) for subject in subjects)
