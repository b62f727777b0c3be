"""AMD Quark's checkpoints: `.weight` with `.weight_scale` and, for integers, `.weight_zero_point`.

Settings: see quark_config.py. Packing: see schemes/hf/quark_int.py and small_floats.py. NVFP4's scales have a scale
themselves, `.weight_scale_2`. `.input_scale` and similar arrays concern activations; they are copied without being
interpreted.
Source: Quark 0.13 (torch/export).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantcli.arrays import FLOATS
from quantcli.checkpoint import Checkpoint, Part, Weight
from quantcli.errors import NotPossible
from quantcli.schemes.hf.bytewise import Bytewise
from quantcli.schemes.hf.quark_int import PACKINGS, QuarkInt
from quantcli.schemes.hf.scaled import Scaled, Scales
from quantcli.schemes.hf.small_floats import ELEMENTS, SmallFloat
from quantcli.sources import quark_config
from quantcli.sources.folder import Folder, Tensors
from quantcli.sources.modules import (
    checked_weight,
    checkpoint,
    compute_dtype,
    dense_warnings,
    extras_of,
    parts_of,
    scaled_modules,
    settings_of,
)
from quantcli.sources.quark_config import FLOATS8, SMALL, QuarkSettings, Spec
from quantcli.sources.wording import either, listed_as_dense, mismatch, missing, no_codes, where

SUFFIXES = {
    "weight": ".weight", "scales": ".weight_scale", "zeros": ".weight_zero_point", "global": ".weight_scale_2",
    "input_scale": ".input_scale", "input_scale_2": ".input_scale_2", "input_zero_point": ".input_zero_point",
    "output_scale": ".output_scale", "output_zero_point": ".output_zero_point",
}  # fmt: skip
COPIED = ("input_scale", "input_scale_2", "input_zero_point", "output_scale", "output_zero_point")


def open_quark(folder: Folder, config: Mapping[str, Any], tensors: Tensors) -> Checkpoint:
    """Open a Quark folder. Raises `BadInput`, `NotPossible`."""
    keys = settings_of(folder, config)
    settings = quark_config.parse(keys)
    parts = tensors.parts
    modules = scaled_modules(parts)
    if not modules:
        raise no_codes(keys.label, "quark", "*.weight_scale")
    weights = [_weight(module, parts, settings, compute_dtype(config)) for module in sorted(modules)]
    further = dense_warnings(parts, modules, f"{settings.label}.exclude", settings.expects_quantized)
    return checkpoint("quark", folder, config, tensors, weights, further)


def _weight(module: str, parts: Mapping[str, Part], settings: QuarkSettings, compute: str) -> Weight:
    """Return one module's weight, by its settings."""
    stored = parts_of(module, SUFFIXES, parts)
    weight = stored["weight"]
    if settings.excludes(module):
        raise listed_as_dense(weight, module, f"{settings.label}.exclude")
    spec = settings.of(module)
    if spec is None:
        raise listed_as_dense(weight, module, settings.label)
    if len(weight.shape) != 2:
        raise mismatch(weight, "a matrix")
    if spec.dtype in PACKINGS:
        scheme, shape = _integers(stored, spec, settings)
    elif spec.dtype in FLOATS8:
        scheme, shape = _bytes(stored, spec), weight.shape
    else:
        scheme, shape = _small(stored, spec, compute)
    reason = f"{spec.key}: {spec.dtype} {spec.qscheme}"
    return checked_weight(f"{module}.weight", shape, scheme, stored, reason, SUFFIXES)


def _scales(stored: Mapping[str, Part], spec: Spec, *, transposed: bool = False) -> Scales:
    """Return how scales are shared."""
    part = stored["scales"]
    if part.dtype not in FLOATS:
        raise mismatch(part, either(FLOATS), f"{spec.key}: {spec.dtype}")
    if spec.qscheme == "per_tensor":
        return Scales(part.dtype, None, rank=len(part.shape))
    if spec.qscheme == "per_channel":
        return Scales(part.dtype, 1, None, rank=1)
    if spec.block:
        return Scales(part.dtype, *spec.block)
    return Scales(part.dtype, 1, spec.group_size, transposed=transposed)


def _integers(stored: Mapping[str, Part], spec: Spec, settings: QuarkSettings) -> tuple[Scaled, tuple[int, ...]]:
    weight, pack = stored["weight"], PACKINGS[spec.dtype]
    stored_as = {"int4": ("i32",), "uint4": ("i32",), "uint2": ("u8",), "int3": ("u8",), "int2": ("i32", "i8")}
    dtypes = stored_as.get(spec.dtype, ("i8",) if spec.dtype == "int8" else ("u8",))
    if weight.dtype not in dtypes:
        raise mismatch(weight, either(dtypes), f"{spec.key}: {spec.dtype}")
    transposed = spec.qscheme == "per_group"
    first, last = weight.shape[0], weight.shape[1] // pack.units * pack.codes
    shape = (last, first) if transposed and spec.dtype != "int3" else (first, last)
    zeros = stored.get("zeros")
    # The zero points of int3 in groups are packed along another axis. In symmetric weights they are all 0.
    unread = spec.dtype == "int3" and transposed
    if unread and not spec.symmetric:
        raise NotPossible(f"{where(weight)}: int3 per_group with zero points ({spec.key}) is not supported.")
    if zeros is None and not spec.symmetric:
        raise missing(weight, ".weight_zero_point", f"{spec.key}.symmetric = false")
    if spec.qscheme == "per_block":
        raise NotPossible(f"{where(weight)}: {spec.dtype} per_block ({spec.key}) is not supported.")
    copied = (*COPIED, "zeros") if unread else COPIED
    scheme = QuarkInt(
        columns=shape[1], scales=_scales(stored, spec, transposed=transposed), dtype=spec.dtype, stored=weight.dtype,
        symmetric=spec.symmetric, zeros_dtype=None if zeros is None or unread else zeros.dtype,
        reorder=settings.reorder, extras=extras_of(stored, copied),
    )  # fmt: skip
    return scheme, shape


def _bytes(stored: Mapping[str, Part], spec: Spec) -> Scaled:
    weight = stored["weight"]
    if spec.qscheme == "per_group":
        raise NotPossible(f"{where(weight)}: {spec.dtype} per_group ({spec.key}) is not supported.")
    return Bytewise(
        family="quark", columns=weight.shape[1], scales=_scales(stored, spec), stored=FLOATS8[spec.dtype],
        extras=extras_of(stored, COPIED),
    )  # fmt: skip


def _small(stored: Mapping[str, Part], spec: Spec, compute: str) -> tuple[Scaled, tuple[int, ...]]:
    weight, element = stored["weight"], SMALL[spec.dtype]
    columns = weight.shape[1] * 8 // ELEMENTS[element][0]
    if spec.two_level and "global" not in stored:
        raise missing(weight, ".weight_scale_2", spec.key)
    dtype = "f8_e4m3" if spec.two_level else stored["scales"].dtype
    global_scale = stored.get("global") if spec.two_level else None
    scheme = SmallFloat(
        family="quark", columns=columns, element=element, scales=Scales(dtype, 1, spec.group_size),
        divides=False if spec.two_level else None, global_shape=global_scale.shape if global_scale else (),
        global_dtype=global_scale.dtype if global_scale else "f32",
        compute=compute if spec.two_level else None, extras=extras_of(stored, COPIED),
    )  # fmt: skip
    return scheme, (weight.shape[0], columns)
