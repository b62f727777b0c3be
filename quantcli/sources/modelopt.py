"""NVIDIA modelopt's checkpoints: FP8, MXFP8, NVFP4, MXFP4 and int8, `.weight` with `.weight_scale`, mixed or not.

Settings: see modelopt_config.py. `ignore` (older: `exclude_modules`) lists globs of dense modules.

    quant_algo                              weight               weight_scale
    FP8                                     F8_E4M3              F32 ()
    FP8_PER_CHANNEL_PER_TOKEN               F8_E4M3              F32 (rows,)
    FP8_PB_WO                               F8_E4M3              F32 (blocks of 128, 1, blocks of 128, 1)
    MXFP8                                   F8_E4M3              U8 (rows, columns / 32), powers of two
    NVFP4, W4A16_NVFP4, W4A8_NVFP4_FP8      U8, two codes each   F8_E4M3 (rows, columns / 16 or 32), weight_scale_2
    MXFP4, W4A8_MXFP4_FP8                   U8, two codes each   U8 (rows, columns / 32), powers of two
    W8A16, W8A8_SQ_PER_CHANNEL              I8                   F32 (rows,)

The second scale multiplies the first; scales of FP8 and int8 are rounded before the product.
Fused experts are parameters (experts, rows, columns), `experts.gate_up_proj` with `experts.gate_up_proj_weight_scale`
and so on, with one second scale or one for each expert.
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
    checked_weight,
    checkpoint,
    compute_dtype,
    dense_warnings,
    extras_of,
    mentions_module,
    parts_of,
    settings_of,
    stacked_scales,
)
from quantcli.sources.wording import (
    MATRICES,
    counted,
    either,
    listed_as_dense,
    mismatch,
    missing,
    no_codes,
    where,
)

#: Part -> the end of its tensor's name, after a dot or, for a fused parameter, after an underscore.
ENDS = {
    "scales": "weight_scale", "global": "weight_scale_2", "input_scale": "input_scale",
    "pre_quant_scale": "pre_quant_scale",
}  # fmt: skip
#: The name of the scales in FP8 with blocks that another tool had quantized before.
INVERSE = "weight_scale_inv"
WEIGHT = ".weight"


def open_modelopt(folder: Folder, config: Mapping[str, Any], tensors: Tensors) -> Checkpoint:
    """Open a modelopt folder. Raises `BadInput`, `NotPossible`."""
    keys = settings_of(folder, config)
    block = keys if "quant_algo" in keys.values else keys.part("quantization")
    settings = modelopt_config.parse(block if block.values else keys)
    excluded = [name for one in (keys, block) for key in ("ignore", "exclude_modules") for name in one.texts(key)]
    parts = tensors.parts
    names = _names(parts)
    if not names:
        raise no_codes(keys.label, f"modelopt ({settings.name})", "*.weight_scale")
    modules = {name.removesuffix(WEIGHT): name for name in names}
    odd = next((module for module in modules if _excludes(excluded, module)), None)
    if odd is not None:
        raise listed_as_dense(parts[modules[odd]], odd, f"{keys.label}.ignore")
    weights = [_weight(name, parts, settings, compute_dtype(config)) for name in names]
    further = dense_warnings(
        parts, modules, f"{keys.label}.{'ignore' if settings.common else 'quantized_layers'}",
        lambda module, linear: (linear or not settings.common) and settings.lists(module)
        and not _excludes(excluded, module) and not mentions_module(excluded, module),
    )  # fmt: skip
    return checkpoint("modelopt", folder, config, tensors, weights, [*_unlisted_warnings(names, settings), *further])


def _names(parts: Mapping[str, Part]) -> list[str]:
    """Return the tensors that have scales: modules' weights, and fused experts' parameters."""
    return [name for name, part in sorted(parts.items()) if part.shape and _scale_of(name, parts) is not None]


def _scale_of(name: str, parts: Mapping[str, Part]) -> str | None:
    """Return the suffix of a weight's scales, after the name without `.weight`; None without scales."""
    module, joint = (name.removesuffix(WEIGHT), ".") if name.endswith(WEIGHT) else (name, "_")
    return next((joint + end for end in (ENDS["scales"], INVERSE) if module + joint + end in parts), None)


def _unlisted_warnings(names: Iterable[str], settings: ModeloptSettings) -> list[str]:
    """Return a warning if the settings do not list some of the quantized weights."""
    odd = [
        name
        for name in names
        if not settings.lists(name.removesuffix(WEIGHT)) and (name.endswith(WEIGHT) or not settings.lists_next_to(name))
    ]
    if not odd:
        return []
    return [
        f"{settings.label}.quantized_layers: {counted('weight', odd)} quantized, but not listed. Their schemes "
        "are inferred from dtypes and shapes."
    ]


def _excludes(patterns: Iterable[str], module: str) -> bool:
    return globs(tuple(patterns)).match(module)


def _weight(name: str, parts: Mapping[str, Part], settings: ModeloptSettings, compute: str) -> Weight:
    """Return one module's weight, or one parameter, with its scales."""
    module, scales = name.removesuffix(WEIGHT), _scale_of(name, parts)
    assert scales is not None
    suffixes = {"weight": name.removeprefix(module), **{part: scales[0] + end for part, end in ENDS.items()}}
    suffixes |= {"scales": scales}
    stored = parts_of(module, suffixes, parts)
    weight = stored["weight"]
    algorithm = settings.of(module) or _of_tensors(stored, settings)
    storage = algorithm.storage
    reason = f"quantization_config: quant_algo {algorithm.name}"
    if weight.dtype != storage.codes or len(weight.shape) not in (2, 3):
        raise mismatch(weight, f"{storage.codes}, {MATRICES}", f"quant_algo {algorithm.name}")
    if stored["scales"].dtype not in storage.scales:
        raise mismatch(stored["scales"], either(storage.scales), f"quant_algo {algorithm.name}")
    if "pre_quant_scale" in stored:
        raise NotPossible(f"{where(stored['pre_quant_scale'])}: scaled inputs (of {module}) are not supported.")
    if storage.two_level and "global" not in stored:
        raise missing(weight, module + suffixes["global"], f"quant_algo {algorithm.name}")
    scheme = MAKERS[storage.codes](stored, algorithm, compute)
    shape = (*weight.shape[:-1], scheme.columns)
    return checked_weight(name, shape, scheme, stored, reason, suffixes)


def _of_tensors(stored: Mapping[str, Part], settings: ModeloptSettings) -> Algorithm:
    """Return the algorithm that a module's arrays show, for a module that the settings do not list."""
    kind = modelopt_config.stored_kind(stored)
    if kind is None:
        raise BadInput(
            f"{modelopt_config.described(stored)}. {settings.label}.quantized_layers does not list it, and no "
            "quant_algo has these dtypes."
        )
    return Algorithm(f"of {kind}, according to its tensors", kind, None)


def _floats4(stored: Mapping[str, Part], algorithm: Algorithm, compute: str) -> Scaled:
    """Return the scheme of two codes in a byte, with two levels of scales or power-of-two scales."""
    weight, scales = stored["weight"], stored["scales"]
    columns, stacked = 2 * weight.shape[-1], weight.shape[1] if len(weight.shape) == 3 else 0
    group = algorithm.group_size or _group(scales, columns, algorithm)
    if stacked and _is_transposed(weight.shape, scales.shape, group):
        raise NotPossible(
            f"{where(weight)}: transposed experts (rows are inputs) with scales {list(scales.shape)} are not supported."
        )
    shared = Scales(scales.dtype, 1, group, len(weight.shape), stacked=stacked)
    two_level = algorithm.storage.two_level
    return SmallFloat(
        family="modelopt", columns=columns, element="e2m1", scales=shared, divides=False if two_level else None,
        global_shape=stored["global"].shape if two_level else (), compute=compute,
        extras=extras_of(stored, ("input_scale",)),
    )  # fmt: skip


def _group(scales: Part, columns: int, algorithm: Algorithm) -> int:
    """Return the group size that the number of scales shows; the usual one if that is unsupported."""
    groups = algorithm.storage.groups
    size = columns // scales.shape[-1] if scales.shape and scales.shape[-1] > 0 else 0
    return size if size in groups else groups[0]


def _is_transposed(weight: tuple[int, ...], scales: tuple[int, ...], group: int) -> bool:
    """Return whether packed codes and scales are (experts, inputs, outputs), with groups along the second axis."""
    return scales == (weight[0], weight[1] * 2 // group, weight[2]) and scales != (*weight[:2], weight[2] * 2 // group)


def _bytes(stored: Mapping[str, Part], algorithm: Algorithm, compute: str) -> Scaled:
    """Return the scheme of one-byte codes: FP8 and int8, whose scales' shape shows their sharing, or MXFP8."""
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
    """Return how scales are shared: by a matrix, by each row, or by each block of rows and columns."""
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
    """Return the rows or columns of a block: those in the settings, else the usual, else of `count` equal blocks."""
    usual = group or FP8_BLOCK
    if group is not None or -(-length // usual) == count or not count or length % count:
        return usual
    return length // count


#: The dtype of codes -> the function that returns their scheme.
MAKERS = {"u8": _floats4, "f8_e4m3": _bytes, "i8": _bytes}
