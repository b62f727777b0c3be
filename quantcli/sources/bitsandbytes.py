"""bitsandbytes' checkpoints, as transformers saves them: NF4 and FP4 with a state, int8 with `.SCB`.

    X.weight, X.weight.absmax, X.weight.quant_map, X.weight.quant_state.bitsandbytes__nf4     (and nested arrays)
    X.weight, X.SCB, X.weight_format

The state is JSON in a U8 tensor: quant_type, blocksize, dtype and shape. config.json's settings only say whether 4 or 8
bits were requested; `llm_int8_skip_modules` lists dense modules.
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
    check_listed,
    checked_weight,
    checkpoint,
    dense_warnings,
    extras_of,
    mentions_module,
    parts_of,
    settings_of,
)
from quantcli.sources.wording import either, mismatch, missing, no_codes, where

INT8 = {"weight": ".weight", "scales": ".SCB", "weight_format": ".weight_format"}
#: The code of a row's maximum: the largest signed 8-bit integer.
LARGEST_CODE = 127
#: The largest number of values in a block, far above any real one.
LARGEST_BLOCK = 1 << 20
#: The dtypes under which packed codes may be stored.
STORAGES = ("u8", "bf16", "f16", "f32", "i8")


def open_bitsandbytes(folder: Folder, config: Mapping[str, Any], tensors: Tensors) -> Checkpoint:
    """Open a bitsandbytes folder. Raises `BadInput`, `NotPossible`."""
    keys = settings_of(folder, config)
    bits4, bits8 = (keys.flag(f"load_in_{bits}bit", False) for bits in (4, 8))
    if bits4 == bits8:
        raise keys.refuse("load_in_4bit", "expected true for either load_in_4bit or load_in_8bit")
    skipped = keys.texts("llm_int8_skip_modules")
    parts = tensors.parts
    states = {name.partition(STATE)[0]: name for name in parts if STATE in name}
    rows = [name.removesuffix(".SCB") for name in parts if name.endswith(".SCB")]
    if not states and not rows:
        raise no_codes(keys.label, "bitsandbytes", f"*{STATE}* or *.SCB")
    for stored, is_set, key in ((states, bits4, "load_in_4bit"), (rows, bits8, "load_in_8bit")):
        if stored and not is_set:
            bits = "4" if key == "load_in_4bit" else "8"
            raise BadInput(f"{keys.label}: {key} is not true, but {sorted(stored)[0]} is stored in {bits} bits.")
    weights = [_four_bits(module, states[module], parts, folder) for module in sorted(states)]
    weights += [_eight_bits(module, parts, folder) for module in sorted(rows)]
    modules = {*states, *rows}
    listed = f"{keys.label}.llm_int8_skip_modules"
    further = check_listed(skipped, {module: parts[f"{module}.weight"] for module in sorted(modules)}, listed)
    further += dense_warnings(
        parts, modules, listed, lambda module, linear: linear and not mentions_module(skipped, module)
    )
    _refuse_orphans(parts, modules)
    return checkpoint("bitsandbytes", folder, config, tensors, weights, [*_setting_warnings(keys, weights), *further])


def _setting_warnings(keys: Reader, weights: Iterable[Weight]) -> list[str]:
    """Return a warning for each 4-bit setting that contradicts the weights' states, which are used."""
    schemes = [weight.scheme for weight in weights if isinstance(weight.scheme, Bnb4)]
    stored: dict[str, set[str | bool]] = {
        "bnb_4bit_quant_type": {scheme.quant for scheme in schemes},
        "bnb_4bit_use_double_quant": {scheme.nested is not None for scheme in schemes},
    }
    settings = {key: value for key in stored if (value := keys.values.get(key)) is not None}
    return [
        f"{keys.label}: {key} says {shown(value)}, but weights' states say {', '.join(map(shown, stored[key]))}. The "
        "states are used."
        for key, value in settings.items()
        if schemes and [value] != list(stored[key])
    ]


def _refuse_orphans(parts: Mapping[str, Part], modules: set[str]) -> None:
    for name, part in parts.items():
        module, dot, _ = name.partition(".weight.")
        if dot and module not in modules:
            raise missing(part, f"{module}{STATE}nf4 (or fp4)", "bitsandbytes")


def _four_bits(module: str, state_name: str, parts: Mapping[str, Part], folder: Folder) -> Weight:
    """Return a weight with 4-bit codes, by its state."""
    quant = state_name.partition(STATE)[2]
    state = parts[state_name]
    if quant not in TABLES:
        raise NotPossible(f"{where(state)}: quant_type {shown(quant)} is not supported. Supported: nf4, fp4.")
    stored = parts_of(module, SUFFIXES, parts) | {"quant_state": state}
    for part, suffix in SUFFIXES.items():
        if part not in stored and not part.startswith("nested"):
            raise missing(state, f"{module}{suffix}", "the state")
    keys = Reader(load_object(folder.array(state).tobytes(), where(state)), where(state))
    if keys.text("quant_type") != quant:
        raise keys.refuse("quant_type", f"expected {quant}, as in the tensor's name")
    block, dtype = keys.whole("blocksize"), TORCH_DTYPES.get(keys.text("dtype"))
    shape = _shape(keys)
    if not 0 < block <= LARGEST_BLOCK:
        raise keys.refuse("blocksize", f"expected a number from 1 to {LARGEST_BLOCK}")
    if dtype is None:
        raise keys.refuse("dtype", "expected a float dtype")
    if stored["weight"].dtype not in STORAGES:
        raise mismatch(stored["weight"], either(STORAGES), "packed codes")
    nested = _nested(keys, stored)
    extras = extras_of(stored, ("quant_map", "quant_state"))
    scheme = Bnb4(
        columns=shape[1], quant=quant, block=block, values=_table(quant, stored["quant_map"], folder), nested=nested,
        storage=stored["weight"].dtype, compute=dtype, extras=extras,
    )  # fmt: skip
    reason = f"{state_name.rpartition('.')[2]}: blocksize {block}"
    return checked_weight(f"{module}.weight", shape, scheme, stored, reason, SUFFIXES)


def _shape(keys: Reader) -> tuple[int, int]:
    rows, columns = keys.sizes("shape", 2)
    if max(rows, columns) >= 1 << 40:
        raise keys.refuse("shape", "expected rows and columns below 2**40")
    return rows, columns


def _nested(keys: Reader, stored: Mapping[str, Part]) -> Nested | None:
    """Return how absolute maxima are quantized; None if they are floats."""
    if "nested_absmax" not in stored and "nested_blocksize" not in keys.values:
        return None
    block, offset = keys.whole("nested_blocksize"), keys.values.get("nested_offset")
    if not 0 < block <= LARGEST_BLOCK:
        raise keys.refuse("nested_blocksize", f"expected a number from 1 to {LARGEST_BLOCK}")
    if not isinstance(offset, (int, float)) or not np.isfinite(np.float32(offset)):
        raise keys.refuse("nested_offset", "expected a finite number")
    return Nested(block, float(offset))


def _table(quant: str, part: Part, folder: Folder) -> tuple[float, ...]:
    """Return the stored values of codes; on the Hub, where each table would cost a request, the usual ones."""
    if part.shape != (16,) or part.dtype != "f32":
        raise mismatch(part, "f32 [16]")
    if not isinstance(folder, LocalFolder):
        return TABLES[quant]
    values = folder.array(part).reshape(-1)
    if not np.isfinite(values).all():
        raise BadInput(f"{where(part)}: has NaN or Inf among the values of codes.")
    return tuple(values.tolist())


def _eight_bits(module: str, parts: Mapping[str, Part], folder: Folder) -> Weight:
    """Return a weight of 8-bit integers, which are scaled by the maxima of rows."""
    stored = parts_of(module, INT8, parts)
    scb = stored["scales"]
    if "weight" not in stored:
        raise missing(scb, f"{module}.weight", "load_in_8bit")
    weight = stored["weight"]
    if weight.dtype != "i8" or len(weight.shape) != 2:
        raise mismatch(weight, "a matrix of i8", "load_in_8bit")
    if (order := stored.get("weight_format")) is not None:
        if order.nbytes != 1:
            raise mismatch(order, "one byte")
        if isinstance(folder, LocalFolder) and int(folder.array(order).reshape(-1)[0]) != 0:
            raise NotPossible(f"{where(order)}: rows that are tiled for a GPU are not supported. Supported: row-major.")
    scheme = Bytewise(
        family="bnb", columns=weight.shape[1], scales=Scales("f32", 1, None, rank=1), stored="i8", divisor=LARGEST_CODE,
        extras=extras_of(stored, ("weight_format",)),
    )  # fmt: skip
    reason = "quantization_config: load_in_8bit"
    return checked_weight(f"{module}.weight", weight.shape, scheme, stored, reason, INT8)
