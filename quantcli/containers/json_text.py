"""JSON objects from other people's files: `config.json`, indexes, tokenizers, recipes.

Source: RFC 8259. Stricter than `json.loads`: an object at the top, UTF-8, no duplicate keys, no half characters, a
bound on size and depth.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

from quantcli.containers.hostile import foreign, shown
from quantcli.errors import BadInput

#: Far above any real config or index; a tokenizer.json has at most some tens of MB.
MAX_BYTES = 256 << 20
#: Far below what the interpreter can walk, so that what was read can also be written.
MAX_DEPTH = 64
#: An escape that is half of a character; two that belong together are one.
SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def load_object(data: bytes, label: str) -> dict[str, Any]:
    """The object that `data` spells; `label` (a file name) stands in each error. Raises `BadInput`."""
    value = load(data, label)
    if not isinstance(value, dict):
        raise BadInput(f"{label}: holds {type(value).__name__} at its top, an object is needed.")
    return value


def load(data: bytes, label: str) -> Any:
    """The value that `data` spells, of any kind; otherwise as `load_object`."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
            raise BadInput(f"{label}: the key {shown(twice)} stands twice in one object: remove one.")
        return found

    if what := foreign(data[:64]):
        raise BadInput(f"{label}: is {what}.")
    if len(data) > MAX_BYTES:
        raise BadInput(f"{label}: {len(data)} bytes are too many for such a file (at most {MAX_BYTES}).")
    try:
        text = data.decode("utf-8-sig")
        value = json.loads(text, object_pairs_hook=unique)
    except UnicodeDecodeError as error:
        raise BadInput(f"{label}: is not UTF-8 text (byte {error.start}).") from None
    except json.JSONDecodeError as error:
        raise BadInput(f"{label}: is not JSON (line {error.lineno}, column {error.colno}: {error.msg}).") from None
    except (RecursionError, ValueError):
        raise BadInput(f"{label}: is JSON nested too deep or with numbers too long to be meant.") from None
    _check_depth(value, label)
    if SURROGATE.search(text):
        _check_text(value, label)
    return value


def _check_text(value: Any, label: str) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise BadInput(f"{label}: has a text with half a surrogate pair, which cannot be written.") from None


def _check_depth(value: Any, label: str) -> None:
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(MAX_DEPTH):
        members = (item.values() if isinstance(item, dict) else item for item in level)
        level = [child for inner in members for child in inner if isinstance(child, dict | list)]
        if not level:
            return
    raise BadInput(f"{label}: is JSON nested more than {MAX_DEPTH} deep, which no such file is.")
