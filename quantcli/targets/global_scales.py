"""NVFP4's global scale in GGUF: a tensor of its own beside the blocks, which hold the scales of groups alone.

    X.weight        nvfp4 (.., rows, columns)
    X.scale         f32 (1,), of stacked experts (experts,)     multiplies all scales of the weight, of an expert
    X.input_scale   f32, as many                                of the inputs, for arithmetic in four bits

    general.tensor_extra.name, .prec_a4             metadata: of which tensors inputs may be rounded to four bits

llama.cpp multiplies a product with X.weight by X.scale. modelopt stores this number (`.weight_scale_2`) and that of the
inputs; compressed-tensors stores what divides. Source: llama.cpp (conversion/base.py, llama-model.cpp).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from quantcli.arrays import to_float32
from quantcli.checkpoint import Checkpoint, Weight
from quantcli.containers.hostile import shown
from quantcli.errors import BadInput, NotPossible
from quantcli.models.translate import Arranged
from quantcli.schemes.base import Grade, matrix_shape
from quantcli.schemes.dense import Dense
from quantcli.schemes.ggml_floats import GgmlFloat
from quantcli.schemes.mx_floats import E4M3
from quantcli.schemes.mx_global import INNER, MxGlobal, factors_of
from quantcli.schemes.nvfp4_global import Nvfp4Global
from quantcli.schemes.small_floats import SmallFloat
from quantcli.targets.base import Left, Placed
from quantcli.targets.gguf_general import Typed
from quantcli.virtual import Spread

Floats = NDArray[np.float32]

WEIGHT, SCALE, INPUT_SCALE = ".weight", ".scale", ".input_scale"

#: Parts of a source's weight that scale its inputs -> whether their reciprocal does.
INPUT_PARTS = {"input_scale": False, "input_global_scale": True}


def apart(source: Arranged) -> tuple[Weight, Floats, Grade] | None:
    """A two-level NVFP4 weight as the weight without its global scales, and these: (1,), or (experts,) where stacked.

    The grade: a number that divided and now, as its reciprocal, multiplies changes the last bits of some products.
    None for any other weight, and where rows of one matrix have different ones.
    """
    weight, scheme = source.weight, source.weight.scheme
    if isinstance(scheme, MxGlobal):
        factors = factors_of(weight.parts["global_scale"].read().reshape(-1).astype(np.float32))
        parts = {name: weight.parts[name] for name in INNER.layout(weight.shape)}
        return replace(weight, scheme=INNER, parts=parts), factors, Grade.EXACT
    if not isinstance(scheme, SmallFloat) or scheme.divides is None:
        return None
    scales = to_float32(weight.parts["global"].read()).reshape(-1)
    if scheme.each_row and source.rows is not None:
        scales = scales[source.rows]
    scales = scales.reshape(source.matrices, -1) if scheme.each_row else scales.reshape(1, 1).repeat(source.matrices, 0)
    if (scales != scales[:, :1]).any():
        return None
    stored, factors, known = scales[:, 0], scales[:, 0], np.array(E4M3[:127], np.float32)[:, None]
    grade = Grade.EXACT
    if scheme.divides:
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            factors = np.float32(1) / stored
            grade = Grade.EXACT if np.array_equal(known / stored, known * factors) else Grade.CODES_EXACT
    inner = scheme.without_global()
    parts = {name: weight.parts[name] for name in inner.layout(weight.shape)}
    return replace(weight, scheme=inner, parts=parts), factors, grade


def input_scales(weights: Sequence[Weight]) -> Floats | None:
    """The scales of inputs that are stored with a weight, or with each of some experts; None where one has none."""
    found = []
    for weight in weights:
        part = next((part for part in INPUT_PARTS if part in weight.parts), None)
        if part is None or (stored := to_float32(weight.parts[part].read()).reshape(-1)).size != 1:
            return None
        found.append(np.float32(1) / stored[0] if INPUT_PARTS[part] else stored[0])
    return np.array(found, np.float32)


def precisions(source: Checkpoint, placed: Sequence[Placed]) -> Typed:
    """The keys that say for which tensors inputs are not to be rounded to four bits: modelopt's W4A16_NVFP4."""
    settings = source.config.get("quantization_config")
    if not isinstance(settings, Mapping) or settings.get("quant_algo") != "W4A16_NVFP4":
        return {}
    names = sorted(weight.name for weight in placed if weight.scheme == GgmlFloat("nvfp4"))
    extra = "general.tensor_extra."
    if not names:
        return {}
    return {f"{extra}name": ("array[string]", names), f"{extra}prec_a4": ("array[bool]", [False] * len(names))}


def combined(source: Checkpoint) -> tuple[Mapping[str, Weight], list[Left]]:
    """A source's weights, those of a GGUF file each with the global scale that stands beside it; what is left out.

    Raises `BadInput`, `NotPossible`.
    """
    weights, left = dict(source.weights), list[Left]()
    if source.names != "gguf":
        return weights, left
    for name in source.weights:
        module, end = name.rpartition(".")[0], f".{name.rpartition('.')[2]}"
        weight = source.weights.get(module + WEIGHT)
        if weight is None or end not in (SCALE, INPUT_SCALE):
            continue
        del weights[name]
        if end == INPUT_SCALE:
            left.append(Left(name, "it scales inputs for arithmetic in four bits, weights do without"))
        else:
            weights[weight.name] = _with_global(weight, source.weights[name], str(source.root))
    return weights, left


def _with_global(weight: Weight, scale: Weight, label: str) -> Weight:
    """An NVFP4 weight with its global scales."""
    rows, matrices = matrix_shape(weight.shape)[0], math.prod(weight.shape[:-2])
    if weight.scheme != GgmlFloat("nvfp4"):
        raise NotPossible(
            f"{label}: {shown(scale.name)} multiplies {shown(weight.name)}, which is {weight.scheme.name}; only nvfp4 "
            "is read so: convert the original model."
        )
    if scale.scheme != Dense("f32") or scale.shape != (matrices,):
        raise BadInput(
            f"{label}: tensor {shown(scale.name)} is {scale.scheme.name} {list(scale.shape)}; beside "
            f"{shown(weight.name)} it has to be f32 [{matrices}]."
        )
    parts = {**weight.parts, "global": Spread(scale.parts["weight"], rows // matrices, (rows, 1))}
    return replace(weight, scheme=Nvfp4Global(), parts=parts)
