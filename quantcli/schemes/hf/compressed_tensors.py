"""compressed-tensors in a Hugging Face folder: the names of its tensors, and the settings in config.json.

    X.weight         X.weight_packed       codes: a byte each, or packed
    X.weight_scale   X.weight_zero_point   ...

    config_groups    one for each scheme, with its targets: the commonest has the class Linear, others their modules by
                     name; 8 bits a byte compute with activations of 8 bits, as llm-compressor's presets

Sources: compressed-tensors 0.20 (quantization/quant_config.py, quant_scheme.py: PRESET_SCHEMES), llm-compressor 0.14.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from quantcli.schemes.facts import Facts, Modules
from quantcli.schemes.hf.scaled import FP8_BLOCK, Scales

#: The version whose layouts these are.
VERSION = "0.20.0"
#: Part -> what stands behind the module's name, codes aside.
SUFFIXES = {
    "scales": ".weight_scale", "zeros": ".weight_zero_point", "g_idx": ".weight_g_idx", "shape": ".weight_shape",
    "global": ".weight_global_scale", "input_scale": ".input_scale", "input_zero_point": ".input_zero_point",
    "input_global_scale": ".input_global_scale", "output_scale": ".output_scale",
    "output_zero_point": ".output_zero_point",
}  # fmt: skip
#: Codes that are packed, and those that have a byte each.
PACKED, PLAIN = ".weight_packed", ".weight"
#: The target that stands for all linears, and the format of several.
LINEAR, MIXED = "Linear", "mixed-precision"


def quantization_config(modules: Modules, dense: Sequence[str]) -> dict[str, Any]:
    """Return `quantization_config` as llm-compressor writes it."""
    named: dict[str, list[str]] = {}
    of: dict[str, Facts] = {}
    for module, (scheme, _) in modules.items():
        named.setdefault(scheme.name, []).append(module)
        of[scheme.name] = scheme
    commonest = max(sorted(named), key=lambda name: len(named[name]))
    order = [commonest, *(name for name in sorted(named) if name != commonest)]
    # Scales of activations are those of blocks of columns too: where a block is cut off, there are none.
    even = all(shape[-1] % FP8_BLOCK == 0 for _, shape in modules.values())
    groups = {
        f"group_{i}": _group(of[name], [LINEAR] if name == commonest else sorted(named[name]), even)
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
        "version": VERSION,
    }


def _group(scheme: Facts, targets: Sequence[str], even: bool) -> dict[str, Any]:
    entry = scheme.config_entry
    inputs = entry["input_activations"]
    return {
        "format": entry["format"],
        "input_activations": inputs if even or inputs is None or inputs["group_size"] is None else None,
        "output_activations": None,
        "targets": list(targets),
        "weights": entry["weights"],
    }


def entry(layout: str, weights: dict[str, Any], inputs: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the settings of a group. inputs: for kernels of this format that need activations in 8 bits too."""
    return {"format": layout, "weights": weights, "input_activations": inputs}


def arguments(
    bits: int, kind: str, scales: Scales, *, symmetric: bool = True, scale_dtype: str | None = None,
    two_levels: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Return the settings of codes of a kind (`int`, `float`) with such scales. two_levels: with a global scale."""
    rows, columns = scales.rows, scales.columns
    strategy = "tensor" if rows is None else "channel" if columns is None else "group" if rows == 1 else "block"
    group = columns if strategy == "group" else None
    block = [rows, columns] if strategy == "block" else None
    strategy = "tensor_group" if two_levels else strategy
    return {
        "actorder": None, "block_structure": block, "dynamic": False, "group_size": group, "num_bits": bits,
        "observer": "memoryless_minmax", "observer_kwargs": {}, "scale_dtype": scale_dtype, "strategy": strategy,
        "symmetric": symmetric, "type": kind, "zp_dtype": None if symmetric else "torch.int8",
    }  # fmt: skip


def activations(kind: str, group: int | None = None) -> dict[str, Any]:
    """Return the settings of 8-bit activations with dynamic scales: for a token, or for groups in it."""
    found = arguments(8, kind, Scales("f32", 1, group))
    return found | {"strategy": "token" if group is None else "group", "dynamic": True, "observer": None}
