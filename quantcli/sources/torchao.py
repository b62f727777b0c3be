"""torchao's checkpoints in safetensors: int8, `X._weight_qdata`, `X._weight_scale` and `X._weight_zero_point`.

The file's metadata has JSON under the weight's name: the subclass of tensor and its attributes. Int8Tensor is read: a
byte a code, scales for rows or groups of them. Source: torchao 0.18 (prototype/safetensors, quantization/quantize_).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantcli.arrays import FLOATS, TORCH_DTYPES
from quantcli.checkpoint import Checkpoint, Part, Weight
from quantcli.containers.hostile import shown
from quantcli.containers.json_text import load_object
from quantcli.errors import BadInput, NotPossible
from quantcli.schemes.bytewise import Bytewise
from quantcli.schemes.scaled import Scales
from quantcli.sources.folder import Folder, Tensors
from quantcli.sources.modules import (
    Keys,
    beside,
    check_listed,
    checkpoint,
    held,
    left_dense,
    mentions_module,
    settings_of,
    where,
)

SUFFIXES = {"weight": "._weight_qdata", "scales": "._weight_scale", "zeros": "._weight_zero_point"}
READ = "Int8Tensor"


def open_torchao(folder: Folder, config: Mapping[str, Any], tensors: Tensors) -> Checkpoint:
    """The checkpoint of a torchao folder. Raises `BadInput`, `NotPossible`."""
    keys = settings_of(folder, config)
    skipped = keys.names("modules_to_not_convert")
    parts = tensors.parts
    modules = {name.removesuffix("._weight_qdata") for name in parts if name.endswith("._weight_qdata")}
    if not modules:
        raise BadInput(f"{keys.label}: says torchao, but no tensor is called *._weight_qdata.")
    weights = [_weight(module, parts, tensors.metadata) for module in sorted(modules)]
    listed = f"{keys.label}.modules_to_not_convert"
    further = check_listed(skipped, {module: parts[f"{module}._weight_qdata"] for module in sorted(modules)}, listed)
    further += left_dense(
        parts, modules, listed, lambda module, linear: linear and not mentions_module(skipped, module)
    )
    return checkpoint("torchao", folder, config, tensors, weights, further)


def _weight(module: str, parts: Mapping[str, Part], metadata: Mapping[str, str]) -> Weight:
    """One module's weight by what the file's metadata says of it."""
    stored = beside(module, SUFFIXES, parts)
    weight, key = stored["weight"], f"{module}.weight"
    if key not in metadata:
        raise BadInput(f"{where(weight)}: the file's metadata says nothing of {key}.")
    label = f"{weight.file}: metadata of {key}"
    said = Keys(load_object(metadata[key].encode(), label), label)
    if said.text("_type") != READ:
        raise NotPossible(f"{label}: tensors of the kind {shown(said.text('_type'))} are not read; {READ} is.")
    data = said.under("_data")
    block = data.block.get("block_size")
    if not isinstance(block, list) or len(block) != 2 or not all(type(n) is int and n > 0 for n in block):
        raise data.refuse("block_size", "rows and columns are needed")
    compute = TORCH_DTYPES.get(data.under("dtype").text("_data"))
    if compute is None:
        raise data.refuse("dtype", "a float dtype is needed")
    if len(weight.shape) != 2 or weight.dtype != "i8":
        raise BadInput(f"{where(weight)}: is {weight.dtype} {list(weight.shape)}, a matrix of i8 is needed.")
    if "scales" not in stored or stored["scales"].dtype not in FLOATS:
        raise BadInput(f"{where(weight)}: has no {module}._weight_scale of floats beside it.")
    rows, columns = weight.shape
    if block[0] not in (1, rows) or columns % block[1]:
        raise NotPossible(f"{label}: `block_size` {block} is not read; of rows, parts of them, or all it is.")
    shared = None if block[0] == rows > 1 else 1
    if shared is None and block[1] != columns:
        raise NotPossible(f"{label}: `block_size` {block} is not read; of rows, parts of them, or all it is.")
    zeros = stored.get("zeros")
    scheme = Bytewise(
        family="torchao", columns=columns, scales=Scales(stored["scales"].dtype, shared, _columns(block[1], columns)),
        stored="i8", zeros_dtype=zeros.dtype if zeros else None, compute=compute,
    )  # fmt: skip
    return held(key, weight.shape, scheme, stored, f"metadata: {READ}, block_size {block}", SUFFIXES)


def _columns(block: int, columns: int) -> int | None:
    """Values of a row that share a scale, None for all."""
    return None if block == columns else block
