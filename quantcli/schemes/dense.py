"""Dense tensors: `f32 f16 bf16` as schemes; every other dtype of safetensors can be listed and copied.

A dense weight has one part, `weight`: the values themselves. Rounding to a narrower dtype is half to even, once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quantcli.arrays import FLOATS, Array, Device, nonfinite, numpy_dtype, to_float32
from quantcli.dtypes import DENSE_DTYPES
from quantcli.schemes.base import Error, Grade, Grid, Importance, Overflows, Parts, PartSpec, Scheme

#: Relative RMSE of rounding a Gaussian to the dtype: half a unit in the last place, spread evenly over a binade.
ROUNDING = {"f64": 0.0, "f32": 0.0, "f16": 2.1e-4, "bf16": 1.7e-3}

#: Significant bits and the largest finite value's exponent.
_PRECISION = {"f64": (53, 1023), "f32": (24, 127), "f16": (11, 15), "bf16": (8, 127)}


def holds(dtype: str, other: str) -> bool:
    """Whether every value of float dtype `other` is one of `dtype`."""
    (bits, exponent), (other_bits, other_exponent) = _PRECISION[dtype], _PRECISION[other]
    return bits >= other_bits and exponent >= other_exponent


def cast(values: Array, dtype: str) -> Array:
    """Return `values` in another float dtype, rounded half to even. Raises `DoesNotFit` if a finite value overflows."""
    target = numpy_dtype(dtype)
    if values.dtype == target:
        return values
    wide = values if dtype == "f64" or values.dtype.name == "float64" else to_float32(values)
    with np.errstate(over="ignore"):
        narrow = wide.astype(target)
    if nonfinite(narrow):
        lost = np.isfinite(wide) & ~np.isfinite(narrow.astype(wide.dtype))
        if lost.any():
            raise Overflows(
                f"a value of {np.abs(wide[lost]).max():g} exceeds the largest value of {dtype}, {_largest(dtype):g}"
            )
    return narrow


def _largest(dtype: str) -> float:
    bits, exponent = _PRECISION[dtype]
    return (2 - 2.0 ** (1 - bits)) * 2.0**exponent


@dataclass(frozen=True)
class Dense(Scheme):
    """Values as they are, in `dtype`.

    >>> parts, error = Dense("bf16").encode(np.array([[1.0, 1.00390625]], np.float32))
    >>> parts["weight"].view(np.uint16).tolist(), error.largest
    ([[16256, 16256]], 0.00390625)
    """

    dtype: str
    family = "dense"
    is_elementwise = True

    @property
    def name(self) -> str:
        return self.dtype

    @property
    def values_dtype(self) -> str:
        return self.dtype

    @property
    def rounding(self) -> float:
        return ROUNDING.get(self.dtype, 0.0)

    def unfit(self, shape: tuple[int, ...]) -> str | None:
        return None

    def layout(self, shape: tuple[int, ...]) -> dict[str, PartSpec]:
        return {"weight": PartSpec(self.dtype, shape)}

    def tensor_name(self, weight: str, part: str) -> str:
        return weight

    def decode(self, parts: Parts, device: Device = Device.CPU) -> NDArray[np.float32]:
        return to_float32(parts["weight"])

    def fits(self, grid: Grid, shape: tuple[int, ...]) -> Grade | str:
        return "a dense dtype has no codes"

    def encode(
        self,
        values: Array,
        device: Device = Device.CPU,
        importance: Importance | None = None,
        search: str = "ggml",
    ) -> tuple[Parts, Error]:
        weight = cast(values, self.dtype)
        if weight is values:
            return {"weight": weight}, Error()
        with np.errstate(invalid="ignore"):
            return {"weight": weight}, Error.between(to_float32(values), to_float32(weight))


#: The dense schemes of every target.
LISTED = tuple(Dense(dtype) for dtype in DENSE_DTYPES)


def is_float(scheme: Scheme) -> bool:
    """Whether a scheme is dense, in a dtype that `quant` computes with."""
    return isinstance(scheme, Dense) and scheme.dtype in FLOATS
