"""modelopt's settings: which `quant_algo` a module has, and how its weights are stored.

All modules have one `quant_algo`, or it is MIXED_PRECISION and `quantized_layers` has one for each module, or for a
module that contains others (`...mlp.experts`). Names may begin with `language_model.model.` although the tensors' begin
with `model.language_model.`. Older releases have the same keys in hf_quant_config.json; some write algorithms in lower
case.
Sources: modelopt 0.47 (torch/export/quant_utils.py: process_layer_quant_config, to_quantized_weight), vLLM 0.30
(layers/quantization/modelopt.py: ModelOptMixedPrecisionConfig).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from quantcli.arrays import FLOATS
from quantcli.checkpoint import Part
from quantcli.containers.json_text import Reader
from quantcli.schemes.hf.scaled import POWERS
from quantcli.sources.spellings import spellings
from quantcli.sources.wording import where

MIXED = "MIXED_PRECISION"


@dataclass(frozen=True)
class Storage:
    """How weights are stored.

    codes: their dtype. scales: the dtypes that scales may have. groups: supported group sizes; empty if the scales'
    shape shows it. two_level: whether there is a second scale, `weight_scale_2`.
    """

    codes: str
    scales: tuple[str, ...]
    groups: tuple[int, ...] = ()
    two_level: bool = False


STORAGES = {
    "fp8": Storage("f8_e4m3", FLOATS),
    "mxfp8": Storage("f8_e4m3", POWERS, (32,)),
    "nvfp4": Storage("u8", ("f8_e4m3",), (16, 32), two_level=True),
    "mxfp4": Storage("u8", POWERS, (32,)),
    "int8": Storage("i8", FLOATS),
}
#: `quant_algo` -> a key of STORAGES.
ALGORITHMS = {
    "FP8": "fp8", "FP8_PER_CHANNEL_PER_TOKEN": "fp8", "FP8_PC_PT": "fp8", "FP8_PB_WO": "fp8", "FP8_PB_REAL": "fp8",
    "MXFP8": "mxfp8", "NVFP4": "nvfp4", "W4A16_NVFP4": "nvfp4", "W4A8_NVFP4_FP8": "nvfp4", "MXFP4": "mxfp4",
    "W4A8_MXFP4_FP8": "mxfp4", "W8A16": "int8", "W8A8_SQ_PER_CHANNEL": "int8",
}  # fmt: skip
#: `quant_algo` -> the default group size of NVFP4 if it is not 16.
NVFP4_GROUPS = {"W4A8_NVFP4_FP8": 32}


@dataclass(frozen=True)
class Algorithm:
    """The algorithm of a module's weights. group_size: None if the settings do not give it."""

    name: str
    kind: str
    group_size: int | None

    @property
    def storage(self) -> Storage:
        return STORAGES[self.kind]


@dataclass(frozen=True)
class ModeloptSettings:
    """The settings of all modules.

    common: the algorithm of all of them, or None for MIXED_PRECISION. layers: module -> its algorithm in
    MIXED_PRECISION; None if only `config_groups` name it.
    """

    label: str
    name: str
    common: Algorithm | None
    layers: Mapping[str, Algorithm | None]

    def of(self, module: str) -> Algorithm | None:
        """Return the algorithm of a module; None if no entry gives it."""
        if self.common is not None:
            return self.common
        listed = next((name for name in _names(module) if name in self.layers), None)
        return None if listed is None else self.layers[listed]

    def lists(self, module: str) -> bool:
        """Return whether the settings list a module as quantized, or a module that contains it."""
        return self.common is not None or any(name in self.layers for name in _names(module))

    def lists_next_to(self, module: str) -> bool:
        """Return whether the settings list a sibling of a module: fused experts are listed one by one."""
        parents = tuple(f"{name}." for name in spellings(module.rpartition(".")[0]))
        return any(name.startswith(parents) for name in self.layers)


def _names(module: str) -> Iterator[str]:
    """Yield the names under which a module may be listed: its own, then those of modules that contain it."""
    while module:
        yield from spellings(module)
        module = module.rpartition(".")[0]


def parse(keys: Reader) -> ModeloptSettings:
    """Parse a `quantization_config`. Raises `BadInput`, `NotPossible`."""
    name = keys.text("quant_algo").upper()
    if name != MIXED:
        return ModeloptSettings(keys.label, name, _algorithm(keys), {})
    listed = keys.part("quantized_layers", needed=not keys.values.get("config_groups"))
    if not listed.values:
        return ModeloptSettings(keys.label, name, None, dict.fromkeys(_targets(keys)))
    layers = {module: _algorithm(listed.part(module, needed=True)) for module in listed.values}
    return ModeloptSettings(keys.label, name, None, layers)


def _targets(keys: Reader) -> Iterator[str]:
    """Yield the modules that `config_groups` target, for releases without `quantized_layers`."""
    groups = keys.part("config_groups")
    if not groups.values:
        raise keys.refuse("quantized_layers", f"expected an object of modules and their quant_algo ({MIXED})")
    for name in groups.values:
        yield from groups.part(name, needed=True).texts("targets")


def _algorithm(keys: Reader) -> Algorithm:
    """Return the algorithm in an object. Raises `BadInput`, `NotPossible`."""
    stated = keys.text("quant_algo")
    kind = ALGORITHMS.get(stated.upper())
    if kind is None:
        raise keys.unsupported("quant_algo", ALGORITHMS)
    size: Any = keys.values.get("group_size")
    group = None if size in (None, 0) and type(size) is not bool else keys.whole("group_size")
    groups = STORAGES[kind].groups
    if groups and group not in (None, *groups):
        raise keys.refuse("group_size", f"expected {' or '.join(map(str, groups))} for {stated}")
    if group is not None and group < 0:
        raise keys.refuse("group_size", "expected a number above 0")
    if group is None and kind == "nvfp4":
        group = _of_groups(keys) or NVFP4_GROUPS.get(stated.upper(), groups[0])
    return Algorithm(stated.upper(), kind, group)


def _of_groups(keys: Reader) -> int | None:
    """Return the group size on which all of `config_groups` agree; None if there is none or it is unsupported."""
    groups = keys.part("config_groups")
    stated = {groups.part(name, needed=True).part("weights").values.get("group_size") for name in groups.values}
    sizes = [size for size in stated if type(size) is int and size in STORAGES["nvfp4"].groups]
    return sizes[0] if len(stated) == len(sizes) == 1 else None


def stored_kind(stored: Mapping[str, Part]) -> str | None:
    """Return the key of STORAGES that has the dtypes of a module's arrays; None if none has."""
    weight, scales = stored["weight"], stored["scales"]
    return next(
        (kind for kind, one in STORAGES.items() if weight.dtype == one.codes and scales.dtype in one.scales), None
    )


def described(stored: Mapping[str, Part]) -> str:
    """Return the dtypes of a module's codes and scales, as an error's first clause."""
    weight, scales = stored["weight"], stored["scales"]
    return f"{where(weight)}: is {weight.dtype} {list(weight.shape)}, and {scales.name} is {scales.dtype}"
