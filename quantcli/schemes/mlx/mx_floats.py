"""The small floats of MLX: `mxfp4`, `mxfp8`, `nvfp4`, float codes with a scale byte per group and no bias.

    weight   u32 (rows, columns * bits / 32)      codes, value 0 lowest
    scales   u8  (rows, columns / group)          E8M0 (mxfp4, mxfp8) or E4M3 (nvfp4);   value = scale * table[code]

    a word of mxfp4, nvfp4   31-28 27-24 23-20 19-16 15-12 11-8  7-4  3-0        of mxfp8   31-24 23-16 15-8  7-0
    holds value                 7     6     5     4     3    2    1    0                       3     2    1    0

Codes are E2M1 (mxfp4, nvfp4) or E4M3 (mxfp8), see schemes/ocp.py. NVFP4 is without its global scale, as mlx-lm writes
it. MLX computes in the dtype that it is given: whoever wants what mlx-lm writes casts the values to the output's dense
dtype first.

Source: MLX 0.32.4 for the layout and the rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantcli.arrays import Array, Device, from_mlx, to_float32, to_mlx
from quantcli.schemes.base import Codes, DoesNotFit, Error, Grade, Grid, Importance, Parts, PartSpec, Scheme
from quantcli.schemes.mlx.affine import measured, unfit
from quantcli.schemes.ocp import E2M1, E4M3, E8M0, codes_fit, codes_may_fit, holds_nonfinite, scale_bytes
from quantcli.schemes.zero_points import without_scales_of_zero


@dataclass(frozen=True)
class Mode:
    """The facts of one format. `positive`: how many scale bytes from 0 on are finite, not negative and ascending."""

    bits: int
    group: int
    table: tuple[float, ...]
    scales: tuple[float, ...]
    scale_dtype: str
    positive: int
    values_dtype: str
    rounding: float


#: `rounding` is reproduced by `MxFloat(...).encode(numpy.random.default_rng(0).standard_normal((1024, 1024)))`.
MODES = {
    "mxfp4": Mode(4, 32, E2M1, E8M0, "f8_e8m0", 255, "bf16", 0.1154),
    "mxfp8": Mode(8, 32, E4M3, E8M0, "f8_e8m0", 255, "f32", 0.0265),
    "nvfp4": Mode(4, 16, E2M1, E4M3, "f8_e4m3", 127, "bf16", 0.0951),
}


@dataclass(frozen=True)
class MxFloat(Scheme):
    """`mode` of MODES.

    The largest magnitude is 5: 5 / 6 rounded up to a power of two is 1 (byte 127). 2.5 is half way between 2 and 3 and
    becomes 2, code 4; -5 is half way between -4 and -6 and becomes -4, code 14:

    >>> values = np.zeros((1, 32), np.float32)
    >>> values[0, :3] = 2.5, -5.0, 0.75
    >>> parts, error = MxFloat("mxfp4").encode(values)
    >>> [hex(word) for word in parts["weight"][0]], parts["scales"].tolist()
    (['0x1e4', '0x0', '0x0', '0x0'], [[127]])
    >>> MxFloat("mxfp4").decode(parts)[0, :4].tolist(), error.largest
    ([2.0, -4.0, 0.5, 0.0], 1.0)
    """

    mode: str
    family = "mlx"
    kept_in = ("mlx",)
    in_arrays = True
    encodes_as_mlx = True

    @property
    def facts(self) -> Mode:
        return MODES[self.mode]

    @property
    def codes_part(self) -> str:
        return "weight"

    @property
    def values_dtype(self) -> str:
        return self.facts.values_dtype

    @property
    def values_dtypes(self) -> tuple[str, ...]:
        # nvfp4's products of 2 and 4 significant bits lie between 2**-10 and 2688.
        return ("bf16", "f16") if self.mode == "nvfp4" else (self.values_dtype,)

    @property
    def name(self) -> str:
        return self.mode

    @property
    def rounding(self) -> float:
        return self.facts.rounding

    @property
    def config_entry(self) -> dict[str, Any]:
        return {"group_size": self.facts.group, "bits": self.facts.bits, "mode": self.mode}

    def unfit(self, shape: tuple[int, ...]) -> str | None:
        return unfit(self.facts.group, shape)

    def layout(self, shape: tuple[int, ...]) -> dict[str, PartSpec]:
        *leading, columns = shape
        return {
            "weight": PartSpec("u32", (*leading, columns * self.facts.bits // 32)),
            "scales": PartSpec("u8", (*leading, columns // self.facts.group)),
        }

    def decode(self, parts: Parts, device: Device = Device.CPU) -> NDArray[np.float32]:
        if device is Device.MLX:
            import mlx.core as mx

            weight, scales = to_mlx(parts["weight"]), to_mlx(parts["scales"])
            return from_mlx(mx.dequantize(weight, scales, mode=self.mode, dtype=mx.float32))
        from quantcli.kernels.mlx import mx_floats

        facts = self.facts
        return mx_floats.decode(parts["weight"], parts["scales"], facts.bits, facts.group, *self._tables())

    def nonfinite(self, part: str, array: Array) -> bool:
        table = self.facts.scales if part == "scales" else self.facts.table
        return holds_nonfinite(array.view(np.uint8), table)

    def grid(self) -> Grid:
        return Grid(self.facts.bits, self.facts.group, self.facts.scale_dtype, table=self.facts.table)

    def codes(self, parts: Parts) -> Codes:
        from quantcli.kernels.bits import unpack

        codes = unpack(parts["weight"], self.facts.bits)
        return Codes(self.grid(), codes, self._tables()[1][parts["scales"]], None)

    def fits(self, grid: Grid, shape: tuple[int, ...]) -> Grade | str:
        facts = self.facts
        return self.unfit(shape) or codes_fit(grid, self.mode, facts.table, facts.group, facts.scale_dtype)

    def may_fit(self, grid: Grid, shape: tuple[int, ...]) -> Grade | str:
        return self.unfit(shape) or codes_may_fit(grid, self.mode, self.facts.table, self.facts.group)

    def pack(self, codes: Codes) -> Parts:
        from quantcli.kernels.bits import pack

        grade = codes_may_fit(codes.grid, self.mode, self.facts.table, self.facts.group)
        if isinstance(grade, str):
            raise DoesNotFit(grade)
        if codes.codes.size and int(codes.codes.max()) >= 1 << codes.grid.bits:
            raise DoesNotFit(f"a code of {codes.codes.max()} exceeds {codes.grid.bits} bits")
        codes = self.adapted(codes)
        scales, _ = codes.regrouped(self.facts.group)
        stored = scale_bytes(scales, self._tables()[1][: self.facts.positive], self.facts.scale_dtype)
        return {"weight": pack(codes.codes, self.facts.bits), "scales": stored}

    def adapted(self, codes: Codes) -> Codes:
        return without_scales_of_zero(codes) if self.facts.scale_dtype == "f8_e8m0" else codes

    def encode(
        self,
        values: Array,
        device: Device = Device.CPU,
        importance: Importance | None = None,
        search: str = "ggml",
    ) -> tuple[Parts, Error]:
        if device is Device.MLX and not self._wraps(values):
            return self._encode_mlx(values)
        from quantcli.kernels.mlx import mx_floats

        words, scales, sums = mx_floats.encode(values, self.facts.bits, self.facts.group, *self._tables())
        return {"weight": words, "scales": scales}, Error(*sums.tolist())

    def _encode_mlx(self, values: Array) -> tuple[Parts, Error]:
        import mlx.core as mx

        wanted = to_mlx(_wide(values))
        weight, scales, *_ = mx.quantize(wanted, mode=self.mode)
        decoded = mx.dequantize(weight, scales, mode=self.mode, dtype=mx.float32)
        return {"weight": from_mlx(weight), "scales": from_mlx(scales)}, measured(wanted, decoded)

    def _wraps(self, values: Array) -> bool:
        """Whether a group is so small, yet not 0, that MLX's CPU device would wrap its E8M0 exponent around."""
        if self.facts.scale_dtype != "f8_e8m0":
            return False
        largest = np.abs(to_float32(_wide(values))).reshape(-1, self.facts.group).max(axis=1)
        return bool(((largest > 0) & (largest <= self.facts.table[self._top()] * 2.0**-127)).any())

    def _top(self) -> int:
        """The code of the largest value."""
        return int(np.nanargmax(self.facts.table))

    def _tables(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The values of codes and of scale bytes."""
        return np.array(self.facts.table, np.float32), np.array(self.facts.scales, np.float32)


#: One of each kind.
LISTED = tuple(MxFloat(mode) for mode in MODES)


def _wide(values: Array) -> Array:
    return values.astype(np.float32) if values.dtype == np.float64 else values
