"""modelopt's settings: which `quant_algo` a module has, and how weights of each are stored.

One `quant_algo` holds for all modules, or it is MIXED_PRECISION and `quantized_layers` has one for each module, or for
one that others are in (`...mlp.experts`). Names may begin with `language_model.model.` where the tensors' begin with
`model.language_model.`. Older releases have the same keys in hf_quant_config.json; some write algorithms in lower case.
Sources: modelopt 0.47 (torch/export/quant_utils.py: process_layer_quant_config, to_quantized_weight), vLLM 0.30
(layers/quantization/modelopt.py: ModelOptMixedPrecisionConfig).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from quantcli.arrays import FLOATS
from quantcli.checkpoint import Part
from quantcli.containers.hostile import shown
from quantcli.containers.json_text import Reader
from quantcli.errors import NotPossible
from quantcli.schemes.hf.scaled import POWERS
from quantcli.sources.modules import where
from quantcli.sources.spellings import spellings

MIXED = "MIXED_PRECISION"


@dataclass(frozen=True)
class Storage:
    """How weights are stored. codes: their dtype; scales: the dtypes that scales may have; groups: sizes of a group,
    empty where the shape of the scales says it; two_level: there is a second scale, `weight_scale_2`."""

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
#: `quant_algo` -> a key of STORAGES; None for those that are not read.
ALGORITHMS = {
    "FP8": "fp8", "FP8_PER_CHANNEL_PER_TOKEN": "fp8", "FP8_PC_PT": "fp8", "FP8_PB_WO": "fp8", "FP8_PB_REAL": "fp8",
    "MXFP8": "mxfp8", "NVFP4": "nvfp4", "W4A16_NVFP4": "nvfp4", "W4A8_NVFP4_FP8": "nvfp4", "MXFP4": "mxfp4",
    "W4A8_MXFP4_FP8": "mxfp4", "W8A16": "int8", "W8A8_SQ_PER_CHANNEL": "int8",
}  # fmt: skip
#: Values in a group of NVFP4 by `quant_algo`, where settings do not say it; 16 in all others.
NVFP4_GROUPS = {"W4A8_NVFP4_FP8": 32}


@dataclass(frozen=True)
class Algorithm:
    """What the settings say of a module's weights. group_size: None where they do not say it."""

    name: str
    kind: str
    group_size: int | None

    @property
    def storage(self) -> Storage:
        return STORAGES[self.kind]


@dataclass(frozen=True)
class ModeloptSettings:
    """The settings of all modules: one algorithm, or `layers` of MIXED_PRECISION by their names; of those that only
    `config_groups` name, None.
    """

    label: str
    name: str
    common: Algorithm | None
    layers: Mapping[str, Algorithm | None]

    def of(self, module: str) -> Algorithm | None:
        """The algorithm of a module; None where no entry says it."""
        if self.common is not None:
            return self.common
        listed = next((name for name in _names(module) if name in self.layers), None)
        return None if listed is None else self.layers[listed]

    def lists(self, module: str) -> bool:
        """Whether the settings say that a module is quantized, by its name or that of one that it is in."""
        return self.common is not None or any(name in self.layers for name in _names(module))

    def lists_next_to(self, module: str) -> bool:
        """Whether some module is listed that is in the one that this is in: fused experts are listed one by one."""
        inside = tuple(f"{name}." for name in spellings(module.rpartition(".")[0]))
        return any(name.startswith(inside) for name in self.layers)


def _names(module: str) -> Iterator[str]:
    """The names under which a module may be listed, the closest first: its own, then of those that it is in."""
    while module:
        yield from spellings(module)
        module = module.rpartition(".")[0]


def parse(keys: Reader) -> ModeloptSettings:
    """The settings of a `quantization_config`; raises `BadInput`, `NotPossible`."""
    name = keys.text("quant_algo").upper()
    if name != MIXED:
        return ModeloptSettings(keys.label, name, _algorithm(keys), {})
    listed = keys.part("quantized_layers", needed=not keys.values.get("config_groups"))
    if not listed.values:
        return ModeloptSettings(keys.label, name, None, dict.fromkeys(_targets(keys)))
    layers = {module: _algorithm(listed.part(module, needed=True)) for module in listed.values}
    return ModeloptSettings(keys.label, name, None, layers)


def _targets(keys: Reader) -> Iterator[str]:
    """The modules that `config_groups` name, as releases have them that lack `quantized_layers`."""
    groups = keys.part("config_groups")
    if not groups.values:
        raise keys.refuse("quantized_layers", f"expected an object of modules and their quant_algo for {MIXED}")
    for name in groups.values:
        yield from groups.part(name, needed=True).texts("targets")


def _algorithm(keys: Reader) -> Algorithm:
    """One algorithm, checked on its own."""
    stated = keys.text("quant_algo")
    kind = ALGORITHMS.get(stated.upper())
    if kind is None:
        raise NotPossible(f"{keys.label}: `quant_algo` {shown(stated)} is not read; {', '.join(ALGORITHMS)} are.")
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
    """The group size that all of `config_groups` agree on; None where they state none, or an unusual one."""
    groups = keys.part("config_groups")
    found = {groups.part(name, needed=True).part("weights").values.get("group_size") for name in groups.values}
    sizes = [size for size in found if type(size) is int and size in STORAGES["nvfp4"].groups]
    return sizes[0] if len(found) == len(sizes) == 1 else None


def stored_kind(stored: Mapping[str, Part]) -> str | None:
    """The key of STORAGES that the dtypes of a module's arrays are of; None where they are of none."""
    weight, scales = stored["weight"], stored["scales"]
    return next(
        (kind for kind, one in STORAGES.items() if weight.dtype == one.codes and scales.dtype in one.scales), None
    )


def described(stored: Mapping[str, Part]) -> str:
    """Codes and scales of a module as errors name them."""
    weight, scales = stored["weight"], stored["scales"]
    return f"{where(weight)}: is {weight.dtype} {list(weight.shape)} with {scales.name} of {scales.dtype}"
