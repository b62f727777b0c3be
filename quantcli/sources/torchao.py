"""torchao's checkpoints in safetensors: a code a byte, `X._weight_qdata`, with `X._weight_scale` and zero points.

The file's metadata has JSON under the weight's name: the subclass of tensor and its attributes. `block_size` has as
many numbers as the weight has axes: the values that share a scale.

    Int8Tensor                  I8              integers of 8 bits
    IntxUnpackedToInt8Tensor    I8              integers of `target_dtype`, int1 to int8, a byte each
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
from quantcli.containers.hostile import shown
from quantcli.containers.json_text import Reader, load_object
from quantcli.errors import BadInput, NotPossible
from quantcli.schemes.hf.bytewise import Bytewise
from quantcli.schemes.hf.scaled import Scales
from quantcli.sources.folder import MAX_DESCRIBING, Folder, LocalFolder, Tensors
from quantcli.sources.modules import (
    beside,
    check_listed,
    checkpoint,
    extras_of,
    held,
    left_dense,
    mentions_module,
    settings_of,
    where,
)

#: Part -> the end of its tensor's name, behind `._weight_`.
ENDS = {
    "weight": "qdata", "scales": "scale", "zeros": "zero_point", "act_quant_scale": "act_quant_scale",
    "act_quant_zero_point": "act_quant_zero_point", "act_pre_scale": "act_pre_scale",
}  # fmt: skip
#: Arrays that are of activations, and copied along.
ALONG = ("act_quant_scale", "act_quant_zero_point")
QDATA = re.compile(r"(.+)\._([^.]+)_qdata")
INTEGERS = ("i8", "i16", "i32", "i64")


@dataclass(frozen=True)
class Kind:
    """A subclass of tensor. codes: their dtypes; target: an attribute says how many bits an integer has."""

    codes: tuple[str, ...]
    target: bool = False


READ = {
    "Int8Tensor": Kind(("i8",)),
    "IntxUnpackedToInt8Tensor": Kind(("i8",), target=True),
    "Float8Tensor": Kind(("f8_e4m3", "f8_e5m2")),
}


def open_torchao(folder: Folder, config: Mapping[str, Any], tensors: Tensors) -> Checkpoint:
    """The checkpoint of a torchao folder. Raises `BadInput`, `NotPossible`."""
    keys = settings_of(folder, config)
    skipped = keys.texts("modules_to_not_convert")
    parts = tensors.parts
    found = [match for name in sorted(parts) if (match := QDATA.fullmatch(name))]
    if not found:
        raise BadInput(f"{keys.label}: says torchao, but no tensor is called *._weight_qdata.")
    weights = [_weight(match[1], match[2], parts, tensors.metadata, folder) for match in found]
    modules = {match[1]: parts[match[0]] for match in found}
    listed = f"{keys.label}.modules_to_not_convert"
    further = check_listed(skipped, modules, listed)
    further += left_dense(
        parts, modules, listed, lambda module, linear: linear and not mentions_module(skipped, module)
    )
    return checkpoint("torchao", folder, config, tensors, weights, further)


def _weight(module: str, name: str, parts: Mapping[str, Part], metadata: Mapping[str, str], folder: Folder) -> Weight:
    """One weight by what the file's metadata says of it."""
    suffixes = {part: f"._{name}_{end}" for part, end in ENDS.items()}
    stored = beside(module, suffixes, parts)
    weight, key = stored["weight"], f"{module}.{name}"
    if key not in metadata:
        raise BadInput(f"{where(weight)}: the file's metadata says nothing of {key}.")
    label = f"{weight.file}: metadata of {key}"
    said = Reader(load_object(metadata[key].encode(), label), label)
    kind = READ.get(said.text("_type"))
    if kind is None:
        raise NotPossible(
            f"{label}: tensors of the kind {shown(said.text('_type'))} are not read; {', '.join(READ)} are."
        )
    data = said.part("_data", needed=True)
    compute = TORCH_DTYPES.get(data.part("dtype", needed=True).text("_data"))
    if compute is None:
        raise data.refuse("dtype", "expected a float dtype")
    if len(weight.shape) not in (2, 3) or weight.dtype not in kind.codes:
        raise BadInput(
            f"{where(weight)}: is {weight.dtype} {list(weight.shape)}, a matrix, or stacked ones, of "
            f"{' or '.join(kind.codes)} is needed."
        )
    if "scales" not in stored or stored["scales"].dtype not in FLOATS:
        raise BadInput(f"{where(weight)}: has no {module}{suffixes['scales']} of floats beside it.")
    if "act_pre_scale" in stored:
        raise NotPossible(f"{where(stored['act_pre_scale'])}: scales the inputs of {module}, which is not read.")
    block = _block(data, weight.shape, label)
    zeros = stored.get("zeros") if weight.dtype == "i8" else None
    if zeros is not None and zeros.dtype not in INTEGERS:
        raise NotPossible(f"{where(zeros)}: is {zeros.dtype}; zero points that are no integers are not read.")
    scheme = Bytewise(
        family="torchao", columns=weight.shape[-1], scales=_scales(stored["scales"], block, weight.shape),
        stored=weight.dtype, bits=_bits(data) if kind.target else 8, symmetric=_is_symmetric(zeros, folder),
        zeros_dtype=zeros.dtype if zeros else None, compute=compute, extras=extras_of(stored, ALONG),
    )  # fmt: skip
    return held(key, weight.shape, scheme, stored, f"metadata: {said.text('_type')}, block_size {block}", suffixes)


def _bits(data: Reader) -> int:
    """The width that `target_dtype` says."""
    match = re.fullmatch(r"int([1-8])", data.part("target_dtype", needed=True).text("_data"))
    if match is None:
        raise data.refuse("target_dtype", "expected int1 to int8")
    return int(match[1])


def _block(data: Reader, shape: tuple[int, ...], label: str) -> list[int]:
    """How many values share a scale along each axis; without a block all do."""
    if data.values.get("block_size") in (None, []):
        return list(shape)
    block = list(data.sizes("block_size", len(shape)))
    if any(length % each for length, each in zip(shape, block, strict=True)):
        raise NotPossible(f"{label}: `block_size` {block} does not divide the weight's {list(shape)}, and is not read.")
    if len(shape) == 3 and block != list(shape) and block[0] != 1:
        raise NotPossible(f"{label}: `block_size` {block} is not read: stacked matrices share no scales, or all one.")
    return block


def _scales(scale: Part, block: list[int], shape: tuple[int, ...]) -> Scales:
    """How scales are shared, by the block."""
    stacked = shape[1] if len(shape) == 3 else 0
    if block == list(shape):
        return Scales(scale.dtype, None, rank=len(scale.shape), stacked=stacked, single=bool(stacked))
    columns = None if block[-1] == shape[-1] else block[-1]
    return Scales(scale.dtype, block[-2], columns, len(shape), stacked=stacked)


def _is_symmetric(zeros: Part | None, folder: Folder) -> bool:
    """Whether all zero points are 0, or there are none; over the network, a request each, they are not looked at."""
    if zeros is None or not isinstance(folder, LocalFolder):
        return True
    return zeros.nbytes <= MAX_DESCRIBING and not folder.array(zeros).any()
