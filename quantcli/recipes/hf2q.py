"""hf2q's and mlx-native's `quantization_config.json`: affine bits and group size for the model and for single tensors.

    {"bits": 4, "group_size": 64}                                       mlx-native reads `{}` and `{"bits": 6}` too
    ... "model.layers.0.mlp.down_proj": {"bits": 8}                     next to the defaults, as in MLX's config.json
    ... "per_tensor": {NAME or GLOB: {"bits": 8, "group_size": 64, "method": "q8", "preserved": false}}
    ... "per_layer_bits": {NAME: 8}, "quantization_info": {NAME: {"bits": 8, "group_size": 64, "preserved": false}}
    ... "component_overrides": {"v_proj": {"bits": 6, "reason": "..."}}   the end of a module's path

A tensor is looked up by its `mlx_config.tensor_keys`, then among the globs in file order, then among the components;
otherwise it has the defaults. Values are read leniently (see `lenient`). Sources: mlx-native's src/weight.rs; hf2q's
src/backends (mlx.rs, safetensors_out.rs) and src/intelligence/auto_quant.rs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantcli.containers.hostile import shown
from quantcli.recipes import lenient
from quantcli.recipes.base import Recipe
from quantcli.recipes.lenient import Ignored, Numbers
from quantcli.recipes.mlx_config import RESERVED, MlxParams, MlxQuantization, check_key
from quantcli.recipes.quantizers import TABLES, is_ours

#: The name of such a file next to a model.
FILE = "quantization_config.json"

#: Keys that describe the file and have no effect.
DESCRIBING = frozenset(
    {
        "tensor_count", "auto_resolved", "estimated_tok_per_sec", "estimated_size_bytes", "hardware", "confidence",
        "reasoning",
    }
)  # fmt: skip

#: Keys of MLX's config.json under which such settings may be nested.
WRAPPERS = ("quantization", "quantization_config")


def recognise(data: Mapping[str, Any]) -> bool:
    """Return whether an object is that of such a file."""
    if not is_ours(data):
        return False
    known = {"bits", "group_size", "quant_method", *TABLES}
    entries = (value for key, value in data.items() if key not in WRAPPERS)
    return not data or bool(known & data.keys()) or any(map(_is_entry, entries))


def read(data: Mapping[str, Any], label: str) -> Recipe:
    """Read the recipe in the file's object. Raises `BadInput` for a key that cannot be a name."""
    return parse(data, label).recipe()


def parse(data: Mapping[str, Any], label: str, default_key: str = "bits and group_size") -> MlxQuantization:
    """Parse the settings in the file's object. Raises `BadInput` for a key that cannot be a name.

    default_key: the name of the file's defaults in reasons.
    """
    ignored = Ignored(label)
    own = lenient.defaults(data, ignored)
    tables = {key: _table(data, key, ignored) for key in TABLES}
    listed: dict[str, MlxParams | bool] = {}
    for key, entries in (
        ("per_tensor", tables["per_tensor"]), ("", _flat(data, ignored)), ("per_layer_bits", _layers(tables, ignored)),
    ):  # fmt: skip
        for name, params in _read(entries, key, own, label, ignored).items():
            listed.setdefault(name, params)
    components = _read(tables["component_overrides"], "component_overrides", own, label, ignored)
    params = own.params()
    default = params if isinstance(params, MlxParams) else None
    stated = bool({"bits", "group_size", "mode"} & data.keys())
    return MlxQuantization(label, default, listed, ignored.warnings, components, default_key, stated)


def _table(data: Mapping[str, Any], key: str, ignored: Ignored) -> Mapping[str, Any]:
    table = data.get(key, {})
    if isinstance(table, Mapping):
        return table
    ignored.add("values", f"{key} is {shown(table)}, not an object of names")
    return {}


def _read(
    entries: Mapping[str, Any], key: str, own: Numbers, label: str, ignored: Ignored
) -> dict[str, MlxParams | bool]:
    """Return the entries of a table that are not ignored."""
    entries_read: dict[str, MlxParams | bool] = {}
    for name, value in entries.items():
        check_key(name, label)
        read = lenient.entry(value, f"{key}[{shown(name)}]" if key else shown(name), own, ignored)
        if read is not None:
            entries_read[name] = read
    return entries_read


def _is_entry(value: object) -> bool:
    return isinstance(value, Mapping) and bool({"bits", "group_size"} & value.keys())


def _flat(data: Mapping[str, Any], ignored: Ignored) -> dict[str, Any]:
    """Return the entries of modules that are next to the defaults."""
    others = {key: value for key, value in data.items() if key not in (*RESERVED, *TABLES, *DESCRIBING)}
    entries = {}
    for key, value in others.items():
        if isinstance(value, bool) or (isinstance(value, Mapping) and (not value or lenient.WORDS & value.keys())):
            entries[key] = value
        else:
            ignored.add("keys", f"{shown(key)} is {shown(value)}, which is not a setting of a module")
    return entries


def _layers(tables: Mapping[str, Mapping[str, Any]], ignored: Ignored) -> dict[str, Any]:
    """Return the entries of `per_layer_bits`, completed by those of `quantization_info` with the same names."""
    bits, info = tables["per_layer_bits"], tables["quantization_info"]
    return dict(_layer(name, bits, info, ignored) for name in {**bits, **info})


def _layer(name: str, bits: Mapping[str, Any], info: Mapping[str, Any], ignored: Ignored) -> tuple[str, Any]:
    described = info.get(name, {})
    if name not in bits:
        return name, described
    if not isinstance(described, Mapping):
        ignored.add("values", f"quantization_info[{shown(name)}] is {shown(described)}, not an object")
        described = {}
    value = bits[name]
    if not isinstance(value, int) or isinstance(value, bool):
        return name, described or value
    if described.get("bits") not in (None, value):
        other = shown(described["bits"])
        ignored.add("values", f"quantization_info[{shown(name)}] says bits {other}, but per_layer_bits says {value}")
    return name, {**described, "bits": value}
