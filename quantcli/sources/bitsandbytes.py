"""bitsandbytes' checkpoints, as transformers saves them: NF4 and FP4 with their state beside them, int8 with `.SCB`.

    X.weight, X.weight.absmax, X.weight.quant_map, X.weight.quant_state.bitsandbytes__nf4     (and nested ones)
    X.weight, X.SCB, X.weight_format

The state is JSON in a U8 tensor: quant_type, blocksize, dtype and shape. config.json's settings only say whether 4 or 8
bits were asked for; `llm_int8_skip_modules` names what is dense.
Sources: bitsandbytes 0.50 (functional.py: QuantState), transformers (quantizers/quantizer_bnb_4bit.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from quantcli.arrays import TORCH_DTYPES
from quantcli.checkpoint import Checkpoint, Part, Weight
from quantcli.containers.hostile import shown
from quantcli.containers.json_text import Reader, load_object
from quantcli.errors import BadInput, NotPossible
from quantcli.schemes.hf.bitsandbytes import STATE, SUFFIXES
from quantcli.schemes.hf.bnb4 import TABLES, Bnb4, Nested
from quantcli.schemes.hf.bytewise import Bytewise
from quantcli.schemes.hf.scaled import Scales
from quantcli.sources.folder import Folder, LocalFolder, Tensors
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

INT8 = {"weight": ".weight", "scales": ".SCB", "weight_format": ".weight_format"}
#: The largest integer of 8 bits, what a row's maximum became.
LARGEST_CODE = 127
#: dtypes that bytes of codes may be stored under.
STORAGES = ("u8", "bf16", "f16", "f32", "i8")


def open_bitsandbytes(folder: Folder, config: Mapping[str, Any], tensors: Tensors) -> Checkpoint:
    """The checkpoint of a bitsandbytes folder. Raises `BadInput`, `NotPossible`."""
    keys = settings_of(folder, config)
    bits4, bits8 = (keys.flag(f"load_in_{bits}bit", False) for bits in (4, 8))
    if bits4 == bits8:
        raise keys.refuse("load_in_4bit", "expected true, or true under load_in_8bit, not both")
    skipped = keys.texts("llm_int8_skip_modules")
    parts = tensors.parts
    states = {name.partition(STATE)[0]: name for name in parts if STATE in name}
    rows = [name.removesuffix(".SCB") for name in parts if name.endswith(".SCB")]
    if not states and not rows:
        raise BadInput(f"{keys.label}: says bitsandbytes, but no tensor is called *{STATE}* or *.SCB.")
    for found, is_set, key in ((states, bits4, "load_in_4bit"), (rows, bits8, "load_in_8bit")):
        if found and not is_set:
            raise BadInput(f"{keys.label}: `{key}` is not true, but {sorted(found)[0]} is stored so.")
    weights = [_four_bits(module, states[module], parts, folder) for module in sorted(states)]
    weights += [_eight_bits(module, parts, folder) for module in sorted(rows)]
    modules = {*states, *rows}
    listed = f"{keys.label}.llm_int8_skip_modules"
    further = check_listed(skipped, {module: parts[f"{module}.weight"] for module in sorted(modules)}, listed)
    further += left_dense(
        parts, modules, listed, lambda module, linear: linear and not mentions_module(skipped, module)
    )
    _refuse_orphans(parts, modules)
    return checkpoint("bitsandbytes", folder, config, tensors, weights, [*_contradicted(keys, weights), *further])


def _contradicted(keys: Reader, weights: Iterable[Weight]) -> list[str]:
    """A warning for each setting of 4 bits that weights say otherwise; their own state counts."""
    schemes = [weight.scheme for weight in weights if isinstance(weight.scheme, Bnb4)]
    stored: dict[str, set[str | bool]] = {
        "bnb_4bit_quant_type": {scheme.quant for scheme in schemes},
        "bnb_4bit_use_double_quant": {scheme.nested is not None for scheme in schemes},
    }
    said = {key: value for key in stored if (value := keys.values.get(key)) is not None}
    return [
        f"{keys.label}: `{key}` is {shown(value)}, but weights have {', '.join(map(shown, stored[key]))}, which counts."
        for key, value in said.items()
        if schemes and [value] != list(stored[key])
    ]


def _refuse_orphans(parts: Mapping[str, Part], modules: set[str]) -> None:
    for name, part in parts.items():
        module, found, _ = name.partition(".weight.")
        if found and module not in modules:
            raise BadInput(f"{where(part)}: has no {module}{STATE}nf4 or fp4 beside it, which says what it means.")


def _four_bits(module: str, state_name: str, parts: Mapping[str, Part], folder: Folder) -> Weight:
    """A weight of 4-bit codes by its state."""
    quant = state_name.partition(STATE)[2]
    state = parts[state_name]
    if quant not in TABLES:
        raise NotPossible(f"{where(state)}: quant_type {shown(quant)} is not read; nf4 and fp4 are.")
    stored = beside(module, SUFFIXES, parts) | {"quant_state": state}
    for part, suffix in SUFFIXES.items():
        if part not in stored and not part.startswith("nested"):
            raise BadInput(f"{where(state)}: has no {module}{suffix} beside it, which its state needs.")
    said = Reader(load_object(folder.array(state).tobytes(), where(state)), where(state))
    if said.text("quant_type") != quant:
        raise said.refuse("quant_type", f"expected {quant}, as its name says")
    block, dtype = said.whole("blocksize"), TORCH_DTYPES.get(said.text("dtype"))
    shape = _shape(said)
    if not 0 < block <= 1 << 20:
        raise said.refuse("blocksize", "expected a number of values")
    if dtype is None:
        raise said.refuse("dtype", "expected a float dtype")
    if stored["weight"].dtype not in STORAGES:
        raise BadInput(f"{where(stored['weight'])}: is {stored['weight'].dtype}, packed codes are u8.")
    nested = _nested(said, stored)
    along = extras_of(stored, ("quant_map", "quant_state"))
    scheme = Bnb4(
        columns=shape[1], quant=quant, block=block, values=_table(quant, stored["quant_map"], folder), nested=nested,
        storage=stored["weight"].dtype, compute=dtype, extras=along,
    )  # fmt: skip
    reason = f"{state_name.rpartition('.')[2]}: blocksize {block}"
    return held(f"{module}.weight", shape, scheme, stored, reason, SUFFIXES)


def _shape(said: Reader) -> tuple[int, int]:
    rows, columns = said.sizes("shape", 2)
    if max(rows, columns) >= 1 << 40:
        raise said.refuse("shape", "expected rows and columns below 2**40")
    return rows, columns


def _nested(said: Reader, stored: Mapping[str, Part]) -> Nested | None:
    """How absolute maxima are quantized, None where they are floats."""
    if "nested_absmax" not in stored and "nested_blocksize" not in said.values:
        return None
    block, offset = said.whole("nested_blocksize"), said.values.get("nested_offset")
    if not 0 < block <= 1 << 20:
        raise said.refuse("nested_blocksize", "expected a number of values")
    if not isinstance(offset, (int, float)) or not np.isfinite(np.float32(offset)):
        raise said.refuse("nested_offset", "expected a number")
    return Nested(block, float(offset))


def _table(quant: str, part: Part, folder: Folder) -> tuple[float, ...]:
    """The values of codes as stored; over the network, where each would be a request, the tool's own."""
    if part.shape != (16,) or part.dtype != "f32":
        raise BadInput(f"{where(part)}: is {part.dtype} {list(part.shape)}, f32 [16] is needed.")
    if not isinstance(folder, LocalFolder):
        return TABLES[quant]
    values = folder.array(part).reshape(-1)
    if not np.isfinite(values).all():
        raise BadInput(f"{where(part)}: holds NaN or Inf, which are no values of codes.")
    return tuple(values.tolist())


def _eight_bits(module: str, parts: Mapping[str, Part], folder: Folder) -> Weight:
    """A weight of integers by row maxima."""
    stored = beside(module, INT8, parts)
    scb = stored["scales"]
    if "weight" not in stored:
        raise BadInput(f"{where(scb)}: has no {module}.weight beside it, which `load_in_8bit` needs.")
    weight = stored["weight"]
    if weight.dtype != "i8" or len(weight.shape) != 2:
        raise BadInput(
            f"{where(weight)}: is {weight.dtype} {list(weight.shape)}, beside .SCB a matrix of i8 is needed."
        )
    if (order := stored.get("weight_format")) is not None:
        if order.nbytes != 1:
            raise BadInput(f"{where(order)}: is {order.dtype} {list(order.shape)}, one byte is needed.")
        if isinstance(folder, LocalFolder) and int(folder.array(order).reshape(-1)[0]) != 0:
            raise NotPossible(f"{where(order)}: says that rows are tiled for a GPU; those saved row by row are read.")
    scheme = Bytewise(
        family="bnb", columns=weight.shape[1], scales=Scales("f32", 1, None, rank=1), stored="i8", divisor=LARGEST_CODE,
        extras=extras_of(stored, ("weight_format",)),
    )  # fmt: skip
    reason = "quantization_config: load_in_8bit"
    return held(f"{module}.weight", weight.shape, scheme, stored, reason, INT8)
