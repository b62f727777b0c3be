"""A JSON object that keeps account of which of its keys were asked for, so that a setting nobody reads is not silent.

block = noted({"bits": 4, "odd": 1})
block.get("bits")
unread(block)   ->   ["odd"]
"""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, Mapping
from typing import Any

#: Where settings stand unless they say otherwise.
PLACE = "config.json: quantization_config"
#: Objects nested deeper than this are taken as read: no tool writes such settings.
DEEPEST = 16


class Noted(dict[str, Any]):
    """An object whose keys are noted when their values are asked for; inner objects are `Noted` too.

    place: the file and the key that it stands under.
    """

    def __init__(self, block: Mapping[str, Any], depth: int = 0, place: str = PLACE) -> None:
        super().__init__((key, _inner(value, depth)) for key, value in block.items())
        self.asked: set[str] = set()
        self.place = place

    def get(self, key: str, default: Any = None) -> Any:
        self.asked.add(key)
        return super().get(key, default)

    def __getitem__(self, key: str) -> Any:
        self.asked.add(key)
        return super().__getitem__(key)

    def items(self) -> ItemsView[str, Any]:  # type: ignore[override]
        self.asked.update(self)
        return super().items()


def _inner(value: Any, depth: int) -> Any:
    if depth >= DEEPEST:
        return value
    if isinstance(value, Mapping):
        return Noted(value, depth + 1)
    return [_inner(item, depth + 1) for item in value] if isinstance(value, list) else value


def noted(block: Mapping[str, Any], place: str = PLACE) -> Noted:
    """The object, nothing asked for yet. place: the file and the key that it stands under."""
    return Noted(block, place=place)


def unread(block: Noted, path: str = "") -> list[str]:
    """The keys that were not asked for, dotted, in the order of the file; null and what is empty say nothing.

    >>> block = noted({"bits": 4, "meta": {"by": "x"}, "groups": [{"a": 1, "b": 2}]})
    >>> block["bits"], block["groups"][0].get("a")
    (4, 1)
    >>> unread(block)
    ['meta.by', 'groups.b']
    """
    return list(dict.fromkeys(_unread(block, path)))


def _unread(block: Noted, path: str) -> Iterator[str]:
    for key in block:
        value = dict.get(block, key)
        inner = [item for item in (value if isinstance(value, list) else [value]) if isinstance(item, Noted)]
        for item in inner:
            yield from _unread(item, f"{path}{key}.")
        if not inner and key not in block.asked and value not in (None, [], {}):
            yield f"{path}{key}"
