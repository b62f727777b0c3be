"""compressed-tensors' checkpoints, those of llm-compressor: `.weight_packed` or `.weight`, with `.weight_scale`.

Settings see ct_config.py. What a module's arrays are follows from its group's format; `.weight_shape` says the shape
of packed integers, `.weight_g_idx` their order; `.input_scale` and its like are of activations and copied along.
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
    beside,
    checkpoint,
    extras_of,
    held,
    left_dense,
    order_of,
    scaled_modules,
    settings_of,
    stacked_scales,
    where,
)

#: Formats of floats of fewer than 8 bits -> the element's.
SMALL = {"nvfp4-pack-quantized": "e2m1", "mxfp4-pack-quantized": "e2m1", "mxfp6-pack-quantized": "e2m3"}
#: Arrays that have no say in the values.
ALONG = ("shape", "input_scale", "input_zero_point", "input_global_scale", "output_scale", "output_zero_point")
#: Stacked experts are parameters, of which modules are made to pack them.
PARAMETERS = (".experts.gate_up_proj", ".experts.up_proj", ".experts.down_proj")
#: What small floats and powers of two are decompressed to, whatever the model's dtype.
POWERS_COMPUTE = "bf16"
#: From this version on packed codes straddle words.
DENSE_SINCE = (0, 18)


def open_compressed_tensors(folder: Folder, config: Mapping[str, Any], tensors: Tensors) -> Checkpoint:
    """The checkpoint of a compressed-tensors folder. Raises `BadInput`, `NotPossible`."""
    settings = ct_config.parse(settings_of(folder, config))
    parts = tensors.parts
    modules = {name.removesuffix(PACKED) for name in parts if name.endswith(PACKED)}
    modules |= scaled_modules(parts)
    if not modules:
        raise BadInput(f"{settings.label}: says compressed-tensors, but no tensor is called *.weight_scale.")
    weights = [_weight(module, parts, settings, folder) for module in sorted(modules)]
    further = left_dense(
        parts, modules, settings.label,
        lambda module, linear: settings.ignores(module) is None
        and bool(settings.named(module) or (linear and settings.of_class())),
    )  # fmt: skip
    return checkpoint("compressed-tensors", folder, config, tensors, weights, [*settings.warnings, *further])


def _weight(module: str, parts: Mapping[str, Part], settings: CtSettings, folder: Folder) -> Weight:
    """One module's weight by the settings of its group."""
    main = parts.get(module + PACKED) or parts[module + PLAIN]
    if (entry := settings.ignores(module)) is not None:
        raise BadInput(f"{where(main)}: is quantized, but {settings.label}.ignore names it ({entry.text}).")
    group = settings.named(module) or settings.of_class()
    if group is None:
        raise BadInput(f"{where(main)}: is quantized, but {settings.label}.config_groups target no such module.")
    wanted = PACKED if "pack" in group.layout else PLAIN
    if module + wanted not in parts:
        raise BadInput(f"{where(main)}: has no {module}{wanted} beside it, which {group.key} ({group.layout}) needs.")
    stored = {"weight": parts[module + wanted]} | beside(module, SUFFIXES, parts)
    if len(stored["weight"].shape) not in (2, 3):
        raise BadInput(f"{where(stored['weight'])}: has {len(stored['weight'].shape)} dimensions, 2 or 3 are needed.")
    if "scales" not in stored:
        raise BadInput(f"{where(stored['weight'])}: has no {module}.weight_scale beside it, which {group.key} needs.")
    make = _small if group.layout in SMALL else _packed if group.layout == "pack-quantized" else _bytewise
    scheme, shape = make(stored, group, settings, folder)
    reason = f"{group.key}: {group.layout}, {group.bits} bits, {group.strategy}"
    is_parameter = wanted == PACKED and len(shape) == 3 and module.endswith(PARAMETERS)
    name = module if is_parameter else f"{module}.weight"
    return held(name, shape, scheme, stored, reason, {"weight": wanted, **SUFFIXES})


def _scales(stored: Mapping[str, Part], group: Group, shape: tuple[int, ...]) -> Scales:
    """How scales are shared, by the strategy. shape: of the weight."""
    part = stored["scales"]
    if group.layout != "mxfp8-quantized" and part.dtype not in FLOATS:
        raise BadInput(f"{where(part)}: is {part.dtype}, scales are f16, bf16, f32 or f64 ({group.key}).")
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
    """The same of stacked matrices, such as experts in one `.weight`."""
    if group.strategy in ("group", "tensor_group"):
        dtype = "u8" if group.layout == "mxfp8-quantized" else part.dtype
        return Scales(dtype, 1, group.group_size, rank=3, stacked=shape[1])
    found = stacked_scales(part, group.block, shape)
    has_rows = found.rows == 1
    if (group.strategy == "channel") != has_rows and shape[1] > 1:
        raise BadInput(
            f"{where(part)}: has shape {list(part.shape)}, which is not of the strategy {group.strategy} ({group.key})."
        )
    return found


def _packed(
    stored: dict[str, Part], group: Group, settings: CtSettings, folder: Folder
) -> tuple[Scaled, tuple[int, ...]]:
    """Integers packed into words, whose shape is stored beside them."""
    weight = stored["weight"]
    *rows, columns = shape = _shape(stored, group, folder)
    dense, padded = (width(columns, group.bits, padded=kind) for kind in (False, True))
    if weight.shape != (*rows, dense) and weight.shape != (*rows, padded):
        raise BadInput(
            f"{where(weight)}: has shape {list(weight.shape)}; {' x '.join(map(str, shape))} codes of {group.bits} "
            f"bits ({group.key}.num_bits) are {[*rows, dense]}."
        )
    is_padded = weight.shape[-1] != dense or (
        dense == padded and 32 % group.bits != 0 and () < settings.version < DENSE_SINCE
    )
    groups = -(-columns // group.group_size) if group.group_size else 1
    ordered = order_of(
        stored, group.act_order, columns, group.group_size, groups, folder, f"{group.key}.actorder", group.key
    )
    along = (*ALONG, *(() if ordered else ("g_idx",)))
    scales = _scales(stored, group, shape)
    scheme = CtPacked(
        columns=columns, scales=scales, bits=group.bits, symmetric=group.symmetric, padded=is_padded,
        ordered=ordered, compute=scales.dtype, extras=extras_of(stored, along),
    )  # fmt: skip
    return scheme, shape


def _shape(stored: Mapping[str, Part], group: Group, folder: Folder) -> tuple[int, ...]:
    """The shape of packed integers: as `.weight_shape` says."""
    weight, shape = stored["weight"], stored.get("shape")
    if shape is None:
        raise BadInput(f"{where(weight)}: has no .weight_shape beside it, which {group.key} (pack-quantized) needs.")
    rank = len(weight.shape)
    if shape.shape != (rank,) or shape.dtype not in ("i64", "i32"):
        raise BadInput(f"{where(shape)}: is {shape.dtype} {list(shape.shape)}, i64 [{rank}] is needed.")
    if 32 % group.bits == 0 and not isinstance(folder, LocalFolder):
        # Over the network each would be a request, and words of 2, 4 and 8 bits are full.
        return *weight.shape[:-1], weight.shape[-1] * 32 // group.bits
    *rows, columns = said = tuple(int(n) for n in folder.array(shape).reshape(-1))
    if (*rows,) != weight.shape[:-1] or not 0 < columns <= weight.shape[-1] * 32:
        raise BadInput(
            f"{where(shape)}: says {' x '.join(map(str, said))}, the packed weight has shape {list(weight.shape)}."
        )
    return said


def _bytewise(
    stored: dict[str, Part], group: Group, settings: CtSettings, folder: Folder
) -> tuple[Scaled, tuple[int, ...]]:
    """A byte a code: integers or E4M3."""
    weight = stored["weight"]
    wanted = "f8_e4m3" if group.is_float else "i8"
    if weight.dtype != wanted:
        raise BadInput(f"{where(weight)}: is {weight.dtype}, {group.key} ({group.layout}) needs {wanted}.")
    scales = _scales(stored, group, weight.shape)
    zeros = stored.get("zeros") if not group.is_float else None
    if zeros is None and not group.symmetric and not group.is_float:
        raise BadInput(
            f"{where(weight)}: has no .weight_zero_point beside it, which {group.key}.symmetric false needs."
        )
    scheme = Bytewise(
        family="ct", columns=weight.shape[-1], scales=scales, stored=wanted, bits=group.bits,
        symmetric=group.symmetric, zeros_dtype=zeros.dtype if zeros else None,
        compute=POWERS_COMPUTE if scales.dtype == "u8" else scales.dtype, extras=extras_of(stored, ALONG),
    )  # fmt: skip
    return scheme, weight.shape


def _small(
    stored: dict[str, Part], group: Group, settings: CtSettings, folder: Folder
) -> tuple[Scaled, tuple[int, ...]]:
    """E2M1 codes, two a byte, or E2M3, four in three; NVFP4 with a global scale that divides."""
    element = SMALL[group.layout]
    *rows, bytes_of_row = stored["weight"].shape
    columns, stacked = bytes_of_row * 8 // ELEMENTS[element][0], rows[-1] if len(rows) == 2 else 0
    nvfp4 = group.layout.startswith("nvfp4")
    if nvfp4 and "global" not in stored:
        raise BadInput(f"{where(stored['weight'])}: has no .weight_global_scale beside it, which {group.key} needs.")
    scheme = SmallFloat(
        family="ct", columns=columns, element=element,
        scales=Scales(*(("f8_e4m3", 1, 16) if nvfp4 else ("u8", 1, 32)), len(rows) + 1, stacked=stacked),
        divides=True if nvfp4 else None, global_shape=stored["global"].shape if nvfp4 else (),
        compute=POWERS_COMPUTE, extras=extras_of(stored, ALONG),
    )  # fmt: skip
    return scheme, (*rows, columns)
