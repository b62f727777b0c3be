"""NVIDIA modelopt's checkpoints: FP8 and NVFP4, `.weight` with `.weight_scale` and, of NVFP4, `.weight_scale_2`.

config.json's `quantization_config` says quant_method modelopt and `quant_algo`; `ignore` (older: `exclude_modules`)
are globs of what is dense. The second scale multiplies the first; an FP8 scale is rounded before the product.
Source: modelopt 0.47 (torch/export, torch/quantization/qtensor).
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping
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
    refuse_unpacked,
    scaled_modules,
    where,
)

SUFFIXES = {
    "weight": ".weight", "scales": ".weight_scale", "global": ".weight_scale_2", "input_scale": ".input_scale",
    "pre_quant_scale": ".pre_quant_scale",
}  # fmt: skip
#: `quant_algo` -> the dtype of the weights' codes.
ALGORITHMS = {"FP8": "f8_e4m3", "NVFP4": "u8", "W4A16_NVFP4": "u8", "NVFP4_SVD": None, "NVFP4_AWQ": None}
GROUP = 16


def open_modelopt(folder: Folder, config: Mapping[str, Any], tensors: Tensors) -> Checkpoint:
    """The checkpoint of a modelopt folder. Raises `BadInput`, `NotPossible`."""
    keys = Keys(config["quantization_config"], f"{folder.label}/config.json: quantization_config")
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
    if not modules:
        raise BadInput(f"{keys.label}: says {algorithm}, but no tensor is called *.weight_scale.")
    weights = [
        _weight(module, parts, algorithm, codes, keys, excluded, compute_dtype(config)) for module in sorted(modules)
    ]
    refuse_unpacked(
        parts, modules, f"{keys.label}.ignore, which does not name it,",
        lambda module, linear: linear and not _excludes(excluded, module),
    )  # fmt: skip
    return checkpoint("modelopt", folder, config, tensors, weights)


def _excludes(patterns: Iterable[str], module: str) -> bool:
    return any(fnmatch.fnmatchcase(module, pattern) for pattern in patterns)


def _weight(
    module: str, parts: Mapping[str, Part], algorithm: str, codes: str, keys: Keys, excluded: list[str], compute: str
) -> Weight:
    """One module's weight and its scales."""
    stored = beside(module, SUFFIXES, parts)
    weight = stored["weight"]
    if _excludes(excluded, module):
        raise BadInput(f"{where(weight)}: is quantized, but {keys.label}.ignore names {module}.")
    if weight.dtype != codes or len(weight.shape) != 2:
        raise BadInput(
            f"{where(weight)}: is {weight.dtype} {list(weight.shape)}, `quant_algo` {algorithm} needs a matrix of "
            f"{codes}."
        )
    if "pre_quant_scale" in stored:
        raise NotPossible(f"{where(stored['pre_quant_scale'])}: scales the inputs of {module}, which is not read.")
    scheme: Scaled
    if codes == "u8":
        if "global" not in stored:
            raise BadInput(f"{where(weight)}: has no .weight_scale_2 beside it, which {algorithm} needs.")
        scheme = SmallFloat(
            family="modelopt", columns=2 * weight.shape[1], element="e2m1", scales=Scales("f8_e4m3", 1, GROUP),
            divides=False, global_shape=stored["global"].shape, compute=compute,
            extras=extras_of(stored, ("input_scale",)),
        )  # fmt: skip
    else:
        scale = stored["scales"]
        scheme = Bytewise(
            family="modelopt", columns=weight.shape[1], scales=Scales("f32", None, rank=len(scale.shape)), stored=codes,
            compute=compute, narrow_scales=True, extras=extras_of(stored, ("input_scale",)),
        )  # fmt: skip
    shape = (weight.shape[0], scheme.columns)
    return held(f"{module}.weight", shape, scheme, stored, f"quantization_config: quant_algo {algorithm}", SUFFIXES)
