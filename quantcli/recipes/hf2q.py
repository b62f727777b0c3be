"""hf2q's and mlx-native's `quantization_config.json`: affine bits and group size for the model and for single tensors.

    {"bits": 4, "group_size": 64, "per_tensor": {"model.layers.0.mlp.down_proj": {"bits": 8, "group_size": 64}}}

A tensor is looked up as in `mlx_config.tensor_keys`, then among the globs in file order, else it has the defaults.
Source: mlx-native's src/weight.rs, with hf2q's lookup.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantcli.containers.hostile import shown
from quantcli.errors import BadInput
from quantcli.recipes.base import Decision, Origin, Recipe
from quantcli.recipes.mlx_config import RESERVED, MlxParams, check_key, own_parameters, parameters, recipe_of

#: What mlx-native assumes for keys that a file leaves out.
DEFAULTS = {"bits": 4, "group_size": 64}


def recognise(data: Mapping[str, Any]) -> bool:
    """Whether this is such a file. Other tools' files with `bits` and `group_size` name their `quant_method`."""
    return "quant_method" not in data and ("per_tensor" in data or {"bits", "group_size"} <= data.keys())


def read(data: Mapping[str, Any], label: str) -> Recipe:
    """The recipe of the file's object. Raises `BadInput`, quoting key and value.

    Entries may stand at the top, beside `bits` and `group_size`, as well; other keys are ignored with a warning.
    """
    per_tensor = data.get("per_tensor", {})
    if not isinstance(per_tensor, Mapping):
        raise BadInput(f"{label}: per_tensor is {shown(per_tensor)}: it has to be an object of tensor names.")
    default = parameters(DEFAULTS | {key: data[key] for key in RESERVED & data.keys()}, label)
    others = {key: value for key, value in data.items() if key not in RESERVED and key != "per_tensor"}
    flat = {key: value for key, value in others.items() if isinstance(value, Mapping)}
    single = {key: _own(key, value, label) for key, value in {**per_tensor, **flat}.items()}
    warnings = tuple(f"{label}: {shown(key)} is no key of this file: ignored." for key in others if key not in flat)
    decision = Decision(default.scheme if default else "dense", f"{label}: bits and group_size", Origin.GLOBAL)
    return recipe_of(label, decision, single, warnings)


def _own(key: str, value: object, label: str) -> MlxParams | bool:
    check_key(key, label)
    where = f"{label}: per_tensor[{shown(key)}]"
    if not isinstance(value, Mapping):
        raise BadInput(f"{where} is {shown(value)}: it has to be an object with bits and group_size.")
    return own_parameters(value, where)
