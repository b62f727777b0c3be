"""Hugging Face folders of dense tensors: every tensor is a weight, in its stored dtype.

Source: transformers' `save_pretrained`. Recognised by the absence of quantization settings in config.json.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from quantcli.checkpoint import Checkpoint, Part, Weight
from quantcli.containers.hostile import shown
from quantcli.errors import BadInput
from quantcli.schemes.dense import Dense
from quantcli.schemes.hf.bare_fp8 import BareFp8
from quantcli.schemes.ocp import ELEMENTS
from quantcli.sources.companions import is_unscaled, marked
from quantcli.sources.folder import Folder, Tensors
from quantcli.sources.mlx_settings import path_of
from quantcli.sources.wording import stored_otherwise, where

#: Suffixes under which quantizers store codes and scales. Without a quantizer's settings they are an error.
QUANTIZED_SUFFIXES = (
    ".qweight",
    ".qzeros",
    ".weight_packed",
    ".weight_scale",
    ".weight_scale_inv",
    "_blocks",
    ".absmax",
)


#: Further endings of names of quantized weights' parts.
PARTS = (
    *QUANTIZED_SUFFIXES, ".scales", "_scales", ".weight_scale_2", "_scale_inv", ".weight_zero_point", ".g_idx", ".SCB",
    ".quant_map", ".W_q", "._weight_qdata", "._weight_scale", "._data", "._scale",
)  # fmt: skip
#: The dtypes that codes are stored in.
CODE_DTYPES = (
    "u8", "i8", "u16", "i16", "u32", "i32", "f8_e4m3", "f8_e5m2", "f8_e8m0", "f6_e2m3", "f6_e3m2", "f4",
)  # fmt: skip


def dense(part: Part) -> Weight:
    """Return a stored tensor as a weight."""
    kind, _, element = part.dtype.partition("_")
    if kind == "f8" and element in ELEMENTS:
        return Weight(part.name, part.shape, BareFp8(element), {"weight": part}, "8-bit floats without a scale")
    return Weight(part.name, part.shape, Dense(part.dtype), {"weight": part}, "dense")


def check_unquantized(parts: Iterable[Part], problem: str) -> None:
    """Raise `BadInput` for tensors that are meaningless without their quantizer's settings.

    problem: what config.json says instead, as a clause.
    """
    for part in parts:
        if part.name.endswith(QUANTIZED_SUFFIXES):
            raise BadInput(f"{where(part)}: is part of a quantized weight, but {problem}.")


def looks_quantized(part: Part) -> bool:
    """Return whether a tensor is part of a quantized weight in some layout: codes by its dtype, or scales by name."""
    return (len(part.shape) > 1 and part.dtype in CODE_DTYPES) or part.name.endswith(PARTS)


def open_unquantized(
    folder: Folder, config: Mapping[str, object], tensors: Tensors, place: str, method: str, *, silent: bool
) -> Checkpoint:
    """Return the checkpoint of a folder without quantized weights whose settings at `place` name a quantizer.

    silent: do not warn, because these settings quantize no weight.
    """
    source = open_hf(folder, config, tensors)
    matrices = [name for name, weight in source.weights.items() if len(weight.shape) > 1]
    if silent or not matrices:
        return source
    label = f"{folder.label}/{place}: quant_method {shown(method)}"
    return replace(source, warnings=(*source.warnings, stored_otherwise(label, "matrix", matrices, "dense")))


def open_hf(folder: Folder, config: Mapping[str, object], tensors: Tensors) -> Checkpoint:
    """Return the checkpoint of a dense folder. Raises `BadInput`, `NotPossible`."""
    weights = {name: dense(part) for name, part in sorted(tensors.parts.items())}
    source = marked(
        Checkpoint(
            "hf",
            "hf",
            folder.path("."),
            tensors.files,
            weights,
            config,
            header=tensors.metadata,
            beside=path_of(folder),
            warnings=tensors.warnings,
        )
    )
    if not is_unscaled(source):
        check_unquantized(tensors.parts.values(), "config.json has no quantization_config that describes its layout")
    return source
