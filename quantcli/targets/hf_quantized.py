"""Quantized weights in a Hugging Face folder: which may be, how their tensors are called, what config.json says.

    compressed-tensors   config_groups, each with its targets: the commonest scheme has the class Linear, others their
                         modules by name; 8 bits a byte compute with activations of 8 bits, as llm-compressor's presets
    bitsandbytes         one kind for all; each weight's own state says its settings

Sources: compressed-tensors 0.20 (quantization/quant_config.py, quant_scheme.py: PRESET_SCHEMES), llm-compressor 0.14,
transformers 5 (utils/quantization_config.py: BitsAndBytesConfig).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from quantcli.errors import NotPossible
from quantcli.schemes.base import Scheme
from quantcli.schemes.dense import Dense
from quantcli.schemes.hf import named
from quantcli.schemes.hf.bnb4 import Bnb4
from quantcli.schemes.hf.bytewise import FP8_BLOCK, Bytewise
from quantcli.schemes.hf.ct_packed import CtPacked
from quantcli.schemes.hf.scaled import Scaled
from quantcli.schemes.hf.small_floats import SmallFloat
from quantcli.sources import bitsandbytes, compressed_tensors
from quantcli.sources.ct_config import LINEAR, MIXED
from quantcli.targets.base import Placed

#: The version of compressed-tensors whose layouts these are.
CT_VERSION = "0.20.0"
LM_HEAD = "lm_head"
#: Families that are written.
FAMILIES = ("ct", "bnb", "bare")
#: The block sizes that bitsandbytes has for NF4 and FP4.
BNB_BLOCKS = tuple(1 << power for power in range(5, 13))
TORCH_FLOATS = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}

#: The last name of a layer's matrix that is no linear, or one that its tools leave alone.
_OTHERS = re.compile("norm|embed|^(wte|wpe|gate|router|conv1d|shared_expert_gate)$")
_LAYER = re.compile(r"\.\d+\.")


def is_matrix(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor is a module's matrix, embeddings aside."""
    return len(shape) == 2 and name.endswith(".weight") and "embed" not in name


def stays_dense(name: str, shape: tuple[int, ...]) -> str | None:
    """Why a weight is not quantized, as a clause; None where it may be: the linears of layers."""
    if len(shape) != 2:
        return f"stays dense: has {len(shape)} dimensions"
    if not name.endswith(".weight"):
        return "stays dense: is no module's .weight"
    module = name.removesuffix(".weight")
    if not _LAYER.search(module) or _OTHERS.search(module.rpartition(".")[2]):
        return "stays dense: its readers quantize the linears of layers only"
    return None


def called(placed: Placed) -> Placed:
    """A quantized weight with the names of its tensors."""
    scheme, module = placed.scheme, placed.name.removesuffix(".weight")
    if placed.stored or isinstance(scheme, Dense) or scheme.family not in FAMILIES:
        return placed
    suffixes = {"weight": ".weight"}
    if scheme.family == "ct":
        packs = isinstance(scheme, CtPacked | SmallFloat)
        suffixes = compressed_tensors.SUFFIXES | {"weight": compressed_tensors.PACKED if packs else ".weight"}
    elif isinstance(scheme, Bnb4):
        suffixes = bitsandbytes.SUFFIXES | {"quant_state": bitsandbytes.STATE + scheme.quant}
    parts = scheme.layout(placed.shape)
    return replace(placed, stored={part: module + suffixes[part] for part in parts})


def settings(placed: Sequence[Placed], root: str) -> dict[str, Any]:
    """`quantization_config` of the weights of an output; empty where none has a quantizer.

    Raises `NotPossible` where they are of several quantizers, or in a layout that is copied and not described anew.
    """
    quantized = [w for w in placed if not isinstance(w.scheme, Dense)]
    families = {w.scheme.family: w for w in reversed(quantized)}
    if len(families) > 1:
        (one, first), (other, second) = list(families.items())[:2]
        raise NotPossible(
            f"{root}: {first.name} is {first.scheme.name} ({one}) and {second.name} {second.scheme.name} ({other}): "
            "one folder has one quantizer's layout; choose schemes of one, or leave the others dense "
            "(--override NAME=bf16)."
        )
    for weight in quantized:
        _check_own(weight, root)
    dense = sorted(w.name.removesuffix(".weight") for w in placed if _is_dense_linear(w))
    if not any(w.name == f"{LM_HEAD}.weight" for w in quantized):
        dense = [*dense, LM_HEAD]  # also of a model that has none of its own: its readers make one
    if "ct" in families:
        return _compressed_tensors(quantized, dense)
    return _bitsandbytes(quantized, dense, root) if "bnb" in families else {}


def odd_blocks(placed: Sequence[Placed]) -> list[str]:
    """A warning of NF4 and FP4 blocks of a size that bitsandbytes does not have."""
    odd = [w for w in placed if isinstance(w.scheme, Bnb4) and w.scheme.block not in BNB_BLOCKS]
    if not odd:
        return []
    sizes = ", ".join(map(str, BNB_BLOCKS))
    named = ", ".join(sorted({w.scheme.name for w in odd}))
    return [f"{named}: bitsandbytes does not read blocks of this size; it has {sizes} ({len(odd)} weights)."]


def _is_dense_linear(weight: Placed) -> bool:
    return (
        isinstance(weight.scheme, Dense) and is_matrix(weight.name, weight.shape) and weight.name != f"{LM_HEAD}.weight"
    )


def _check_own(weight: Placed, root: str) -> None:
    """A weight that is copied beside others that are not has to be as it would be written."""
    scheme = weight.scheme
    dtype = scheme.scales.dtype if isinstance(scheme, Scaled) else "f32"
    if isinstance(scheme, Bnb4):
        dtype = scheme.compute or "f32"
    own = named(scheme.name, dtype if dtype in TORCH_FLOATS else "bf16", weight.shape)
    if own is None or own.bare() != scheme.bare():
        raise NotPossible(
            f"{root}: {weight.name} keeps a layout of {scheme.name} ({scheme.family}) that cannot stand beside weights "
            "that change: leave all as they are, or choose a scheme for all with --allow-requantize."
        )


def _compressed_tensors(quantized: Sequence[Placed], dense: Sequence[str]) -> dict[str, Any]:
    """As llm-compressor writes it."""
    modules: dict[str, list[str]] = {}
    of: dict[str, Scheme] = {}
    for weight in quantized:
        modules.setdefault(weight.scheme.name, []).append(weight.name.removesuffix(".weight"))
        of[weight.scheme.name] = weight.scheme
    commonest = max(sorted(modules), key=lambda name: len(modules[name]))
    order = [commonest, *(name for name in sorted(modules) if name != commonest)]
    # Scales of activations are those of blocks of columns too: where a block is cut off, there are none.
    even = all(weight.shape[-1] % FP8_BLOCK == 0 for weight in quantized)
    groups = {
        f"group_{i}": _group(of[name], [LINEAR] if name == commonest else sorted(modules[name]), even)
        for i, name in enumerate(order)
    }
    formats = {group["format"] for group in groups.values()}
    return {
        "config_groups": groups,
        "format": formats.pop() if len(formats) == 1 else MIXED,
        "global_compression_ratio": None,
        "ignore": list(dense),
        "kv_cache_scheme": None,
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
        "sparsity_config": {},
        "transform_config": {},
        "version": CT_VERSION,
    }


def _group(scheme: Scheme, targets: Sequence[str], even: bool) -> dict[str, Any]:
    layout, weights, inputs = _described(scheme)
    inputs = inputs if even or inputs is None or inputs["group_size"] is None else None
    return {
        "format": layout,
        "input_activations": inputs,
        "output_activations": None,
        "targets": list(targets),
        "weights": weights,
    }


def _described(scheme: Scheme) -> tuple[str, dict[str, Any], dict[str, Any] | None]:
    """Format, settings of weights, and of activations where kernels for this format need them in 8 bits too."""
    assert isinstance(scheme, CtPacked | Bytewise | SmallFloat)
    columns, rows = scheme.scales.columns, scheme.scales.rows
    strategy = "tensor" if rows is None else "channel" if columns is None else "group" if rows == 1 else "block"
    group = columns if strategy == "group" else None
    block = [rows, columns] if strategy == "block" else None
    if isinstance(scheme, CtPacked):
        return "pack-quantized", _arguments(scheme.bits, "int", strategy, group, symmetric=scheme.symmetric), None
    if isinstance(scheme, SmallFloat):
        two_level = scheme.divides is not None
        dtype = "torch.float8_e4m3fn" if two_level else "torch.uint8"
        strategy = "tensor_group" if two_level else strategy
        layout = "nvfp4-pack-quantized" if two_level else "mxfp4-pack-quantized"
        return layout, _arguments(4, "float", strategy, group, scale_dtype=dtype), None
    if scheme.table is None:
        weights = _arguments(8, "int", strategy, group, symmetric=scheme.symmetric)
        return "int-quantized", weights, _activations("int", "token") if scheme.symmetric else None
    if scheme.scales.dtype == "u8":
        return "mxfp8-quantized", _arguments(8, "float", strategy, group, scale_dtype="torch.uint8"), None
    inputs = _activations("float", "group", columns) if block else _activations("float", "token")
    return "float-quantized", _arguments(8, "float", strategy, group, block=block), inputs


def _arguments(
    bits: int, kind: str, strategy: str, group: int | None, *, symmetric: bool = True, scale_dtype: str | None = None,
    block: list[int | None] | None = None,
) -> dict[str, Any]:  # fmt: skip
    return {
        "actorder": None, "block_structure": block, "dynamic": False, "group_size": group, "num_bits": bits,
        "observer": "memoryless_minmax", "observer_kwargs": {}, "scale_dtype": scale_dtype, "strategy": strategy,
        "symmetric": symmetric, "type": kind, "zp_dtype": None if symmetric else "torch.int8",
    }  # fmt: skip


def _activations(kind: str, strategy: str, group: int | None = None) -> dict[str, Any]:
    """Of 8 bits, their scales found as they come."""
    found = _arguments(8, kind, strategy, group)
    return found | {"dynamic": True, "observer": None}


def _bitsandbytes(quantized: Sequence[Placed], dense: Sequence[str], root: str) -> dict[str, Any]:
    """As transformers writes it."""
    schemes = [w.scheme for w in quantized if isinstance(w.scheme, Bnb4)]
    kinds = Counter((scheme.quant, scheme.nested is not None) for scheme in schemes)
    if len(kinds) > 1:
        names = " and ".join(sorted({scheme.name for scheme in schemes}))
        raise NotPossible(f"{root}: {names} in one folder: bitsandbytes has one kind for all; choose one of them.")
    (quant, double), dtype = next(iter(kinds)), schemes[0].compute or "f32"
    return {
        "_load_in_4bit": True,
        "_load_in_8bit": False,
        "bnb_4bit_compute_dtype": TORCH_FLOATS[dtype],
        "bnb_4bit_quant_storage": "uint8",
        "bnb_4bit_quant_type": quant,
        "bnb_4bit_use_double_quant": double,
        "llm_int8_enable_fp32_cpu_offload": False,
        "llm_int8_has_fp16_weight": False,
        # None is what transformers leaves alone by itself.
        "llm_int8_skip_modules": None if list(dense) == [LM_HEAD] else list(dense),
        "llm_int8_threshold": 6.0,
        "load_in_4bit": True,
        "load_in_8bit": False,
        "quant_method": "bitsandbytes",
    }


def changed(placed: Sequence[Placed]) -> bool:
    """Whether some quantized weight is written anew, so that the source's settings do not describe the output."""
    return any(not w.stored and w.scheme.family in FAMILIES for w in placed)
