"""quant's rules, in TOML or the same in JSON; the last rule that matches decides.

    scheme = "affine4-g64"          for weights that no rule matches; optional

    [[rule]]
    match = "*.down_proj"           a glob, or `re:` and a regular expression that is searched for in the name
    scheme = "affine8-g64"          a scheme, `dense`, a dense dtype, or `keep`

A pattern is matched against the full Hugging Face name, the module path (without `.weight`) and the GGUF name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from quantcli.containers.hostile import check_name, shown
from quantcli.containers.json_text import Reader
from quantcli.errors import BadInput
from quantcli.recipes import names
from quantcli.recipes.base import MAX_PATTERN, Decision, Origin, Recipe, Rule, Way

REGEX = "re:"


def recognise(data: Mapping[str, Any]) -> bool:
    return "rule" in data or "scheme" in data


def read(data: Mapping[str, Any], label: str) -> Recipe:
    """Read the recipe in the file's top-level table. Raises `BadInput`, also for unknown keys."""
    _check_keys(data, {"scheme", "rule"}, label)
    tables = data.get("rule", [])
    if not isinstance(tables, list):
        raise Reader(data, label).refuse("rule", "expected an array of tables, [[rule]]")
    rules = tuple(_rule(table, f"{label}: rule {number}") for number, table in enumerate(tables, 1))
    default = None
    if "scheme" in data:
        name = _scheme(Reader(data, label))
        default = Decision(name, f"{label}: scheme = {name}", Origin.GLOBAL)
    return Recipe(label, rules, default, last_wins=True)


def _rule(table: object, where: str) -> Rule:
    if not isinstance(table, Mapping):
        raise BadInput(f"{where}: expected a table with match and scheme, found {shown(table)}.")
    _check_keys(table, {"match", "scheme"}, where)
    read = Reader(table, where)
    match = read.text("match")
    if not 0 < len(match.removeprefix(REGEX)) <= MAX_PATTERN:
        raise read.refuse("match", f"expected a string of 1 to {MAX_PATTERN} characters")
    check_name(match, f"{where}: match")
    scheme = _scheme(read)
    reason = f"{where}: {match} = {scheme}"
    if not match.startswith(REGEX):
        return Rule(match, scheme, reason)
    try:
        return Rule(match.removeprefix(REGEX), scheme, reason, Way.REGEX)
    except (re.error, RecursionError, OverflowError) as error:
        raise read.refuse("match", f"expected a valid regular expression ({error})") from None


def _scheme(read: Reader) -> str:
    text = read.text("scheme")
    name = names.canonical(text)
    if name is None:
        raise BadInput(f"{read.label}: key scheme: {names.problem(text)}.")
    return name


def _check_keys(table: Mapping[str, Any], known: set[str], where: str) -> None:
    unknown = [key for key in table if key not in known]
    if unknown:
        raise BadInput(f"{where}: key {shown(unknown[0])} is not supported. Supported: {', '.join(sorted(known))}.")
