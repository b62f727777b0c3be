"""Bare 8-bit floats: the numbers themselves, rounded half to even, without a scale.

    weight   f8_e4m3 or f8_e5m2, the weight's shape

    E4M3   s eeee mmm    from 2**-9 to 448         E5M2   s eeeee mm    from 2**-16 to 57344

Values beyond the largest become the largest (they saturate), and are counted.
Source: OCP 8-bit Floating Point Specification (OFP8) 1.0, saturating conversion.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from quantcli.arrays import Array, Device, numpy_dtype, to_float32
from quantcli.schemes.base import Error, Grade, Grid, Importance, Parts, PartSpec, Scheme
from quantcli.schemes.ocp import ELEMENTS, FP8_ROUNDING, LARGEST, holds_nonfinite


@dataclass(frozen=True)
class BareFp8(Scheme):
    """`fp8-e4m3`, `fp8-e5m2`.

    >>> parts, error = BareFp8("e4m3").encode(np.float32([[1, 500, -1000]]))
    >>> BareFp8("e4m3").decode(parts).tolist(), error.saturated
    ([[1.0, 448.0, -448.0]], 2)
    """

    element: str
    family = "bare"
    kept_in = ("hf",)
    in_kernels = False
    is_elementwise = True

    @property
    def is_master(self) -> bool:
        return True

    @property
    def dtype(self) -> str:
        """The dtype of the stored numbers."""
        return f"f8_{self.element}"

    @property
    def name(self) -> str:
        return f"fp8-{self.element}"

    @property
    def can_be_chosen(self) -> bool:
        return True

    @property
    def codes_part(self) -> str:
        return "weight"

    @property
    def values_dtype(self) -> str:
        return "f16"

    @property
    def values_dtypes(self) -> tuple[str, ...]:
        return ("f16", "bf16")

    @property
    def rounding(self) -> float:
        return FP8_ROUNDING[self.element]

    def unfit(self, shape: tuple[int, ...]) -> str | None:
        return None

    def layout(self, shape: tuple[int, ...]) -> dict[str, PartSpec]:
        return {"weight": PartSpec(self.dtype, shape)}

    def decode(self, parts: Parts, device: Device = Device.CPU) -> NDArray[np.float32]:
        return to_float32(parts["weight"])

    def nonfinite(self, part: str, array: Array) -> bool:
        return holds_nonfinite(array.view(np.uint8), ELEMENTS[self.element])

    def fits(self, grid: Grid, shape: tuple[int, ...]) -> Grade | str:
        return f"{self.name} has no scales"

    def encode(
        self,
        values: Array,
        device: Device = Device.CPU,
        importance: Importance | None = None,
        search: str = "ggml",
    ) -> tuple[Parts, Error]:
        given, most = to_float32(values), np.float32(LARGEST[self.element])
        narrow = np.clip(given, -most, most).astype(numpy_dtype(self.dtype))
        error = Error.between(given, to_float32(narrow))
        return {"weight": narrow}, replace(error, saturated=int((np.abs(given) > most).sum()))
