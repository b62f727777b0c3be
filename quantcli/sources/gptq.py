"""GPTQ checkpoints, as GPTQModel, AutoGPTQ and AutoRound write them: `.qweight`, `.qzeros`, `.scales`, mostly `.g_idx`.

config.json's `quantization_config` gives `bits`, `group_size`, `sym`, `desc_act` and the layout, under
`checkpoint_format` or `format` (default: gptq). `dynamic` has the settings of single modules: `+:regex` changes them,
`-:regex` leaves modules dense. AutoRound's `extra_config` has them by name. A key that an entry omits, or sets to null,
has the value for all modules. Modules with other bits that no entry lists are read if their row length is known from
the architecture (row_lengths.py).
Sources: GPTQModel 7 (quantization/config.py), AutoRound 0.16 (export).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from quantcli.arrays import FLOATS
from quantcli.checkpoint import Checkpoint, Part, Weight
from quantcli.containers.hostile import shown
from quantcli.containers.json_text import Reader
from quantcli.errors import BadInput, NotPossible
from quantcli.schemes.hf.gptq import DENSE_BITS, FORMATS, Gptq
from quantcli.schemes.hf.packed import PLANES, WORD
from quantcli.schemes.hf.scaled import Scales
from quantcli.sources.blocks import chosen_linears
from quantcli.sources.folder import Folder, Tensors
from quantcli.sources.modules import (
    GROUP_SIZE,
    WHOLE_ROW,
    checked_weight,
    checkpoint,
    dense_warnings,
    extras_of,
    is_reordered,
    mentions_module,
    parts_of,
    pattern,
    settings_of,
)
from quantcli.sources.row_lengths import RowLengths
from quantcli.sources.spellings import spellings
from quantcli.sources.wording import counted, either, listed_as_dense, mismatch, missing, no_codes, where

#: Modules with more bits are dense.
MOST_BITS = 8
SUFFIXES = {"qweight": ".qweight", "qzeros": ".qzeros", "scales": ".scales", "g_idx": ".g_idx"}

T = TypeVar("T")
#: The modules that match an expression, and their settings; None for dense ones.
Rule = tuple[re.Pattern[str], T | None]


@dataclass(frozen=True)
class GptqSettings:
    """The settings of a module. reason: their place, as reports quote it."""

    bits: int
    group_size: int
    symmetric: bool
    act_order: bool
    layout_format: str
    reason: str = ""


def settings(keys: Reader, default: GptqSettings | None = None, layout: str = "gptq") -> GptqSettings:
    """Return the settings in an object, missing ones taken from `default`. Raises `BadInput`, `NotPossible`."""
    bits = keys.whole("bits", default.bits if default else None)
    group = keys.whole("group_size", default.group_size if default else None)
    symmetric = keys.flag("sym", default.symmetric if default else True)
    order = keys.flag("desc_act", default.act_order if default else False)
    key = "checkpoint_format" if keys.values.get("checkpoint_format") is not None else "format"
    layout = keys.text(key, default.layout_format if default else layout)
    if bits not in PLANES:
        raise keys.refuse("bits", "expected a number from 2 to 8")
    if group <= 0 and group != WHOLE_ROW:
        raise keys.refuse("group_size", GROUP_SIZE)
    if layout not in FORMATS:
        raise keys.unsupported(key, FORMATS)
    if keys.text("format", layout) != layout:
        raise keys.refuse("format", f"expected {shown(layout)}, as {key} says")
    if bits not in DENSE_BITS and layout != "gptq_p":
        raise NotPossible(
            f"{keys.label}: bits {bits} is not supported in the layout {layout}. Supported: "
            f"{', '.join(map(str, DENSE_BITS))}. Other numbers of bits require the layout gptq_p."
        )
    return GptqSettings(bits, group, symmetric, order, layout)


def open_gptq(folder: Folder, config: Mapping[str, Any], tensors: Tensors, layout: str = "gptq") -> Checkpoint:
    """Open a GPTQ folder. layout: the default if the settings name none. Raises `BadInput`, `NotPossible`."""
    keys = settings_of(folder, config)
    common = settings(keys, layout=layout)
    common = replace(common, reason=f"quantization_config: bits {common.bits}, group_size {common.group_size}")
    rules = [*_rules(keys.part("dynamic"), common)]
    rules += named_rules(keys.part("extra_config"), lambda entry, place: _extra(entry, place, common))
    modules = sorted(name.removesuffix(".qweight") for name in tensors.parts if name.endswith(".qweight"))
    if not modules:
        raise no_codes(keys.label, "gptq", "*.qweight")
    _refuse_orphans(tensors.parts)
    chosen = {module: _settings_of_module(module, rules, common, tensors.parts) for module in modules}
    unlisted = _unlisted(chosen, common, tensors.parts, RowLengths(config, tensors.parts))
    weights = [_weight(module, tensors.parts, (chosen | unlisted)[module], folder) for module in modules]
    dense = keys.texts("modules_to_not_convert")
    further = _unlisted_warnings(keys, common, unlisted)
    is_chosen = chosen_linears(keys, modules)
    further += dense_warnings(
        tensors.parts, modules, keys.label,
        lambda module, linear: is_chosen(module, linear) and not mentions_module(dense, module)
        and next((rule is not None for regex, rule in rules if regex.match(module)), True),
    )  # fmt: skip
    return checkpoint("gptq", folder, config, tensors, weights, further)


def _rules(dynamic: Reader, common: GptqSettings) -> Iterable[Rule[GptqSettings]]:
    """Yield the patterns in `dynamic` and the settings of the modules that match; None for dense ones."""
    for key in dynamic.values:
        regex = pattern(key.removeprefix("+:").removeprefix("-:"), f"{dynamic.label}: key {shown(key)}")
        if key.startswith("-:"):
            yield regex, None
            continue
        rule = settings(dynamic.part(key, needed=True), common)
        yield regex, replace(rule, reason=f"quantization_config.dynamic {key}: bits {rule.bits}")


def named_rules(extra: Reader, read: Callable[[Reader, str], T | None]) -> Iterable[Rule[T]]:
    """Yield AutoRound's settings of single modules: by name, then by an expression that is searched for in the name.

    read: returns the settings in an entry, given its place for reasons; None for a dense module.
    """
    entries = [
        (name, read(extra.part(name, needed=True), f"quantization_config.extra_config {name}")) for name in extra.values
    ]
    yield from ((re.compile(re.escape(name) + "$"), rule) for name, rule in entries)
    yield from ((pattern(f".*(?:{name})", f"{extra.label}: key {shown(name)}"), rule) for name, rule in entries)


def _extra(entry: Reader, place: str, common: GptqSettings) -> GptqSettings | None:
    """Return the settings in one of AutoRound's entries; None for more than 8 bits, which means dense."""
    if entry.whole("bits", common.bits) > MOST_BITS:
        entry.settled()
        return None
    check_integers(entry)
    rule = settings(entry, common)
    return replace(rule, reason=f"{place}: bits {rule.bits}")


def check_integers(keys: Reader) -> None:
    """Raise `NotPossible` for codes of AutoRound that are not integers."""
    if keys.text("data_type", "int") != "int":
        raise keys.unsupported("data_type", ("int",))


def _settings_of_module(
    module: str, rules: Iterable[Rule[GptqSettings]], common: GptqSettings, parts: Mapping[str, Part]
) -> GptqSettings:
    for regex, rule in rules:
        if rule is None and regex.match(module):
            place = f"quantization_config.dynamic or .extra_config ({regex.pattern})"
            raise listed_as_dense(parts[f"{module}.qweight"], module, place)
        if rule is not None and any(map(regex.match, spellings(module))):
            return rule
    return common


def _unlisted(
    chosen: Mapping[str, GptqSettings], common: GptqSettings, parts: Mapping[str, Part], lengths: RowLengths
) -> dict[str, GptqSettings]:
    """Return modules without an entry that do not fit the default -> the settings that fit their row length.

    Empty if no module fits the default, which must then be wrong itself.
    """
    default = [module for module, settings in chosen.items() if settings is common]
    fitted = {module: _fitted(module, parts, common, lengths) for module in default if not _fits(module, parts, common)}
    known = {module: settings for module, settings in fitted.items() if settings is not None}
    return known if len(fitted) < len(default) else {}


def _fits(module: str, parts: Mapping[str, Part], settings: GptqSettings) -> bool:
    """Return whether codes and scales have the shapes of these settings."""
    qweight, scales = parts[f"{module}.qweight"], parts.get(f"{module}.scales")
    if scales is None or len(qweight.shape) != 2 or len(scales.shape) != 2 or qweight.shape[0] * WORD % settings.bits:
        return scales is None
    return scales.shape[0] == _groups(qweight.shape[0] * WORD // settings.bits, settings.group_size)


def _groups(columns: int, group: int) -> int:
    return 1 if group == WHOLE_ROW else -(-columns // group)


def _fitted(module: str, parts: Mapping[str, Part], common: GptqSettings, lengths: RowLengths) -> GptqSettings | None:
    """Return the bits and the group size that fit a module's arrays and its row length; None if none do."""
    qweight, scales = parts[f"{module}.qweight"], parts[f"{module}.scales"]
    index = parts.get(f"{module}.g_idx")
    columns = lengths.of(f"{module}.weight") or (index.shape[0] if index is not None and len(index.shape) == 1 else 0)
    if len(qweight.shape) != 2 or len(scales.shape) != 2 or not columns or qweight.shape[0] * WORD % columns:
        return None
    bits, groups = qweight.shape[0] * WORD // columns, scales.shape[0]
    group = common.group_size
    if groups != _groups(columns, group):
        group = WHOLE_ROW if groups == 1 else columns // groups if groups and columns % groups == 0 else 0
    if not group or bits not in (PLANES if common.layout_format == "gptq_p" else DENSE_BITS):
        return None
    zeros = parts.get(f"{module}.qzeros")
    if zeros is None or zeros.shape != (groups, -(-scales.shape[1] * bits // WORD)):
        return None
    return replace(common, bits=bits, group_size=group, reason=f"shapes: bits {bits}, group_size {group}")


def _unlisted_warnings(keys: Reader, common: GptqSettings, unlisted: Mapping[str, GptqSettings]) -> list[str]:
    """Return a warning if modules that no entry lists have other bits or another group size than the default."""
    if not unlisted:
        return []
    kinds = sorted({(settings.bits, settings.group_size) for settings in unlisted.values()})
    used = ", ".join(f"bits {bits}, group_size {group}" for bits, group in kinds)
    return [
        f"{keys.label}: {counted('module', sorted(unlisted))} not listed, and bits {common.bits}, group_size "
        f"{common.group_size} do not fit. Settings are inferred from row lengths and shapes: {used}."
    ]


def _refuse_orphans(parts: Mapping[str, Part]) -> None:
    for name, part in parts.items():
        for suffix in (".qzeros", ".g_idx"):
            if name.endswith(suffix) and f"{name.removesuffix(suffix)}.qweight" not in parts:
                raise missing(part, f"{name.removesuffix(suffix)}.qweight", "a GPTQ module")


def _weight(module: str, parts: Mapping[str, Part], settings: GptqSettings, folder: Folder) -> Weight:
    """Return one module's weight, its arrays checked against the settings and each other."""
    stored = parts_of(module, SUFFIXES, parts)
    qweight = stored["qweight"]
    for part in ("qzeros", "scales"):
        if part not in stored:
            raise missing(qweight, f"{module}.{part}", settings.reason)
    if len(qweight.shape) != 2 or qweight.dtype not in ("i32", "u32"):
        raise mismatch(qweight, "a matrix of i32 or u32", settings.reason)
    words, rows = qweight.shape
    if words * WORD % settings.bits:
        raise BadInput(
            f"{where(qweight)}: columns of {words} words do not hold a whole number of {settings.bits}-bit values "
            f"({settings.reason})."
        )
    columns = words * WORD // settings.bits
    scales = stored["scales"]
    if scales.dtype not in FLOATS:
        raise mismatch(scales, either(FLOATS))
    group = None if settings.group_size == WHOLE_ROW or not columns else settings.group_size
    groups = 1 if group is None else -(-columns // group)
    ordered = is_reordered(
        stored, settings.act_order, columns, group, groups, folder, "desc_act = true", settings.reason
    )
    extras = () if ordered else extras_of(stored, ("g_idx",))
    scheme = Gptq(
        columns=columns, scales=Scales(scales.dtype, 1, group, transposed=True), bits=settings.bits,
        symmetric=settings.symmetric, layout_format=settings.layout_format, words=qweight.dtype, ordered=ordered,
        compute="bf16" if scales.dtype == "bf16" else "f16", extras=extras,
    )  # fmt: skip
    reason = settings.reason + (", desc_act" if ordered else "")
    return checked_weight(f"{module}.weight", (rows, columns), scheme, stored, reason, SUFFIXES)
