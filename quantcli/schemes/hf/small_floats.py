"""Floats of 4 and 6 bits packed into bytes, rows of outputs: OCP's MXFP4 and MXFP6, and NVFP4 with its second scale.

    weight   u8 (rows, columns * bits / 8)     a stream of bits, the first value lowest; some store it as i8
    scales   u8 (rows, columns / 32)           E8M0: 2 ** (byte - 127);  MXFP4, MXFP6
             f8_e4m3 (rows, columns / 16)      NVFP4; of 32 where the tool has such groups
    global   f32 () or (1,)                    NVFP4: one for the weight; it divides the scales or multiplies them

Codes are E2M1, E2M3 or E3M2 (see schemes/ocp.py), which have no Inf and no NaN.
value = table[code] * scale, rounded to the dtype that the tool computes in.
Sources: compressed-tensors (compressors/nvfp4, mxfp6), modelopt
(qtensor/nvfp4_tensor.py), transformers (integrations/finegrained_fp8.py: DeepSeek-V4's experts).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantcli.arrays import Array, to_float32
from quantcli.schemes.base import GlobalScale, Parts, PartSpec
from quantcli.schemes.hf import minmax, packed
from quantcli.schemes.hf.compressed_tensors import PACKED, arguments, entry
from quantcli.schemes.hf.scaled import Floats, Scales, divides, floats
from quantcli.schemes.hf.written import Written, stored_scales
from quantcli.schemes.ocp import E2M1, E2M3, E3M2, MX_GROUP, NVFP4_GROUP, NVFP4_ROUNDING

#: Element -> bits, values, the relative RMSE of rounding a Gaussian to it in groups of 32 with a power of two.
ELEMENTS = {
    "e2m1": (4, E2M1, 0.112),
    "e2m3": (6, E2M3, 0.029),
    "e3m2": (6, E3M2, 0.053),
}


@dataclass(frozen=True, kw_only=True)
class SmallFloat(Written):
    """`mxfp4`, `mxfp6-e2m3`, `mxfp6-e3m2`; `nvfp4` where there is a global scale, `nvfp4-g32` in groups of 32.

    element: of ELEMENTS. stored: the dtype of its bytes. divides: the global scale divides, else it multiplies; None
    where there is none. global_shape, global_dtype: of the stored global scale. each_row: there is one for each row.
    """

    element: str
    stored: str = "u8"
    divides: bool | None = None
    global_shape: tuple[int, ...] = ()
    global_dtype: str = "f32"
    each_row: bool = False
    weight_suffix = PACKED

    @property
    def name(self) -> str:
        if self.scales.dtype == "f8_e4m3":
            return "nvfp4" if self.group == NVFP4_GROUP else f"nvfp4{self.scales.suffix}"
        if self.scales.grid_dtype != "f8_e8m0":
            return f"{self.element}{self.scales.suffix}"
        return "mxfp4" if self.element == "e2m1" else f"mxfp6-{self.element}"

    @property
    def codes_part(self) -> str:
        return "weight"

    @property
    def code_bits(self) -> int:
        return ELEMENTS[self.element][0]

    @property
    def table(self) -> tuple[float, ...]:
        return ELEMENTS[self.element][1]

    @property
    def scales_dtype(self) -> str:
        return self.scales.grid_dtype if self.divides is None else "f32"

    @property
    def rounding(self) -> float:
        return NVFP4_ROUNDING if self.divides is not None else ELEMENTS[self.element][2]

    def unfit(self, shape: tuple[int, ...]) -> str | None:
        count = 1 if self.divides is None or self.each_row else math.prod(self.global_shape)
        if count != 1 and not (self.scales.stacked and shape[:1] == (count,)):
            return f"expected 1 global scale, found {count}"
        return super().unfit(shape) or divides(self.scales, shape)

    def packing(self, shape: tuple[int, ...]) -> dict[str, PartSpec]:
        parts = {"weight": PartSpec(self.stored, (*shape[:-1], shape[-1] * self.code_bits // 8))}
        if self.each_row:
            parts["global"] = PartSpec(self.global_dtype, (math.prod(shape[:-1]), 1))
        elif self.divides is not None and math.prod(self.global_shape) > 1:
            axis = 1 if len(self.global_shape) == 1 else 0
            parts["global"] = PartSpec(self.global_dtype, self.global_shape, axis, rows=self.scales.stacked)
        elif self.divides is not None:
            parts["global"] = PartSpec(self.global_dtype, self.global_shape, axis=None)
        return parts

    def by_row(self, *, always: bool = False) -> SmallFloat | None:
        return None if self.divides is None else replace(self, global_shape=(), each_row=True)

    def without_global(self) -> SmallFloat:
        """The scheme without the global scale."""
        return replace(self, divides=None, global_shape=(), global_dtype="f32", each_row=False, extras=())

    def unpack(self, parts: Parts) -> NDArray[np.uint8]:
        if self.code_bits == 4:
            return packed.nibbles(parts["weight"])
        return packed.dense(np.ascontiguousarray(parts["weight"]).view("<u4"), self.code_bits, self.columns)

    def float_scales(self, parts: Parts, rows: int) -> Floats:
        scales = floats(parts["scales"])
        if self.divides is None:
            return scales
        whole = to_float32(parts["global"]).reshape(-1, 1)
        if self.scales.stacked and not self.each_row and len(whole) > 1:
            whole = np.repeat(whole, self.scales.stacked, axis=0)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            found: Floats = scales / whole if self.divides else scales * whole
        return found

    @property
    def config_entry(self) -> dict[str, Any]:
        two_levels = self.divides is not None
        dtype = "torch.float8_e4m3fn" if two_levels else "torch.uint8"
        weights = arguments(4, "float", self.scales, scale_dtype=dtype, two_levels=two_levels)
        return entry("nvfp4-pack-quantized" if two_levels else "mxfp4-pack-quantized", weights)

    @property
    def is_written(self) -> bool:
        return self.family == "ct" and self.element == "e2m1" and not self.ordered

    @property
    def looks(self) -> bool:
        return self.divides is not None

    @property
    def global_scale(self) -> GlobalScale | None:
        if self.divides is None:
            return None
        return GlobalScale("global", self.without_global(), divides=self.divides, each_row=self.each_row)

    @property
    def shares_global(self) -> bool:
        return self.divides is not None

    def found(self, slabs: Iterable[Array]) -> dict[str, Array]:
        if not self.looks:
            return {}
        extremes, dtype = minmax.of_all(slabs, None)
        # Of a repack there are no values: its scales are E4M3 already, over a global scale of 1.
        return {"global": minmax.global_scale(extremes, dtype)}

    def rounds(self, values: Floats, dtype: str) -> tuple[NDArray[np.uint8], Floats, Floats | None]:
        extremes = minmax.extremes(values, 1, self.group)
        if not self.looks:
            scales = minmax.powers(extremes, self.code_bits, dtype)
            return minmax.e2m1(self.divided(values, scales, dtype)), scales, None
        whole = self.whole["global"]
        scales = minmax.two_level_scales(extremes, whole, dtype)
        return minmax.e2m1(self.divided(values, np.divide(scales, whole, dtype=np.float32), None)), scales, None

    def to_parts(self, codes: NDArray[np.uint8], scales: Floats, zeros: Floats | None) -> dict[str, Array]:
        halves = codes.reshape(len(codes), -1, 2)
        parts: dict[str, Array] = {"weight": halves[..., 0] | halves[..., 1] << np.uint8(4)}
        parts["scales"] = stored_scales(scales, self.scales.dtype)
        return parts if not self.looks else {"global": np.ones(1, np.float32)} | parts


def written(nvfp4: bool, columns: int) -> SmallFloat:
    """Return the scheme as compressed-tensors writes it, which computes in bfloat16."""
    return SmallFloat(
        family="ct", columns=columns, element="e2m1",
        scales=Scales("f8_e4m3", 1, NVFP4_GROUP) if nvfp4 else Scales("u8", 1, MX_GROUP),
        divides=True if nvfp4 else None, global_shape=(1,) if nvfp4 else (), compute="bf16",
    )  # fmt: skip
