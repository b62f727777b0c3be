"""HQQ's checkpoints, as transformers saves them: `.W_q`, `.scale`, `.zero` and a small tensor for every setting.

Each module's tensors hold its settings (`nbits`, `group_size`, `axis`, `shape`, `packing`, `compute_dtype`).
config.json's `quant_config` only repeats the requested ones; its `skip_modules` lists dense modules.
Source: hqq 0.2.8 (core/quantize.py), transformers 4.56 (quantizers/quantizer_hqq.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantcli.arrays import FLOATS, TORCH_DTYPES
from quantcli.checkpoint import Checkpoint, Part, Weight
from quantcli.containers.hostile import shown
from quantcli.containers.json_text import Reader
from quantcli.errors import BadInput, NotPossible
from quantcli.schemes.hf.hqq import PACKINGS, Hqq
from quantcli.schemes.hf.scaled import Extra, Scales
from quantcli.sources.folder import Folder, Tensors
from quantcli.sources.modules import (
    check_listed,
    checked_weight,
    checkpoint,
    dense_warnings,
    mentions_module,
    settings_of,
)
from quantcli.sources.wording import either, mismatch, missing, no_codes, where

ARRAYS = {"weight": ".W_q", "scales": ".scale", "zeros": ".zero"}
#: Settings that change the layout if they are true.
FLAGS = ("quant_scale", "quant_zero", "view_as_float")
SETTINGS = (
    "axis", "channel_wise", "compute_dtype", "encoded_state_dict", "group_size", "nbits", "offload_meta", "optimize",
    "packing", "quant_scale", "quant_zero", "round_zero", "shape", "stores_quant_config", "unpack_view_dtype",
    "view_as_float",
)  # fmt: skip


def open_hqq(folder: Folder, config: Mapping[str, Any], tensors: Tensors) -> Checkpoint:
    """Open an HQQ folder. Raises `BadInput`, `NotPossible`."""
    keys = settings_of(folder, config)
    skipped = keys.texts("skip_modules")
    requested = keys.part("quant_config")
    parts = tensors.parts
    modules = {name.removesuffix(".W_q") for name in parts if name.endswith(".W_q")}
    if not modules:
        raise no_codes(keys.label, "hqq", "*.W_q")
    weights = [_weight(module, parts, folder, requested) for module in sorted(modules)]
    listed = f"{keys.label}.skip_modules"
    further = check_listed(skipped, {module: parts[f"{module}.W_q"] for module in sorted(modules)}, listed)
    further += dense_warnings(
        parts, modules, listed, lambda module, linear: linear and not mentions_module(skipped, module)
    )
    return checkpoint("hqq", folder, config, tensors, weights, further)


class _StoredSettings:
    """The settings of a module, read from its small tensors."""

    def __init__(self, module: str, parts: Mapping[str, Part], folder: Folder) -> None:
        self.parts = {name: parts[f"{module}.{name}"] for name in SETTINGS if f"{module}.{name}" in parts}
        self.module, self.folder, self.first = module, folder, parts[f"{module}.W_q"]

    def part(self, name: str) -> Part:
        """Return the tensor of a setting. Raises `BadInput` if it is missing."""
        if name not in self.parts:
            raise missing(self.first, f"{self.module}.{name}", "quant_method hqq")
        return self.parts[name]

    def numbers(self, name: str) -> list[int]:
        """Read the integers of a setting."""
        part = self.part(name)
        if part.dtype not in ("i32", "i64", "u8") or not 0 < part.nbytes <= 16:
            raise mismatch(part, "one or two integers of i32, i64 or u8")
        return [int(n) for n in self.folder.array(part).reshape(-1)]

    def text(self, name: str) -> str:
        """Read the text of a setting."""
        part = self.part(name)
        if part.dtype != "u8":
            raise mismatch(part, "u8 (text)")
        return self.folder.array(part).tobytes().decode("ascii", "replace")


def _weight(module: str, parts: Mapping[str, Part], folder: Folder, requested: Reader) -> Weight:
    """Return one module's weight, by its stored settings. requested: config.json's `quant_config`."""
    stored = {part: parts[module + suffix] for part, suffix in ARRAYS.items() if module + suffix in parts}
    settings = _StoredSettings(module, parts, folder)
    kind, (bits,), (axis,) = settings.text("packing"), settings.numbers("nbits"), settings.numbers("axis")
    if kind not in PACKINGS:
        raise NotPossible(
            f"{where(settings.part('packing'))}: {shown(kind)} is not supported. Supported: {', '.join(PACKINGS)}."
        )
    if PACKINGS[kind][0] != bits:
        raise BadInput(f"{where(settings.part('nbits'))}: says {bits} bits, but {module}.packing says {kind}.")
    if axis != 1:
        raise NotPossible(f"{where(settings.part('axis'))}: axis {axis} is not supported. Supported: 1.")
    for flag in FLAGS:
        if flag in settings.parts and settings.numbers(flag) != [0]:
            raise NotPossible(f"{where(settings.part(flag))}: {flag} true is not supported.")
    (group,), shape = settings.numbers("group_size"), tuple(settings.numbers("shape"))
    if len(shape) != 2 or min(shape) <= 0 or group <= 0 or shape[1] % group:
        raise BadInput(
            f"{where(settings.part('shape'))}: says {list(shape)}, but {module}.group_size says {group}; groups must "
            "fill the rows of a matrix."
        )
    compute = TORCH_DTYPES.get(settings.text("compute_dtype"))
    if compute is None:
        dtype = shown(settings.text("compute_dtype"))
        raise BadInput(f"{where(settings.part('compute_dtype'))}: expected a float dtype, found {dtype}.")
    weights = requested.part("weight_quant_params")
    for key, value in (("nbits", bits), ("group_size", group)):
        if key in weights.values and weights.whole(key) != value:
            raise weights.refuse(key, f"expected {value}, as {module}.{key} says")
    if "scales" not in stored:
        raise missing(stored["weight"], f"{module}.scale", "quant_method hqq")
    scale = stored["scales"]
    if scale.dtype not in FLOATS:
        raise mismatch(scale, either(FLOATS))
    extras = tuple(Extra(name, part.dtype, part.shape) for name, part in settings.parts.items())
    scheme = Hqq(columns=shape[1], scales=Scales(scale.dtype, 1, group), kind=kind, compute=compute, extras=extras)
    reason = f"{module}.nbits {bits}, .group_size {group}"
    return checked_weight(f"{module}.weight", (shape[0], shape[1]), scheme, stored | settings.parts, reason, ARRAYS)
