"""Codes times scales, written: what the layouts of compressed-tensors and bitsandbytes share.

    values -> codes, scales, zero points -> parts          `encode`: each scheme rounds values
    codes of another scheme              -> parts          `pack`: where the grid fits

Parts that rows cannot cut (a scale of the whole weight, its shape, settings as JSON) are found by `prepare` before the
first slab, with one pass over the values if necessary, and given with every slab.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantcli.arrays import FLOATS, Array, Device, numpy_dtype, to_float32
from quantcli.schemes.base import Codes, DoesNotFit, Error, Grade, Grid, Importance, Parts, Scheme
from quantcli.schemes.dense import cast, holds
from quantcli.schemes.facts import Modules
from quantcli.schemes.hf import compressed_tensors
from quantcli.schemes.hf.minmax import arithmetic, rounded
from quantcli.schemes.hf.scaled import POWERS, Floats, Scaled, along, floats
from quantcli.schemes.zero_points import symmetric, with_zero_points


@dataclass(frozen=True, kw_only=True)
class Written(Scaled):
    """A layout that can be written.

    whole: the parts that rows cannot cut, once `prepare` has found them.
    """

    whole: Mapping[str, Array] = field(default_factory=dict, compare=False, repr=False)
    in_kernels = False
    #: What follows the module's name in the name of the tensor of codes, in compressed-tensors' layout.
    weight_suffix = compressed_tensors.PLAIN

    @property
    def is_written(self) -> bool:
        """Whether values and codes can be put into this layout."""
        return False

    @property
    def can_be_chosen(self) -> bool:
        return self.is_written

    @property
    def possible_scales(self) -> tuple[str, ...]:
        return ("bf16", "f16", "f32") if self.scales.dtype in FLOATS else (self.scales.grid_dtype,)

    def fixed(self, shape: tuple[int, ...]) -> dict[str, Array]:
        """Return the parts that follow from the weight's shape alone."""
        return {}

    def found(self, slabs: Iterable[Array]) -> dict[str, Array]:
        """Return the parts that follow from all of a weight's values; slabs are read if `looks`."""
        return {}

    def rounds(self, values: Floats, dtype: str) -> tuple[NDArray[np.uint8], Floats, Floats | None]:
        """Return codes (rows, columns), scales and zero points (blocks, groups) for float32 values of a dtype."""
        raise NotImplementedError

    def to_parts(self, codes: NDArray[np.uint8], scales: Floats, zeros: Floats | None) -> dict[str, Array]:
        """Return the parts that hold them. Raises `DoesNotFit` if a scale overflows."""
        raise NotImplementedError

    def tensor_name(self, weight: str, part: str) -> str:
        suffixes = compressed_tensors.SUFFIXES | {"weight": self.weight_suffix}
        return weight.removesuffix(".weight") + suffixes[part]

    def quantization_config(self, modules: Modules, dense: Sequence[str]) -> dict[str, Any]:
        return compressed_tensors.quantization_config(modules, dense)

    def prepare(self, shape: tuple[int, ...], slabs: Iterable[Array] = ()) -> Scheme:
        return replace(self, whole=self.fixed(shape) | self.found(slabs)) if self.is_written else self

    def fits(self, grid: Grid, shape: tuple[int, ...]) -> Grade | str:
        grade = self.may_fit(grid, shape)
        if isinstance(grade, str):
            return grade
        if grid.group % self.group:
            return f"its group size {grid.group} is not a multiple of {self.group}"
        if self.scales.rows != 1:
            return f"its scales are not shared by {self.scales.rows} rows"
        if self.table is None and grid.zero is None and (self.zero is not None or not grid.zero_points):
            return f"{self.name} cannot store its biases"
        return grade

    def may_fit(self, grid: Grid, shape: tuple[int, ...]) -> Grade | str:
        if not self.is_written:
            return super().fits(grid, shape)
        if self.scales.rows is None:
            return f"{self.name} has one scale for all values"
        if (grid.table is None) != (self.table is None) or (
            grid.table is not None and not np.array_equal(grid.table, self.table or (), equal_nan=True)
        ):
            return f"its codes stand for other values than those of {self.name}"
        if grid.bits > self.code_bits:
            return f"its codes have {grid.bits} bits, but {self.name} holds {self.code_bits}"
        if grid.group % self.group and self.group % grid.group:
            return f"its group size {grid.group} is not a multiple of {self.group}"
        if grid.zero is not None and self.zero is not None:
            room = 2**self.code_bits - 2**grid.bits
            if not 0 <= self.zero - grid.zero <= room:
                return f"its codes with zero point {grid.zero} exceed {self.code_bits} bits with zero point {self.zero}"
        return self._scales_grade(grid)

    def _scales_grade(self, grid: Grid) -> Grade | str:
        """Whether scales of a grid's dtype are held by those of this scheme."""
        own = self.scales.grid_dtype
        if own not in FLOATS:
            same = f"its scales are {grid.scale_dtype}, but those of {self.name} are {own}"
            return Grade.EXACT if own == grid.scale_dtype else same
        if grid.table is None and not grid.exact_products and (grid.zero is None) != (self.zero is None):
            return Grade.CODES_EXACT
        if grid.scale_dtype in FLOATS:
            return Grade.EXACT if holds(own, grid.scale_dtype) else Grade.CODES_EXACT
        return Grade.CODES_EXACT if own == "f16" and grid.scale_dtype == "f8_e8m0" else Grade.EXACT

    def pack(self, codes: Codes) -> Parts:
        if isinstance(reason := self.may_fit(codes.grid, ()), str):
            raise DoesNotFit(reason)
        codes, zeros = self.adapted(codes), None
        scales, biases = self._of_groups(codes, codes.scales), self._of_groups(codes, codes.biases)
        assert scales is not None
        if self.table is None and self.zero is None:
            zeros = _zeros(codes.grid, scales, biases)
        parts: Parts = {**self.to_parts(codes.codes, self._of_blocks(scales), zeros), **self.whole}
        return parts

    def adapted(self, codes: Codes) -> Codes:
        if self.table is not None:
            return codes
        if self.zero is None:
            return with_zero_points(codes, self.code_bits)
        return symmetric(codes, self.zero, self.code_bits)

    def as_stored(self, codes: Codes) -> Codes:
        grid = self.grid()
        if self.table is not None or grid is None or self.scales.rows != 1:
            return super().as_stored(codes)
        codes = self.adapted(codes)
        scales, biases = self._of_groups(codes, codes.scales), self._of_groups(codes, codes.biases)
        assert scales is not None
        kept = floats(stored_scales(scales, self.scales.dtype))
        zeros = np.float32(self.zero) if self.zero is not None else _zeros(codes.grid, scales, biases)
        return Codes(grid, codes.codes, self._filled(kept), self._filled(-zeros * kept))

    def _of_groups(self, codes: Codes, parameters: Floats | None) -> Floats | None:
        """Return scales or biases of this scheme's groups. Raises `DoesNotFit` if some within one differ."""
        own = codes.grid.group
        if parameters is None or own == self.group:
            return parameters
        if own % self.group == 0:
            return np.repeat(parameters, own // self.group, axis=1)
        times = self.group // own  # the last group may be cut off
        first = np.ascontiguousarray(parameters[:, ::times])
        if not np.array_equal(np.repeat(first, times, axis=1)[:, : parameters.shape[1]], parameters):
            raise DoesNotFit(f"adjacent groups of {own} have different scales or biases")
        return first

    def _of_blocks(self, scales: Floats) -> Floats:
        """Return one row of scales for each block of rows. Raises `DoesNotFit` if its rows differ."""
        rows = self.scales.rows or 1
        first = scales[::rows]
        if rows > 1 and not np.array_equal(np.repeat(first, rows, axis=0)[: len(scales)], scales):
            raise DoesNotFit(f"its scales are not shared by {rows} rows")
        return first

    def _decoded_error(self, codes: Codes, parts: Parts) -> Error:
        """Measure between codes, not between values that the tool rounds to its dtype."""
        return Error.between(codes.values(), self.codes(parts).values())

    def encode(
        self,
        values: Array,
        device: Device = Device.CPU,
        importance: Importance | None = None,
        search: str = "ggml",
    ) -> tuple[Parts, Error]:
        if not self.is_written:
            return super().encode(values, device, importance)
        given = to_float32(values)
        dtype = self.scales.dtype if self.scales.dtype in FLOATS else arithmetic(values)
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            parts: Parts = {**self.to_parts(*self.rounds(rounded(given, dtype), dtype)), **self.whole}
            return parts, Error.between(given, self.decode(parts))

    def spread(self, groups: Floats, values: Floats) -> Floats:
        """Return (blocks, groups) as (rows, columns): each block's entry at its values."""
        found: Floats = along(self.scales.spread(groups, len(values)), self.group, values.shape[1])
        return found

    def divided(self, values: Floats, scales: Floats, dtype: str | None) -> Floats:
        """Return values over the scales of their blocks, rounded to a dtype."""
        return rounded(values / self.spread(scales, values), dtype)


def _zeros(grid: Grid, scales: Floats, biases: Floats | None) -> Floats:
    """Return the zero points of biases -zero * scale; 0 where the scale is 0."""
    if grid.zero is not None:
        return np.full(scales.shape, grid.zero, np.float32)
    assert biases is not None
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        zeros: Floats = np.where(scales == 0, np.float32(0), np.rint(-biases / scales)) + np.float32(0)
    return zeros


def stored_scales(scales: Floats, dtype: str) -> Array:
    """Return scales in their stored dtype, powers of two as E8M0 bytes. Raises `DoesNotFit` if one does not fit it."""
    if dtype in FLOATS:
        return cast(scales, dtype)
    if dtype in POWERS:
        with np.errstate(divide="ignore"):
            mantissas, exponents = np.frexp(scales)
        if (wrong := (mantissas != 0.5) | (exponents < -126)).any():
            raise DoesNotFit(f"a scale of {scales[wrong][0]:g} is not a power of two that E8M0 holds")
        return (exponents + 126).astype(np.uint8)
    found = scales.astype(numpy_dtype(dtype))
    if (wrong := to_float32(found) != scales).any() and np.isfinite(scales).all():
        raise DoesNotFit(f"a scale of {scales[wrong][0]:g} is not a value of {dtype}")
    return found
