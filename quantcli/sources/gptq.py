"""GPTQ checkpoints, those of GPTQModel, AutoGPTQ and AutoRound: `.qweight`, `.qzeros`, `.scales`, mostly `.g_idx`.

config.json's `quantization_config` says `bits`, `group_size`, `sym`, `desc_act` and the format, `checkpoint_format` or
`format` (none: gptq). `dynamic` has settings of single modules: `+:regex` those that differ, `-:regex` none at all;
AutoRound's `extra_config` has them by name. What an entry leaves out, or gives as null, is that of all modules.
Modules of other bits that no entry lists are read where their row length is known otherwise (row_lengths.py).
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
from quantcli.sources.hf import counted
from quantcli.sources.modules import (
    WHOLE_ROW,
    beside,
    checkpoint,
    extras_of,
    held,
    left_dense,
    mentions_module,
    order_of,
    pattern,
    settings_of,
    where,
)
from quantcli.sources.row_lengths import RowLengths
from quantcli.sources.spellings import spellings

#: Modules of more bits are dense.
MOST_BITS = 8
SUFFIXES = {"qweight": ".qweight", "qzeros": ".qzeros", "scales": ".scales", "g_idx": ".g_idx"}

T = TypeVar("T")
#: Modules that match an expression, and their settings; None where they are dense.
Rule = tuple[re.Pattern[str], T | None]


@dataclass(frozen=True)
class GptqSettings:
    """What holds for a module; `reason`: where it stands."""

    bits: int
    group_size: int
    symmetric: bool
    act_order: bool
    layout_format: str
    reason: str = ""


def settings(keys: Reader, default: GptqSettings | None = None, layout: str = "gptq") -> GptqSettings:
    """The settings of an object, those missing taken from `default`; raises `BadInput`, `NotPossible`."""
    bits = keys.whole("bits", default.bits if default else None)
    group = keys.whole("group_size", default.group_size if default else None)
    symmetric = keys.flag("sym", default.symmetric if default else True)
    order = keys.flag("desc_act", default.act_order if default else False)
    key = "checkpoint_format" if keys.values.get("checkpoint_format") is not None else "format"
    layout = keys.text(key, default.layout_format if default else layout)
    if bits not in PLANES:
        raise keys.refuse("bits", "expected 2 to 8")
    if group <= 0 and group != WHOLE_ROW:
        raise keys.refuse("group_size", "expected a number above 0, or -1 for whole rows")
    if layout not in FORMATS:
        raise NotPossible(
            f"{keys.label}: `{key}` {shown(layout)} is a layout that is not read; {', '.join(FORMATS)} are."
        )
    if keys.text("format", layout) != layout:
        raise keys.refuse("format", f"expected {shown(layout)}, as {key} says")
    if bits not in DENSE_BITS and layout != "gptq_p":
        raise NotPossible(f"{keys.label}: {bits} bits in the layout {layout} are not read; in gptq_p they are.")
    return GptqSettings(bits, group, symmetric, order, layout)


def open_gptq(folder: Folder, config: Mapping[str, Any], tensors: Tensors, layout: str = "gptq") -> Checkpoint:
    """The checkpoint of a GPTQ folder. layout: where the settings name none. Raises `BadInput`, `NotPossible`."""
    keys = settings_of(folder, config)
    common = settings(keys, layout=layout)
    common = replace(common, reason=f"quantization_config: bits {common.bits}, group_size {common.group_size}")
    rules = [*_rules(keys.part("dynamic"), common)]
    rules += named_rules(keys.part("extra_config"), lambda entry, place: _extra(entry, place, common))
    modules = sorted(name.removesuffix(".qweight") for name in tensors.parts if name.endswith(".qweight"))
    if not modules:
        raise BadInput(f"{keys.label}: says GPTQ, but no tensor is called *.qweight.")
    _refuse_orphans(tensors.parts)
    chosen = {module: _of(module, rules, common, tensors.parts) for module in modules}
    unlisted = _unlisted(chosen, common, tensors.parts, RowLengths(config, tensors.parts))
    weights = [_weight(module, tensors.parts, (chosen | unlisted)[module], folder) for module in modules]
    dense = keys.texts("modules_to_not_convert")
    further = _other_than(keys, common, unlisted)
    is_chosen = chosen_linears(keys, modules)
    further += left_dense(
        tensors.parts, modules, keys.label,
        lambda module, linear: is_chosen(module, linear) and not mentions_module(dense, module)
        and next((found is not None for regex, found in rules if regex.match(module)), True),
    )  # fmt: skip
    return checkpoint("gptq", folder, config, tensors, weights, further)


def _rules(dynamic: Reader, common: GptqSettings) -> Iterable[Rule[GptqSettings]]:
    """Patterns of `dynamic` and the settings of modules that match, None where they are dense."""
    for key in dynamic.values:
        regex = pattern(key.removeprefix("+:").removeprefix("-:"), f"{dynamic.label}: key {shown(key)}")
        if key.startswith("-:"):
            yield regex, None
            continue
        found = settings(dynamic.part(key, needed=True), common)
        yield regex, replace(found, reason=f"quantization_config.dynamic {key}: bits {found.bits}")


def named_rules(extra: Reader, read: Callable[[Reader, str], T | None]) -> Iterable[Rule[T]]:
    """AutoRound's settings of modules by name, or by an expression that is found in it.

    read: makes settings of an entry and where it stands, as reasons have it; None of a dense one.
    """
    found = [
        (name, read(extra.part(name, needed=True), f"quantization_config.extra_config {name}")) for name in extra.values
    ]
    yield from ((re.compile(re.escape(name) + "$"), mine) for name, mine in found)
    yield from ((pattern(f".*(?:{name})", f"{extra.label}: key {shown(name)}"), mine) for name, mine in found)


def _extra(entry: Reader, place: str, common: GptqSettings) -> GptqSettings | None:
    """AutoRound's settings of a module; None for more than 8 bits, which are dense."""
    if entry.whole("bits", common.bits) > MOST_BITS:
        entry.settled()
        return None
    check_integers(entry)
    mine = settings(entry, common)
    return replace(mine, reason=f"{place}: bits {mine.bits}")


def check_integers(keys: Reader) -> None:
    """Raise `NotPossible` for AutoRound's codes that are no integers."""
    if keys.text("data_type", "int") != "int":
        raise NotPossible(f"{keys.label}: `data_type` {shown(keys.values['data_type'])} is not read; int is.")


def _of(
    module: str, rules: Iterable[Rule[GptqSettings]], common: GptqSettings, parts: Mapping[str, Part]
) -> GptqSettings:
    for regex, found in rules:
        if found is None and regex.match(module):
            raise BadInput(
                f"{where(parts[f'{module}.qweight'])}: quantization_config.dynamic or .extra_config leaves "
                f"{module} dense ({regex.pattern}), but it is packed."
            )
        if found is not None and any(map(regex.match, spellings(module))):
            return found
    return common


def _unlisted(
    chosen: Mapping[str, GptqSettings], common: GptqSettings, parts: Mapping[str, Part], lengths: RowLengths
) -> dict[str, GptqSettings]:
    """Modules without an entry whose arrays are not those of the default -> what their row length makes of these.

    Where no module has the default, it is wrong itself, and nothing is read.
    """
    default = [module for module, mine in chosen.items() if mine is common]
    found = {module: _fitted(module, parts, common, lengths) for module in default if not _fits(module, parts, common)}
    return {module: mine for module, mine in found.items() if mine is not None} if len(found) < len(default) else {}


def _fits(module: str, parts: Mapping[str, Part], wanted: GptqSettings) -> bool:
    """Whether codes and scales have the shapes of these settings."""
    qweight, scales = parts[f"{module}.qweight"], parts.get(f"{module}.scales")
    if scales is None or len(qweight.shape) != 2 or len(scales.shape) != 2 or qweight.shape[0] * WORD % wanted.bits:
        return scales is None
    return scales.shape[0] == _groups(qweight.shape[0] * WORD // wanted.bits, wanted.group_size)


def _groups(columns: int, group: int) -> int:
    return 1 if group == WHOLE_ROW else -(-columns // group)


def _fitted(module: str, parts: Mapping[str, Part], common: GptqSettings, lengths: RowLengths) -> GptqSettings | None:
    """The bits and the group that a module's arrays have at its row length; None where this is unknown or none fit."""
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


def _other_than(keys: Reader, common: GptqSettings, unlisted: Mapping[str, GptqSettings]) -> list[str]:
    """A warning of modules that no entry lists and that have other bits or groups; none without any."""
    if not unlisted:
        return []
    kinds = sorted({(mine.bits, mine.group_size) for mine in unlisted.values()})
    said = ", ".join(f"bits {bits} group_size {group}" for bits, group in kinds)
    return [
        f"{keys.label}: bits {common.bits} group_size {common.group_size} are not those of "
        f"{counted('module', sorted(unlisted))} listed nowhere: read with {said}, as row lengths and shapes say."
    ]


def _refuse_orphans(parts: Mapping[str, Part]) -> None:
    for name, part in parts.items():
        for suffix in (".qzeros", ".g_idx"):
            if name.endswith(suffix) and f"{name.removesuffix(suffix)}.qweight" not in parts:
                raise BadInput(f"{where(part)}: has no .qweight beside it.")


def _weight(module: str, parts: Mapping[str, Part], wanted: GptqSettings, folder: Folder) -> Weight:
    """One module's weight, its parts checked against the settings and each other."""
    stored = beside(module, SUFFIXES, parts)
    qweight = stored["qweight"]
    for part in ("qzeros", "scales"):
        if part not in stored:
            raise BadInput(f"{where(qweight)}: has no .{part} beside it, which {wanted.reason} needs.")
    if len(qweight.shape) != 2:
        raise BadInput(f"{where(qweight)}: has {len(qweight.shape)} dimensions, two are needed.")
    words, rows = qweight.shape
    if words * WORD % wanted.bits or qweight.dtype not in ("i32", "u32"):
        raise BadInput(
            f"{where(qweight)}: is {qweight.dtype} {list(qweight.shape)}, which holds no whole columns of "
            f"{wanted.bits} bits ({wanted.reason})."
        )
    columns = words * WORD // wanted.bits
    scales = stored["scales"]
    if scales.dtype not in FLOATS:
        raise BadInput(f"{where(scales)}: is {scales.dtype}, scales are f16, bf16, f32 or f64.")
    group = None if wanted.group_size == WHOLE_ROW or not columns else wanted.group_size
    groups = 1 if group is None else -(-columns // group)
    ordered = order_of(stored, wanted.act_order, columns, group, groups, folder, "desc_act", wanted.reason)
    extras = () if ordered else extras_of(stored, ("g_idx",))
    scheme = Gptq(
        columns=columns, scales=Scales(scales.dtype, 1, group, transposed=True), bits=wanted.bits,
        symmetric=wanted.symmetric, layout_format=wanted.layout_format, words=qweight.dtype, ordered=ordered,
        compute="bf16" if scales.dtype == "bf16" else "f16", extras=extras,
    )  # fmt: skip
    reason = wanted.reason + (", desc_act" if ordered else "")
    return held(f"{module}.weight", (rows, columns), scheme, stored, reason, SUFFIXES)
