"""Whether a model without a table has as many layers as its config.json says: all that is known to be wrong of it."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from quantcli.models.base import NUMBER

#: Parts of names that lead to layers of something else than text.
TOWERS = re.compile(r"vision|visual|audio|vit\b|image")


@dataclass(frozen=True)
class Disagreement:
    """What is said, as a sentence. is_half: layers are missing, so that this is no whole model."""

    said: str
    is_half: bool


def disagreement(config: Mapping[str, Any], names: Collection[str]) -> Disagreement | None:
    """What `num_hidden_layers` and the numbers in the tensors' names disagree on; None: nothing.

    A stack of layers is what one prefix and a number name. Layers for multi-token prediction may follow. Nothing is
    known of a model that says no number, or that repeats its layers (`num_hidden_groups`).
    """
    text = config.get("text_config")
    nested = text if isinstance(text, Mapping) else {}
    settings = {**nested, **config}
    count, more = (_number(settings.get(key)) for key in ("num_hidden_layers", "num_nextn_predict_layers"))
    stacks: dict[str, dict[int, str]] = {}
    for name in names:
        match = NUMBER.search(name)
        if match and not TOWERS.search(name[: match.start()]):
            stacks.setdefault(name[: match.start()], {}).setdefault(int(match[0]), name)
    if not count or not stacks or "num_hidden_groups" in settings:
        return None
    if any(len(stack) in (count, count + more) and max(stack) == len(stack) - 1 for stack in stacks.values()):
        return None
    prefix, stack = max(stacks.items(), key=lambda item: (len(item[1]), item[0]))
    missing = next(number for number in range(len(stack) + 1) if number not in stack)
    if missing < count:
        return Disagreement(f"num_hidden_layers is {count}, but no tensor is named {prefix}{missing}.", is_half=True)
    first = stack.get(count, prefix)
    return Disagreement(f"num_hidden_layers is {count}, but layer {count} has tensors, such as {first}.", is_half=False)


def _number(value: object) -> int:
    return value if type(value) is int else 0
