"""Codes of 8 bits whose scale is in a tensor that no settings explain: listed, neither decoded nor copied.

weight   f8_e4m3, f8_e5m2, u8 or i8, the weight's shape
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quantcli.arrays import Array, Device
from quantcli.errors import NotPossible
from quantcli.schemes.base import Grade, Grid, Parts, PartSpec, Scheme


@dataclass(frozen=True)
class Unscaled(Scheme):
    """dtype: of the codes. companion: the tensor whose name says that it is their scale."""

    dtype: str
    companion: str
    family = "unscaled"

    @property
    def name(self) -> str:
        return f"{self.dtype}-unscaled"

    @property
    def rounding(self) -> float:
        return 0.0

    @property
    def refusal(self) -> str:
        return f"its codes ({self.dtype}) need the scales in {self.companion}, but no settings say how to apply them"

    @property
    def undecoded(self) -> str:
        return self.refusal

    def unfit(self, shape: tuple[int, ...]) -> str | None:
        return self.refusal

    def unread(self, shape: tuple[int, ...]) -> str | None:
        return None

    def layout(self, shape: tuple[int, ...]) -> dict[str, PartSpec]:
        return {"weight": PartSpec(self.dtype, shape)}

    def decode(self, parts: Parts, device: Device = Device.CPU) -> NDArray[np.float32]:
        raise NotPossible(self.refusal)

    def nonfinite(self, part: str, array: Array) -> bool:
        return False

    def fits(self, grid: Grid, shape: tuple[int, ...]) -> Grade | str:
        return self.refusal
