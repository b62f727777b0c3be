"""NVIDIA modelopt's checkpoints: FP8 and NVFP4, `.weight` with `.weight_scale` and, of NVFP4, `.weight_scale_2`.

config.json's `quantization_config` says quant_method modelopt and `quant_algo`; `ignore` (older: `exclude_modules`)
are globs of what is dense. The second scale multiplies the first; an FP8 scale is rounded before the product.

Fused experts are parameters, (experts, rows, columns), `experts.gate_up_proj` with `experts.gate_up_proj_weight_scale`
and so on: a second scale for all or for each expert.
Source: modelopt 0.47 (torch/export, torch/quantization/qtensor).
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from quantcli.checkpoint import Checkpoint, Part, Weight
from quantcli.containers.hostile import shown
from quantcli.errors import BadInput, NotPossible
from quantcli.schemes.bytewise import Bytewise
from quantcli.schemes.scaled import Scaled, Scales
from quantcli.schemes.small_floats import SmallFloat
from quantcli.sources.folder import Folder, Tensors
from quantcli.sources.modules import (
    Keys,
    beside,
    checkpoint,
    compute_dtype,
    extras_of,
    held,
    left_dense,
    scaled_modules,
    settings_of,
    stacked_scales,
    where,
)

#: Part -> the end of its tensor's name, behind a dot or, of a fused parameter, behind its name.
ENDS = {
    "scales": "weight_scale", "global": "weight_scale_2", "input_scale": "input_scale",
    "pre_quant_scale": "pre_quant_scale",
}  # fmt: skip
SUFFIXES = {"weight": ".weight", **{part: f".{end}" for part, end in ENDS.items()}}
FUSED = {"weight": "", **{part: f"_{end}" for part, end in ENDS.items()}}
#: `quant_algo` -> the dtype of the weights' codes.
ALGORITHMS = {"FP8": "f8_e4m3", "NVFP4": "u8", "W4A16_NVFP4": "u8", "NVFP4_SVD": None, "NVFP4_AWQ": None}
GROUP = 16


def open_modelopt(folder: Folder, config: Mapping[str, Any], tensors: Tensors) -> Checkpoint:
    """The checkpoint of a modelopt folder. Raises `BadInput`, `NotPossible`."""
    keys = settings_of(folder, config)
    algorithm = keys.text("quant_algo")
    codes = ALGORITHMS.get(algorithm)
    if codes is None:
        raise NotPossible(f"{keys.label}: `quant_algo` {shown(algorithm)} is not read; FP8, NVFP4, W4A16_NVFP4 are.")
    group = keys.number("group_size", GROUP)
    if codes == "u8" and group != GROUP:
        raise keys.refuse("group_size", f"{algorithm} has groups of {GROUP}")
    excluded = [*keys.names("ignore"), *keys.names("exclude_modules")]
    parts = tensors.parts
    modules = scaled_modules(parts)
    fused = {name.removesuffix("_weight_scale") for name in parts if name.endswith("_weight_scale")}.intersection(parts)
    if not modules and not fused:
        raise BadInput(f"{keys.label}: says {algorithm}, but no tensor is called *.weight_scale.")
    weights = [
        _weight(module, suffixes, parts, algorithm, codes, keys, excluded, compute_dtype(config))
        for names, suffixes in ((modules, SUFFIXES), (fused, FUSED))
        for module in sorted(names)
    ]
    further = left_dense(
        parts, modules, f"{keys.label}.ignore",
        lambda module, linear: linear and not _excludes(excluded, module),
    )  # fmt: skip
    return checkpoint("modelopt", folder, config, tensors, weights, further)


def _excludes(patterns: Iterable[str], module: str) -> bool:
    return any(fnmatch.fnmatchcase(module, pattern) for pattern in patterns)


def _weight(
    module: str, suffixes: Mapping[str, str], parts: Mapping[str, Part], algorithm: str, codes: str, keys: Keys,
    excluded: list[str], compute: str,
) -> Weight:  # fmt: skip
    """One module's weight, or one parameter, and its scales."""
    stored = beside(module, suffixes, parts)
    weight = stored["weight"]
    if _excludes(excluded, module):
        raise BadInput(f"{where(weight)}: is quantized, but {keys.label}.ignore names {module}.")
    rank = 3 if suffixes is FUSED else 2
    if weight.dtype != codes or len(weight.shape) != rank:
        what = "a matrix" if rank == 2 else "stacked matrices"
        raise BadInput(
            f"{where(weight)}: is {weight.dtype} {list(weight.shape)}, `quant_algo` {algorithm} needs {what} of "
            f"{codes}."
        )
    if "pre_quant_scale" in stored:
        raise NotPossible(f"{where(stored['pre_quant_scale'])}: scales the inputs of {module}, which is not read.")
    make = _nvfp4 if codes == "u8" else _fp8
    scheme = make(stored, f"{suffixes['global']} beside it, which {algorithm} needs", compute)
    shape = (*weight.shape[:-1], scheme.columns)
    name = module + suffixes["weight"]
    return held(name, shape, scheme, stored, f"quantization_config: quant_algo {algorithm}", suffixes)


def _nvfp4(stored: Mapping[str, Part], needed: str, compute: str) -> Scaled:
    """Two levels of scales."""
    weight, scales = stored["weight"], stored["scales"]
    if "global" not in stored:
        raise BadInput(f"{where(weight)}: has no {needed}.")
    stacked = weight.shape[1] if len(weight.shape) == 3 else 0
    if stacked and _is_turned(weight.shape, scales.shape):
        raise NotPossible(
            f"{where(weight)}: has scales {list(scales.shape)}, as experts do whose rows are inputs, which is not read."
        )
    return SmallFloat(
        family="modelopt", columns=2 * weight.shape[-1], element="e2m1",
        scales=Scales("f8_e4m3", 1, GROUP, len(weight.shape), stacked=stacked), divides=False,
        global_shape=stored["global"].shape, compute=compute, extras=extras_of(stored, ("input_scale",)),
    )  # fmt: skip


def _is_turned(weight: tuple[int, ...], scales: tuple[int, ...]) -> bool:
    """Whether packed codes and scales are those of (experts, inputs, outputs), groups running down the second axis."""
    return scales == (weight[0], weight[1] * 2 // GROUP, weight[2]) and scales != (*weight[:2], weight[2] * 2 // GROUP)


def _fp8(stored: Mapping[str, Part], needed: str, compute: str) -> Scaled:
    """One scale for a matrix."""
    weight, scale = stored["weight"], stored["scales"]
    scales = Scales("f32", None, rank=len(scale.shape))
    if len(weight.shape) == 3:
        scales = replace(stacked_scales(scale, None, weight.shape), dtype="f32")
    return Bytewise(
        family="modelopt", columns=weight.shape[-1], scales=scales, stored=weight.dtype, compute=compute,
        narrow_scales=True, extras=extras_of(stored, ("input_scale",)),
    )  # fmt: skip
