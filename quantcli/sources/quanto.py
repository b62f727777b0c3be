"""optimum-quanto's checkpoints: `X.weight._data` with `X.weight._scale`, of 4 and 2 bits `X.weight._shift` too.

`quanto_qmap.json` says each module's type of weights and of activations; config.json says nothing. A folder (or one of
its files) without the map is known by its tensors' names, and each type by what is stored.

    qint8, qfloat8_*    _data         I8, F8_E4M3 or F8_E5M2 (rows, columns)     _scale (rows, 1)
    qint4, qint2        _data._data   U8, see schemes/hf/quanto.py                  _scale, _shift (groups, 1)

`X.input_scale` and `X.output_scale` are of activations and copied along.
Source: optimum-quanto 0.2.7 (nn/qmodule.py, tensor/qbytes.py, tensor/qbits.py, models/transformers_models.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from quantcli.arrays import FLOATS
from quantcli.checkpoint import Checkpoint, Part, Weight
from quantcli.containers.hostile import shown
from quantcli.containers.json_text import Reader
from quantcli.errors import BadInput, NotPossible
from quantcli.schemes.hf.bytewise import Bytewise
from quantcli.schemes.hf.quanto import Quanto
from quantcli.schemes.hf.scaled import Scaled, Scales
from quantcli.sources.folder import Folder, Tensors, read_json
from quantcli.sources.modules import beside, checkpoint, extras_of, held, where
from quantcli.sources.row_lengths import RowLengths
from quantcli.sources.sidecars import QMAP

#: The ends of the names of codes: of a byte each, packed.
DATA, PACKED = ".weight._data", ".weight._data._data"
SUFFIXES = {
    "scales": ".weight._scale", "shift": ".weight._shift", "input_scale": ".input_scale",
    "output_scale": ".output_scale",
}  # fmt: skip
ALONG = ("input_scale", "output_scale")
#: Types of weights -> the dtype of their codes, and bits.
TYPES = {
    "qint8": ("i8", 8), "qfloat8": ("f8_e4m3", 8), "qfloat8_e4m3fn": ("f8_e4m3", 8), "qfloat8_e5m2": ("f8_e5m2", 8),
    "qint4": ("u8", 4), "qint2": ("u8", 2),
}  # fmt: skip


def open_quanto(folder: Folder, config: Mapping[str, Any], tensors: Tensors) -> Checkpoint:
    """The checkpoint of an optimum-quanto folder. Raises `BadInput`, `NotPossible`."""
    parts = tensors.parts
    listed = _types(folder) if QMAP in folder.names() else None
    stored = {_module(name): name for name in sorted(parts) if name.endswith((DATA, PACKED))}
    label = f"{folder.label}/{QMAP}"
    odd = next((module for module in stored if listed is not None and module not in listed), None)
    if odd is not None:
        raise BadInput(f"{where(parts[stored[odd]])}: is quantized, but {label} does not say so of {odd}.")
    if not stored:
        said = f"{label}: is there" if listed is not None else f"{folder.label}/config.json: says quant_method quanto"
        raise BadInput(f"{said}, but no tensor is called *{DATA}.")
    lengths = RowLengths(config, parts)
    weights = [_weight(module, name, parts, listed, lengths) for module, name in stored.items()]
    dense = [module for module in listed or () if module not in stored and f"{module}.weight" in parts]
    return checkpoint("quanto", folder, config, tensors, weights, _unfrozen(dense, label))


def _unfrozen(modules: Sequence[str], label: str) -> list[str]:
    """A warning of modules that the map calls quantized and that are stored dense; none without any."""
    if not modules:
        return []
    several = f"{modules[0]} is" if len(modules) == 1 else f"{len(modules)} modules, {modules[0]} the first, are"
    return [f"{label}: {several} called quantized, but stored dense: read as stored."]


def _module(name: str) -> str:
    return name.removesuffix("._data").removesuffix("._data").removesuffix(".weight")


def _types(folder: Folder) -> dict[str, str]:
    """The type of each module's weights, of those that are quantized."""
    keys = Reader(read_json(folder, QMAP), f"{folder.label}/{QMAP}")
    found = {module: keys.part(module, needed=True).text("weights") for module in keys.values}
    for module, name in found.items():
        if name not in ("none", *TYPES):
            raise NotPossible(
                f"{keys.label}: {shown(module)} has weights of the type {shown(name)}, which is not read; "
                f"{', '.join(TYPES)} are. Dequantize the model with optimum-quanto first."
            )
    return {module: name for module, name in found.items() if name != "none"}


def _weight(
    module: str, name: str, parts: Mapping[str, Part], listed: Mapping[str, str] | None, lengths: RowLengths
) -> Weight:
    """One module's weight."""
    suffixes = {"weight": name.removeprefix(module), **SUFFIXES}
    stored = beside(module, suffixes, parts)
    weight, scales = stored["weight"], stored.get("scales")
    if len(weight.shape) != 2:
        raise NotPossible(
            f"{where(weight)}: has {len(weight.shape)} dimensions; of optimum-quanto's weights matrices are read."
        )
    if scales is None or scales.dtype not in FLOATS or len(scales.shape) != 2:
        raise BadInput(f"{where(weight)}: has no {module}{SUFFIXES['scales']} of floats, (rows, 1), beside it.")
    said = None if listed is None else listed[module]
    if said is not None and (weight.dtype, name.endswith(PACKED)) != (TYPES[said][0], TYPES[said][1] < 8):
        raise BadInput(f"{where(weight)}: is {weight.dtype}, but {QMAP} says {said} of {module}.")
    reason = f"{QMAP}: {said}" if said is not None else "by the names of its tensors"
    if name.endswith(PACKED):
        scheme, shape = _packed(module, stored, said, lengths)
    else:
        scheme, shape = _bytes(stored), weight.shape
    return held(f"{module}.weight", shape, scheme, stored, reason, suffixes)


def _bytes(stored: Mapping[str, Part]) -> Scaled:
    weight, scales = stored["weight"], stored["scales"]
    if weight.dtype not in {dtype for dtype, bits in TYPES.values() if bits == 8}:
        raise BadInput(f"{where(weight)}: is {weight.dtype}, optimum-quanto's codes are i8, f8_e4m3 or f8_e5m2.")
    return Bytewise(
        family="quanto", columns=weight.shape[1], scales=Scales(scales.dtype, 1), stored=weight.dtype,
        compute=scales.dtype, extras=extras_of(stored, ALONG),
    )  # fmt: skip


def _packed(
    module: str, stored: Mapping[str, Part], said: str | None, lengths: RowLengths
) -> tuple[Scaled, tuple[int, ...]]:
    """Codes of 4 or 2 bits, and the weight's shape, which is stored nowhere: the architecture's table says it."""
    weight, scales, shift = stored["weight"], stored["scales"], stored.get("shift")
    if weight.dtype != "u8":
        raise BadInput(f"{where(weight)}: is {weight.dtype}, optimum-quanto's packed codes are u8.")
    if shift is None:
        raise BadInput(f"{where(weight)}: has no {module}{SUFFIXES['shift']} beside it, which packed codes need.")
    if shift.dtype != scales.dtype:
        raise NotPossible(f"{where(shift)}: is {shift.dtype}, not {scales.dtype} as the scales are, which is not read.")
    (entries, group), groups = weight.shape, scales.shape[0]
    columns = lengths.of(f"{module}.weight")
    if columns is None:
        raise NotPossible(
            f"{where(weight)}: {said or 'codes of less than 8 bits'} of optimum-quanto, whose rows are as long as the "
            "architecture says, which is not one of those that quant knows. Dequantize the model with optimum-quanto "
            "first."
        )
    if not group or not groups or columns % group or groups * group % columns:
        raise BadInput(
            f"{where(weight)}: has shape {list(weight.shape)} with {groups} scales; rows of {columns} are no whole "
            "groups of it."
        )
    bits = TYPES[said][1] if said is not None else 4 if entries == -(-groups // 2) else 2
    shared = Scales(scales.dtype, 1, None if group == columns else group)
    scheme = Quanto(
        columns=columns, scales=shared, bits=bits, compute=scales.dtype, extras=extras_of(stored, ALONG)
    )  # fmt: skip
    return scheme, (groups * group // columns, columns)
