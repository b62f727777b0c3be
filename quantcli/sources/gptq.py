"""GPTQ checkpoints, those of GPTQModel, AutoGPTQ and AutoRound: `.qweight`, `.qzeros`, `.scales`, mostly `.g_idx`.

config.json's `quantization_config` says `bits`, `group_size`, `sym`, `desc_act` and the format, `checkpoint_format` or
`format` (none: gptq). `dynamic` has settings of single modules: `+:regex` those that differ, `-:regex` none at all.
AutoRound says quant_method auto-round and in `packing_format` which tool's layout it took; its own is that of GPTQ. Its
`extra_config` has settings of single modules by name.
Sources: GPTQModel 7 (quantization/config.py), AutoRound 0.16 (export).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from quantcli.arrays import FLOATS
from quantcli.checkpoint import Checkpoint, Part, Weight
from quantcli.containers.hostile import shown
from quantcli.errors import BadInput, NotPossible
from quantcli.schemes.gptq import DENSE_BITS, FORMATS, Gptq
from quantcli.schemes.packed import PLANES, WORD
from quantcli.schemes.scaled import Scales
from quantcli.sources.awq import open_awq
from quantcli.sources.folder import Folder, Tensors
from quantcli.sources.modules import (
    Keys,
    beside,
    checkpoint,
    extras_of,
    held,
    names_module,
    order_of,
    pattern,
    refuse_unpacked,
    where,
)

SUFFIXES = {"qweight": ".qweight", "qzeros": ".qzeros", "scales": ".scales", "g_idx": ".g_idx"}
WHOLE_ROW = -1
#: Keys that say which modules are quantized, in patterns of each tool's own: then dense ones are taken as they are.
PARTIAL = ("modules_in_block_to_quantize", "inside_layer_modules", "block_name_to_quantize", "to_quant_block_names")
#: AutoRound's `packing_format` -> whose layout it is.
PACKINGS = {
    "auto_round:auto_gptq": "gptq", "auto_gptq": "gptq", "auto_round": "gptq", "auto_round:gptq": "gptq",
    "auto_round:auto_awq": "awq", "auto_awq": "awq", "auto_round:awq": "awq",
}  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """What holds for a module; `reason`: where it stands."""

    bits: int
    group_size: int
    symmetric: bool
    act_order: bool
    layout_format: str
    reason: str = ""


def settings(keys: Keys, default: Settings | None = None) -> Settings:
    """The settings of an object, those missing taken from `default`; raises `BadInput`, `NotPossible`."""
    bits = keys.number("bits", default.bits if default else None)
    group = keys.number("group_size", default.group_size if default else None)
    symmetric = keys.flag("sym", default.symmetric if default else True)
    order = keys.flag("desc_act", default.act_order if default else False)
    key = "checkpoint_format" if "checkpoint_format" in keys.block else "format"
    layout = keys.text(key, default.layout_format if default else "gptq")
    if bits not in PLANES:
        raise keys.refuse("bits", "GPTQ has 2 to 8")
    if group <= 0 and group != WHOLE_ROW:
        raise keys.refuse("group_size", "it has to be above 0, or -1 for whole rows")
    if layout not in FORMATS:
        raise NotPossible(
            f"{keys.label}: `{key}` {shown(layout)} is a layout that is not read; {', '.join(FORMATS)} are."
        )
    if keys.text("format", layout) != layout:
        raise keys.refuse("format", f"but `{key}` is {shown(layout)}")
    if bits not in DENSE_BITS and layout != "gptq_p":
        raise NotPossible(f"{keys.label}: {bits} bits in the layout {layout} are not read; in gptq_p they are.")
    return Settings(bits, group, symmetric, order, layout)


def open_auto_round(folder: Folder, config: Mapping[str, Any], tensors: Tensors) -> Checkpoint:
    """The checkpoint of an AutoRound folder, in GPTQ's or AWQ's layout. Raises `BadInput`, `NotPossible`."""
    keys = Keys(config["quantization_config"], f"{folder.label}/config.json: quantization_config")
    packing = keys.text("packing_format", "auto_round:auto_gptq")
    layout = PACKINGS.get(packing)
    if layout is None:
        raise NotPossible(
            f"{keys.label}: `packing_format` {shown(packing)} is a layout that is not read; {', '.join(PACKINGS)} are."
        )
    if keys.text("data_type", "int") != "int":
        raise NotPossible(f"{keys.label}: `data_type` {shown(keys.block['data_type'])} is not read; int is.")
    if layout == "awq" and keys.block.get("extra_config"):
        _refuse_extra(keys)
    return (open_gptq if layout == "gptq" else open_awq)(folder, config, tensors)


def _refuse_extra(keys: Keys) -> None:
    """`extra_config` has settings of single modules; in AWQ's layout, which has 4 bits, those that are dense."""
    extra = keys.under("extra_config")
    for name in extra.block:
        if extra.under(name).number("bits", 16) > 8:
            continue
        raise NotPossible(
            f"{extra.label}: settings of single modules ({shown(name)}) in AWQ's layout are read of dense ones only."
        )


def open_gptq(folder: Folder, config: Mapping[str, Any], tensors: Tensors) -> Checkpoint:
    """The checkpoint of a GPTQ folder. Raises `BadInput`, `NotPossible`."""
    keys = Keys(config["quantization_config"], f"{folder.label}/config.json: quantization_config")
    common = settings(keys)
    common = replace(common, reason=f"quantization_config: bits {common.bits}, group_size {common.group_size}")
    rules = [*_rules(keys.under("dynamic", needed=False), common)]
    rules += _extra_rules(keys.under("extra_config", needed=False), common)
    modules = sorted(name.removesuffix(".qweight") for name in tensors.parts if name.endswith(".qweight"))
    if not modules:
        raise BadInput(f"{keys.label}: says GPTQ, but no tensor is called *.qweight.")
    _refuse_orphans(tensors.parts)
    weights = [_weight(module, tensors.parts, _of(module, rules, common, tensors.parts), folder) for module in modules]
    dense = keys.names("modules_to_not_convert")
    if not any(keys.block.get(key) for key in PARTIAL):
        refuse_unpacked(
            tensors.parts, modules, keys.label,
            lambda module, linear: linear and not names_module(dense, module)
            and all(found is not None or not regex.match(module) for regex, found in rules),
        )  # fmt: skip
    return checkpoint("gptq", folder, config, tensors, weights)


def _rules(dynamic: Keys, common: Settings) -> Iterable[tuple[re.Pattern[str], Settings | None]]:
    """Patterns of `dynamic` and the settings of modules that match, None where they are dense."""
    for key in dynamic.block:
        regex = pattern(key.removeprefix("+:").removeprefix("-:"), f"{dynamic.label}: key {shown(key)}")
        if key.startswith("-:"):
            yield regex, None
            continue
        found = settings(dynamic.under(key), common)
        yield regex, replace(found, reason=f"quantization_config.dynamic {key}: bits {found.bits}")


def _extra_rules(extra: Keys, common: Settings) -> Iterable[tuple[re.Pattern[str], Settings | None]]:
    """AutoRound's settings of modules by name, or by an expression that is found in it; more than 8 bits: dense."""
    found: list[tuple[str, Settings | None]] = []
    for name in extra.block:
        said = {key: value for key, value in extra.under(name).block.items() if value is not None}
        entry = Keys(said, f"{extra.label}.{name}")
        if entry.number("bits", common.bits) > 8:
            found.append((name, None))
            continue
        if entry.text("data_type", "int") != "int":
            raise NotPossible(f"{entry.label}: `data_type` {shown(said['data_type'])} is not read; int is.")
        mine = settings(entry, common)
        found.append((name, replace(mine, reason=f"quantization_config.extra_config {name}: bits {mine.bits}")))
    yield from ((re.compile(re.escape(name) + "$"), mine) for name, mine in found)
    yield from ((pattern(f".*(?:{name})", f"{extra.label}: key {shown(name)}"), mine) for name, mine in found)


def _of(
    module: str, rules: Iterable[tuple[re.Pattern[str], Settings | None]], common: Settings, parts: Mapping[str, Part]
) -> Settings:
    for regex, found in rules:
        if regex.match(module):
            if found is None:
                raise BadInput(
                    f"{where(parts[f'{module}.qweight'])}: quantization_config.dynamic or .extra_config leaves "
                    f"{module} dense ({regex.pattern}), but it is packed."
                )
            return found
    return common


def _refuse_orphans(parts: Mapping[str, Part]) -> None:
    for name, part in parts.items():
        for suffix in (".qzeros", ".g_idx"):
            if name.endswith(suffix) and f"{name.removesuffix(suffix)}.qweight" not in parts:
                raise BadInput(f"{where(part)}: has no .qweight beside it.")


def _weight(module: str, parts: Mapping[str, Part], wanted: Settings, folder: Folder) -> Weight:
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
        columns=columns, scales=Scales(scales.dtype, 1, group, turned=True), bits=wanted.bits,
        symmetric=wanted.symmetric, layout_format=wanted.layout_format, words=qweight.dtype, ordered=ordered,
        compute="bf16" if scales.dtype == "bf16" else "f16", extras=extras,
    )  # fmt: skip
    reason = wanted.reason + (", desc_act" if ordered else "")
    return held(f"{module}.weight", (rows, columns), scheme, stored, reason, SUFFIXES)
