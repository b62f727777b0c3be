"""One byte a code, rows of outputs: integers and 8-bit floats with their scales, as most tools store them.

    weight   i8, u8, f8_e4m3 or f8_e5m2 (rows, columns)
    scales   see scaled.py
    zeros    i8 or u8, stored as scales are           integer zero points, where there are any

The 8-bit floats are those of schemes/ocp.py. Integers of fewer bits have a byte each all the same. Their codes are the
integers plus half of their range.
Sources: compressed-tensors (compressors/quantized_compressors), transformers (integrations/finegrained_fp8.py,
bitsandbytes.py), torchao (quantization/quantize_/workflows/int8).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantcli.arrays import FLOATS, Array, numpy_dtype
from quantcli.schemes.base import DoesNotFit, Parts, PartSpec
from quantcli.schemes.hf import minmax
from quantcli.schemes.hf.compressed_tensors import activations, arguments, entry
from quantcli.schemes.hf.scaled import Floats, Scales, divides
from quantcli.schemes.hf.written import Written, stored_scales
from quantcli.schemes.ocp import E4M3, E5M2, FP8_ROUNDING

INTEGERS = ("i8", "u8")
#: Of stored dtypes: the values of their codes, relative RMSE.
TABLES = {"f8_e4m3": E4M3, "f8_e5m2": E5M2}
ROUNDING = {f"f8_{element}": rounding for element, rounding in FP8_ROUNDING.items()}


@dataclass(frozen=True, kw_only=True)
class Bytewise(Written):
    """`int8-channel`, `fp8-e4m3-block128`, `uint3-g64` and so on.

    stored: the dtype of the codes. bits: of an integer. symmetric: zero points, if any, are all 0. zeros_dtype: of
    stored zero points, None where there are none. divisor: scales are multiplied by its inverse last, as bitsandbytes
    does it with its row maxima.
    """

    stored: str
    bits: int = 8
    symmetric: bool = True
    zeros_dtype: str | None = None
    divisor: int | None = None

    @property
    def _is_mxfp8(self) -> bool:
        is_group = (self.scales.rows, self.group) == (1, 32)
        return self.stored == "f8_e4m3" and self.scales_dtype == "f8_e8m0" and is_group

    @property
    def is_master(self) -> bool:
        return self.stored not in INTEGERS and not self._is_mxfp8

    @property
    def name(self) -> str:
        if self._is_mxfp8:
            return "mxfp8"
        if self.stored not in INTEGERS:
            return f"fp8-{self.stored.removeprefix('f8_')}{self.scales.suffix}"
        asymmetric = "uint" if self.stored == "u8" or self.bits != 8 else "int8-asym"
        kind = "int" if self.symmetric else asymmetric
        return f"{kind}{'' if kind == 'int8-asym' else self.bits}{self.scales.suffix}"

    @property
    def codes_part(self) -> str:
        return "weight"

    @property
    def code_bits(self) -> int:
        return self.bits

    @property
    def table(self) -> tuple[float, ...] | None:
        return TABLES.get(self.stored)

    @property
    def zero(self) -> int | None:
        return self._offset if self.symmetric and self.table is None else None

    @property
    def rounding(self) -> float:
        return ROUNDING.get(self.stored) or super().rounding

    @property
    def _offset(self) -> int:
        """The number that makes a stored integer a code: half of the range for signed integers."""
        return 1 << self.bits - 1 if self.stored == "i8" else 0

    def packing(self, shape: tuple[int, ...]) -> dict[str, PartSpec]:
        parts = {"weight": PartSpec(self.stored, shape)}
        if self.zeros_dtype is not None:
            parts["zeros"] = self.scales.spec(shape, self.zeros_dtype)
        return parts

    def unpack(self, parts: Parts) -> NDArray[np.uint8]:
        codes: NDArray[np.uint8] = np.ascontiguousarray(parts["weight"]).view(np.uint8)
        if not self._offset:
            return codes
        codes = codes + np.uint8(self._offset)  # wraps around as two's complement does
        if self.bits < 8 and codes.size and int(codes.max()) >> self.bits:
            raise DoesNotFit(f"a code of {int(codes.max()) - self._offset} is not a {self.bits}-bit integer")
        return codes

    def zeros(self, parts: Parts, rows: int) -> Floats:
        if self.zeros_dtype is None:
            return np.full((1, 1), self._offset, np.float32)
        return self.scales.spread(parts["zeros"].astype(np.float32), rows) + np.float32(self._offset)

    def float_scales(self, parts: Parts, rows: int) -> Floats:
        scales = super().float_scales(parts, rows)
        return scales if self.divisor is None else scales * np.float32(1 / self.divisor)

    def scaled(self, values: Floats, scales: Floats, parts: Parts) -> Floats:
        if self.divisor is None:
            return super().scaled(values, scales, parts)
        # The tool multiplies by the stored maximum first and by the divisor's inverse last.
        values *= self._placed(super().float_scales(parts, len(values)), parts)
        return values * np.float32(1 / self.divisor)

    @property
    def config_entry(self) -> dict[str, Any]:
        if self.table is None:
            weights = arguments(8, "int", self.scales, symmetric=self.symmetric)
            return entry("int-quantized", weights, activations("int") if self.symmetric else None)
        if self.scales.dtype == "u8":
            return entry("mxfp8-quantized", arguments(8, "float", self.scales, scale_dtype="torch.uint8"))
        inputs = activations("float", self.scales.columns)
        return entry("float-quantized", arguments(8, "float", self.scales), inputs)

    @property
    def loads_experts(self) -> bool:
        """FP8 with a scale for a row or for the weight."""
        return self.table is not None and self.scales.columns is None

    @property
    def is_written(self) -> bool:
        return self.family == "ct" and not self.ordered and self.stored in ("i8", "f8_e4m3")

    @property
    def looks(self) -> bool:
        return self.scales.rows is None

    def unfit(self, shape: tuple[int, ...]) -> str | None:
        return self.unread(shape) or (divides(self.scales, shape) if self.is_written else None)

    def unread(self, shape: tuple[int, ...]) -> str | None:
        return super().unfit(shape)

    def found(self, slabs: Iterable[Array]) -> dict[str, Array]:
        if not self.looks:
            return {}
        extremes, dtype = minmax.of_all(slabs, self.scales.dtype)
        scales, zeros = self._grid_of(extremes, dtype)
        parts: dict[str, Array] = {"scales": stored_scales(scales, self.scales.dtype)}
        return parts if zeros is None else parts | {"zeros": self._stored_zeros(zeros)}

    def _grid_of(self, extremes: minmax.Extremes, dtype: str) -> tuple[Floats, Floats | None]:
        if self.table is None:
            return minmax.integer_grid(extremes, self.bits, self.symmetric, dtype)
        if self.scales.dtype in FLOATS:
            return minmax.float_scales(extremes, dtype), None
        return minmax.powers(extremes, self.code_bits, dtype), None

    def rounds(self, values: Floats, dtype: str) -> tuple[NDArray[np.uint8], Floats, Floats | None]:
        if self.looks:
            scales = np.asarray(self.whole["scales"], np.float32).reshape(1, 1)
            zeros = None if "zeros" not in self.whole else self.zeros(self.whole, 1)[:1]
        else:
            scales, zeros = self._grid_of(minmax.extremes(values, self.scales.rows, self.scales.columns), dtype)
        steps = self.divided(values, scales, dtype)
        if self.table is not None:
            return minmax.e4m3(steps), scales, None
        spread = None if zeros is None else self.spread(zeros, values)
        return minmax.integers(steps, spread, self.bits, dtype), scales, zeros

    def to_parts(self, codes: NDArray[np.uint8], scales: Floats, zeros: Floats | None) -> dict[str, Array]:
        weight = codes - np.uint8(self._offset) if self._offset else codes
        parts: dict[str, Array] = {"weight": weight.view(numpy_dtype(self.stored))}
        if self.looks:
            return parts
        if zeros is not None:
            parts["zeros"] = self._stored_zeros(zeros)
        return parts | {"scales": stored_scales(scales, self.scales.dtype)}

    def _stored_zeros(self, zeros: Floats) -> Array:
        return (zeros - np.float32(self._offset)).astype(numpy_dtype(self.zeros_dtype or "i8"))


def written_integers(symmetric: bool, rows: int | None, dtype: str, columns: int) -> Bytewise:
    """Return compressed-tensors' 8-bit integers with a scale for each row, or for the weight (rows None)."""
    return Bytewise(
        family="ct", columns=columns, scales=Scales(dtype, rows, None, rank=1 if rows is None else 2), stored="i8",
        symmetric=symmetric, zeros_dtype=None if symmetric else "i8", compute=dtype,
    )  # fmt: skip


def written_floats(scales: Scales, columns: int) -> Bytewise:
    """Return compressed-tensors' E4M3 with scales; it computes in their dtype, for powers of two in bfloat16."""
    compute = scales.dtype if scales.dtype in FLOATS else "bf16"
    return Bytewise(family="ct", columns=columns, scales=scales, stored="f8_e4m3", compute=compute)
