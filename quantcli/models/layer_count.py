"""Comparison of a model's layers with its config.json, the only check that is possible for a model without a table."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from quantcli.models.base import NUMBER

#: Parts of names of layers that do not belong to a text model.
TOWERS = re.compile(r"vision|visual|audio|vit\b|image")


@dataclass(frozen=True)
class Disagreement:
    """A contradiction. message: a sentence. is_incomplete: layers are missing, so the model is not complete."""

    message: str
    is_incomplete: bool


def disagreement(config: Mapping[str, Any], names: Collection[str]) -> Disagreement | None:
    """Return the contradiction between `num_hidden_layers` and the numbers in tensors' names, None if there is none.

    Names with one prefix before the number are a stack of layers. Layers for multi-token prediction may follow. A model
    without num_hidden_layers, or that repeats its layers (`num_hidden_groups`), is not checked.
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
        problem = f"num_hidden_layers is {count}, but no tensor is named {prefix}{missing}."
        return Disagreement(problem, is_incomplete=True)
    first = stack.get(count, prefix)
    problem = f"num_hidden_layers is {count}, but layer {count} has tensors, such as {first}."
    return Disagreement(problem, is_incomplete=False)


def _number(value: object) -> int:
    return value if type(value) is int else 0
