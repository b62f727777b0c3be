"""HQQ's checkpoints, as transformers saves them: `.W_q`, `.scale`, `.zero` and a small tensor for every setting.

Settings are told by the tensors of each module (`nbits`, `group_size`, `axis`, `shape`, `packing`, `compute_dtype`);
config.json's `quant_config` only says what was asked for, and `skip_modules` what is dense.
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
    checkpoint,
    held,
    left_dense,
    mentions_module,
    settings_of,
    where,
)

ARRAYS = {"weight": ".W_q", "scales": ".scale", "zeros": ".zero"}
#: Settings that change what is stored when they are true.
FLAGS = ("quant_scale", "quant_zero", "view_as_float")
SETTINGS = (
    "axis", "channel_wise", "compute_dtype", "encoded_state_dict", "group_size", "nbits", "offload_meta", "optimize",
    "packing", "quant_scale", "quant_zero", "round_zero", "shape", "stores_quant_config", "unpack_view_dtype",
    "view_as_float",
)  # fmt: skip


def open_hqq(folder: Folder, config: Mapping[str, Any], tensors: Tensors) -> Checkpoint:
    """The checkpoint of an HQQ folder. Raises `BadInput`, `NotPossible`."""
    keys = settings_of(folder, config)
    skipped = keys.texts("skip_modules")
    asked = keys.part("quant_config")
    parts = tensors.parts
    modules = {name.removesuffix(".W_q") for name in parts if name.endswith(".W_q")}
    if not modules:
        raise BadInput(f"{keys.label}: says hqq, but no tensor is called *.W_q.")
    weights = [_weight(module, parts, folder, asked) for module in sorted(modules)]
    listed = f"{keys.label}.skip_modules"
    further = check_listed(skipped, {module: parts[f"{module}.W_q"] for module in sorted(modules)}, listed)
    further += left_dense(
        parts, modules, listed, lambda module, linear: linear and not mentions_module(skipped, module)
    )
    return checkpoint("hqq", folder, config, tensors, weights, further)


class _Said:
    """The settings of a module, from its small tensors."""

    def __init__(self, module: str, parts: Mapping[str, Part], folder: Folder) -> None:
        self.parts = {name: parts[f"{module}.{name}"] for name in SETTINGS if f"{module}.{name}" in parts}
        self.module, self.folder, self.first = module, folder, parts[f"{module}.W_q"]

    def part(self, name: str) -> Part:
        """The tensor of a setting; raises `BadInput` where there is none."""
        if name not in self.parts:
            raise BadInput(f"{where(self.first)}: has no {self.module}.{name} beside it, which quant_method hqq needs.")
        return self.parts[name]

    def numbers(self, name: str) -> list[int]:
        """Its integers."""
        part = self.part(name)
        if part.dtype not in ("i32", "i64", "u8") or not 0 < part.nbytes <= 16:
            raise BadInput(f"{where(part)}: is {part.dtype} {list(part.shape)}, one or two integers are needed.")
        return [int(n) for n in self.folder.array(part).reshape(-1)]

    def text(self, name: str) -> str:
        """Its bytes as text."""
        part = self.part(name)
        if part.dtype != "u8":
            raise BadInput(f"{where(part)}: is {part.dtype}, a text in u8 is needed.")
        return self.folder.array(part).tobytes().decode("ascii", "replace")


def _weight(module: str, parts: Mapping[str, Part], folder: Folder, asked: Reader) -> Weight:
    """One module's weight by its own settings."""
    stored = {part: parts[module + suffix] for part, suffix in ARRAYS.items() if module + suffix in parts}
    said = _Said(module, parts, folder)
    kind, (bits,), (axis,) = said.text("packing"), said.numbers("nbits"), said.numbers("axis")
    if kind not in PACKINGS:
        raise NotPossible(f"{where(said.part('packing'))}: says {shown(kind)}; {', '.join(PACKINGS)} are read.")
    if PACKINGS[kind][0] != bits:
        raise BadInput(f"{where(said.part('nbits'))}: says {bits} bits, {module}.packing says {kind}.")
    if axis != 1:
        raise NotPossible(f"{where(said.part('axis'))}: groups along axis {axis} are not read; along axis 1 they are.")
    for flag in FLAGS:
        if flag in said.parts and said.numbers(flag) != [0]:
            raise NotPossible(f"{where(said.part(flag))}: is true; scales that are quantized too are not read.")
    (group,), shape = said.numbers("group_size"), tuple(said.numbers("shape"))
    if len(shape) != 2 or min(shape) <= 0 or group <= 0 or shape[1] % group:
        raise BadInput(f"{where(said.part('shape'))}: says {list(shape)} in groups of {group}, which do not fill rows.")
    compute = TORCH_DTYPES.get(said.text("compute_dtype"))
    if compute is None:
        raise BadInput(f"{where(said.part('compute_dtype'))}: says no float dtype.")
    weights = asked.part("weight_quant_params")
    for key, found in (("nbits", bits), ("group_size", group)):
        if key in weights.values and weights.whole(key) != found:
            raise weights.refuse(key, f"expected {found}, as {module}.{key} says")
    if "scales" not in stored:
        raise BadInput(f"{where(stored['weight'])}: has no {module}.scale beside it, which quant_method hqq needs.")
    scale = stored["scales"]
    if scale.dtype not in FLOATS:
        raise BadInput(f"{where(scale)}: is {scale.dtype}, scales are f16, bf16 or f32.")
    extras = tuple(Extra(name, part.dtype, part.shape) for name, part in said.parts.items())
    scheme = Hqq(columns=shape[1], scales=Scales(scale.dtype, 1, group), kind=kind, compute=compute, extras=extras)
    reason = f"{module}.nbits {bits}, .group_size {group}"
    return held(f"{module}.weight", (shape[0], shape[1]), scheme, stored | said.parts, reason, ARRAYS)
