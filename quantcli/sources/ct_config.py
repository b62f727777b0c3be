"""compressed-tensors' settings: config groups, what they target, and what is left out.

`quantization_config` has `config_groups`, each with `targets` and settings of `weights`, `ignore` and a `format` (of
single groups where the format is mixed-precision). A target is a module's name, `re:` and a regular expression matched
from the start of the name, or a class. A name decides before an expression, an expression before a class.
Source: compressed-tensors (quantization/quant_config.py, quant_args.py, utils/match.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from quantcli.containers.hostile import shown
from quantcli.containers.json_text import Reader
from quantcli.errors import NotPossible
from quantcli.schemes.hf.compressed_tensors import LINEAR, MIXED
from quantcli.sources.modules import pattern
from quantcli.sources.spellings import spellings

#: Formats that are read, and the type of their numbers, None for any.
FORMATS = {
    "pack-quantized": "int", "int-quantized": "int", "float-quantized": "float", "naive-quantized": None,
    "nvfp4-pack-quantized": "float", "mxfp4-pack-quantized": "float", "mxfp6-pack-quantized": "float",
    "mxfp8-quantized": "float",
}  # fmt: skip
#: Formats that have one width and one group: bits, values of a group.
FIXED = {
    "nvfp4-pack-quantized": (4, 16), "mxfp4-pack-quantized": (4, 32), "mxfp6-pack-quantized": (6, 32),
    "mxfp8-quantized": (8, 32),
}  # fmt: skip
STRATEGIES = ("tensor", "channel", "group", "block", "tensor_group")


@dataclass(frozen=True)
class Group:
    """The settings of a config group's weights. `key`: where they stand; `layout`: its format.

    group_size: of the strategies group and tensor_group, block: rows and columns of the strategy block.
    """

    key: str
    layout: str
    bits: int
    is_float: bool
    strategy: str
    symmetric: bool
    act_order: bool
    group_size: int | None = None
    block: tuple[int, int] | None = None


@dataclass(frozen=True)
class Target:
    """A target or an entry of `ignore`: a name or class, or a regular expression."""

    text: str
    regex: re.Pattern[str] | None

    def matches(self, module: str) -> bool:
        """Whether it is this module's name."""
        return bool(self.regex.match(module)) if self.regex else module == self.text


@dataclass(frozen=True)
class CtSettings:
    """All groups with their targets, and what is left out. `label` names the file and the object in it."""

    label: str
    groups: tuple[tuple[Target, Group], ...]
    ignored: tuple[Target, ...]
    version: tuple[int, ...]
    warnings: tuple[str, ...] = ()

    def ignores(self, module: str) -> Target | None:
        """The entry of `ignore` that names a module."""
        by_expression = (entry for entry in self.ignored if entry.regex and entry.matches(module))
        return self._ignored_names.get(module) or next(by_expression, None)

    @cached_property
    def _ignored_names(self) -> dict[str, Target]:
        return {entry.text: entry for entry in self.ignored if entry.regex is None}

    def named(self, module: str) -> Group | None:
        """The group that targets a module by one of its names, or else by an expression."""
        names = spellings(module)
        exact = next((self._exact[name] for name in names if name in self._exact), None)
        by_expression = (group for target, group in self.groups if target.regex and any(map(target.matches, names)))
        return exact or next(by_expression, None)

    @cached_property
    def _exact(self) -> dict[str, Group]:
        """Name of a module or a class -> the first group that targets it."""
        return {target.text: group for target, group in reversed(self.groups) if target.regex is None}

    def of_class(self) -> Group | None:
        """The group that targets linears by their class."""
        return next((group for target, group in self.groups if target.text == LINEAR), None)


def parse(keys: Reader) -> CtSettings:
    """The settings of config.json; raises `BadInput`, `NotPossible`."""
    _refuse_others(keys)
    groups = keys.part("config_groups", needed=True)
    if not groups.values:
        raise keys.refuse("config_groups", "expected at least one group")
    common = keys.text("format", "")
    found: list[tuple[Target, Group]] = []
    for name in groups.values:
        entry = groups.part(name, needed=True)
        if entry.values.get("weights") is None:
            continue
        group = _group(entry, common)
        targets = entry.texts("targets")
        if not targets:
            raise entry.refuse("targets", "expected a list of modules or classes")
        found += [(target, group) for target in _targets(targets, f"{entry.label}.targets")]
    ignored = tuple(_targets(keys.texts("ignore"), f"{keys.label}.ignore"))
    return CtSettings(keys.label, tuple(found), ignored, _version(keys), _contradicted(keys, common, found))


def _contradicted(keys: Reader, common: str, found: Iterable[tuple[Target, Group]]) -> tuple[str, ...]:
    """A warning of a format of all that no group has; a group's own counts."""
    formats = {group.layout: None for _, group in found}
    if common in ("", MIXED, *formats):
        return ()
    return (f"{keys.label}: format is {shown(common)}, but config_groups say {', '.join(formats)}, which counts.",)


def _version(keys: Reader) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", str(keys.values.get("version", "")))[:2])


def _targets(texts: Iterable[str], label: str) -> Iterable[Target]:
    for text in texts:
        is_regex = text.startswith("re:")
        yield Target(text, pattern(text[3:], f"{label}: {shown(text)}") if is_regex else None)


def _refuse_others(keys: Reader) -> None:
    """Refuse what changes the meaning of stored weights and is not read."""
    sparsity = keys.part("sparsity_config")
    if sparsity.values and sparsity.text("format", "dense") != "dense":
        raise NotPossible(f"{sparsity.label}: sparse format {shown(sparsity.values['format'])} is not read; dense is.")
    if keys.part("transform_config").values.get("config_groups"):
        raise NotPossible(
            f"{keys.label}: transform_config rotates weights, which is not undone here: export without it."
        )


def _group(entry: Reader, common: str) -> Group:
    """One group's settings, checked on their own."""
    layout = entry.values.get("format") or (common if common != MIXED else None)
    if not isinstance(layout, str) or not layout:
        raise entry.refuse("format", f"expected one, since that of all groups is {common or 'missing'}")
    if layout not in FORMATS:
        raise NotPossible(
            f"{entry.label}: format {shown(layout)} is a layout that is not read; {', '.join(FORMATS)} are."
        )
    weights = entry.part("weights", needed=True)
    kind, bits = weights.text("type", "int"), weights.whole("num_bits", 8)
    if kind not in ("int", "float") or FORMATS[layout] not in (None, kind):
        raise weights.refuse("type", f"expected {FORMATS[layout] or 'int or float'} for format {layout}")
    strategy = weights.text("strategy", "group" if weights.values.get("group_size") else "tensor")
    if strategy not in STRATEGIES:
        raise weights.refuse("strategy", f"expected one of {', '.join(STRATEGIES)}")
    _check_bits(weights, layout, kind, bits)
    if weights.values.get("dynamic") not in (None, False):
        raise weights.refuse("dynamic", "expected false for stored weights")
    if kind == "float" and not weights.flag("symmetric", True):
        raise weights.refuse("symmetric", "expected true, since floats have no zero points")
    order = weights.values.get("actorder")
    if order not in (None, False, True, "group", "static", "weight", "dynamic"):
        raise weights.refuse("actorder", "expected null, static, weight or group")
    return Group(
        f"{entry.path}.weights", layout, bits, kind == "float", strategy,
        weights.flag("symmetric", True), order in (True, "group", "dynamic"),
        _group_size(weights, strategy, layout), _block(weights) if strategy == "block" else None,
    )  # fmt: skip


def _check_bits(weights: Reader, layout: str, kind: str, bits: int) -> None:
    allowed = range(2, 9) if kind == "int" else (FIXED.get(layout, (8, None))[0],)
    if bits not in allowed:
        raise weights.refuse("num_bits", f"expected {' '.join(map(str, allowed))} for format {layout} with type {kind}")


def _group_size(weights: Reader, strategy: str, layout: str) -> int | None:
    if strategy not in ("group", "tensor_group"):
        return None
    size = weights.whole("group_size")
    fixed = FIXED[layout][1] if layout in FIXED else None
    if size <= 0 or fixed not in (None, size):
        raise weights.refuse("group_size", f"expected {fixed or 'a number above 0'} for format {layout}")
    return size


def _block(weights: Reader) -> tuple[int, int]:
    rows, columns = weights.sizes("block_structure", 2)
    return rows, columns
