"""NVIDIA modelopt's checkpoints: FP8, MXFP8, NVFP4, MXFP4 and int8, `.weight` with `.weight_scale`, mixed or not.

Settings see modelopt_config.py; `ignore` (older: `exclude_modules`) are globs of what is dense.

    quant_algo                              weight               weight_scale
    FP8                                     F8_E4M3              F32 ()
    FP8_PER_CHANNEL_PER_TOKEN               F8_E4M3              F32 (rows,)
    FP8_PB_WO                               F8_E4M3              F32 (blocks of 128, 1, blocks of 128, 1)
    MXFP8                                   F8_E4M3              U8 (rows, columns / 32), powers of two
    NVFP4, W4A16_NVFP4, W4A8_NVFP4_FP8      U8, two codes each   F8_E4M3 (rows, columns / 16 or 32), weight_scale_2
    MXFP4, W4A8_MXFP4_FP8                   U8, two codes each   U8 (rows, columns / 32), powers of two
    W8A16, W8A8_SQ_PER_CHANNEL              I8                   F32 (rows,)

The second scale multiplies the first; scales of FP8 and int8 are rounded before the product.
Fused experts are parameters, (experts, rows, columns), `experts.gate_up_proj` with `experts.gate_up_proj_weight_scale`
and so on: a second scale for all or for each expert.
Source: modelopt 0.47 (torch/export, torch/quantization/qtensor).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from quantcli.checkpoint import Checkpoint, Part, Weight
from quantcli.errors import BadInput, NotPossible
from quantcli.schemes.hf.bytewise import Bytewise
from quantcli.schemes.hf.scaled import FP8_BLOCK, Scaled, Scales
from quantcli.schemes.hf.small_floats import SmallFloat
from quantcli.sources import modelopt_config
from quantcli.sources.folder import Folder, Tensors
from quantcli.sources.listed import globs
from quantcli.sources.modelopt_config import STORAGES, Algorithm, ModeloptSettings
from quantcli.sources.modules import (
    beside,
    checkpoint,
    compute_dtype,
    extras_of,
    held,
    left_dense,
    mentions_module,
    settings_of,
    stacked_scales,
    where,
)

#: Part -> the end of its tensor's name, behind a dot or, of a fused parameter, behind its name.
ENDS = {
    "scales": "weight_scale", "global": "weight_scale_2", "input_scale": "input_scale",
    "pre_quant_scale": "pre_quant_scale",
}  # fmt: skip
#: FP8 with blocks of weights that another tool had quantized before keeps its name of the scales.
INVERSE = "weight_scale_inv"
WEIGHT = ".weight"


def open_modelopt(folder: Folder, config: Mapping[str, Any], tensors: Tensors) -> Checkpoint:
    """The checkpoint of a modelopt folder. Raises `BadInput`, `NotPossible`."""
    keys = settings_of(folder, config)
    inner = keys if "quant_algo" in keys.values else keys.part("quantization")
    settings = modelopt_config.parse(inner if inner.values else keys)
    excluded = [name for one in (keys, inner) for key in ("ignore", "exclude_modules") for name in one.texts(key)]
    parts = tensors.parts
    names = _names(parts)
    if not names:
        raise BadInput(f"{keys.label}: says {settings.name}, but no tensor is called *.weight_scale.")
    modules = {name.removesuffix(WEIGHT): name for name in names}
    odd = next((module for module in modules if _excludes(excluded, module)), None)
    if odd is not None:
        raise BadInput(f"{where(parts[modules[odd]])}: is quantized, but {keys.label}.ignore names {odd}.")
    weights = [_weight(name, parts, settings, compute_dtype(config)) for name in names]
    further = left_dense(
        parts, modules, f"{keys.label}.{'ignore' if settings.common else 'quantized_layers'}",
        lambda module, linear: (linear or not settings.common) and settings.lists(module)
        and not _excludes(excluded, module) and not mentions_module(excluded, module),
    )  # fmt: skip
    return checkpoint("modelopt", folder, config, tensors, weights, [*_unlisted(names, settings), *further])


def _names(parts: Mapping[str, Part]) -> list[str]:
    """The tensors that have scales: weights of modules, and parameters of fused experts."""
    return [name for name, part in sorted(parts.items()) if part.shape and _scale_of(name, parts) is not None]


def _scale_of(name: str, parts: Mapping[str, Part]) -> str | None:
    """The suffix of a weight's scales, by the name without `.weight`; None where there are none."""
    module, joint = (name.removesuffix(WEIGHT), ".") if name.endswith(WEIGHT) else (name, "_")
    return next((joint + end for end in (ENDS["scales"], INVERSE) if module + joint + end in parts), None)


def _unlisted(names: Iterable[str], settings: ModeloptSettings) -> list[str]:
    """A warning of quantized weights that the settings do not list; none without any."""
    odd = [
        name
        for name in names
        if not settings.lists(name.removesuffix(WEIGHT)) and (name.endswith(WEIGHT) or not settings.lists_next_to(name))
    ]
    if not odd:
        return []
    several = f"{odd[0]} is" if len(odd) == 1 else f"{len(odd)} weights, {odd[0]} the first, are"
    return [
        f"{several} quantized, but {settings.label}.quantized_layers does not list such modules: read as the dtypes "
        "and shapes of their tensors say."
    ]


def _excludes(patterns: Iterable[str], module: str) -> bool:
    return globs(tuple(patterns)).match(module)


def _weight(name: str, parts: Mapping[str, Part], settings: ModeloptSettings, compute: str) -> Weight:
    """One module's weight, or one parameter, and its scales."""
    module, scales = name.removesuffix(WEIGHT), _scale_of(name, parts)
    assert scales is not None
    suffixes = {"weight": name.removeprefix(module), **{part: scales[0] + end for part, end in ENDS.items()}}
    suffixes |= {"scales": scales}
    stored = beside(module, suffixes, parts)
    weight = stored["weight"]
    algorithm = settings.of(module) or _of_tensors(stored, settings)
    storage = algorithm.storage
    said = f"quantization_config: quant_algo {algorithm.name}"
    if weight.dtype != storage.codes or len(weight.shape) not in (2, 3):
        raise BadInput(
            f"{where(weight)}: is {weight.dtype} {list(weight.shape)}, `quant_algo` {algorithm.name} needs a matrix, "
            f"or stacked ones, of {storage.codes}."
        )
    if stored["scales"].dtype not in storage.scales:
        raise BadInput(
            f"{where(stored['scales'])}: is {stored['scales'].dtype}, `quant_algo` {algorithm.name} needs "
            f"{' or '.join(storage.scales)}."
        )
    if "pre_quant_scale" in stored:
        raise NotPossible(f"{where(stored['pre_quant_scale'])}: scales the inputs of {module}, which is not read.")
    if storage.two_level and "global" not in stored:
        raise BadInput(f"{where(weight)}: has no {suffixes['global']} beside it, which {algorithm.name} needs.")
    scheme = MAKERS[storage.codes](stored, algorithm, compute)
    shape = (*weight.shape[:-1], scheme.columns)
    return held(name, shape, scheme, stored, said, suffixes)


def _of_tensors(stored: Mapping[str, Part], settings: ModeloptSettings) -> Algorithm:
    """What a module's own arrays say, where the settings do not list it."""
    kind = modelopt_config.stored_kind(stored)
    if kind is None:
        raise BadInput(
            f"{modelopt_config.described(stored)}, which {settings.label}.quantized_layers does not list, and no "
            "quant_algo has such dtypes."
        )
    return Algorithm(f"of {kind}, by its tensors", kind, None)


def _floats4(stored: Mapping[str, Part], algorithm: Algorithm, compute: str) -> Scaled:
    """Two codes a byte; two levels of scales, or powers of two."""
    weight, scales = stored["weight"], stored["scales"]
    columns, stacked = 2 * weight.shape[-1], weight.shape[1] if len(weight.shape) == 3 else 0
    group = algorithm.group_size or _group(scales, columns, algorithm)
    if stacked and _is_turned(weight.shape, scales.shape, group):
        raise NotPossible(
            f"{where(weight)}: has scales {list(scales.shape)}, as experts do whose rows are inputs, which is not read."
        )
    shared = Scales(scales.dtype, 1, group, len(weight.shape), stacked=stacked)
    two_level = algorithm.storage.two_level
    return SmallFloat(
        family="modelopt", columns=columns, element="e2m1", scales=shared, divides=False if two_level else None,
        global_shape=stored["global"].shape if two_level else (), compute=compute,
        extras=extras_of(stored, ("input_scale",)),
    )  # fmt: skip


def _group(scales: Part, columns: int, algorithm: Algorithm) -> int:
    """Values that share a scale: as many as the number of scales says, else the usual."""
    groups = algorithm.storage.groups
    found = columns // scales.shape[-1] if scales.shape and scales.shape[-1] > 0 else 0
    return found if found in groups else groups[0]


def _is_turned(weight: tuple[int, ...], scales: tuple[int, ...], group: int) -> bool:
    """Whether packed codes and scales are those of (experts, inputs, outputs), groups running down the second axis."""
    return scales == (weight[0], weight[1] * 2 // group, weight[2]) and scales != (*weight[:2], weight[2] * 2 // group)


def _bytes(stored: Mapping[str, Part], algorithm: Algorithm, compute: str) -> Scaled:
    """A code a byte: FP8 and int8 with scales as their shape says, MXFP8 with one for each group."""
    weight, scale = stored["weight"], stored["scales"]
    is_mx = algorithm.storage is STORAGES["mxfp8"]
    scales = _powers(scale, weight.shape) if is_mx else _float_scales(scale, weight.shape, algorithm.group_size)
    return Bytewise(
        family="modelopt", columns=weight.shape[-1], scales=scales, stored=weight.dtype, compute=compute,
        narrow_scales=not is_mx, extras=extras_of(stored, ("input_scale",)),
    )  # fmt: skip


def _powers(scale: Part, shape: tuple[int, ...]) -> Scales:
    return Scales(scale.dtype, 1, STORAGES["mxfp8"].groups[0], len(shape), stacked=shape[1] if len(shape) == 3 else 0)


def _float_scales(scale: Part, shape: tuple[int, ...], group: int | None) -> Scales:
    """One scale for a matrix, for each row, or for each block of rows and columns."""
    if len(shape) == 3:
        return stacked_scales(scale, None, shape)
    rank = len(scale.shape)
    if scale.shape in ((), (1,), (1, 1)):
        return Scales(scale.dtype, None, rank=rank)
    if rank == 1 or scale.shape == (shape[0], 1):
        return Scales(scale.dtype, 1, None, rank=min(rank, 2))
    counts = (scale.shape[0], scale.shape[2 if rank == 4 else -1])
    rows, columns = (_block(length, count, group) for length, count in zip(shape, counts, strict=True))
    return Scales(scale.dtype, rows, columns, rank=4 if rank == 4 else 2)


def _block(length: int, count: int, group: int | None) -> int:
    """Rows or columns of a block: as the settings say, else the usual, else as many as `count` even blocks have."""
    usual = group or FP8_BLOCK
    if group is not None or -(-length // usual) == count or not count or length % count:
        return usual
    return length // count


#: The dtype of codes -> what reads them.
MAKERS = {"u8": _floats4, "f8_e4m3": _bytes, "i8": _bytes}
