"""A Hugging Face folder of dense tensors: every tensor is a weight, in its stored dtype.

Source: transformers' `save_pretrained`. Recognised by what it has not: no quantization settings in config.json.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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

#: Suffixes under which quantizers store codes and scales: their presence without settings is a contradiction.
QUANTIZED_SUFFIXES = (
    ".qweight",
    ".qzeros",
    ".weight_packed",
    ".weight_scale",
    ".weight_scale_inv",
    "_blocks",
    ".absmax",
)


#: Further ends of the names of quantized weights' parts.
PARTS = (
    *QUANTIZED_SUFFIXES, ".scales", "_scales", ".weight_scale_2", "_scale_inv", ".weight_zero_point", ".g_idx", ".SCB",
    ".quant_map", ".W_q", "._weight_qdata", "._weight_scale", "._data", "._scale",
)  # fmt: skip
#: The dtypes that codes are stored in.
CODE_DTYPES = (
    "u8", "i8", "u16", "i16", "u32", "i32", "f8_e4m3", "f8_e5m2", "f8_e8m0", "f6_e2m3", "f6_e3m2", "f4",
)  # fmt: skip


def dense(part: Part) -> Weight:
    """A tensor as it is stored, as a weight."""
    kind, _, element = part.dtype.partition("_")
    if kind == "f8" and element in ELEMENTS:
        return Weight(part.name, part.shape, BareFp8(element), {"weight": part}, "8-bit floats without a scale")
    return Weight(part.name, part.shape, Dense(part.dtype), {"weight": part}, "dense")


def check_unquantized(parts: Iterable[Part], why: str) -> None:
    """Refuse tensors that only make sense together with settings of their quantizer; `why`: what is wrong with them."""
    for part in parts:
        if part.name.endswith(QUANTIZED_SUFFIXES):
            raise BadInput(f"{part.file}: tensor {part.name}: is part of a quantized weight in {why}.")


def counted(noun: str, names: Sequence[str]) -> str:
    """Names as the subject of a sentence that goes on with a participle.

    >>> counted("module", ["a"]), counted("matrix", ["a", "b"])
    ('a, which is', '2 matrices, a the first, which are')
    """
    if len(names) == 1:
        return f"{names[0]}, which is"
    plural = f"{noun[:-1]}ces" if noun.endswith("x") else f"{noun}s"
    return f"{len(names)} {plural}, {names[0]} the first, which are"


def not_left_out(label: str, names: Sequence[str]) -> str:
    """The warning of dense matrices that the settings at `label` do not leave out."""
    return f"{label} does not leave out {counted('matrix', names)} stored dense: read as stored."


def looks_quantized(part: Part) -> bool:
    """Whether a tensor is part of a quantized weight in some layout: codes, or scales by their name."""
    return (len(part.shape) > 1 and part.dtype in CODE_DTYPES) or part.name.endswith(PARTS)


def open_unquantized(
    folder: Folder, config: Mapping[str, object], tensors: Tensors, place: str, method: str, *, silent: bool
) -> Checkpoint:
    """The checkpoint of a folder without a quantized weight, although its settings at `place` name a quantizer.

    silent: these settings are of nothing that is stored.
    """
    source = open_hf(folder, config, tensors)
    matrices = [name for name, weight in source.weights.items() if len(weight.shape) > 1]
    if silent or not matrices:
        return source
    label = f"{folder.label}/{place}: quant_method {shown(method)}"
    return replace(source, warnings=(*source.warnings, not_left_out(label, matrices)))


def open_hf(folder: Folder, config: Mapping[str, object], tensors: Tensors) -> Checkpoint:
    """The checkpoint of a dense folder. Raises `BadInput`, `NotPossible`."""
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
        why = "a layout that config.json, without quantization_config, does not name"
        check_unquantized(tensors.parts.values(), why)
    return source
