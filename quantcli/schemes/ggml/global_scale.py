"""A GGUF weight and its global scale, a separate tensor, as one weight. Read, not written.

    ...      the parts of the weight without it
    global   f32 (rows, 1)      an entry for each row; stacked experts have one each

value = global * value without it. NVFP4's: E2M1[code] * (E4M3[scale] * global), the product in brackets rounded to
float32, as in modelopt.
Source: llama.cpp (conversion/base.py writes the tensors, llama-graph.cpp multiplies), modelopt (nvfp4_tensor.py).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from quantcli.arrays import Array, Device, to_float32
from quantcli.schemes.base import Codes, Grid, Parts, PartSpec, Scheme, matrix_shape
from quantcli.schemes.dense import Dense
from quantcli.schemes.ggml.floats import GgmlFloat

NVFP4 = GgmlFloat("nvfp4")


@dataclass(frozen=True)
class WithGlobal(Scheme):
    """A scheme with a global scale. inner: the scheme without it.

    >>> blocks, _ = NVFP4.encode(np.array([[12, 6, *[0] * 62]], np.float32))
    >>> WithGlobal(NVFP4).decode({**blocks, "global": np.float32([[0.5]])})[0, :3].tolist()
    [6.0, 3.0, 0.0]
    """

    inner: Scheme
    family = "ggml"
    kept_in = ("gguf",)

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def rounding(self) -> float:
        return self.inner.rounding

    def unfit(self, shape: tuple[int, ...]) -> str | None:
        return self.inner.unfit(shape)

    def layout(self, shape: tuple[int, ...]) -> dict[str, PartSpec]:
        return self.inner.layout(shape) | {"global": PartSpec("f32", (matrix_shape(shape)[0], 1))}

    def decode(self, parts: Parts, device: Device = Device.CPU) -> NDArray[np.float32]:
        if self.grid() is not None:
            return self.codes(parts).values()
        values = to_float32(parts["weight"]) if isinstance(self.inner, Dense) else self.inner.decode(parts)
        with np.errstate(over="ignore", invalid="ignore"):
            product: NDArray[np.float32] = values * _column(parts)
        return product

    def nonfinite(self, part: str, array: Array) -> bool:
        return super().nonfinite(part, array) if part == "global" else self.inner.nonfinite(part, array)

    def unit(self, part: str) -> int:
        return 1 if part == "global" else self.inner.unit(part)

    def grid(self) -> Grid | None:
        """Return NVFP4's grid. Other types have none here: the product with the global scale rounds their scales."""
        return replace(NVFP4.grid(), scale_dtype="f32") if self.inner == NVFP4 else None

    @property
    def repacked_scale_dtype(self) -> str | None:
        return None if self.grid() is None else self.inner.repacked_scale_dtype

    def codes(self, parts: Parts) -> Codes:
        inner, grid = NVFP4.codes(parts), self.grid()
        assert grid is not None
        with np.errstate(over="ignore", invalid="ignore"):
            return Codes(grid, inner.codes, inner.scales * _column(parts), None)


def _column(parts: Parts) -> NDArray[np.float32]:
    return np.asarray(parts["global"], np.float32).reshape(-1, 1)
