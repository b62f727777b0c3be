"""compressed-tensors' checkpoints, those of llm-compressor: `.weight_packed` or `.weight`, with `.weight_scale`.

Settings: see ct_config.py. The format of a module's group determines its arrays. `.weight_shape` is the shape of packed
integers, `.weight_g_idx` the group of each column. `.input_scale` and similar arrays concern activations; they are
copied without being interpreted.
Source: compressed-tensors (compressors), versions 0.12 to 0.20.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantcli.arrays import FLOATS
from quantcli.checkpoint import Checkpoint, Part, Weight
from quantcli.errors import BadInput
from quantcli.schemes.hf.bytewise import Bytewise
from quantcli.schemes.hf.compressed_tensors import PACKED, PLAIN, SUFFIXES
from quantcli.schemes.hf.ct_packed import CtPacked, width
from quantcli.schemes.hf.scaled import Scaled, Scales
from quantcli.schemes.hf.small_floats import ELEMENTS, SmallFloat
from quantcli.sources import ct_config
from quantcli.sources.ct_config import CtSettings, Group
from quantcli.sources.folder import Folder, LocalFolder, Tensors
from quantcli.sources.modules import (
    checked_weight,
    checkpoint,
    dense_warnings,
    extras_of,
    is_reordered,
    parts_of,
    scaled_modules,
    settings_of,
    stacked_scales,
)
from quantcli.sources.wording import MATRICES, either, listed_as_dense, mismatch, missing, no_codes, where

#: Formats with floats of fewer than 8 bits -> the element's format.
SMALL = {"nvfp4-pack-quantized": "e2m1", "mxfp4-pack-quantized": "e2m1", "mxfp6-pack-quantized": "e2m3"}
#: Arrays that do not affect the values, and are copied without being interpreted.
COPIED = ("shape", "input_scale", "input_zero_point", "input_global_scale", "output_scale", "output_zero_point")
#: Stacked experts: parameters in the model, which the tool turns into modules to pack them.
PARAMETERS = (".experts.gate_up_proj", ".experts.up_proj", ".experts.down_proj")
#: The dtype to which small floats and power-of-two scales are decompressed, whatever the model's dtype.
POWERS_COMPUTE = "bf16"
#: The first version whose packed codes may straddle two words.
DENSE_SINCE = (0, 18)


def open_compressed_tensors(folder: Folder, config: Mapping[str, Any], tensors: Tensors) -> Checkpoint:
    """Open a compressed-tensors folder. Raises `BadInput`, `NotPossible`."""
    settings = ct_config.parse(settings_of(folder, config))
    parts = tensors.parts
    modules = {name.removesuffix(PACKED) for name in parts if name.endswith(PACKED)}
    modules |= scaled_modules(parts)
    if not modules:
        raise no_codes(settings.label, "compressed-tensors", "*.weight_scale")
    weights = [_weight(module, parts, settings, folder) for module in sorted(modules)]
    further = dense_warnings(
        parts, modules, settings.label,
        lambda module, linear: settings.ignores(module) is None
        and bool(settings.named(module) or (linear and settings.of_class())),
    )  # fmt: skip
    return checkpoint("compressed-tensors", folder, config, tensors, weights, [*settings.warnings, *further])


def _weight(module: str, parts: Mapping[str, Part], settings: CtSettings, folder: Folder) -> Weight:
    """Return one module's weight, by the settings of its group."""
    main = parts.get(module + PACKED) or parts[module + PLAIN]
    if (entry := settings.ignores(module)) is not None:
        raise listed_as_dense(main, module, f"{settings.label}.ignore ({entry.text})")
    group = settings.named(module) or settings.of_class()
    if group is None:
        raise BadInput(f"{where(main)}: is quantized, but no group in {settings.label}.config_groups targets {module}.")
    suffix = PACKED if "pack" in group.layout else PLAIN
    if module + suffix not in parts:
        raise missing(main, module + suffix, f"{group.key} ({group.layout})")
    stored = {"weight": parts[module + suffix]} | parts_of(module, SUFFIXES, parts)
    if len(stored["weight"].shape) not in (2, 3):
        raise mismatch(stored["weight"], MATRICES)
    if "scales" not in stored:
        raise missing(stored["weight"], f"{module}.weight_scale", group.key)
    make = _small if group.layout in SMALL else _packed if group.layout == "pack-quantized" else _bytewise
    scheme, shape = make(stored, group, settings, folder)
    reason = f"{group.key}: {group.layout}, {group.bits} bits, {group.strategy}"
    is_parameter = suffix == PACKED and len(shape) == 3 and module.endswith(PARAMETERS)
    name = module if is_parameter else f"{module}.weight"
    return checked_weight(name, shape, scheme, stored, reason, {"weight": suffix, **SUFFIXES})


def _scales(stored: Mapping[str, Part], group: Group, shape: tuple[int, ...]) -> Scales:
    """Return how scales are shared, by the group's strategy. shape: that of the weight."""
    part = stored["scales"]
    if group.layout != "mxfp8-quantized" and part.dtype not in FLOATS:
        raise mismatch(part, either(FLOATS), group.key)
    if len(shape) == 3:
        return _stacked(part, group, shape)
    rank = len(part.shape)
    if group.layout == "mxfp8-quantized":
        return Scales("u8", 1, group.group_size)
    if group.strategy == "tensor":
        return Scales(part.dtype, None, rank=rank)
    if group.strategy == "channel":
        return Scales(part.dtype, 1, None, rank=1 if rank == 1 else 2)
    if group.block:
        return Scales(part.dtype, *group.block)
    return Scales(part.dtype, 1, group.group_size)


def _stacked(part: Part, group: Group, shape: tuple[int, ...]) -> Scales:
    """Return how the scales of stacked matrices are shared, such as experts in one `.weight`."""
    if group.strategy in ("group", "tensor_group"):
        dtype = "u8" if group.layout == "mxfp8-quantized" else part.dtype
        return Scales(dtype, 1, group.group_size, rank=3, stacked=shape[1])
    scales = stacked_scales(part, group.block, shape)
    has_rows = scales.rows == 1
    if (group.strategy == "channel") != has_rows and shape[1] > 1:
        raise BadInput(
            f"{where(part)}: has shape {list(part.shape)}, which does not fit the strategy {group.strategy} "
            f"({group.key})."
        )
    return scales


def _packed(
    stored: dict[str, Part], group: Group, settings: CtSettings, folder: Folder
) -> tuple[Scaled, tuple[int, ...]]:
    """Return the scheme and the shape of integers that are packed into words."""
    weight = stored["weight"]
    *rows, columns = shape = _shape(stored, group, folder)
    dense, padded = (width(columns, group.bits, padded=kind) for kind in (False, True))
    if weight.shape != (*rows, dense) and weight.shape != (*rows, padded):
        codes = f"{' x '.join(map(str, shape))} codes of {group.bits} bits, {group.key}.num_bits"
        raise mismatch(weight, f"shape {[*rows, dense]}", codes)
    is_padded = weight.shape[-1] != dense or (
        dense == padded and 32 % group.bits != 0 and () < settings.version < DENSE_SINCE
    )
    groups = -(-columns // group.group_size) if group.group_size else 1
    ordered = is_reordered(
        stored, group.act_order, columns, group.group_size, groups, folder, f"{group.key}.actorder", group.key
    )
    copied = (*COPIED, *(() if ordered else ("g_idx",)))
    scales = _scales(stored, group, shape)
    scheme = CtPacked(
        columns=columns, scales=scales, bits=group.bits, symmetric=group.symmetric, padded=is_padded,
        ordered=ordered, compute=scales.dtype, extras=extras_of(stored, copied),
    )  # fmt: skip
    return scheme, shape


def _shape(stored: Mapping[str, Part], group: Group, folder: Folder) -> tuple[int, ...]:
    """Return the shape of packed integers, which `.weight_shape` holds."""
    weight, shape = stored["weight"], stored.get("shape")
    if shape is None:
        raise missing(weight, ".weight_shape", f"{group.key} (pack-quantized)")
    rank = len(weight.shape)
    if shape.shape != (rank,) or shape.dtype not in ("i64", "i32"):
        raise mismatch(shape, f"i64 [{rank}]")
    if 32 % group.bits == 0 and not isinstance(folder, LocalFolder):
        # On the Hub each shape would cost a request; codes of 2, 4 and 8 bits fill their words.
        return *weight.shape[:-1], weight.shape[-1] * 32 // group.bits
    *rows, columns = stated = tuple(int(n) for n in folder.array(shape).reshape(-1))
    if (*rows,) != weight.shape[:-1] or not 0 < columns <= weight.shape[-1] * 32:
        raise BadInput(
            f"{where(shape)}: says {' x '.join(map(str, stated))}, but the packed weight has shape "
            f"{list(weight.shape)}."
        )
    return stated


def _bytewise(
    stored: dict[str, Part], group: Group, settings: CtSettings, folder: Folder
) -> tuple[Scaled, tuple[int, ...]]:
    """Return the scheme and the shape of one-byte codes: integers or E4M3."""
    weight = stored["weight"]
    dtype = "f8_e4m3" if group.is_float else "i8"
    if weight.dtype != dtype:
        raise mismatch(weight, dtype, f"{group.key}: {group.layout}")
    scales = _scales(stored, group, weight.shape)
    zeros = stored.get("zeros") if not group.is_float else None
    if zeros is None and not group.symmetric and not group.is_float:
        raise missing(weight, ".weight_zero_point", f"{group.key}.symmetric = false")
    scheme = Bytewise(
        family="ct", columns=weight.shape[-1], scales=scales, stored=dtype, bits=group.bits,
        symmetric=group.symmetric, zeros_dtype=zeros.dtype if zeros else None,
        compute=POWERS_COMPUTE if scales.dtype == "u8" else scales.dtype, extras=extras_of(stored, COPIED),
    )  # fmt: skip
    return scheme, weight.shape


def _small(
    stored: dict[str, Part], group: Group, settings: CtSettings, folder: Folder
) -> tuple[Scaled, tuple[int, ...]]:
    """Return the scheme and the shape of E2M1 codes (two in a byte) or E2M3 codes (four in three bytes).

    NVFP4 has a global scale by which values are divided.
    """
    element = SMALL[group.layout]
    *rows, bytes_of_row = stored["weight"].shape
    columns, stacked = bytes_of_row * 8 // ELEMENTS[element][0], rows[-1] if len(rows) == 2 else 0
    nvfp4 = group.layout.startswith("nvfp4")
    if nvfp4 and "global" not in stored:
        raise missing(stored["weight"], ".weight_global_scale", group.key)
    scheme = SmallFloat(
        family="ct", columns=columns, element=element,
        scales=Scales(*(("f8_e4m3", 1, 16) if nvfp4 else ("u8", 1, 32)), len(rows) + 1, stacked=stacked),
        divides=True if nvfp4 else None, global_shape=stored["global"].shape if nvfp4 else (),
        compute=POWERS_COMPUTE, extras=extras_of(stored, COPIED),
    )  # fmt: skip
    return scheme, (*rows, columns)
