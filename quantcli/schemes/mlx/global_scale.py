"""MLX's `nvfp4` of stacked experts that have a global scale each: mlx-lm's `global_scale` in a module's settings. Read
and copied, not written anew: MLX multiplies with it on a GPU alone.

    weight         u32 (experts, rows, words)     as in mx_floats.py
    scales         u8 (experts, rows, columns / 16)
    global_scale   f32 (experts,)                 an expert's largest magnitude: 448 * 6 stands for it

value = E2M1[code] * (E4M3[scale] * (global_scale / 2688)), each operation rounded to float32.
Source: mlx (mx.dequantize), mlx-lm (models/switch_layers.py).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantcli.arrays import Array, Device
from quantcli.schemes.base import Codes, GlobalScale, Grid, Parts, PartSpec, Scheme
from quantcli.schemes.mlx.mx_floats import MxFloat
from quantcli.schemes.ocp import NVFP4_LARGEST, NVFP4_ROUNDING

INNER = MxFloat("nvfp4")


@dataclass(frozen=True)
class Nvfp4Experts(Scheme):
    """`nvfp4` of stacked experts. rows: of an expert; a slab holds whole experts.

    >>> parts, _ = INNER.encode(np.float32([[6] * 16, [3] * 16]))
    >>> Nvfp4Experts(1).decode({**parts, "global_scale": np.float32([[2688, 1344]])})[:, 0].tolist()
    [6.0, 1.5]
    """

    rows: int
    family = "mlx"
    kept_in = ("mlx",)

    @property
    def name(self) -> str:
        return INNER.name

    @property
    def rounding(self) -> float:
        return NVFP4_ROUNDING

    @property
    def global_scale(self) -> GlobalScale:
        return GlobalScale("global_scale", INNER, unit=float(NVFP4_LARGEST))

    @property
    def config_entry(self) -> dict[str, Any]:
        return INNER.config_entry | {"global_scale": True}

    def unfit(self, shape: tuple[int, ...]) -> str | None:
        if len(shape) != 3 or shape[1] != self.rows:
            return f"shape {list(shape)} is not a stack of experts of {self.rows} rows"
        return INNER.unfit(shape)

    def layout(self, shape: tuple[int, ...]) -> dict[str, PartSpec]:
        return INNER.layout(shape) | {"global_scale": PartSpec("f32", shape[:1], axis=1, rows=self.rows)}

    def decode(self, parts: Parts, device: Device = Device.CPU) -> NDArray[np.float32]:
        return self.codes(parts).values()

    def nonfinite(self, part: str, array: Array) -> bool:
        return super().nonfinite(part, array) if part == "global_scale" else INNER.nonfinite(part, array)

    def grid(self) -> Grid:
        return replace(INNER.grid(), scale_dtype="f32")

    def codes(self, parts: Parts) -> Codes:
        inner = INNER.codes(parts)
        factors = factors_of(np.asarray(parts["global_scale"], np.float32).reshape(-1))
        with np.errstate(over="ignore", invalid="ignore"):
            scales = inner.scales * np.repeat(factors, self.rows)[:, None]
        return Codes(self.grid(), inner.codes, scales, None)


def factors_of(global_scale: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the factors of scales, float32, in the shape of `global_scale`."""
    factors: NDArray[np.float32] = global_scale / np.float32(NVFP4_LARGEST)
    return factors
