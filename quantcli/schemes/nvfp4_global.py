"""GGML's `nvfp4` with global scales: what a GGUF file holds in two tensors, as one weight. Read, not written.

    blocks   u8 (.., rows, bytes per row)   as in ggml_floats.py
    global   f32 (rows, 1)                  an entry for each row; stacked experts have one each

value = E2M1[code] * (E4M3[scale] * global), the inner product rounded to float32, as modelopt means them.
Source: llama.cpp (conversion/base.py writes the two tensors), modelopt (qtensor/nvfp4_tensor.py).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from quantcli.arrays import Array, Device
from quantcli.schemes.base import Codes, Error, Grade, Grid, Importance, Parts, PartSpec, Scheme, matrix_shape
from quantcli.schemes.ggml_floats import GgmlFloat
from quantcli.schemes.small_floats import NVFP4_ROUNDING

BLOCKS = GgmlFloat("nvfp4")


@dataclass(frozen=True)
class Nvfp4Global(Scheme):
    """Blocks of `nvfp4` times global scales.

    >>> blocks, _ = BLOCKS.encode(np.array([[12, 6, *[0] * 62]], np.float32))
    >>> Nvfp4Global().decode({**blocks, "global": np.float32([[0.5]])})[0, :3].tolist()
    [6.0, 3.0, 0.0]
    """

    family = "ggml"

    @property
    def name(self) -> str:
        return BLOCKS.name

    @property
    def rounding(self) -> float:
        return NVFP4_ROUNDING

    def unfit(self, shape: tuple[int, ...]) -> str | None:
        return BLOCKS.unfit(shape)

    def layout(self, shape: tuple[int, ...]) -> dict[str, PartSpec]:
        return BLOCKS.layout(shape) | {"global": PartSpec("f32", (matrix_shape(shape)[0], 1))}

    def decode(self, parts: Parts, device: Device = Device.CPU) -> NDArray[np.float32]:
        return self.codes(parts).values()

    def grid(self) -> Grid:
        return replace(BLOCKS.grid(), scale_dtype="f32")

    def codes(self, parts: Parts) -> Codes:
        inner = BLOCKS.codes(parts)
        with np.errstate(over="ignore"):
            scales = inner.scales * np.asarray(parts["global"], np.float32).reshape(-1, 1)
        return Codes(self.grid(), inner.codes, scales, None)

    def fits(self, grid: Grid, shape: tuple[int, ...]) -> Grade | str:
        return "nvfp4 with global scales of rows is read, not written"

    def encode(
        self,
        values: Array,
        device: Device = Device.CPU,
        importance: Importance | None = None,
        search: str = "ggml",
    ) -> tuple[Parts, Error]:
        raise TypeError("nvfp4 with global scales of rows is read, not written")
