"""A JSON object that records which of its keys are read, so that quant can warn about the others.

block = noted({"bits": 4, "odd": 1})
block.get("bits")
unread(block)   ->   ["odd"]
"""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, Mapping
from typing import Any

#: The default place of a quantizer's settings.
PLACE = "config.json: quantization_config"
#: Objects nested deeper than this count as read: no tool writes such settings.
DEEPEST = 16


class Noted(dict[str, Any]):
    """An object that records the keys whose values are read; objects in it are `Noted` too.

    place: the file and the key of the object.
    """

    def __init__(self, block: Mapping[str, Any], depth: int = 0, place: str = PLACE) -> None:
        super().__init__((key, _nested(value, depth)) for key, value in block.items())
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


def _nested(value: Any, depth: int) -> Any:
    if depth >= DEEPEST:
        return value
    if isinstance(value, Mapping):
        return Noted(value, depth + 1)
    return [_nested(item, depth + 1) for item in value] if isinstance(value, list) else value


def noted(block: Mapping[str, Any], place: str = PLACE) -> Noted:
    """Return the object as `Noted`, with no key read yet. place: the file and the key of the object."""
    return Noted(block, place=place)


def unread(block: Noted, path: str = "") -> list[str]:
    """Return the dotted keys that were not read, in the order of the file, except null and empty values.

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
        nested = [item for item in (value if isinstance(value, list) else [value]) if isinstance(item, Noted)]
        for item in nested:
            yield from _unread(item, f"{path}{key}.")
        if not nested and key not in block.asked and value not in (None, [], {}):
            yield f"{path}{key}"
