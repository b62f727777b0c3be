"""FP8 checkpoints as published: `.weight` in E4M3 or E5M2 with `.weight_scale_inv` or `.weight_scale`.

In DeepSeek-V4, scales are named `.scale`; its experts are E2M1, two codes in each I8 byte, with an E8M0 scale for every
32 values of a row. quant_method mxfp8 means blocks of 1 x 32.
config.json's `quantization_config` gives quant_method fp8 and `weight_block_size`, the [rows, columns] that share a
scale. Without it, the scales' shape shows whether they are for the tensor or for each row. Codes are multiplied by the
scale, whatever its name. `scale_fmt` ue8m0: scales are powers of two. `modules_to_not_convert` lists dense modules.
Sources: DeepSeek-V3 (inference/kernel.py), DeepSeek-V4 (inference/convert.py), transformers
(integrations/finegrained_fp8.py, fbgemm_fp8.py), vLLM.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantcli.arrays import FLOATS, float8_of
from quantcli.checkpoint import Checkpoint, Part, Weight
from quantcli.containers.hostile import shown
from quantcli.containers.json_text import Reader
from quantcli.errors import BadInput, NotPossible
from quantcli.schemes.hf.bytewise import TABLES, Bytewise
from quantcli.schemes.hf.scaled import POWERS, Scaled, Scales
from quantcli.schemes.hf.small_floats import SmallFloat
from quantcli.schemes.ocp import MX_GROUP
from quantcli.sources.companions import Names
from quantcli.sources.folder import Folder, Tensors
from quantcli.sources.modules import (
    check_listed,
    checked_weight,
    checkpoint,
    compute_dtype,
    dense_warnings,
    extras_of,
    mentions_module,
    parts_of,
    settings_of,
    stacked_scales,
)
from quantcli.sources.wording import MATRICES, either, mismatch, missing, no_codes, stored_otherwise, where

#: Suffixes of a module's scales, of a parameter's scales, and of arrays that are copied without being interpreted.
SCALES = (".weight_scale_inv", ".weight_scale", ".qscale_weight")
#: The suffix of DeepSeek-V4's scales if they are a matrix; many layouts give this name to single numbers.
GRID_SCALE = ".scale"
FUSED_SCALES = ("_scale_inv", "_weight_scale_inv", "_weight_scale", "_scale")
COPIED = ("input_scale", "activation_scale", "qscale_act")
KNOWN = (*SCALES, *FUSED_SCALES, *COPIED)
#: Keys that list dense modules: in transformers, in vLLM.
EXCLUDED = ("modules_to_not_convert", "ignored_layers")
#: `quant_method` -> the default rows and columns of a block.
BLOCKS = {"mxfp8": (1, MX_GROUP)}
#: Dtypes of bytes with two E2M1 codes each.
PACKED = ("i8", "u8")


def open_fp8(folder: Folder, config: Mapping[str, Any], tensors: Tensors) -> Checkpoint:
    """Open an FP8 folder. Raises `BadInput`, `NotPossible`."""
    keys = settings_of(folder, config)
    block = _block(keys)
    excluded = [name for key in EXCLUDED for name in keys.texts(key)]
    parts = tensors.parts
    names = _names(parts)
    if not names:
        raise no_codes(keys.label, keys.text("quant_method"), "*.weight with an 8-bit float dtype")
    modules = {name.removesuffix(".weight"): parts[name] for name in names}
    listed = f"{keys.label}.modules_to_not_convert"
    further = check_listed(excluded, modules, listed)
    further += _expert_warnings(config.get("expert_dtype"), parts, names, folder)
    weights = [_weight(name, parts, keys, block, compute_dtype(config)) for name in names]
    further += dense_warnings(
        parts, modules, listed, lambda module, linear: linear and not mentions_module(excluded, module)
    )
    return checkpoint("fp8", folder, config, tensors, weights, further)


def _block(keys: Reader) -> tuple[int, int] | None:
    """Return the rows and columns that share a scale, None without blocks."""
    if not keys.has("weight_block_size"):
        return BLOCKS.get(keys.text("quant_method", "fp8"))
    rows, columns = keys.sizes("weight_block_size", 2)
    return rows, columns


def _names(parts: Mapping[str, Part]) -> list[str]:
    """Return the tensors of 8-bit floats that are weights of this layout: those without scales of another layout."""
    codes = [
        name
        for name, part in sorted(parts.items())
        if (part.dtype in TABLES and (name.endswith(".weight") or (len(part.shape) > 1 and not name.endswith(KNOWN))))
        or _is_packed(name, parts)
    ]
    scales = {name: name.removesuffix(".weight") + suffix for name in codes if (suffix := _scale_of(name, parts))}
    others = Names(parts.keys() - {*scales, *scales.values(), *(name for name in parts if name.endswith(COPIED))})
    return [name for name in codes if name in scales or others.companion(name) is None]


def _scale_of(name: str, parts: Mapping[str, Part]) -> str | None:
    """Return the suffix of a weight's scales, after the name without `.weight`; None without scales."""
    module = name.removesuffix(".weight")
    suffix = next((s for s in (SCALES if module != name else FUSED_SCALES) if module + s in parts), None)
    grid = parts.get(module + GRID_SCALE) if module != name else None
    return GRID_SCALE if suffix is None and grid is not None and len(grid.shape) > 1 else suffix


def _is_packed(name: str, parts: Mapping[str, Part]) -> bool:
    """Return whether a tensor holds 4-bit codes: bytes with a power-of-two scale for each group of a row."""
    if parts[name].dtype not in PACKED or len(parts[name].shape) not in (2, 3) or name.endswith(KNOWN):
        return False
    suffix = _scale_of(name, parts)
    scale = parts[name.removesuffix(".weight") + suffix] if suffix is not None else None
    return scale is not None and scale.dtype in POWERS and len(scale.shape) > 1


def _expert_warnings(expert_dtype: Any, parts: Mapping[str, Part], names: list[str], folder: Folder) -> list[str]:
    """Return a warning if experts (of DeepSeek-V4) are not stored as config.json's `expert_dtype` says."""
    if expert_dtype is None:
        return []
    experts = [name for name in names if ".experts." in name]
    stored = {name: "fp4" if parts[name].dtype in PACKED else "fp8" for name in experts}
    odd = [name for name in experts if stored[name] != expert_dtype]
    if not odd:
        return []
    label = f"{folder.label}/config.json: expert_dtype {shown(expert_dtype)}"
    return [stored_otherwise(label, "matrix", odd, f"as {stored[odd[0]]}")]


def _weight(name: str, parts: Mapping[str, Part], keys: Reader, block: tuple[int, int] | None, compute: str) -> Weight:
    """Return one weight with its scales."""
    weight, module = parts[name], name.removesuffix(".weight")
    joint = "." if module != name else "_"
    is_packed, element = weight.dtype in PACKED, keys.values.get("fmt")
    if not is_packed and element is not None and float8_of(element) != weight.dtype:
        raise BadInput(f"{where(weight)}: is {weight.dtype}, but {keys.label}.fmt says {shown(element)}.")
    suffix = _scale_of(name, parts)
    if suffix is None:
        scales = f"{module}{(SCALES if joint == '.' else FUSED_SCALES)[0]}"
        raise missing(weight, scales, f"{weight.dtype} with {keys.label}.quant_method fp8")
    if len(weight.shape) not in (2, 3):
        raise NotPossible(f"{where(weight)}: shape {list(weight.shape)} is not supported. Supported: {MATRICES}.")
    suffixes = {"weight": name.removeprefix(module), **{part: joint + part for part in COPIED}, "scales": suffix}
    stored = parts_of(module, suffixes, parts)
    scale = stored["scales"]
    if scale.dtype not in (*FLOATS, *POWERS):
        raise mismatch(scale, either((*FLOATS, *POWERS)))
    if is_packed:
        fp4 = _packed(stored, compute)
        reason = f"quantization_config: E2M1 in groups of {MX_GROUP}"
        return checked_weight(name, (*weight.shape[:-1], fp4.columns), fp4, stored, reason, {"scales": suffix})
    ue8m0 = float8_of(keys.values.get("scale_fmt")) == "f8_e8m0"
    stored_block = _stored_block(scale, block, weight.shape) if suffix == GRID_SCALE else block
    scheme = Bytewise(
        family="fp8", columns=weight.shape[-1], scales=_scales(scale, stored_block, weight.shape, powers=ue8m0),
        stored=weight.dtype, compute=compute, extras=extras_of(stored, COPIED),
    )  # fmt: skip
    has_blocks = block is not None and block == (scheme.scales.rows, scheme.scales.columns)
    sharing = f"weight_block_size {list(block)}" if block and has_blocks else f"scales {list(scale.shape)}"
    return checked_weight(name, weight.shape, scheme, stored, f"quantization_config: {sharing}", {"scales": suffix})


def _packed(stored: Mapping[str, Part], compute: str) -> Scaled:
    """Return the scheme of E2M1 codes, two in each byte, in groups."""
    weight, scale = stored["weight"], stored["scales"]
    rank = len(weight.shape)
    shared = Scales(scale.dtype, 1, MX_GROUP, rank, stacked=weight.shape[1] if rank == 3 else 0)
    return SmallFloat(
        family="fp8", columns=2 * weight.shape[-1], element="e2m1", stored=weight.dtype, scales=shared, compute=compute,
        extras=extras_of(stored, COPIED),
    )  # fmt: skip


def _stored_block(scale: Part, block: tuple[int, int] | None, shape: tuple[int, ...]) -> tuple[int, int] | None:
    """Return the settings' block, or the one that fits the shape of the scales: some tables have another block."""
    lengths, counts = shape[-2:], scale.shape[-2:]
    if block is not None and tuple(-(-n // each) for n, each in zip(lengths, block, strict=True)) == counts:
        return block
    if min(counts) > 0 and all(n % count == 0 for n, count in zip(lengths, counts, strict=True)):
        return lengths[0] // counts[0], lengths[1] // counts[1]
    return block


def _scales(scale: Part, block: tuple[int, int] | None, shape: tuple[int, ...], *, powers: bool) -> Scales:
    """Return how scales are shared: by blocks, rows or the whole matrix; in stacked matrices, separately for each."""
    if len(shape) == 3:
        return stacked_scales(scale, block, shape, powers=powers)
    if block is not None:
        return Scales(scale.dtype, *block, powers=powers)
    rank = len(scale.shape)
    if scale.shape in ((), (1,), (1, 1)) and shape[0] > 1:
        return Scales(scale.dtype, None, rank=rank, powers=powers)
    return Scales(scale.dtype, 1, None, rank=1 if rank == 1 else 2, powers=powers)
