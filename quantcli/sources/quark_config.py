"""Quark's settings: which of them apply to a module.

`quantization_config` has `global_quant_config`, `layer_quant_config` (names and globs), `layer_type_quant_config`
(classes) and `exclude`. In order of precedence: `exclude`, the module's name, the first glob in the file that matches,
the module's class, the global settings. Settings are never merged, as in Quark's code; its
documentation says that a field which is None is inherited. Source: Quark 0.13
(torch/quantization/model_transformation.py, config.py).
"""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass

from quantcli.containers.hostile import shown
from quantcli.containers.json_text import Reader
from quantcli.errors import NotPossible
from quantcli.schemes.hf.quark_int import PACKINGS
from quantcli.sources.listed import globs
from quantcli.sources.modules import LINEARS, mentions_module
from quantcli.sources.spellings import spellings

FLOATS8 = {"fp8_e4m3": "f8_e4m3", "fp8_e5m2": "f8_e5m2"}
SMALL = {"fp4": "e2m1", "fp6_e2m3": "e2m3", "fp6_e3m2": "e3m2"}
#: Formats that Quark itself cannot store.
UNSTORABLE = ("mx", "mx6", "mx9", "bfp16", "mxint8")
DENSE = ("float16", "bfloat16", "float32")
SCHEMES = ("per_tensor", "per_channel", "per_group", "per_block")


@dataclass(frozen=True)
class Spec:
    """The settings of a module's weight. key: their place. two_level: whether scales are quantized too."""

    key: str
    dtype: str
    qscheme: str
    symmetric: bool
    group_size: int | None = None
    block: tuple[int, int] | None = None
    two_level: bool = False


@dataclass(frozen=True)
class QuarkSettings:
    """All settings; a `Spec` of None means dense.

    layers: (name or glob, spec). types: (class, spec). common: the global settings. reorder: Quark's `pack_method`.
    """

    label: str
    excluded: tuple[str, ...]
    layers: tuple[tuple[str, Spec | None], ...]
    types: tuple[tuple[str, Spec | None], ...]
    common: Spec | None
    reorder: bool

    def excludes(self, module: str) -> bool:
        """Return whether `exclude` lists a module."""
        return globs(self.excluded).match(module)

    def of(self, module: str) -> Spec | None:
        """Return the settings of a module that is not excluded; None for dense."""
        exact, names = dict(self.layers), spellings(module)
        for name in names:
            if name in exact:
                return exact[name]
        for pattern, spec in self.layers:
            if any(fnmatch.fnmatchcase(name, pattern) for name in names):
                return spec
        for kind, spec in self.types:
            if kind == "Linear" and not module.endswith("embed_tokens"):
                return spec
        return self.common

    def expects_quantized(self, module: str, is_linear: bool) -> bool:
        """Return whether a module that is stored dense should be quantized."""
        if self.excludes(module) or mentions_module(self.excluded, module):
            return False
        named = any(fnmatch.fnmatchcase(module, pattern) for pattern, _ in self.layers)
        return (named or (is_linear and module.endswith(LINEARS))) and self.of(module) is not None


def parse(keys: Reader) -> QuarkSettings:
    """Parse the settings in config.json. Raises `BadInput`, `NotPossible`."""
    export = keys.part("export")
    if export.text("weight_format", "real_quantized") != "real_quantized":
        raise export.unsupported("weight_format", ("real_quantized",))
    method = export.text("pack_method", "reorder")
    if method not in ("reorder", "order"):
        raise export.refuse("pack_method", "expected reorder or order")
    layers, types = (keys.part(f"{kind}_quant_config") for kind in ("layer", "layer_type"))
    return QuarkSettings(
        keys.label, keys.texts("exclude"),
        tuple((name, _spec(layers.part(name, needed=True))) for name in layers.values),
        tuple((name, _spec(types.part(name, needed=True))) for name in types.values),
        _spec(keys.part("global_quant_config", needed=True)), method == "reorder",
    )  # fmt: skip


def _spec(layer: Reader) -> Spec | None:
    """Return the settings of a layer's weight; None for dense."""
    if layer.values.get("bias"):
        raise NotPossible(f"{layer.label}: quantized biases are not supported. Export the model without `bias`.")
    weight = layer.values.get("weight")
    if weight is None:
        return None
    if not isinstance(weight, list):
        return _single(layer.part("weight", needed=True))
    if len(weight) == 1 and isinstance(weight[0], dict):
        return _single(Reader(weight[0], layer.file, f"{layer.path}.weight[0]"))
    if len(weight) != 2 or not all(isinstance(part, dict) for part in weight):
        raise layer.refuse("weight", "expected an object, or a list of one or two objects")
    return _two_level(*(Reader(part, layer.file, f"{layer.path}.weight[{i}]") for i, part in enumerate(weight)))


def _two_level(codes: Reader, scales: Reader) -> Spec | None:
    """Return the settings of NVFP4: FP4 in groups of 16 with E4M3 scales, which have one scale for the tensor."""
    spec = _single(codes, scaled=True)
    is_nvfp4 = spec is not None and spec.dtype == "fp4" and scales.values.get("is_scale_quant") is True
    if not is_nvfp4 or scales.values.get("dtype") != "fp8_e4m3" or scales.values.get("qscheme") != "per_tensor":
        raise NotPossible(
            f"{codes.label}: these two levels of quantization are not supported. Supported: fp4 with fp8_e4m3 scales "
            "per_tensor."
        )
    assert spec is not None
    return Spec(spec.key, spec.dtype, spec.qscheme, spec.symmetric, spec.group_size, two_level=True)


def _single(keys: Reader, *, scaled: bool = False) -> Spec | None:
    dtype = keys.text("dtype")
    if dtype in UNSTORABLE or keys.values.get("mx_element_dtype") is not None:
        raise NotPossible(f"{keys.label}: dtype {shown(dtype)} is not supported: Quark itself cannot store it.")
    if dtype in DENSE or keys.flag("is_dynamic", False):
        return None
    if dtype not in PACKINGS and dtype not in FLOATS8 and dtype not in SMALL:
        raise keys.unsupported("dtype", (*PACKINGS, *FLOATS8, *SMALL))
    if not scaled and keys.flag("is_scale_quant", False):
        raise NotPossible(
            f"{keys.label}: is_scale_quant true is not supported: scales are quantized only as the second level of fp4."
        )
    formats = ("float", "float32", "e8m0", "bfloat16", "float16", *(("e4m3",) if scaled else ()))
    if keys.values.get("scale_format") not in (None, *formats):
        raise keys.unsupported("scale_format", formats)
    qscheme = keys.text("qscheme")
    if qscheme not in SCHEMES or (dtype in SMALL and qscheme != "per_group"):
        raise keys.refuse("qscheme", f"expected {'per_group' if dtype in SMALL else ', '.join(SCHEMES)} for {dtype}")
    _check_axis(keys, qscheme)
    group = keys.whole("group_size") if qscheme == "per_group" else None
    if group is not None and group <= 0:
        raise keys.refuse("group_size", "expected a number above 0")
    symmetric = keys.values.get("symmetric")
    if symmetric not in (None, True, False):
        raise keys.refuse("symmetric", "expected true or false")
    block = _block(keys) if qscheme == "per_block" else None
    return Spec(keys.path, dtype, qscheme, symmetric is not False, group, block)


def _check_axis(keys: Reader, qscheme: str) -> None:
    """Raise `NotPossible` for scales that are not for rows, or for groups along rows."""
    axes = {"per_channel": (0,), "per_group": (1, -1)}.get(qscheme)
    if axes is not None and keys.values.get("ch_axis") not in (None, *axes):
        raise keys.unsupported("ch_axis", (f"{' and '.join(map(str, axes))} with {qscheme}",))


def _block(keys: Reader) -> tuple[int, int]:
    rows, columns = keys.sizes("block_size", 2)
    return rows, columns
