"""`--override GLOB=SCHEME`: a scheme for the weights whose names match; the last match decides.

The glob is matched against the full Hugging Face name, the module path (without `.weight`) and the GGUF name.
"""

from __future__ import annotations

from collections.abc import Iterable

from quantcli.errors import WrongUsage
from quantcli.recipes import names
from quantcli.recipes.base import MAX_PATTERN, Origin, Recipe, Rule

FORM = "Use --override GLOB=SCHEME, such as --override '*.down_proj=affine8-g64'"


def parse(texts: Iterable[str]) -> Recipe:
    """Parse the options, in the order given, into one recipe. Raises `WrongUsage`."""
    return Recipe("--override", tuple(map(_rule, texts)), last_wins=True, origin=Origin.OVERRIDE)


def _rule(text: str) -> Rule:
    glob, equals, scheme = (piece.strip() for piece in text.rpartition("="))
    if not (glob and equals and scheme):
        raise WrongUsage(f"--override {text[:100]!r}: is not GLOB=SCHEME. {FORM}.")
    if len(glob) > MAX_PATTERN:
        raise WrongUsage(f"--override {text[:100]!r}: the glob has {len(glob)} characters; the limit is {MAX_PATTERN}.")
    name = names.canonical(scheme)
    if name is None:
        raise WrongUsage(f"--override {text[:100]!r}: {names.problem(scheme)}. {FORM}.")
    return Rule(glob, name, f"--override {glob}={name}")
