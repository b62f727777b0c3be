"""optimum-quanto's codes of 4 and 2 bits: a scale and a shift for each group.

    weight          all groups one below the other, (rows * columns / group, group), then in equal parts, one over the
                    other, u8:  4 bits   byte [i, j] = codes [i, j] | codes [i + half, j] << 4
                                2 bits   the same in four parts, the first lowest
    scales, shift   (rows * columns / group, 1)

value = scale * code - shift, each step rounded to the scale's dtype. The parts are so far from each other that rows
cannot cut them: a weight is read as a whole. Codes of 8 bits are as in bytewise.py.
Source: optimum-quanto 0.2.7 (tensor/packed.py, tensor/grouped.py, tensor/qbits.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quantcli.arrays import Device, to_float32
from quantcli.schemes.base import Codes, Grid, Parts, PartSpec, Scheme
from quantcli.schemes.hf.bytewise import Bytewise
from quantcli.schemes.hf.minmax import rounded
from quantcli.schemes.hf.scaled import GROUP, Floats, Scaled, Scales, divides


@dataclass(frozen=True, kw_only=True)
class Quanto(Scaled):
    """`uint4-g128`, `uint2-g64` and so on in optimum-quanto's layout.

    Codes 1, 2 and 3, 4 of two groups in two bytes; scales of 1 and 2, shifts of 1 and 0:

    >>> from quantcli.schemes.hf.scaled import Scales
    >>> scheme = Quanto(columns=2, scales=Scales("f32", 1, 2), bits=4, compute="f32")
    >>> parts = {"weight": np.array([[0x31, 0x42]], np.uint8), "scales": np.float32([[1], [2]])}
    >>> scheme.decode(parts | {"shift": np.float32([[1], [0]])}).tolist()
    [[0.0, 1.0], [6.0, 8.0]]
    """

    bits: int
    family: str = "quanto"

    @property
    def name(self) -> str:
        return f"uint{self.bits}{self.scales.suffix}"

    @property
    def codes_part(self) -> str:
        return "weight"

    @property
    def code_bits(self) -> int:
        return self.bits

    def unfit(self, shape: tuple[int, ...]) -> str | None:
        return super().unfit(shape) or divides(self.scales, shape)

    def packing(self, shape: tuple[int, ...]) -> dict[str, PartSpec]:
        rows, columns = shape
        entries = -(-rows * columns // self.group // (8 // self.bits))
        return {
            "weight": PartSpec("u8", (entries, self.group), rows=rows, indices=entries),
            "shift": self.scales_spec(shape),
        }

    def scales_spec(self, shape: tuple[int, ...]) -> PartSpec:
        groups = shape[1] // self.group
        return PartSpec(self.scales.dtype, (shape[0] * groups, 1), indices=groups)

    def unpack(self, parts: Parts) -> NDArray[np.uint8]:
        stored, mask = np.ascontiguousarray(parts["weight"]), np.uint8((1 << self.bits) - 1)
        whole = np.concatenate([stored >> np.uint8(shift) & mask for shift in range(0, 8, self.bits)])
        rows = len(parts["scales"]) * self.group // self.columns
        return whole.reshape(-1)[: rows * self.columns].reshape(rows, self.columns)

    def float_scales(self, parts: Parts, rows: int) -> Floats:
        return to_float32(parts["scales"]).reshape(rows, -1)

    def _shifts(self, parts: Parts, rows: int) -> Floats:
        return to_float32(parts["shift"]).reshape(rows, -1)

    def decode(self, parts: Parts, device: Device = Device.CPU) -> Floats:
        codes = self.unpack(parts)
        values = codes.astype(np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            values *= self._placed(self.float_scales(parts, len(codes)), parts)
            values = rounded(values, self.compute)
            return rounded(values - self._placed(self._shifts(parts, len(codes)), parts), self.compute)

    def grid(self) -> Grid:
        return Grid(self.bits, self.group, self.scales_dtype)

    def codes(self, parts: Parts) -> Codes:
        codes = self.unpack(parts)
        scales = np.ascontiguousarray(self.float_scales(parts, len(codes)))
        return Codes(self.grid(), codes, scales, -self._shifts(parts, len(codes)))


def listed(columns: int) -> Iterator[Scheme]:
    """Return one scheme of each kind of codes, for rows of so many values: bytes first, then packed codes."""
    for stored in ("i8", "f8_e4m3", "f8_e5m2"):
        yield Bytewise(family="quanto", columns=columns, scales=Scales("bf16"), stored=stored)
    for bits in (2, 4):
        yield Quanto(columns=columns, scales=Scales("bf16", 1, GROUP), bits=bits)
