"""FP8 checkpoints as their makers publish them: `.weight` of E4M3 or E5M2 with `.weight_scale_inv` or `.weight_scale`.

DeepSeek-V4 calls its scales `.scale`; its experts are E2M1, two codes in a byte of I8, with an E8M0 scale for each 32
values of a row. Settings that say mxfp8 mean blocks of 1 x 32.
config.json's `quantization_config` says quant_method fp8 and `weight_block_size`, [rows, columns] of a block with one
scale; without it a scale is the tensor's or a row's, as its shape says. The scale multiplies, whatever its name.
`scale_fmt` ue8m0: scales are powers of two. `modules_to_not_convert` names what is dense.
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
from quantcli.sources.hf import counted
from quantcli.sources.modules import (
    beside,
    check_listed,
    checkpoint,
    compute_dtype,
    extras_of,
    held,
    left_dense,
    mentions_module,
    settings_of,
    stacked_scales,
    where,
)

#: Suffixes of scales and of what is copied along: of a module whose `.weight` is quantized, of a parameter.
SCALES = (".weight_scale_inv", ".weight_scale", ".qscale_weight")
#: The suffix of DeepSeek-V4's scales, where they are a grid; single numbers are called so in many layouts.
GRID_SCALE = ".scale"
FUSED_SCALES = ("_scale_inv", "_weight_scale_inv", "_weight_scale", "_scale")
ALONG = ("input_scale", "activation_scale", "qscale_act")
KNOWN = (*SCALES, *FUSED_SCALES, *ALONG)
#: Keys that list what is dense: of transformers, of vLLM.
EXCLUDED = ("modules_to_not_convert", "ignored_layers")
#: `quant_method` -> rows and columns of a block where the settings do not say them.
BLOCKS = {"mxfp8": (1, MX_GROUP)}
#: Dtypes of bytes that hold two codes of E2M1.
PACKED = ("i8", "u8")


def open_fp8(folder: Folder, config: Mapping[str, Any], tensors: Tensors) -> Checkpoint:
    """The checkpoint of an FP8 folder. Raises `BadInput`, `NotPossible`."""
    keys = settings_of(folder, config)
    block = _block(keys)
    excluded = [name for key in EXCLUDED for name in keys.texts(key)]
    parts = tensors.parts
    names = _names(parts)
    if not names:
        raise BadInput(f"{keys.label}: says {keys.text('quant_method')}, but no tensor *.weight is of 8-bit floats.")
    modules = {name.removesuffix(".weight"): parts[name] for name in names}
    listed = f"{keys.label}.modules_to_not_convert"
    further = check_listed(excluded, modules, listed)
    further += _unlike_experts(config.get("expert_dtype"), parts, names, folder)
    weights = [_weight(name, parts, keys, block, compute_dtype(config)) for name in names]
    further += left_dense(
        parts, modules, listed, lambda module, linear: linear and not mentions_module(excluded, module)
    )
    return checkpoint("fp8", folder, config, tensors, weights, further)


def _block(keys: Reader) -> tuple[int, int] | None:
    """Rows and columns that share a scale, None where there are no blocks."""
    if not keys.has("weight_block_size"):
        return BLOCKS.get(keys.text("quant_method", "fp8"))
    rows, columns = keys.sizes("weight_block_size", 2)
    return rows, columns


def _names(parts: Mapping[str, Part]) -> list[str]:
    """The tensors of 8-bit floats that are weights of this layout: all but those that have scales of another one."""
    codes = [
        name
        for name, part in sorted(parts.items())
        if (part.dtype in TABLES and (name.endswith(".weight") or (len(part.shape) > 1 and not name.endswith(KNOWN))))
        or _is_packed(name, parts)
    ]
    scales = {name: name.removesuffix(".weight") + suffix for name in codes if (suffix := _scale_of(name, parts))}
    others = Names(parts.keys() - {*scales, *scales.values(), *(name for name in parts if name.endswith(ALONG))})
    return [name for name in codes if name in scales or others.companion(name) is None]


def _scale_of(name: str, parts: Mapping[str, Part]) -> str | None:
    """The suffix of a weight's scales, by the name without `.weight`; None where there are none."""
    module = name.removesuffix(".weight")
    found = next((s for s in (SCALES if module != name else FUSED_SCALES) if module + s in parts), None)
    grid = parts.get(module + GRID_SCALE) if module != name else None
    return GRID_SCALE if found is None and grid is not None and len(grid.shape) > 1 else found


def _is_packed(name: str, parts: Mapping[str, Part]) -> bool:
    """Whether a tensor holds codes of 4 bits: bytes with a power of two for each group of a row."""
    if parts[name].dtype not in PACKED or len(parts[name].shape) not in (2, 3) or name.endswith(KNOWN):
        return False
    suffix = _scale_of(name, parts)
    scale = parts[name.removesuffix(".weight") + suffix] if suffix is not None else None
    return scale is not None and scale.dtype in POWERS and len(scale.shape) > 1


def _unlike_experts(said: Any, parts: Mapping[str, Part], names: list[str], folder: Folder) -> list[str]:
    """A warning of experts (DeepSeek-V4) that are stored otherwise than config.json's `expert_dtype` says."""
    if said is None:
        return []
    experts = [name for name in names if ".experts." in name]
    stored = {name: "fp4" if parts[name].dtype in PACKED else "fp8" for name in experts}
    odd = [name for name in experts if stored[name] != said]
    if not odd:
        return []
    are = f"{counted('matrix', odd)} stored as {stored[odd[0]]}"
    return [f"{folder.label}/config.json: expert_dtype says {shown(said)} of {are}: read as stored."]


def _weight(name: str, parts: Mapping[str, Part], keys: Reader, block: tuple[int, int] | None, compute: str) -> Weight:
    """One weight and its scales."""
    weight, module = parts[name], name.removesuffix(".weight")
    joint = "." if module != name else "_"
    is_packed, element = weight.dtype in PACKED, keys.values.get("fmt")
    if not is_packed and element is not None and float8_of(element) != weight.dtype:
        raise BadInput(f"{where(weight)}: is {weight.dtype}, but {keys.label}.fmt is {shown(element)}.")
    suffix = _scale_of(name, parts)
    if suffix is None:
        raise BadInput(
            f"{where(weight)}: is {weight.dtype} and has no {module}{(SCALES if joint == '.' else FUSED_SCALES)[0]} "
            f"next to it, which {keys.label}.quant_method fp8 needs."
        )
    if len(weight.shape) not in (2, 3):
        raise NotPossible(
            f"{where(weight)}: has {len(weight.shape)} dimensions; FP8 is read of matrices and of stacked experts."
        )
    suffixes = {"weight": name.removeprefix(module), **{part: joint + part for part in ALONG}, "scales": suffix}
    stored = beside(module, suffixes, parts)
    scale = stored["scales"]
    if scale.dtype not in (*FLOATS, *POWERS):
        raise BadInput(f"{where(scale)}: is {scale.dtype}, scales are f32, bf16, f16 or f8_e8m0.")
    if is_packed:
        fp4 = _packed(stored, compute)
        said = f"quantization_config: E2M1 in groups of {MX_GROUP}"
        return held(name, (*weight.shape[:-1], fp4.columns), fp4, stored, said, {"scales": suffix})
    ue8m0 = float8_of(keys.values.get("scale_fmt")) == "f8_e8m0"
    stored_block = _stored_block(scale, block, weight.shape) if suffix == GRID_SCALE else block
    scheme = Bytewise(
        family="fp8", columns=weight.shape[-1], scales=_scales(scale, stored_block, weight.shape, powers=ue8m0),
        stored=weight.dtype, compute=compute, extras=extras_of(stored, ALONG),
    )  # fmt: skip
    is_said = block is not None and block == (scheme.scales.rows, scheme.scales.columns)
    said = f"weight_block_size {list(block)}" if block and is_said else f"scales {list(scale.shape)}"
    return held(name, weight.shape, scheme, stored, f"quantization_config: {said}", {"scales": suffix})


def _packed(stored: Mapping[str, Part], compute: str) -> Scaled:
    """Two codes of E2M1 a byte, in groups."""
    weight, scale = stored["weight"], stored["scales"]
    rank = len(weight.shape)
    shared = Scales(scale.dtype, 1, MX_GROUP, rank, stacked=weight.shape[1] if rank == 3 else 0)
    return SmallFloat(
        family="fp8", columns=2 * weight.shape[-1], element="e2m1", stored=weight.dtype, scales=shared, compute=compute,
        extras=extras_of(stored, ALONG),
    )  # fmt: skip


def _stored_block(scale: Part, block: tuple[int, int] | None, shape: tuple[int, ...]) -> tuple[int, int] | None:
    """The block that the settings say, or the one of a grid of scales that is no such: tables may have their own."""
    lengths, counts = shape[-2:], scale.shape[-2:]
    if block is not None and tuple(-(-n // each) for n, each in zip(lengths, block, strict=True)) == counts:
        return block
    if min(counts) > 0 and all(n % count == 0 for n, count in zip(lengths, counts, strict=True)):
        return lengths[0] // counts[0], lengths[1] // counts[1]
    return block


def _scales(scale: Part, block: tuple[int, int] | None, shape: tuple[int, ...], *, powers: bool) -> Scales:
    """How scales are shared: in blocks, by the row or by all; of stacked matrices those of each."""
    if len(shape) == 3:
        return stacked_scales(scale, block, shape, powers=powers)
    if block is not None:
        return Scales(scale.dtype, *block, powers=powers)
    rank = len(scale.shape)
    if scale.shape in ((), (1,), (1, 1)) and shape[0] > 1:
        return Scales(scale.dtype, None, rank=rank, powers=powers)
    return Scales(scale.dtype, 1, None, rank=1 if rank == 1 else 2, powers=powers)
