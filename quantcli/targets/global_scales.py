"""NVFP4's global scale in GGUF: a separate tensor next to the blocks, which hold only the scales of groups.

    X.weight        nvfp4 (.., rows, columns)
    X.scale         f32 (1,), of stacked experts (experts,)     multiplies all scales of the weight, of an expert
    X.input_scale   f32, as many                                of the inputs, for arithmetic in four bits

    general.tensor_extra.name, .prec_a4             metadata: of which tensors inputs may be rounded to four bits

llama.cpp multiplies a product with X.weight, whatever its type, by X.scale. modelopt stores this number
(`.weight_scale_2`) and that of the inputs; compressed-tensors stores what divides. Source: llama.cpp
(conversion/base.py, llama-model.cpp).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from quantcli.arrays import to_float32
from quantcli.checkpoint import Checkpoint, Weight
from quantcli.containers.hostile import shown
from quantcli.errors import BadInput
from quantcli.models.translate import Arranged
from quantcli.schemes.base import Grade, matrix_shape
from quantcli.schemes.dense import Dense
from quantcli.schemes.ggml.global_scale import WithGlobal
from quantcli.schemes.ocp import E4M3
from quantcli.sources.stated import in_config
from quantcli.targets.base import Constant, Form, Layout, Left, Placed
from quantcli.targets.gguf_general import Typed
from quantcli.virtual import Spread, by_row

Floats = NDArray[np.float32]

WEIGHT, SCALE, INPUT_SCALE = ".weight", ".scale", ".input_scale"

#: Parts of a source's weight that scale its inputs -> whether their reciprocal does.
INPUT_PARTS = {"input_scale": False, "input_global_scale": True}


@dataclass(frozen=True)
class SeparateScales(Layout):
    """GGUF layout of a weight with global scales whose codes are kept: blocks without them, and tensors of scales.

    blocks, grade: as `apart` gives them. scales: the names of the tensors.
    """

    blocks: Weight
    grade: Grade
    scales: tuple[str, ...]

    def forms(self, source: Arranged) -> tuple[Form, ...]:
        return Form(replace(source, weight=self.blocks), self.grade, self.scales), Form(source)


def constants(name: str, end: str, scales: Floats | None) -> list[Constant]:
    """Return the tensor of a weight's scales; nothing if it has none, or all are 1."""
    if scales is None or (scales == 1).all():
        return []
    return [Constant(name.removesuffix(WEIGHT) + end, scales)]


def apart(source: Arranged) -> tuple[Weight, Floats, Grade] | None:
    """Split a two-level NVFP4 weight into one without global scales, and these: (1,), or (experts,) if stacked.

    The grade: a number that divided and now, as its reciprocal, multiplies changes the last bits of some products.
    None for any other weight, and where rows of one matrix have different ones. Raises `BadInput`.
    """
    weight = by_row(source.weight) if source.matrices > 1 else source.weight
    found = weight.scheme.global_scale
    if found is None:
        return None
    scales = _stored(weight, found.part, divides=found.divides) / np.float32(found.unit)
    if found.each_row and source.rows is not None:
        scales = scales[source.rows]
    scales = (scales.repeat(source.matrices) if scales.size == 1 else scales).reshape(source.matrices, -1)
    if (scales != scales[:, :1]).any():
        return None
    own = scales[:, 0]
    parts = {name: weight.parts[name] for name in found.without.layout(weight.shape)}
    bare = replace(weight, scheme=found.without, parts=parts)
    if not found.divides:
        return bare, own, Grade.EXACT
    factors, known = np.float32(1) / own, np.array(E4M3[:127], np.float32)[:, None]
    is_exact = np.array_equal(known / own, known * factors)
    return bare, factors, Grade.EXACT if is_exact else Grade.CODES_EXACT


def _stored(weight: Weight, part: str, *, divides: bool = False) -> Floats:
    """Read the scales of a part. Raises `BadInput` if one, or with `divides` its reciprocal, is not finite."""
    stored = weight.parts[part]
    scales = to_float32(stored.read()).reshape(-1)
    with np.errstate(divide="ignore", over="ignore"):
        wrong = ~np.isfinite(np.float32(1) / scales if divides else scales) | ~np.isfinite(scales)
    if wrong.any():
        kind = "divisor" if divides else "factor"
        raise BadInput(
            f"{stored.file}: tensor {stored.name}: a {kind} cannot be {scales[wrong][0]:g}. Download the file again."
        )
    return scales


def input_scales(weights: Sequence[Weight], count: int) -> Floats | None:
    """Return the input scales stored with a weight or its experts; 1 for experts without, if others have one.

    count: the matrices that the weights make: one each, or a stack of them one. None where none has any. Raises
    `BadInput`.
    """
    found = []
    for weight in weights:
        part = next((part for part in INPUT_PARTS if part in weight.parts), None)
        if part is None:
            continue
        scales = _stored(weight, part, divides=INPUT_PARTS[part])
        if len(weights) == 1 and scales.size in (1, count):
            return np.broadcast_to(np.float32(1) / scales if INPUT_PARTS[part] else scales, (count,))
        if scales.size != 1:
            return None
        found.append((weight.name, np.float32(1) / scales[0] if INPUT_PARTS[part] else scales[0]))
    by_name = dict(found)
    return np.array([by_name.get(w.name, 1.0) for w in weights], np.float32) if found else None


def precisions(source: Checkpoint, placed: Sequence[Placed]) -> Typed:
    """Return the keys that list tensors whose inputs are not rounded to 4 bits (modelopt's W4A16_NVFP4)."""
    # In an MLX folder these are the settings of the model that it was made from.
    said = in_config(source.config) if source.kind != "mlx" else None
    if said is None or said.block.get("quant_algo") != "W4A16_NVFP4":
        return {}
    names = sorted(weight.name for weight in placed if weight.scheme.rounds_inputs)
    extra = "general.tensor_extra."
    if not names:
        return {}
    return {f"{extra}name": ("array[string]", names), f"{extra}prec_a4": ("array[bool]", [False] * len(names))}


def combined(source: Checkpoint, *, strict: bool = True) -> tuple[Mapping[str, Weight], list[Left]]:
    """Return a source's weights, those of a GGUF file joined with their global scales, and what is left out.

    A tensor of that name that can be no global scale of the weight raises `BadInput`, unless `strict` is False: then it
    is a tensor of its own.
    """
    weights, left = dict(source.weights), list[Left]()
    if source.names != "gguf":
        return weights, left
    for name, tensor in source.weights.items():
        module, end = name.rpartition(".")[0], f".{name.rpartition('.')[2]}"
        weight = source.weights.get(module + WEIGHT)
        if weight is None or end not in (SCALE, INPUT_SCALE):
            continue
        if end == INPUT_SCALE:
            del weights[name]
            left.append(Left(name, "it scales inputs for 4-bit arithmetic, which the weights do not need"))
        elif (made := _with_global(weight, tensor)) is not None:
            del weights[name]
            weights[weight.name] = made
        elif strict:
            raise BadInput(
                f"{source.root}: tensor {shown(name)}: expected f32 [{_matrices(weight)}] (global scales of "
                f"{shown(weight.name)}), found {tensor.scheme.name} {list(tensor.shape)}."
            )
    return weights, left


def companions(source: Checkpoint) -> dict[str, str]:
    """Return tensors of a GGUF file that scale a weight or its inputs -> that weight's name."""
    if source.names != "gguf":
        return {}
    ends = ((name, end) for name in source.weights for end in (SCALE, INPUT_SCALE) if name.endswith(end))
    found = ((name, name.removesuffix(end) + WEIGHT) for name, end in ends)
    return {name: weight for name, weight in found if weight in source.weights}


def _with_global(weight: Weight, scale: Weight) -> Weight | None:
    """A weight with its global scales; None where these are none."""
    rows, matrices = matrix_shape(weight.shape)[0], _matrices(weight)
    if scale.scheme != Dense("f32") or scale.shape != (matrices,) or weight.scheme.undecoded is not None:
        return None
    parts = {**weight.parts, "global": Spread(scale.parts["weight"], rows // matrices, (rows, 1))}
    return replace(weight, scheme=WithGlobal(weight.scheme), parts=parts)


def _matrices(weight: Weight) -> int:
    return math.prod(weight.shape[:-2])
