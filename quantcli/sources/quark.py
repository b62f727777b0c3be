"""AMD Quark's checkpoints: `.weight` with `.weight_scale` and, of integers, `.weight_zero_point`.

Settings see quark_config.py; how each dtype is packed, schemes/hf/quark_int.py and small_floats.py. Scales of NVFP4
have one of their own, `.weight_scale_2`. `.input_scale` and its like are of activations and copied along.
Source: Quark 0.13 (torch/export).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantcli.arrays import FLOATS
from quantcli.checkpoint import Checkpoint, Part, Weight
from quantcli.errors import BadInput, NotPossible
from quantcli.schemes.hf.bytewise import Bytewise
from quantcli.schemes.hf.quark_int import PACKINGS, QuarkInt
from quantcli.schemes.hf.scaled import Scaled, Scales
from quantcli.schemes.hf.small_floats import ELEMENTS, SmallFloat
from quantcli.sources import quark_config
from quantcli.sources.folder import Folder, Tensors
from quantcli.sources.modules import (
    beside,
    checkpoint,
    compute_dtype,
    extras_of,
    held,
    left_dense,
    scaled_modules,
    settings_of,
    where,
)
from quantcli.sources.quark_config import FLOATS8, SMALL, QuarkSettings, Spec

SUFFIXES = {
    "weight": ".weight", "scales": ".weight_scale", "zeros": ".weight_zero_point", "global": ".weight_scale_2",
    "input_scale": ".input_scale", "input_scale_2": ".input_scale_2", "input_zero_point": ".input_zero_point",
    "output_scale": ".output_scale", "output_zero_point": ".output_zero_point",
}  # fmt: skip
ALONG = ("input_scale", "input_scale_2", "input_zero_point", "output_scale", "output_zero_point")


def open_quark(folder: Folder, config: Mapping[str, Any], tensors: Tensors) -> Checkpoint:
    """The checkpoint of a Quark folder. Raises `BadInput`, `NotPossible`."""
    keys = settings_of(folder, config)
    settings = quark_config.parse(keys)
    parts = tensors.parts
    modules = scaled_modules(parts)
    if not modules:
        raise BadInput(f"{keys.label}: says quark, but no tensor is called *.weight_scale.")
    weights = [_weight(module, parts, settings, compute_dtype(config)) for module in sorted(modules)]
    further = left_dense(parts, modules, f"{settings.label}.exclude", settings.wants)
    return checkpoint("quark", folder, config, tensors, weights, further)


def _weight(module: str, parts: Mapping[str, Part], settings: QuarkSettings, compute: str) -> Weight:
    """One module's weight by its settings."""
    stored = beside(module, SUFFIXES, parts)
    weight = stored["weight"]
    if settings.excludes(module):
        raise BadInput(f"{where(weight)}: is quantized, but {settings.label}.exclude names {module}.")
    spec = settings.of(module)
    if spec is None:
        raise BadInput(f"{where(weight)}: is quantized, but its settings in {settings.label} leave it dense.")
    if len(weight.shape) != 2:
        raise BadInput(f"{where(weight)}: has {len(weight.shape)} dimensions, two are needed.")
    if spec.dtype in PACKINGS:
        scheme, shape = _integers(stored, spec, settings)
    elif spec.dtype in FLOATS8:
        scheme, shape = _bytes(stored, spec), weight.shape
    else:
        scheme, shape = _small(stored, spec, compute)
    reason = f"{spec.key}: {spec.dtype} {spec.qscheme}"
    return held(f"{module}.weight", shape, scheme, stored, reason, SUFFIXES)


def _scales(stored: Mapping[str, Part], spec: Spec, *, transposed: bool = False) -> Scales:
    """How scales are shared."""
    part = stored["scales"]
    if part.dtype not in FLOATS:
        raise BadInput(f"{where(part)}: is {part.dtype}, {spec.key} ({spec.dtype}) has f16, bf16 or f32 scales.")
    if spec.qscheme == "per_tensor":
        return Scales(part.dtype, None, rank=len(part.shape))
    if spec.qscheme == "per_channel":
        return Scales(part.dtype, 1, None, rank=1)
    if spec.block:
        return Scales(part.dtype, *spec.block)
    return Scales(part.dtype, 1, spec.group_size, transposed=transposed)


def _integers(stored: Mapping[str, Part], spec: Spec, settings: QuarkSettings) -> tuple[Scaled, tuple[int, ...]]:
    weight, pack = stored["weight"], PACKINGS[spec.dtype]
    allowed = {"int4": ("i32",), "uint4": ("i32",), "uint2": ("u8",), "int3": ("u8",), "int2": ("i32", "i8")}
    if weight.dtype not in allowed.get(spec.dtype, ("i8",) if spec.dtype == "int8" else ("u8",)):
        raise BadInput(f"{where(weight)}: is {weight.dtype}, which is no packed {spec.dtype} ({spec.key}).")
    transposed = spec.qscheme == "per_group"
    first, last = weight.shape[0], weight.shape[1] // pack.units * pack.codes
    shape = (last, first) if transposed and spec.dtype != "int3" else (first, last)
    zeros = stored.get("zeros")
    # Of 3 bits in groups the zero points are packed along another axis; all are 0 where the settings say symmetric.
    unread = spec.dtype == "int3" and transposed
    if unread and not spec.symmetric:
        raise NotPossible(f"{where(weight)}: int3 in groups with zero points ({spec.key}) is not read.")
    if zeros is None and not spec.symmetric:
        raise BadInput(f"{where(weight)}: has no .weight_zero_point beside it, which {spec.key}.symmetric false needs.")
    if spec.qscheme == "per_block":
        raise NotPossible(f"{where(weight)}: {spec.dtype} per_block ({spec.key}) is not read.")
    along = (*ALONG, "zeros") if unread else ALONG
    scheme = QuarkInt(
        columns=shape[1], scales=_scales(stored, spec, transposed=transposed), dtype=spec.dtype, stored=weight.dtype,
        symmetric=spec.symmetric, zeros_dtype=None if zeros is None or unread else zeros.dtype,
        reorder=settings.reorder, extras=extras_of(stored, along),
    )  # fmt: skip
    return scheme, shape


def _bytes(stored: Mapping[str, Part], spec: Spec) -> Scaled:
    weight = stored["weight"]
    if spec.qscheme == "per_group":
        raise NotPossible(f"{where(weight)}: {spec.dtype} per_group ({spec.key}) is not read.")
    return Bytewise(
        family="quark", columns=weight.shape[1], scales=_scales(stored, spec), stored=FLOATS8[spec.dtype],
        extras=extras_of(stored, ALONG),
    )  # fmt: skip


def _small(stored: Mapping[str, Part], spec: Spec, compute: str) -> tuple[Scaled, tuple[int, ...]]:
    weight, element = stored["weight"], SMALL[spec.dtype]
    columns = weight.shape[1] * 8 // ELEMENTS[element][0]
    if spec.two_level and "global" not in stored:
        raise BadInput(f"{where(weight)}: has no .weight_scale_2 beside it, which {spec.key} needs.")
    dtype = "f8_e4m3" if spec.two_level else stored["scales"].dtype
    whole = stored.get("global")
    scheme = SmallFloat(
        family="quark", columns=columns, element=element, scales=Scales(dtype, 1, spec.group_size),
        divides=False if spec.two_level else None, global_shape=whole.shape if whole and spec.two_level else (),
        global_dtype=whole.dtype if whole and spec.two_level else "f32",
        compute=compute if spec.two_level else None, extras=extras_of(stored, ALONG),
    )  # fmt: skip
    return scheme, (weight.shape[0], columns)
