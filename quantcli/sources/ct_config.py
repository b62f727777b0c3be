"""compressed-tensors' settings: config groups, the modules that they target, and the modules that are dense.

`quantization_config` has `config_groups`, each with `targets` and settings of `weights`; `ignore`; and a `format` (in
each group if the format is mixed-precision). A target is a module's name, `re:` and a regular expression that is
matched from the start of the name, or a class. Names take precedence over expressions, expressions over classes.
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

#: Supported formats -> the type of their numbers, None for any.
FORMATS = {
    "pack-quantized": "int", "int-quantized": "int", "float-quantized": "float", "naive-quantized": None,
    "nvfp4-pack-quantized": "float", "mxfp4-pack-quantized": "float", "mxfp6-pack-quantized": "float",
    "mxfp8-quantized": "float",
}  # fmt: skip
#: Formats with a fixed width and group size -> bits, group size.
FIXED = {
    "nvfp4-pack-quantized": (4, 16), "mxfp4-pack-quantized": (4, 32), "mxfp6-pack-quantized": (6, 32),
    "mxfp8-quantized": (8, 32),
}  # fmt: skip
STRATEGIES = ("tensor", "channel", "group", "block", "tensor_group")


@dataclass(frozen=True)
class Group:
    """The settings of a config group's weights. key: their place. layout: the group's format.

    group_size: for the strategies group and tensor_group. block: rows and columns, for the strategy block.
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
        """Return whether this target names the module."""
        return bool(self.regex.match(module)) if self.regex else module == self.text


@dataclass(frozen=True)
class CtSettings:
    """All groups with their targets, and the modules to ignore. label: the file and the object in it."""

    label: str
    groups: tuple[tuple[Target, Group], ...]
    ignored: tuple[Target, ...]
    version: tuple[int, ...]
    warnings: tuple[str, ...] = ()

    def ignores(self, module: str) -> Target | None:
        """Return the entry of `ignore` that names a module; None without one."""
        by_expression = (entry for entry in self.ignored if entry.regex and entry.matches(module))
        return self._ignored_names.get(module) or next(by_expression, None)

    @cached_property
    def _ignored_names(self) -> dict[str, Target]:
        return {entry.text: entry for entry in self.ignored if entry.regex is None}

    def named(self, module: str) -> Group | None:
        """Return the group that targets a module by one of its names, else by an expression; None without one."""
        names = spellings(module)
        exact = next((self._exact[name] for name in names if name in self._exact), None)
        by_expression = (group for target, group in self.groups if target.regex and any(map(target.matches, names)))
        return exact or next(by_expression, None)

    @cached_property
    def _exact(self) -> dict[str, Group]:
        """The first group that targets a module or a class, by its name."""
        return {target.text: group for target, group in reversed(self.groups) if target.regex is None}

    def of_class(self) -> Group | None:
        """Return the group that targets linear layers by their class; None without one."""
        return next((group for target, group in self.groups if target.text == LINEAR), None)


def parse(keys: Reader) -> CtSettings:
    """Parse the settings in config.json. Raises `BadInput`, `NotPossible`."""
    _refuse_transforms(keys)
    groups = keys.part("config_groups", needed=True)
    if not groups.values:
        raise keys.refuse("config_groups", "expected at least one group")
    common = keys.text("format", "")
    targeted: list[tuple[Target, Group]] = []
    for name in groups.values:
        entry = groups.part(name, needed=True)
        if entry.values.get("weights") is None:
            continue
        group = _group(entry, common)
        targets = entry.texts("targets")
        if not targets:
            raise entry.refuse("targets", "expected a list of modules or classes")
        targeted += [(target, group) for target in _targets(targets, f"{entry.label}.targets")]
    ignored = tuple(_targets(keys.texts("ignore"), f"{keys.label}.ignore"))
    return CtSettings(keys.label, tuple(targeted), ignored, _version(keys), _format_warnings(keys, common, targeted))


def _format_warnings(keys: Reader, common: str, targeted: Iterable[tuple[Target, Group]]) -> tuple[str, ...]:
    """Return a warning if the common format is that of no group; groups use their own format."""
    formats = {group.layout: None for _, group in targeted}
    if common in ("", MIXED, *formats):
        return ()
    return (
        f"{keys.label}: format says {shown(common)}, but config_groups say {', '.join(formats)}. config_groups are "
        "used.",
    )


def _version(keys: Reader) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", str(keys.values.get("version", "")))[:2])


def _targets(texts: Iterable[str], label: str) -> Iterable[Target]:
    for text in texts:
        is_regex = text.startswith("re:")
        yield Target(text, pattern(text[3:], f"{label}: {shown(text)}") if is_regex else None)


def _refuse_transforms(keys: Reader) -> None:
    """Raise `NotPossible` for sparse or rotated weights, which cannot be read as they are stored."""
    sparsity = keys.part("sparsity_config")
    if sparsity.values and sparsity.text("format", "dense") != "dense":
        raise sparsity.unsupported("format", ("dense",))
    if keys.part("transform_config").values.get("config_groups"):
        raise NotPossible(
            f"{keys.label}: transform_config is not supported: it rotates weights. Export the model without it."
        )


def _group(entry: Reader, common: str) -> Group:
    """Return one group's settings. Raises `BadInput`, `NotPossible`."""
    layout = entry.values.get("format") or (common if common != MIXED else None)
    if not isinstance(layout, str) or not layout:
        raise entry.refuse("format", f"expected a format, since the common format is {common or 'missing'}")
    if layout not in FORMATS:
        raise NotPossible(f"{entry.label}: format {shown(layout)} is not supported. Supported: {', '.join(FORMATS)}.")
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
        raise weights.refuse("symmetric", "expected true for floats, which have no zero points")
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
        raise weights.refuse(
            "num_bits", f"expected {' or '.join(map(str, allowed))} for format {layout} with type {kind}"
        )


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
