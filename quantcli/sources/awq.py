"""AutoAWQ checkpoints: quantized modules have `.qweight`, `.scales` and (in GEMM's layout usually) `.qzeros`.

config.json's `quantization_config` gives `quant_method` awq, `bits` 4, `group_size`, `zero_point` and the layout as
`version`: gemm, gemv or gemv_fast. In gemm, the shapes of a module's arrays decide if they contradict `group_size`.
Source: AutoAWQ (awq/models/_config.py, awq/modules/linear/gemm.py, gemv.py, gemv_fast.py).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from quantcli.arrays import FLOATS
from quantcli.checkpoint import Checkpoint, Part, Weight
from quantcli.containers.json_text import Reader
from quantcli.errors import BadInput, NotPossible
from quantcli.schemes.dense import holds
from quantcli.schemes.hf.awq import BITS, ROWS_PER_WORD, Awq
from quantcli.schemes.hf.awq_gemv import FAST_ROWS, MULTIPLES, AwqGemv, AwqGemvFast
from quantcli.schemes.hf.scaled import Scales
from quantcli.sources.blocks import chosen_linears
from quantcli.sources.companions import is_unscaled, marked
from quantcli.sources.folder import Folder, Tensors
from quantcli.sources.hf import dense
from quantcli.sources.modules import (
    GROUP_SIZE,
    WHOLE_ROW,
    checked_weight,
    checkpoint,
    dense_warnings,
    mentions_module,
    parts_of,
    refuse_bare,
    settings_of,
)
from quantcli.sources.spellings import spellings
from quantcli.sources.wording import counted, either, listed_as_dense, mismatch, missing, no_codes, where

#: The supported layouts. Some exporters write an empty `version` for gemm.
VERSIONS = ("gemm", "", "gemv", "gemv_fast")
#: `version` -> the layout's class; dtype, columns and rows of an element of `qweight`.
GEMV: dict[str, tuple[type[AwqGemv], str, int, int]] = {
    "gemv": (AwqGemv, "i32", 8, 1), "gemv_fast": (AwqGemvFast, "i16", 1, FAST_ROWS),
}  # fmt: skip
#: Keys -> their older names and their defaults. As in AutoAWQ, null is not the default.
KEYS = {
    "bits": ("w_bit", 4), "group_size": ("q_group_size", 128), "zero_point": ("zero_point", True),
    "version": ("version", "gemm"),
}  # fmt: skip
#: The dtypes of packed arrays.
WORDS = ("i32", "u32")


@dataclass(frozen=True)
class AwqSettings:
    """The settings of a module. dense: the names of dense modules, or parts of their names."""

    group_size: int
    zero_point: bool
    version: str = "gemm"
    dense: tuple[str, ...] = ()


#: The modules that match an expression, and their settings; None for dense ones.
Rule = tuple[re.Pattern[str], AwqSettings | None]


def settings(keys: Reader) -> AwqSettings:
    """Return the settings in `quantization_config`. Raises `BadInput` if invalid, `NotPossible` if unsupported."""
    values = keys.values
    stated = replace(keys, values={key: values.get(key, values.get(*older)) for key, older in KEYS.items()})
    bits, zero_point, version = stated.whole("bits"), stated.flag("zero_point"), stated.text("version")
    if version.lower() not in VERSIONS:
        raise stated.unsupported("version", filter(None, VERSIONS))
    if bits != BITS:
        raise stated.unsupported("bits", (BITS,))
    group = group_size(stated)
    settings = AwqSettings(group, zero_point, version.lower() or "gemm", keys.texts("modules_to_not_convert"))
    if settings.version in GEMV and not zero_point:
        raise NotPossible(f"{keys.label}: zero_point false is not supported with version {settings.version}.")
    if settings.version in GEMV and group != WHOLE_ROW and min(group, 128) not in MULTIPLES:
        raise NotPossible(
            f"{keys.label}: group_size {group} is not supported with version {settings.version}. Supported: 32, 64, "
            "and "
            "128 or more."
        )
    return settings


def group_size(keys: Reader, default: int | None = None) -> int:
    """Return the group size. Raises `BadInput` for an invalid one."""
    size = keys.whole("group_size", default)
    if size <= 0 and size != WHOLE_ROW:
        raise keys.refuse("group_size", GROUP_SIZE)
    return size


def open_awq(
    folder: Folder, config: Mapping[str, Any], tensors: Tensors, rules: Sequence[Rule] = (), *, by_blocks: bool = False
) -> Checkpoint:
    """Open an AutoAWQ folder. rules: settings of single modules. Raises `BadInput`, `NotPossible`.

    by_blocks: whether the settings are AutoRound's, which list quantized instead of dense modules.
    """
    keys = settings_of(folder, config)
    block = settings(keys)
    parts = tensors.parts
    modules = sorted(name.removesuffix(".qweight") for name in parts if name.endswith(".qweight"))
    if not modules:
        raise no_codes(keys.label, "awq", "*.qweight")
    is_chosen = chosen_linears(keys, modules) if by_blocks else lambda module, linear: linear
    further = dense_warnings(
        parts, modules, keys.label if by_blocks else f"{keys.label}.modules_to_not_convert",
        lambda module, linear: is_chosen(module, linear) and not _is_dense(module, block, rules),
    )  # fmt: skip
    chosen = {module: _settings_of_module(module, block, rules, parts) for module in modules}
    if block.version in GEMV:
        weights = [_gemv_weight(module, parts, settings) for module, settings in chosen.items()]
        return checkpoint("awq", folder, config, tensors, weights, further)
    unlisted = _unlisted(chosen, block, parts)
    if unlisted:
        groups = ", ".join(map(str, sorted({settings.group_size for settings in unlisted.values()})))
        further.append(
            f"{keys.label}: {counted('module', list(unlisted))} not listed, and group_size {block.group_size} does not "
            f"fit. group_size is inferred from the shapes: {groups}."
        )
    packed = {module: _weight(module, parts, settings) for module, settings in (chosen | unlisted).items()}
    taken = {part.name for weight in packed.values() for part in weight.parts.values()}
    others = {name: _other(part) for name, part in parts.items() if name not in taken}
    unified, warning = _unify({weight.name: weight for weight in packed.values()})
    zero_points = _zero_point_warnings(packed.values(), block.zero_point)
    warnings = (*tensors.warnings, *zero_points, *_lone_warnings(others), *warning, *further)
    source = Checkpoint(
        "awq", "hf", folder.path("."), tensors.files, dict(sorted((others | unified).items())), config,
        header=tensors.metadata, warnings=warnings,
    )  # fmt: skip
    source = marked(source)
    if not is_unscaled(source):
        refuse_bare((part for name, part in parts.items() if name in others), "awq")
    return source


def _is_dense(module: str, block: AwqSettings, rules: Iterable[Rule]) -> bool:
    """Return whether settings leave a module dense. AutoAWQ accepts entries of its list anywhere in a name."""
    if mentions_module(block.dense, module) or any(name in module for name in block.dense):
        return True
    return next((rule is None for regex, rule in rules if regex.match(module)), False)


def _settings_of_module(
    module: str, block: AwqSettings, rules: Iterable[Rule], parts: Mapping[str, Part]
) -> AwqSettings:
    """Return the settings of a packed module. Raises `BadInput` for one that should be dense."""
    for regex, rule in rules:
        if rule is None and regex.match(module):
            place = f"quantization_config.extra_config ({regex.pattern})"
            raise listed_as_dense(parts[f"{module}.qweight"], module, place)
        if rule is not None and any(map(regex.match, spellings(module))):
            return rule
    return block


def _unlisted(
    chosen: Mapping[str, AwqSettings], block: AwqSettings, parts: Mapping[str, Part]
) -> dict[str, AwqSettings]:
    """Return modules without an entry whose scales do not fit the default's groups -> settings that fit their shapes.

    Empty if no module fits the default, which must then be wrong itself.
    """
    default = [module for module, settings in chosen.items() if settings is block]
    groups = {module: _group_of(module, parts) for module in default}
    odd = {module: group for module, (group, columns) in groups.items() if group not in (0, _size(block, columns))}
    return {m: replace(block, group_size=size) for m, size in odd.items()} if len(odd) < len(default) else {}


def _group_of(module: str, parts: Mapping[str, Part]) -> tuple[int, int]:
    """Return the group size on which a module's arrays agree, 0 if they do not, and the length of its rows."""
    qweight, scales, zeros = (parts.get(f"{module}.{name}") for name in ("qweight", "scales", "qzeros"))
    if qweight is None or scales is None or len(qweight.shape) != 2 or len(scales.shape) != 2:
        return 0, 0
    columns, groups = qweight.shape[0], scales.shape[0]
    agrees = groups > 0 and columns % groups == 0 and (zeros is None or zeros.shape[:1] == (groups,))
    return columns // groups if agrees else 0, columns


def _size(block: AwqSettings, columns: int) -> int:
    return columns if block.group_size == WHOLE_ROW else block.group_size


def _other(part: Part) -> Weight:
    """Return a tensor that belongs to no quantized module. Raises `BadInput` if it looks like part of one."""
    if part.name.endswith((".qzeros", ".g_idx")):
        raise missing(part, f"{part.name.rpartition('.')[0]}.qweight", "an AWQ module")
    if part.name.endswith(".weight") and part.dtype == "u32":
        raise BadInput(f"{where(part)}: is u32 (packed codes of MLX), but config.json's quant_method is awq.")
    return dense(part)


def _lone_warnings(others: Iterable[str]) -> list[str]:
    return [
        f"{name} is stored without a quantized weight. It is read as one of the model's tensors."
        for name in sorted(others)
        if name.endswith((".scales", ".biases"))
    ]


def _zero_point_warnings(packed: Collection[Weight], has_zero_points: bool) -> list[str]:
    """Return warnings if zero points are stored, or missing, contrary to the settings (`has_zero_points`)."""
    schemes = {weight.name: weight.scheme for weight in packed if isinstance(weight.scheme, Awq)}
    stored = [name for name, scheme in schemes.items() if scheme.symmetric and scheme.zeros_dtype is not None]
    bare = [name for name, scheme in schemes.items() if scheme.zeros_dtype is None]
    warnings = []
    if stored:
        others = f" {counted('weight', bare, 'has', 'have')} no .qzeros." if bare else ""
        warnings.append(
            f"zero_point is false, but {counted('weight', stored, 'has', 'have')} .qzeros, which are used.{others}"
        )
    if bare and has_zero_points and len(bare) < len(packed):
        warnings.append(
            f"zero_point is true, but {counted('weight', bare, 'has', 'have')} no .qzeros. Such weights are read as "
            "symmetric."
        )
    return warnings


def _weight(module: str, parts: Mapping[str, Part], block: AwqSettings) -> Weight:
    """Return one quantized module's weight, its arrays checked against each other."""
    qweight = parts[f"{module}.qweight"]
    scales, qzeros = parts.get(f"{module}.scales"), parts.get(f"{module}.qzeros")
    _check_neighbours(module, parts)
    if scales is None:
        raise missing(qweight, f"{module}.scales", "an AWQ module")
    stored = {"qweight": qweight, "scales": scales} | ({"qzeros": qzeros} if qzeros is not None else {})
    _check_arrays(stored)
    columns, words = qweight.shape
    rows = words * ROWS_PER_WORD
    if not columns or not words:
        raise BadInput(f"{where(qweight)}: has shape {list(qweight.shape)}, which has no elements.")
    group = _size(block, columns)
    if columns % group:
        raise BadInput(f"{where(qweight)}: its {columns} input features are not a multiple of group_size {group}.")
    symmetric = not block.zero_point or qzeros is None
    scheme = Awq(
        columns=columns, scales=Scales(scales.dtype, 1, group, transposed=True), symmetric=symmetric,
        words=qweight.dtype, zeros_dtype=qzeros.dtype if qzeros is not None else None,
    )  # fmt: skip
    layout = scheme.layout((rows, columns))
    for name, part in stored.items():
        if part.shape != layout[name].shape:
            expected = f"shape {list(layout[name].shape)}"
            raise mismatch(part, expected, f"qweight {list(qweight.shape)}, group_size {group}")
    reason = f"quantization_config: bits 4, group_size {group}" + (", symmetric" if symmetric else "")
    return Weight(f"{module}.weight", (rows, columns), scheme, stored, reason)


def _gemv_weight(module: str, parts: Mapping[str, Part], block: AwqSettings) -> Weight:
    """Return one quantized module's weight in GEMV's or GEMV-fast's layout."""
    kind, dtype, columns_each, rows_each = GEMV[block.version]
    stored = parts_of(module, {part: f".{part}" for part in ("qweight", "qzeros", "scales")}, parts)
    qweight = stored["qweight"]
    _check_neighbours(module, parts)
    if len(qweight.shape) != 2 or qweight.dtype != dtype:
        raise mismatch(qweight, f"a matrix of {dtype}", f"version {block.version}")
    rows, columns = qweight.shape[0] * rows_each, qweight.shape[1] * columns_each
    group = _size(block, columns)
    if columns and min(group, 128) not in MULTIPLES:
        raise BadInput(f"{where(qweight)}: groups of {group} values are not supported by version {block.version}.")
    scheme = kind(columns=columns, scales=Scales("f16", 1, group))
    reason = f"quantization_config: version {block.version}, group_size {group}"
    return checked_weight(f"{module}.weight", (rows, columns), scheme, stored, reason)


def _check_neighbours(module: str, parts: Mapping[str, Part]) -> None:
    """Raise for tensors of other layouts next to a `.qweight`."""
    if order := parts.get(f"{module}.g_idx"):
        raise NotPossible(
            f"{where(order)}: act-order is not supported in AutoAWQ's layout. Export the model without it."
        )
    if biases := parts.get(f"{module}.biases"):
        raise BadInput(f"{where(biases)}: belongs to MLX's layout and has no meaning next to a .qweight. Remove it.")
    if duplicate := parts.get(f"{module}.weight"):
        raise BadInput(f"{where(duplicate)}: the same weight is stored quantized too. Remove one of them.")


def _check_arrays(stored: Mapping[str, Part]) -> None:
    """Raise `BadInput` unless a module's arrays are matrices of the right dtypes."""
    for name, part in stored.items():
        dtypes = FLOATS if name == "scales" else WORDS
        if len(part.shape) != 2 or part.dtype not in dtypes:
            raise mismatch(part, f"a matrix of {either(dtypes)}")


def _unify(weights: dict[str, Weight]) -> tuple[dict[str, Weight], list[str]]:
    """Return the weights with one dtype for all scales, the narrowest that holds each (f32 for f16 and bf16).

    With a warning if their dtypes differ.
    """
    dtypes = sorted({w.scheme.scales_dtype for w in weights.values() if isinstance(w.scheme, Awq)})
    if len(dtypes) < 2:
        return weights, []
    common = next(d for d in reversed(FLOATS) if all(holds(d, other) for other in dtypes))
    unified = {
        name: replace(w, scheme=replace(w.scheme, common_dtype=common)) if isinstance(w.scheme, Awq) else w
        for name, w in weights.items()
    }
    return unified, [f"scales are stored as {either(dtypes)}, depending on the weight. All are read as {common}."]
