"""`--override GLOB=SCHEME`: a scheme for the weights whose name matches, the last match wins.

The glob is tried on the full Hugging Face name, on the module path (without `.weight`) and on the GGUF name.
"""

from __future__ import annotations

from collections.abc import Iterable

from quantcli.errors import WrongUsage
from quantcli.recipes import names
from quantcli.recipes.base import MAX_PATTERN, Origin, Recipe, Rule

FORM = "--override needs GLOB=SCHEME, such as --override '*.down_proj=affine8-g64'"


def parse(texts: Iterable[str]) -> Recipe:
    """The options in the order given, as one recipe. Raises `WrongUsage`, quoting the text."""
    return Recipe("--override", tuple(map(_rule, texts)), last_wins=True, origin=Origin.OVERRIDE)


def _rule(text: str) -> Rule:
    glob, equals, scheme = (piece.strip() for piece in text.rpartition("="))
    if not (glob and equals and scheme):
        raise WrongUsage(f"--override {text[:100]!r}: {FORM}.")
    if len(glob) > MAX_PATTERN:
        raise WrongUsage(
            f"--override {text[:100]!r}: the glob has {len(glob)} characters, at most {MAX_PATTERN} may be."
        )
    name = names.canonical(scheme)
    if name is None:
        raise WrongUsage(f"--override {text[:100]!r}: {names.problem(scheme)}; {FORM}.")
    return Rule(glob, name, f"--override {glob}={name}")
