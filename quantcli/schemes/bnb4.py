"""bitsandbytes' NF4 and FP4: 4-bit codes of a table, one absolute maximum for each run of values, rows joined.

    weight           (bytes of all codes, 1)    two codes a byte, the FIRST in the high half; mostly u8
    absmax           f32 (runs,)                one for each `block` values, counted through all rows
                     u8 (runs,)                 where they are quantized too: indices into nested_quant_map, then
    nested_absmax    f32 (runs / nested,)       absmax = nested_quant_map[index] * nested_absmax + nested offset
    quant_map        f32 (16,)                  the values of codes, the largest is 1
    nested_quant_map f32 (256,)

    a run of 64 with rows of 96:   |----- row 0 -----|----- row 1 -----|
                                   |-- run 0 --|-- run 1 --|-- run 2 --|

value = quant_map[code] * absmax, rounded to the dtype that the tool computes in. Runs that cross the ends of rows are
no grid. Source: bitsandbytes 0.50 (functional.py: dequantize_4bit, QuantState).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quantcli.arrays import DTYPES, Array
from quantcli.schemes import packed
from quantcli.schemes.base import Grid, Parts, PartSpec
from quantcli.schemes.scaled import Floats, Scaled, Scales

NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
_FP4 = (0.0, 0.0052083334885537624, 0.6666666865348816, 1.0, 0.3333333432674408, 0.5, 0.1666666716337204, 0.25)
FP4 = (*_FP4, *(-value for value in _FP4))
TABLES = {"nf4": NF4, "fp4": FP4}
#: Not how absolute maxima lie, but that they are float32.
PER_ROW = Scales("f32")
ROUNDING = {"nf4": 0.092, "fp4": 0.12}


@dataclass(frozen=True)
class Nested:
    """How absolute maxima are quantized: runs of them that share one, and what is added to each."""

    block: int
    offset: float


@dataclass(frozen=True, kw_only=True)
class Bnb4(Scaled):
    """`nf4-g64`, `fp4-g64`; `nf4-double-g64` where the absolute maxima are quantized.

    quant: of TABLES. values: the stored table. block: values of a run. storage: the dtype that the codes' bytes are
    stored under.
    """

    quant: str
    block: int
    values: tuple[float, ...]
    nested: Nested | None = None
    storage: str = "u8"
    family: str = "bnb"
    scales: Scales = PER_ROW

    @property
    def name(self) -> str:
        return f"{self.quant}{'-double' if self.nested else ''}-g{self.block}"

    @property
    def codes_part(self) -> str:
        return "weight"

    @property
    def code_bits(self) -> int:
        return 4

    @property
    def table(self) -> tuple[float, ...]:
        return self.values

    @property
    def shared(self) -> int:
        return self.block

    @property
    def rounding(self) -> float:
        return ROUNDING[self.quant]

    def layout(self, shape: tuple[int, ...]) -> dict[str, PartSpec]:
        count = math.prod(shape)
        runs = -(-count // self.block)
        unit = 2 * DTYPES[self.storage].bits // 8  # codes in an entry of the weight
        parts = {
            "weight": self._flat(self.storage, (-(-count // unit), 1), unit, axis=0),
            "absmax": self._flat("u8" if self.nested else "f32", (runs,), self.block, axis=1),
        }
        if self.nested:
            nested = (-(-runs // self.nested.block),)
            parts["nested_absmax"] = self._flat("f32", nested, self.block * self.nested.block, axis=1)
            parts["nested_quant_map"] = PartSpec("f32", (256,), axis=None)
        return parts | {extra.part: PartSpec(extra.dtype, extra.shape, axis=None) for extra in self.extras}

    def _flat(self, dtype: str, shape: tuple[int, ...], each: int, axis: int) -> PartSpec:
        """An array with an entry for each so many values, counted through all rows."""
        whole = math.lcm(self.columns, each)
        return PartSpec(dtype, shape, axis=axis, rows=whole // self.columns, indices=whole // each)

    def _flat_codes(self, parts: Parts) -> NDArray[np.uint8]:
        stored = np.ascontiguousarray(parts["weight"]).reshape(1, -1)
        return packed.nibbles(stored, high_first=True).reshape(-1)

    def unpack(self, parts: Parts) -> NDArray[np.uint8]:
        codes = self._flat_codes(parts)
        return codes[: len(codes) // self.columns * self.columns].reshape(-1, self.columns)

    def _absmax(self, parts: Parts) -> Floats:
        """float32 (runs,)."""
        if self.nested is None:
            return parts["absmax"].reshape(-1)
        indices = parts["absmax"].reshape(-1)
        shared = np.repeat(parts["nested_absmax"].reshape(-1), self.nested.block)[: len(indices)]
        found: Floats = parts["nested_quant_map"].reshape(-1)[indices] * shared + np.float32(self.nested.offset)
        return found

    def float_scales(self, parts: Parts, rows: int) -> Floats:
        """float32 (rows, groups), or of runs that cross rows (rows, columns)."""
        absmax = self._absmax(parts)
        if self.columns % self.block == 0:
            return absmax.reshape(rows, -1)
        return np.repeat(absmax, self.block)[: rows * self.columns].reshape(rows, self.columns)

    def _placed(self, groups: Floats, parts: Parts) -> Floats:
        return super()._placed(groups, parts) if self.columns % self.block == 0 else groups

    def grid(self) -> Grid | None:
        return super().grid() if self.columns % self.block == 0 else None

    def nonfinite(self, part: str, array: Array) -> bool:
        return part != "weight" and super().nonfinite(part, array)
