"""Quark's integers of 2, 3, 4 and 8 bits, signed and unsigned; groups are stored transposed, inputs first.

    scheme     weight                 scales             zeros (packed as the weight is)
    tensor     (rows, columns)        ()                 ()  not packed
    channel    (rows, columns)        (rows,)            (rows,)
    group      (columns, rows)        (groups, rows)     (groups, rows)

    the last axis, packed
    int4, uint4   i32, 8 a word, lowest first; `reorder`: of eight in the order 0 2 4 6 1 3 5 7, as AutoAWQ
    uint2         u8, 4 a byte, highest first
    int3          u8, 8 in 3 bytes, lowest first; its weight is never transposed, its scales are
    int2, int8, uint8   not packed

Signed ones are two's complement. value = (code - zero) * scale in float32. Zero points may be floats, not packed then.
Source: Quark 0.13 (torch/utils/pack.py, torch/export/nn/modules/realquantizer.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quantcli.arrays import FLOATS, Array, to_float32
from quantcli.schemes.base import Parts, PartSpec, Scheme
from quantcli.schemes.hf import awq, packed
from quantcli.schemes.hf.bytewise import Bytewise
from quantcli.schemes.hf.scaled import GROUP, Floats, Scaled, Scales, divides
from quantcli.schemes.hf.small_floats import ELEMENTS, SmallFloat


@dataclass(frozen=True)
class Packing:
    """`codes` of them make `units` stored entries."""

    codes: int = 1
    units: int = 1


#: Quark's dtype -> how it is packed.
PACKINGS = {
    "int2": Packing(), "uint2": Packing(4), "int3": Packing(8, 3), "int4": Packing(8), "uint4": Packing(8),
    "int8": Packing(), "uint8": Packing(),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class QuarkInt(Scaled):
    """`int4-g64`, `uint4-g64`, `int8-channel` and so on.

    dtype: of PACKINGS. stored: the dtype of the weight's array; zeros_dtype: that of zero points, None where none are
    looked at. reorder: the order of four-bit codes. symmetric: all zero points are 0.
    """

    dtype: str
    stored: str
    symmetric: bool
    zeros_dtype: str | None
    reorder: bool = True
    family: str = "quark"

    @property
    def name(self) -> str:
        if self.dtype == "int8" and not self.symmetric:
            return f"int8-asym{self.scales.suffix}"
        return f"{self.dtype}{self.scales.suffix}"

    @property
    def codes_part(self) -> str:
        return "weight"

    @property
    def code_bits(self) -> int:
        return int(self.dtype[-1])

    @property
    def _offset(self) -> int:
        """What makes a signed integer a code: half of the range."""
        return 0 if self.dtype.startswith("u") else 1 << self.code_bits - 1

    @property
    def zero(self) -> int | None:
        return self._offset if self.symmetric else None

    @property
    def _is_transposed(self) -> bool:
        return self.scales.transposed and self.dtype != "int3"

    def unfit(self, shape: tuple[int, ...]) -> str | None:
        if reason := super().unfit(shape) or divides(self.scales, shape):
            return reason
        rows, columns = shape
        count, what = (rows, "rows") if self._is_transposed else (columns, "columns")
        unit = PACKINGS[self.dtype].codes
        return f"{count} {what} are not a multiple of {unit}, which are packed together" if count % unit else None

    def packing(self, shape: tuple[int, ...]) -> dict[str, PartSpec]:
        rows, columns = shape
        pack = PACKINGS[self.dtype]
        if self._is_transposed:
            weight = PartSpec(self.stored, (columns, rows // pack.codes * pack.units), axis=1, rows=pack.codes)
        else:
            weight = PartSpec(self.stored, (rows, columns // pack.codes * pack.units))
        if self.zeros_dtype is None:
            return {"weight": weight}
        if self.zeros_dtype in FLOATS or self.scales.rows is None:
            return {"weight": weight, "zeros": self.scales.spec(shape, self.zeros_dtype)}
        width = rows // pack.codes * pack.units
        zeros_shape = (width,) if self.scales.rank == 1 else (columns // self.group, width)
        zeros = PartSpec(self.zeros_dtype, zeros_shape, axis=1, rows=pack.codes, indices=pack.units)
        return {"weight": weight, "zeros": zeros}

    def unpack(self, parts: Parts) -> NDArray[np.uint8]:
        codes = self._integers(parts["weight"])
        return np.ascontiguousarray(codes.T) if self._is_transposed else codes

    def _integers(self, stored: Array) -> NDArray[np.uint8]:
        """Stored integers (n, units) as codes (n, count), signed ones plus half of their range."""
        raw = self._raw(np.ascontiguousarray(stored))
        return raw ^ np.uint8(self._offset) if self._offset else raw

    def _raw(self, stored: Array) -> NDArray[np.uint8]:
        if self.dtype in ("int4", "uint4"):
            if not self.reorder:
                return packed.dense(stored, 4, stored.shape[1] * 8)
            return np.ascontiguousarray(awq.unpack(stored).T)
        if self.dtype == "uint2":
            quarters = stored[:, :, None] >> np.array([6, 4, 2, 0], np.uint8) & np.uint8(3)
            return quarters.astype(np.uint8).reshape(len(stored), -1)
        if self.dtype == "int3":
            return _threes(stored)
        return stored.astype(np.uint8) & np.uint8((1 << self.code_bits) - 1)

    def zeros(self, parts: Parts, rows: int) -> Floats:
        if self.zeros_dtype is None:
            return np.full((1, 1), self._offset, np.float32)
        stored = parts["zeros"]
        if self.zeros_dtype in FLOATS or self.scales.rows is None:
            return self.scales.spread(to_float32(stored), rows) + np.float32(self._offset)
        return self._integers(stored)[:, :rows].T.astype(np.float32)


def _threes(stored: Array) -> NDArray[np.uint8]:
    """Codes (n, 8m) of bytes (n, 3m).

    >>> _threes(np.array([[0b10_001_000, 0b1_100_011_0, 0b111_110_10]], np.uint8)).tolist()
    [[0, 1, 2, 3, 4, 5, 6, 7]]
    """
    threes = stored.reshape(len(stored), -1, 3).astype(np.uint32)
    wide = threes[:, :, 0] | threes[:, :, 1] << np.uint32(8) | threes[:, :, 2] << np.uint32(16)
    codes = wide[:, :, None] >> np.arange(0, 24, 3, dtype=np.uint32) & np.uint32(7)
    found: NDArray[np.uint8] = codes.astype(np.uint8).reshape(len(stored), -1)
    return found


def listed(columns: int) -> Iterator[Scheme]:
    """Return one scheme of each kind of Quark's, for rows of so many values: integers, FP8, then smaller floats."""
    stored = {"int2": "i32", "uint2": "u8", "int3": "u8", "int4": "i32", "uint4": "i32", "int8": "i8", "uint8": "u8"}
    groups = Scales("bf16", 1, GROUP, transposed=True)
    for dtype in PACKINGS:
        zeros = None if dtype == "int3" else stored[dtype]
        yield QuarkInt(
            columns=columns, scales=groups, dtype=dtype, stored=stored[dtype], symmetric=not dtype.startswith("u"),
            zeros_dtype=zeros,
        )  # fmt: skip
    yield QuarkInt(
        columns=columns, scales=Scales("bf16", rank=1), dtype="int8", stored="i8", symmetric=True, zeros_dtype="i8"
    )
    for dtype in ("f8_e4m3", "f8_e5m2"):
        yield Bytewise(family="quark", columns=columns, scales=Scales("bf16", None, rank=0), stored=dtype)
    for element in ELEMENTS:
        yield SmallFloat(family="quark", columns=columns, scales=Scales("u8", 1, 32), element=element)
    yield SmallFloat(family="quark", columns=columns, scales=Scales("f8_e4m3", 1, 16), element="e2m1", divides=False)
