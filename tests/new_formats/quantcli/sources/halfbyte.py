"""Checkpoints of halfbyte, a made-up tool: quantized modules have `.codes` and `.steps`, all else is dense.

config.json's `quantization_config` says `quant_method` halfbyte, `group_size`, an even number, and `keep`, the modules
that are dense.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantcli.checkpoint import Checkpoint, Weight
from quantcli.containers.json_text import Reader
from quantcli.errors import BadInput
from quantcli.schemes.hf.halfbyte import HalfByte
from quantcli.schemes.hf.scaled import Scales
from quantcli.sources.folder import Folder, Tensors
from quantcli.sources.modules import (
    check_listed,
    checked_weight,
    checkpoint,
    dense_warnings,
    mentions_module,
    parts_of,
    settings_of,
)

#: Parts of a weight -> the ends of their tensors' names.
SUFFIXES = {"weight": ".codes", "scales": ".steps"}


def open_halfbyte(folder: Folder, config: Mapping[str, Any], tensors: Tensors) -> Checkpoint:
    """The checkpoint of a halfbyte folder. Raises `BadInput`."""
    keys = settings_of(folder, config)
    codes = {name.removesuffix(".codes"): part for name, part in tensors.parts.items() if name.endswith(".codes")}
    if not codes:
        raise BadInput(f"{keys.label}: `quant_method` is halfbyte, but no tensor is called *.codes.")
    kept, listed = keys.texts("keep"), f"{keys.label}.keep"
    warnings = check_listed(kept, codes, listed)
    warnings += dense_warnings(
        tensors.parts, codes, listed, lambda module, is_linear: is_linear and not mentions_module(kept, module)
    )
    group = _group(keys)
    weights = [_weight(module, tensors, group) for module in sorted(codes)]
    return checkpoint("halfbyte", folder, config, tensors, weights, warnings)


def _group(keys: Reader) -> int:
    group = keys.integer("group_size")
    if group % 2:
        raise keys.refuse("group_size", "expected an even number")
    return group


def _weight(module: str, tensors: Tensors, group: int) -> Weight:
    """One module's weight; `checked_weight` refuses arrays that are not those of its layout."""
    stored = parts_of(module, SUFFIXES, tensors.parts)
    codes = stored["weight"].shape
    rows, columns = codes[0], 2 * codes[-1]
    scheme = HalfByte(columns=columns, scales=Scales("f16", 1, group))
    return checked_weight(f"{module}.weight", (rows, columns), scheme, stored, f"group_size: {group}", SUFFIXES)
