"""optimum-quanto's checkpoints: `X.weight._data` with `X.weight._scale`, for 4 and 2 bits also `X.weight._shift`.

`quanto_qmap.json` gives the types of each module's weights and activations; config.json has no settings. A folder (or
one of its files) without the map is recognised by its tensors' names; their dtypes and shapes show the types.

    qint8, qfloat8_*    _data         I8, F8_E4M3 or F8_E5M2 (rows, columns)     _scale (rows, 1)
    qint4, qint2        _data._data   U8, see schemes/hf/quanto.py                  _scale, _shift (groups, 1)

`X.input_scale` and `X.output_scale` concern activations; they are copied without being interpreted.
Source: optimum-quanto 0.2.7 (nn/qmodule.py, tensor/qbytes.py, tensor/qbits.py, models/transformers_models.py).
"""

from __future__ import annotations

from collections.abc import Mapping
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
from quantcli.sources.modules import checked_weight, checkpoint, extras_of, parts_of
from quantcli.sources.row_lengths import RowLengths
from quantcli.sources.sidecars import QMAP
from quantcli.sources.wording import either, listed_as_dense, mismatch, missing, no_codes, stored_otherwise, where

#: The endings of names of codes: one in each byte, packed.
DATA, PACKED = ".weight._data", ".weight._data._data"
SUFFIXES = {
    "scales": ".weight._scale", "shift": ".weight._shift", "input_scale": ".input_scale",
    "output_scale": ".output_scale",
}  # fmt: skip
COPIED = ("input_scale", "output_scale")
#: Types of weights -> the dtype of their codes, their bits.
TYPES = {
    "qint8": ("i8", 8), "qfloat8": ("f8_e4m3", 8), "qfloat8_e4m3fn": ("f8_e4m3", 8), "qfloat8_e5m2": ("f8_e5m2", 8),
    "qint4": ("u8", 4), "qint2": ("u8", 2),
}  # fmt: skip


def open_quanto(folder: Folder, config: Mapping[str, Any], tensors: Tensors) -> Checkpoint:
    """Open an optimum-quanto folder. Raises `BadInput`, `NotPossible`."""
    parts = tensors.parts
    listed = _types(folder) if QMAP in folder.names() else None
    stored = {_module(name): name for name in sorted(parts) if name.endswith((DATA, PACKED))}
    label = f"{folder.label}/{QMAP}"
    odd = next((module for module in stored if listed is not None and module not in listed), None)
    if odd is not None:
        raise listed_as_dense(parts[stored[odd]], odd, label)
    if not stored:
        raise no_codes(label if listed is not None else f"{folder.label}/config.json", "quanto", f"*{DATA}")
    lengths = RowLengths(config, parts)
    weights = [_weight(module, name, parts, listed, lengths) for module, name in stored.items()]
    dense = [module for module in listed or () if module not in stored and f"{module}.weight" in parts]
    further = [stored_otherwise(label, "module", dense, "dense")] if dense else []
    return checkpoint("quanto", folder, config, tensors, weights, further)


def _module(name: str) -> str:
    return name.removesuffix("._data").removesuffix("._data").removesuffix(".weight")


def _types(folder: Folder) -> dict[str, str]:
    """Return module -> the type of its weights, for quantized modules."""
    keys = Reader(read_json(folder, QMAP), f"{folder.label}/{QMAP}")
    types = {module: keys.part(module, needed=True).text("weights") for module in keys.values}
    for module, name in types.items():
        if name not in ("none", *TYPES):
            raise NotPossible(
                f"{keys.label}: {shown(module)}: weights {shown(name)} is not supported. Supported: "
                f"{', '.join(TYPES)}. "
                "Dequantize the model with optimum-quanto first."
            )
    return {module: name for module, name in types.items() if name != "none"}


def _weight(
    module: str, name: str, parts: Mapping[str, Part], listed: Mapping[str, str] | None, lengths: RowLengths
) -> Weight:
    """Return one module's weight."""
    suffixes = {"weight": name.removeprefix(module), **SUFFIXES}
    stored = parts_of(module, suffixes, parts)
    weight, scales = stored["weight"], stored.get("scales")
    if len(weight.shape) != 2:
        raise NotPossible(f"{where(weight)}: shape {list(weight.shape)} is not supported. Supported: a matrix.")
    if scales is None:
        raise missing(weight, f"{module}{SUFFIXES['scales']}", "optimum-quanto")
    if scales.dtype not in FLOATS or len(scales.shape) != 2:
        raise mismatch(scales, f"a matrix of {either(FLOATS)}")
    stated = None if listed is None else listed[module]
    if stated is not None and (weight.dtype, name.endswith(PACKED)) != (TYPES[stated][0], TYPES[stated][1] < 8):
        raise BadInput(f"{where(weight)}: is {weight.dtype}, but {QMAP} says that {module} is {stated}.")
    reason = f"{QMAP}: {stated}" if stated is not None else "according to the names of its tensors"
    if name.endswith(PACKED):
        scheme, shape = _packed(module, stored, stated, lengths)
    else:
        scheme, shape = _bytes(stored), weight.shape
    return checked_weight(f"{module}.weight", shape, scheme, stored, reason, suffixes)


def _bytes(stored: Mapping[str, Part]) -> Scaled:
    weight, scales = stored["weight"], stored["scales"]
    dtypes = dict.fromkeys(dtype for dtype, bits in TYPES.values() if bits == 8)
    if weight.dtype not in dtypes:
        raise mismatch(weight, either(dtypes))
    return Bytewise(
        family="quanto", columns=weight.shape[1], scales=Scales(scales.dtype, 1), stored=weight.dtype,
        compute=scales.dtype, extras=extras_of(stored, COPIED),
    )  # fmt: skip


def _packed(
    module: str, stored: Mapping[str, Part], stated: str | None, lengths: RowLengths
) -> tuple[Scaled, tuple[int, ...]]:
    """Return the scheme and the shape of 4-bit or 2-bit codes. The shape is not stored; the architecture gives it.

    stated: the type in the map, None without one. Raises `BadInput`, `NotPossible`.
    """
    weight, scales, shift = stored["weight"], stored["scales"], stored.get("shift")
    if weight.dtype != "u8":
        raise mismatch(weight, "u8", "packed codes")
    if shift is None:
        raise missing(weight, f"{module}{SUFFIXES['shift']}", "the layout of packed codes")
    if shift.dtype != scales.dtype:
        raise NotPossible(
            f"{where(shift)}: {shift.dtype} is not supported with {scales.dtype} scales. Supported: {scales.dtype}."
        )
    (entries, group), groups = weight.shape, scales.shape[0]
    columns = lengths.of(f"{module}.weight")
    if columns is None:
        raise NotPossible(
            f"{where(weight)}: {stated or 'codes of fewer than 8 bits'} cannot be read: only the architecture gives "
            "the "
            "length of rows, and quant does not know this one. Dequantize the model with optimum-quanto first."
        )
    if not group or not groups or columns % group or groups * group % columns:
        raise BadInput(
            f"{where(weight)}: has shape {list(weight.shape)} and {groups} scales, which do not fit rows of {columns} "
            "values."
        )
    bits = TYPES[stated][1] if stated is not None else 4 if entries == -(-groups // 2) else 2
    shared = Scales(scales.dtype, 1, None if group == columns else group)
    scheme = Quanto(
        columns=columns, scales=shared, bits=bits, compute=scales.dtype, extras=extras_of(stored, COPIED)
    )  # fmt: skip
    return scheme, (groups * group // columns, columns)
