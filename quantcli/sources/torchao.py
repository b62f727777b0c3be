"""torchao's checkpoints in safetensors: one-byte codes, `X._weight_qdata`, with `X._weight_scale` and zero points.

The file's metadata has JSON under the weight's name: the tensor subclass and its attributes. `block_size` is the shape
of the blocks that share a scale.

    Int8Tensor                  I8              integers of 8 bits
    IntxUnpackedToInt8Tensor    I8              integers of `target_dtype` (int1 to int8), one in each byte
    Float8Tensor                F8_E4M3/E5M2    no zero points

A parameter of another name, `experts.gate_up_proj`, has tensors `experts._gate_up_proj_qdata` and so on.
Source: torchao 0.18 (prototype/safetensors, quantization/quantize_/workflows, quantization/quant_primitives.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from quantcli.arrays import FLOATS, TORCH_DTYPES
from quantcli.checkpoint import Checkpoint, Part, Weight
from quantcli.containers.json_text import Reader, load_object
from quantcli.errors import BadInput, NotPossible
from quantcli.schemes.hf.bytewise import Bytewise
from quantcli.schemes.hf.scaled import Scales
from quantcli.sources.folder import MAX_DESCRIBING, Folder, LocalFolder, Tensors
from quantcli.sources.modules import (
    check_listed,
    checked_weight,
    checkpoint,
    dense_warnings,
    extras_of,
    mentions_module,
    parts_of,
    settings_of,
)
from quantcli.sources.wording import MATRICES, either, mismatch, missing, no_codes, where

#: Part -> the end of its tensor's name, after `._weight_`.
ENDS = {
    "weight": "qdata", "scales": "scale", "zeros": "zero_point", "act_quant_scale": "act_quant_scale",
    "act_quant_zero_point": "act_quant_zero_point", "act_pre_scale": "act_pre_scale",
}  # fmt: skip
#: Arrays that concern activations, and are copied without being interpreted.
COPIED = ("act_quant_scale", "act_quant_zero_point")
QDATA = re.compile(r"(.+)\._([^.]+)_qdata")
INTEGERS = ("i8", "i16", "i32", "i64")


@dataclass(frozen=True)
class Kind:
    """A tensor subclass. codes: their dtypes. target: whether `target_dtype` gives the bits of an integer."""

    codes: tuple[str, ...]
    target: bool = False


READ = {
    "Int8Tensor": Kind(("i8",)),
    "IntxUnpackedToInt8Tensor": Kind(("i8",), target=True),
    "Float8Tensor": Kind(("f8_e4m3", "f8_e5m2")),
}


def open_torchao(folder: Folder, config: Mapping[str, Any], tensors: Tensors) -> Checkpoint:
    """Open a torchao folder. Raises `BadInput`, `NotPossible`."""
    keys = settings_of(folder, config)
    skipped = keys.texts("modules_to_not_convert")
    parts = tensors.parts
    matches = [match for name in sorted(parts) if (match := QDATA.fullmatch(name))]
    if not matches:
        raise no_codes(keys.label, "torchao", "*._weight_qdata")
    weights = [_weight(match[1], match[2], parts, tensors.metadata, folder) for match in matches]
    modules = {match[1]: parts[match[0]] for match in matches}
    listed = f"{keys.label}.modules_to_not_convert"
    further = check_listed(skipped, modules, listed)
    further += dense_warnings(
        parts, modules, listed, lambda module, linear: linear and not mentions_module(skipped, module)
    )
    return checkpoint("torchao", folder, config, tensors, weights, further)


def _weight(module: str, name: str, parts: Mapping[str, Part], metadata: Mapping[str, str], folder: Folder) -> Weight:
    """Return one weight, by its settings in the file's metadata."""
    suffixes = {part: f"._{name}_{end}" for part, end in ENDS.items()}
    stored = parts_of(module, suffixes, parts)
    weight, key = stored["weight"], f"{module}.{name}"
    if key not in metadata:
        raise BadInput(f"{where(weight)}: the file's metadata has no entry for {key}, which torchao requires.")
    label = f"{weight.file}: metadata of {key}"
    entry = Reader(load_object(metadata[key].encode(), label), label)
    kind = READ.get(entry.text("_type"))
    if kind is None:
        raise entry.unsupported("_type", READ)
    data = entry.part("_data", needed=True)
    compute = TORCH_DTYPES.get(data.part("dtype", needed=True).text("_data"))
    if compute is None:
        raise data.refuse("dtype", "expected a float dtype")
    if len(weight.shape) not in (2, 3) or weight.dtype not in kind.codes:
        raise mismatch(weight, f"{either(kind.codes)}, {MATRICES}", entry.text("_type"))
    if "scales" not in stored:
        raise missing(weight, f"{module}{suffixes['scales']}", entry.text("_type"))
    if stored["scales"].dtype not in FLOATS:
        raise mismatch(stored["scales"], either(FLOATS))
    if "act_pre_scale" in stored:
        raise NotPossible(f"{where(stored['act_pre_scale'])}: scaled inputs (of {module}) are not supported.")
    block = _block(data, weight.shape, label)
    zeros = stored.get("zeros") if weight.dtype == "i8" else None
    if zeros is not None and zeros.dtype not in INTEGERS:
        raise NotPossible(
            f"{where(zeros)}: {zeros.dtype} zero points are not supported. Supported: {either(INTEGERS)}."
        )
    scheme = Bytewise(
        family="torchao", columns=weight.shape[-1], scales=_scales(stored["scales"], block, weight.shape),
        stored=weight.dtype, bits=_bits(data) if kind.target else 8, symmetric=_is_symmetric(zeros, folder),
        zeros_dtype=zeros.dtype if zeros else None, compute=compute, extras=extras_of(stored, COPIED),
    )  # fmt: skip
    return checked_weight(
        key, weight.shape, scheme, stored, f"metadata: {entry.text('_type')}, block_size {block}", suffixes
    )


def _bits(data: Reader) -> int:
    """Return the bits of an integer, by `target_dtype`."""
    match = re.fullmatch(r"int([1-8])", data.part("target_dtype", needed=True).text("_data"))
    if match is None:
        raise data.refuse("target_dtype", "expected int1 to int8")
    return int(match[1])


def _block(data: Reader, shape: tuple[int, ...], label: str) -> list[int]:
    """Return how many values share a scale along each axis; without a `block_size`, all do."""
    if data.values.get("block_size") in (None, []):
        return list(shape)
    block = list(data.sizes("block_size", len(shape)))
    if any(length % each for length, each in zip(shape, block, strict=True)):
        raise NotPossible(
            f"{label}: block_size {block} is not supported: it does not divide the weight's shape {list(shape)}."
        )
    if len(shape) == 3 and block != list(shape) and block[0] != 1:
        raise NotPossible(
            f"{label}: block_size {block} is not supported. Supported for stacked matrices: 1 as the first number, or "
            "one block."
        )
    return block


def _scales(scale: Part, block: list[int], shape: tuple[int, ...]) -> Scales:
    """Return how scales are shared, by the block."""
    stacked = shape[1] if len(shape) == 3 else 0
    if block == list(shape):
        return Scales(scale.dtype, None, rank=len(scale.shape), stacked=stacked, single=bool(stacked))
    columns = None if block[-1] == shape[-1] else block[-1]
    return Scales(scale.dtype, block[-2], columns, len(shape), stacked=stacked)


def _is_symmetric(zeros: Part | None, folder: Folder) -> bool:
    """Return whether all zero points are 0 or missing. On the Hub, where each costs a request, they are not read."""
    if zeros is None or not isinstance(folder, LocalFolder):
        return True
    return zeros.nbytes <= MAX_DESCRIBING and not folder.array(zeros).any()
