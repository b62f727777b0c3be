"""AutoAWQ checkpoints: quantized modules have `.qweight`, `.scales` and (in GEMM's layout mostly) `.qzeros`.

config.json's `quantization_config` says `quant_method` awq, `bits` 4, `group_size`, `zero_point` and `version`: the
layout, gemm, gemv or gemv_fast. Modules of gemm whose groups are others are read as the shapes of their arrays say.
Source: AutoAWQ (awq/models/_config.py, awq/modules/linear/gemm.py, gemv.py, gemv_fast.py).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from quantcli.arrays import FLOATS
from quantcli.checkpoint import Checkpoint, Part, Weight
from quantcli.containers.hostile import shown
from quantcli.containers.json_text import Reader
from quantcli.errors import BadInput, NotPossible
from quantcli.schemes.dense import holds
from quantcli.schemes.hf.awq import BITS, ROWS_PER_WORD, Awq
from quantcli.schemes.hf.awq_gemv import FAST_ROWS, MULTIPLES, AwqGemv, AwqGemvFast
from quantcli.schemes.hf.scaled import Scales
from quantcli.sources.blocks import chosen_linears
from quantcli.sources.companions import is_unscaled, marked
from quantcli.sources.folder import Folder, Tensors
from quantcli.sources.hf import counted, dense
from quantcli.sources.modules import (
    WHOLE_ROW,
    beside,
    checkpoint,
    held,
    left_dense,
    mentions_module,
    refuse_bare,
    settings_of,
)
from quantcli.sources.spellings import spellings

#: `version` -> the layout's class, and what dtype and how many columns and rows an entry of `qweight` is; an empty one
#: is what some exporters write for gemm.
VERSIONS = ("gemm", "", "gemv", "gemv_fast")
GEMV: dict[str, tuple[type[AwqGemv], str, int, int]] = {
    "gemv": (AwqGemv, "i32", 8, 1), "gemv_fast": (AwqGemvFast, "i16", 1, FAST_ROWS),
}  # fmt: skip
#: Keys -> their older names, and what they are where neither is there; a null is not that, as in AutoAWQ.
KEYS = {
    "bits": ("w_bit", 4), "group_size": ("q_group_size", 128), "zero_point": ("zero_point", True),
    "version": ("version", "gemm"),
}  # fmt: skip
#: The dtypes of packed arrays.
WORDS = ("i32", "u32")


@dataclass(frozen=True)
class AwqSettings:
    group_size: int
    zero_point: bool
    version: str = "gemm"
    dense: tuple[str, ...] = ()


#: Modules that match an expression, and their settings; None where they are dense.
Rule = tuple[re.Pattern[str], AwqSettings | None]


def settings(keys: Reader) -> AwqSettings:
    """What `quantization_config` says; `BadInput` for what makes no sense, `NotPossible` for what is not read."""
    where, values = keys.label, keys.values
    stated = replace(keys, values={key: values.get(key, values.get(*older)) for key, older in KEYS.items()})
    bits, zero_point, version = stated.whole("bits"), stated.flag("zero_point"), stated.text("version")
    if version.lower() not in VERSIONS:
        raise NotPossible(
            f"{where}: `version` {shown(version)} is a layout that is not read; `gemm`, `gemv` and `gemv_fast` are."
        )
    if bits != BITS:
        raise NotPossible(f"{where}: `bits` is {shown(bits)}; AutoAWQ's layouts are read with 4 bits.")
    group = group_size(stated)
    found = AwqSettings(group, zero_point, version.lower() or "gemm", keys.texts("modules_to_not_convert"))
    if found.version in GEMV and not zero_point:
        raise NotPossible(
            f"{where}: `zero_point` is false, but AutoAWQ's layout `version` {found.version} has zero points."
        )
    if found.version in GEMV and group != WHOLE_ROW and min(group, 128) not in MULTIPLES:
        raise NotPossible(f"{where}: `group_size` is {group}; {found.version} has 32, 64 and from 128 on.")
    return found


def group_size(keys: Reader, default: int | None = None) -> int:
    """A group's size; raises `BadInput` for one that makes no sense."""
    size = keys.whole("group_size", default)
    if size <= 0 and size != WHOLE_ROW:
        raise keys.refuse("group_size", "expected a number above 0, or -1 for whole rows")
    return size


def open_awq(
    folder: Folder, config: Mapping[str, Any], tensors: Tensors, rules: Sequence[Rule] = (), *, by_blocks: bool = False
) -> Checkpoint:
    """The checkpoint of an AutoAWQ folder. rules: settings of single modules. Raises `BadInput`, `NotPossible`.

    by_blocks: whether the settings are AutoRound's, which say what is quantized rather than what is not.
    """
    keys = settings_of(folder, config)
    block = settings(keys)
    parts = tensors.parts
    modules = sorted(name.removesuffix(".qweight") for name in parts if name.endswith(".qweight"))
    if not modules:
        raise BadInput(f"{folder.label}: config.json says AWQ, but no tensor is called *.qweight.")
    is_chosen = chosen_linears(keys, modules) if by_blocks else lambda module, linear: linear
    further = left_dense(
        parts, modules, keys.label if by_blocks else f"{keys.label}.modules_to_not_convert",
        lambda module, linear: is_chosen(module, linear) and not _is_dense(module, block, rules),
    )  # fmt: skip
    chosen = {module: _of(module, block, rules, parts) for module in modules}
    if block.version in GEMV:
        weights = [_gemv_weight(module, parts, mine) for module, mine in chosen.items()]
        return checkpoint("awq", folder, config, tensors, weights, further)
    unlisted = _unlisted(chosen, block, parts)
    if unlisted:
        groups = ", ".join(map(str, sorted({mine.group_size for mine in unlisted.values()})))
        further.append(
            f"{keys.label}: group_size {block.group_size} is not that of "
            f"{counted('module', list(unlisted))} listed nowhere: read with {groups}, as the shapes of scales say."
        )
    packed = {module: _weight(module, parts, mine) for module, mine in (chosen | unlisted).items()}
    taken = {part.name for weight in packed.values() for part in weight.parts.values()}
    others = {name: _other(part) for name, part in parts.items() if name not in taken}
    unified, warning = _unify({weight.name: weight for weight in packed.values()})
    warnings = (*tensors.warnings, *_ignored(packed.values(), block.zero_point), *_own(others), *warning, *further)
    source = Checkpoint(
        "awq", "hf", folder.path("."), tensors.files, dict(sorted((others | unified).items())), config,
        header=tensors.metadata, warnings=warnings,
    )  # fmt: skip
    source = marked(source)
    if not is_unscaled(source):
        refuse_bare((part for name, part in parts.items() if name in others), "awq")
    return source


def _is_dense(module: str, block: AwqSettings, rules: Iterable[Rule]) -> bool:
    """Whether settings leave a module dense; AutoAWQ looks for the entries of its list anywhere in a name."""
    if mentions_module(block.dense, module) or any(name in module for name in block.dense):
        return True
    return next((mine is None for regex, mine in rules if regex.match(module)), False)


def _of(module: str, block: AwqSettings, rules: Iterable[Rule], parts: Mapping[str, Part]) -> AwqSettings:
    """The settings of a packed module; raises `BadInput` for one that is to be dense."""
    for regex, mine in rules:
        if mine is None and regex.match(module):
            raise BadInput(
                f"{_where(parts[f'{module}.qweight'])}: quantization_config.extra_config leaves {module} dense "
                f"({regex.pattern}), but it is packed."
            )
        if mine is not None and any(map(regex.match, spellings(module))):
            return mine
    return block


def _unlisted(
    chosen: Mapping[str, AwqSettings], block: AwqSettings, parts: Mapping[str, Part]
) -> dict[str, AwqSettings]:
    """Modules without an entry whose scales are not those of the default's groups -> what their shapes say.

    Where no module has the default, it is wrong itself, and nothing is read.
    """
    default = [module for module, mine in chosen.items() if mine is block]
    groups = {module: _group_of(module, parts) for module in default}
    odd = {module: group for module, (group, columns) in groups.items() if group not in (0, _size(block, columns))}
    return {m: replace(block, group_size=size) for m, size in odd.items()} if len(odd) < len(default) else {}


def _group_of(module: str, parts: Mapping[str, Part]) -> tuple[int, int]:
    """The group that a module's arrays agree on, 0 where they do not, and the length of its rows."""
    qweight, scales, zeros = (parts.get(f"{module}.{name}") for name in ("qweight", "scales", "qzeros"))
    if qweight is None or scales is None or len(qweight.shape) != 2 or len(scales.shape) != 2:
        return 0, 0
    columns, groups = qweight.shape[0], scales.shape[0]
    agrees = groups > 0 and columns % groups == 0 and (zeros is None or zeros.shape[:1] == (groups,))
    return columns // groups if agrees else 0, columns


def _size(block: AwqSettings, columns: int) -> int:
    return columns if block.group_size == WHOLE_ROW else block.group_size


def _where(part: Part) -> str:
    return f"{part.file}: tensor {part.name}"


def _other(part: Part) -> Weight:
    """A tensor that belongs to no quantized module; raises where it looks as if it should."""
    if part.name.endswith((".qzeros", ".g_idx")):
        raise BadInput(f"{_where(part)}: has no .qweight beside it.")
    if part.name.endswith(".weight") and part.dtype == "u32":
        raise BadInput(f"{_where(part)}: is uint32, as MLX's packed codes are, but config.json says AWQ.")
    return dense(part)


def _own(others: Iterable[str]) -> list[str]:
    return [
        f"{name} has no .qweight beside it: taken as a tensor of the model's own."
        for name in sorted(others)
        if name.endswith((".scales", ".biases"))
    ]


def _ignored(packed: Collection[Weight], wanted: bool) -> list[str]:
    """Warnings of zero points that are there, or not, though the settings say otherwise."""
    count = sum(isinstance(w.scheme, Awq) and w.scheme.symmetric and w.scheme.zeros_dtype is not None for w in packed)
    bare = [w.name for w in packed if isinstance(w.scheme, Awq) and w.scheme.zeros_dtype is None]
    several = f"{bare[0]} has" if len(bare) == 1 else f"{len(bare)} weights, {bare[0]} the first, have" if bare else ""
    lack = f"; {several} none" if bare else ""
    found = [f"zero_point is false, yet {count} weights store zero points, which count{lack}."] if count else []
    if bare and wanted and len(bare) < len(packed):
        found.append(f"zero_point is true, yet {several} no .qzeros: read as symmetric.")
    return found


def _weight(module: str, parts: Mapping[str, Part], block: AwqSettings) -> Weight:
    """One quantized module's weight, its parts checked against each other."""
    qweight = parts[f"{module}.qweight"]
    scales, qzeros = parts.get(f"{module}.scales"), parts.get(f"{module}.qzeros")
    _check_neighbours(module, parts)
    if scales is None:
        raise BadInput(f"{_where(qweight)}: has no .scales beside it.")
    stored = {"qweight": qweight, "scales": scales} | ({"qzeros": qzeros} if qzeros is not None else {})
    _check_arrays(stored)
    columns, words = qweight.shape
    rows = words * ROWS_PER_WORD
    if not columns or not words:
        raise BadInput(f"{_where(qweight)}: has shape {qweight.shape}, which holds nothing.")
    group = _size(block, columns)
    if columns % group:
        raise BadInput(f"{_where(qweight)}: {columns} input features are no multiple of group_size {group}.")
    symmetric = not block.zero_point or qzeros is None
    scheme = Awq(
        columns=columns, scales=Scales(scales.dtype, 1, group, transposed=True), symmetric=symmetric,
        words=qweight.dtype, zeros_dtype=qzeros.dtype if qzeros is not None else None,
    )  # fmt: skip
    layout = scheme.layout((rows, columns))
    for name, part in stored.items():
        if part.shape != layout[name].shape:
            raise BadInput(
                f"{_where(part)}: has shape {part.shape}, a qweight of {qweight.shape} and group_size {group} need "
                f"{layout[name].shape}."
            )
    reason = f"quantization_config: bits 4, group_size {group}" + (", symmetric" if symmetric else "")
    return Weight(f"{module}.weight", (rows, columns), scheme, stored, reason)


def _gemv_weight(module: str, parts: Mapping[str, Part], block: AwqSettings) -> Weight:
    """One quantized module's weight in GEMV's or GEMV-fast's layout."""
    kind, dtype, columns_each, rows_each = GEMV[block.version]
    stored = beside(module, {part: f".{part}" for part in ("qweight", "qzeros", "scales")}, parts)
    qweight = stored["qweight"]
    _check_neighbours(module, parts)
    if len(qweight.shape) != 2 or qweight.dtype != dtype:
        raise BadInput(f"{_where(qweight)}: is {qweight.dtype} {list(qweight.shape)}, a matrix of {dtype} is needed.")
    rows, columns = qweight.shape[0] * rows_each, qweight.shape[1] * columns_each
    group = _size(block, columns)
    if columns and min(group, 128) not in MULTIPLES:
        raise BadInput(f"{_where(qweight)}: rows of {group} are no group that {block.version} has.")
    scheme = kind(columns=columns, scales=Scales("f16", 1, group))
    reason = f"quantization_config: version {block.version}, group_size {group}"
    return held(f"{module}.weight", (rows, columns), scheme, stored, reason)


def _check_neighbours(module: str, parts: Mapping[str, Part]) -> None:
    """Refuse tensors of other layouts beside a `.qweight`."""
    if order := parts.get(f"{module}.g_idx"):
        raise NotPossible(f"{_where(order)}: act-order is no part of AutoAWQ's layout; export the model without it.")
    if biases := parts.get(f"{module}.biases"):
        raise BadInput(f"{_where(biases)}: belongs to MLX's layout and means nothing beside a .qweight: remove it.")
    if stale := parts.get(f"{module}.weight"):
        raise BadInput(f"{_where(stale)}: is stale, a .qweight stands beside it: remove one of them.")


def _check_arrays(stored: Mapping[str, Part]) -> None:
    """Ranks and dtypes of a module's arrays."""
    for name, part in stored.items():
        if len(part.shape) != 2:
            raise BadInput(f"{_where(part)}: has {len(part.shape)} dimensions, two are needed.")
        if name == "scales" and part.dtype not in FLOATS:
            raise BadInput(f"{_where(part)}: is {part.dtype}, scales are f16, bf16, f32 or f64.")
        if name != "scales" and part.dtype not in WORDS:
            raise BadInput(f"{_where(part)}: is {part.dtype}, packed AWQ tensors are int32 or uint32.")


def _unify(weights: dict[str, Weight]) -> tuple[dict[str, Weight], list[str]]:
    """One dtype for the scales of all weights: the narrowest that holds each (f16 with bf16: f32)."""
    found = sorted({w.scheme.scales_dtype for w in weights.values() if isinstance(w.scheme, Awq)})
    if len(found) < 2:
        return weights, []
    common = next(d for d in reversed(FLOATS) if all(holds(d, other) for other in found))
    unified = {
        name: replace(w, scheme=replace(w.scheme, common_dtype=common)) if isinstance(w.scheme, Awq) else w
        for name, w in weights.items()
    }
    return unified, [f"scales are stored as {', '.join(found)}: taken together they are {common}."]
