"""A Hugging Face folder of dense tensors: every tensor is a weight, in its stored dtype.

Source: transformers' `save_pretrained`. Recognised by what it has not: no quantization settings in config.json.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from quantcli.checkpoint import Checkpoint, Part, Weight
from quantcli.containers.hostile import shown
from quantcli.errors import BadInput, NotPossible
from quantcli.schemes.bare_fp8 import FACTS, BareFp8
from quantcli.schemes.dense import Dense
from quantcli.sources.companions import is_unscaled, marked
from quantcli.sources.folder import Folder, Tensors, sidecars
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


def dense(part: Part) -> Weight:
    """A tensor as it is stored, as a weight."""
    kind, _, element = part.dtype.partition("_")
    if kind == "f8" and element in FACTS:
        return Weight(part.name, part.shape, BareFp8(element), {"weight": part}, "8-bit floats without a scale")
    return Weight(part.name, part.shape, Dense(part.dtype), {"weight": part}, "dense")


def check_unquantized(parts: Iterable[Part], why: str) -> None:
    """Refuse tensors that only make sense together with settings of their quantizer; `why`: what is wrong with them."""
    for part in parts:
        if part.name.endswith(QUANTIZED_SUFFIXES):
            raise BadInput(f"{part.file}: tensor {part.name}: is part of a quantized weight in {why}.")


def open_hf(folder: Folder, config: Mapping[str, object], tensors: Tensors) -> Checkpoint:
    """The checkpoint of a dense folder. Raises `BadInput`, `NotPossible`."""
    settings = config.get("quantization_config")
    if isinstance(settings, Mapping) and settings:
        method = settings.get("quant_method", "unnamed")
        raise NotPossible(
            f"{folder.label}/config.json: quantization_config has quant_method {shown(method)}, which is not read: "
            "awq, gptq, auto-round, compressed-tensors, fp8, fbgemm_fp8, mxfp8, modelopt, quark, bitsandbytes, hqq, "
            "torchao, quanto and mxfp4 (gpt-oss) are, MLX's and dense checkpoints too."
        )
    weights = {name: dense(part) for name, part in sorted(tensors.parts.items())}
    source = marked(
        Checkpoint(
            "hf",
            "hf",
            folder.path("."),
            tensors.files,
            weights,
            config,
            sidecars=sidecars(folder),
            beside=path_of(folder),
            warnings=tensors.warnings,
        )
    )
    if not is_unscaled(source):
        why = "a layout that config.json, without quantization_config, does not name"
        check_unquantized(tensors.parts.values(), why)
    return source
