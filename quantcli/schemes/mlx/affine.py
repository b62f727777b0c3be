"""MLX's affine quantization: `affine{1,2,3,4,5,6,8}-g{32,64,128}`, integer codes with a scale and a bias per group.

    weight   u32 (rows, columns * bits / 32)      codes, value 0 lowest; a code may straddle two words
    scales   (rows, columns / group)              f16, bf16 or f32
    biases   (rows, columns / group)              the same;   value = scale * code + bias

    affine4   bits of a word     31-28 27-24 23-20 19-16 15-12 11-8  7-4  3-0
              holds value           7     6     5     4     3    2    1    0

    affine3   bits of word 0     31-30 29-27 26-24  ...  5-3  2-0      32 codes in 3 words
              holds value          10     9     8   ...   1    0
              bits of word 1     31        ...       6-4  3-1   0
              holds value        21        ...       12   11   10      (bit 2 of code 10, bit 0 of code 21)

MLX itself computes in the dtype of the scales. In f16 it rounds the product and the sum, so 20 to 50 % of values differ
from the correctly rounded ones in their last bit; with f32 scales none does. As a bias, f16 holds -8 * scale exactly,
but only 45 % of the products -zero * scale of random zero points.

`encode` means `mx.quantize` of the values cast to the scales' dtype, as mlx-lm does it; `decode` is the float32
value of the stored parameters, product and sum rounded separately, which is `mx.dequantize` with float32 parameters.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from quantcli.arrays import Array, Device, from_mlx, nonfinite, numpy_dtype, to_float32, to_mlx
from quantcli.schemes.base import Codes, DoesNotFit, Error, Grade, Grid, Importance, Overflows, Parts, PartSpec, Scheme
from quantcli.schemes.dense import cast, holds

if TYPE_CHECKING:
    import mlx.core as mx

BITS = (1, 2, 3, 4, 5, 6, 8)
GROUPS = (32, 64, 128)

#: Relative RMSE of encoding a Gaussian, by group, then in the order of BITS, with f32 or f16 scales.
#: Reproduced by `Affine(...).encode(numpy.random.default_rng(0).standard_normal((1024, 1024)))`.
ROUNDING = {
    32: (1.400, 0.3622, 0.1712, 0.0810, 0.0392, 0.0193, 0.00478),
    64: (1.654, 0.3947, 0.1905, 0.0909, 0.0441, 0.0217, 0.00539),
    128: (1.890, 0.4244, 0.2073, 0.1001, 0.0487, 0.0240, 0.00595),
}
#: The same with bf16 scales, where their own rounding shows.
ROUNDING_BF16 = {
    32: (1.400, 0.3622, 0.1712, 0.0811, 0.0394, 0.0198, 0.00661),
    64: (1.654, 0.3947, 0.1906, 0.0910, 0.0444, 0.0223, 0.00744),
    128: (1.890, 0.4244, 0.2073, 0.1001, 0.0489, 0.0245, 0.00798),
}


@dataclass(frozen=True)
class Affine(Scheme):
    """`bits` of BITS, `group` of GROUPS, `scale_dtype` f16, bf16 or f32.

    The largest magnitude of a group is kept exactly; here it is 7.5, so scale = 7.5 / rint(7.5 / -1.0) = -0.9375:

    >>> values = np.zeros((1, 32), np.float32)
    >>> values[0, :3] = 7.5, -7.5, 2.0
    >>> parts, error = Affine(4, 32, "f32").encode(values)
    >>> [hex(word) for word in parts["weight"][0]], parts["scales"].tolist(), parts["biases"].tolist()
    (['0x888886f0', '0x88888888', '0x88888888', '0x88888888'], [[-0.9375]], [[7.5]])
    >>> Affine(4, 32, "f32").decode(parts)[0, :4].tolist()
    [7.5, -6.5625, 1.875, 0.0]
    """

    bits: int
    group: int
    scale_dtype: str
    family = "mlx"
    kept_in = ("mlx",)
    in_arrays = True
    encodes_as_mlx = True

    @property
    def codes_part(self) -> str:
        return "weight"

    @property
    def name(self) -> str:
        return f"affine{self.bits}-g{self.group}"

    @property
    def rounding(self) -> float:
        table = ROUNDING_BF16 if self.scale_dtype == "bf16" else ROUNDING
        return table[self.group][BITS.index(self.bits)]

    @property
    def scales_dtype(self) -> str:
        return self.scale_dtype

    @property
    def possible_scales(self) -> tuple[str, ...]:
        return ("f16", "bf16", "f32")

    @property
    def config_entry(self) -> dict[str, Any]:
        return {"group_size": self.group, "bits": self.bits, "mode": "affine"}

    @property
    def chosen_scale_dtype(self) -> str:
        return self.scale_dtype

    def with_scale_dtype(self, dtype: str) -> Affine:
        return replace(self, scale_dtype=dtype)

    def unfit(self, shape: tuple[int, ...]) -> str | None:
        return unfit(self.group, shape)

    def layout(self, shape: tuple[int, ...]) -> dict[str, PartSpec]:
        *leading, columns = shape
        groups = PartSpec(self.scale_dtype, (*leading, columns // self.group))
        return {
            "weight": PartSpec("u32", (*leading, columns * self.bits // 32)),
            "scales": groups,
            "biases": groups,
        }

    def decode(self, parts: Parts, device: Device = Device.CPU) -> NDArray[np.float32]:
        scales, biases = to_float32(parts["scales"]), to_float32(parts["biases"])
        if device is Device.MLX:
            import mlx.core as mx

            weight, wide_scales, wide_biases = to_mlx(parts["weight"]), to_mlx(scales), to_mlx(biases)
            return from_mlx(mx.dequantize(weight, wide_scales, wide_biases, group_size=self.group, bits=self.bits))
        from quantcli.kernels.mlx import affine

        return affine.decode(parts["weight"], scales, biases, self.bits, self.group)

    def grid(self) -> Grid:
        return Grid(self.bits, self.group, self.scale_dtype)

    def codes(self, parts: Parts) -> Codes:
        from quantcli.kernels.bits import unpack

        codes = unpack(parts["weight"], self.bits)
        return Codes(self.grid(), codes, to_float32(parts["scales"]), to_float32(parts["biases"]))

    def fits(self, grid: Grid, shape: tuple[int, ...]) -> Grade | str:
        if grid.group % self.group:
            return self.unfit(shape) or f"its group size {grid.group} is not a multiple of {self.group}"
        return self.may_fit(grid, shape)

    def may_fit(self, grid: Grid, shape: tuple[int, ...]) -> Grade | str:
        """Return the grade if neighbours share scale and bias where smaller groups are merged."""
        if reason := self.unfit(shape) or self._refuses(grid):
            return reason
        return Grade.EXACT if self._holds_parameters(grid) else Grade.CODES_EXACT

    def _holds_parameters(self, grid: Grid) -> bool:
        """Whether its scales and biases, and values made of them, are those of any codes on that grid."""
        if not holds(self.scale_dtype, grid.scale_dtype):
            return False
        if grid.zero is None and not grid.zero_points:
            return True
        # -zero * scale: float32 holds the product of a zero of 8 bits and a scale of at most 11; a power of two only
        # moves the exponent (an overflow is refused by `pack`). A symmetric grid's value is one product, here it is
        # a product and a sum: the same where the product is exact.
        if grid.zero is None:
            return self.scale_dtype == "f32" and grid.scale_dtype != "f32"
        power_of_two = grid.zero & (grid.zero - 1) == 0
        return grid.exact_products and (power_of_two or self.scale_dtype == "f32")

    def pack(self, codes: Codes) -> Parts:
        from quantcli.kernels.bits import pack

        if (reason := self._refuses(codes.grid)) is not None:
            raise DoesNotFit(reason)
        if codes.biases is None:
            raise DoesNotFit("its codes have no biases")
        if codes.codes.size and int(codes.codes.max()) >= 1 << codes.grid.bits:
            raise DoesNotFit(f"a code of {codes.codes.max()} exceeds {codes.grid.bits} bits")
        stored = self._of_groups(codes)
        return {"weight": pack(codes.codes, self.bits), **stored}

    def as_stored(self, codes: Codes) -> Codes:
        stored = self._of_groups(codes)
        return Codes(self.grid(), codes.codes, to_float32(stored["scales"]), to_float32(stored["biases"]))

    def _of_groups(self, codes: Codes) -> Parts:
        """Scales and biases in its groups and dtype."""
        scales, biases = codes.regrouped(self.group)
        assert biases is not None
        return {"scales": self._rounded(scales, "scale"), "biases": self._rounded(biases, "bias")}

    def parameters(self, parts: Parts) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return to_float32(parts["scales"]), to_float32(parts["biases"])

    def encode(
        self,
        values: Array,
        device: Device = Device.CPU,
        importance: Importance | None = None,
        search: str = "ggml",
    ) -> tuple[Parts, Error]:
        parts, error = self._encode_mlx(values) if device is Device.MLX else self._encode_cpu(values)
        if np.isfinite(error.reference) and (nonfinite(parts["scales"]) or nonfinite(parts["biases"])):
            raise Overflows(self._overflow(values))
        return parts, error

    def _encode_cpu(self, values: Array) -> tuple[Parts, Error]:
        from quantcli.kernels.mlx import affine

        words, scales, biases, sums = affine.encode(values, self.bits, self.group, self.scale_dtype)
        dtype = numpy_dtype(self.scale_dtype)
        parts = {"weight": words, "scales": scales.astype(dtype), "biases": biases.astype(dtype)}
        return parts, Error(*sums.tolist())

    def _encode_mlx(self, values: Array) -> tuple[Parts, Error]:
        import mlx.core as mx

        wanted = to_mlx(values.astype(np.float32) if values.dtype == np.float64 else values)
        dtype = {"f16": mx.float16, "bf16": mx.bfloat16, "f32": mx.float32}[self.scale_dtype]
        weight, scales, biases = mx.quantize(wanted.astype(dtype), group_size=self.group, bits=self.bits)
        arrays = {"weight": weight, "scales": scales, "biases": biases}
        wide_scales, wide_biases = scales.astype(mx.float32), biases.astype(mx.float32)
        decoded = mx.dequantize(weight, wide_scales, wide_biases, group_size=self.group, bits=self.bits)
        return {name: from_mlx(array) for name, array in arrays.items()}, measured(wanted, decoded)

    def _refuses(self, grid: Grid) -> str | None:
        """Why codes of that grid have no place here, whatever their scales."""
        if grid.table is not None:
            return f"its codes are indices into a table of values, but the values of {self.name} are evenly spaced"
        if grid.bits > self.bits:
            return f"its codes have {grid.bits} bits, but {self.name} holds {self.bits}"
        if grid.group % self.group and self.group % grid.group:
            return f"its group size {grid.group} is not a multiple of {self.group}"
        return None

    def _rounded(self, parameters: NDArray[np.float32], what: str) -> Array:
        with np.errstate(over="ignore"):
            rounded = parameters.astype(numpy_dtype(self.scale_dtype), copy=False)
        if not nonfinite(rounded):
            return rounded
        if nonfinite(parameters):
            raise DoesNotFit(f"a {what} is NaN or infinite")
        try:
            return cast(parameters, self.scale_dtype)
        except DoesNotFit as reason:
            raise Overflows(str(reason).replace("a value", f"a {what}", 1)) from None

    def _overflow(self, values: Array) -> str:
        """What overflowed: a value in the cast to the scales' dtype, or the scale of a group."""
        try:
            rounded = cast(values, self.scale_dtype)
        except DoesNotFit as reason:
            return str(reason)
        groups = rounded.astype(np.float64).reshape(-1, self.group)
        scale = np.ptp(groups, axis=1).max() / ((1 << self.bits) - 1)
        return f"a scale of about {scale:g} exceeds the largest value of {self.scale_dtype}"


#: One of each kind, with the scales that sizes are counted with.
LISTED = tuple(Affine(bits, group, "f16") for bits in BITS for group in GROUPS)


def unfit(group: int, shape: tuple[int, ...]) -> str | None:
    """Return why MLX does not quantize a weight of this shape in groups of `group`, None if it does."""
    if len(shape) < 2:
        return f"a {len(shape)}-D tensor is not quantized"
    return f"last axis {shape[-1]} is not a multiple of {group}" if shape[-1] % group or not shape[-1] else None


def measured(wanted: mx.array, decoded: mx.array) -> Error:
    """Return `Error.between`, computed on MLX's device: float32 sums of 16 squares, in float64 if float32 overflows."""
    import mlx.core as mx

    wide = wanted.astype(mx.float32)
    off = decoded - wide
    sums = [from_mlx((array * array).reshape(-1, 16).sum(axis=-1)).sum(dtype=np.float64) for array in (off, wide)]
    if not 1e-12 < sums[1] < 1e30:
        return Error.between(from_mlx(wide), from_mlx(decoded))
    return Error(float(sums[0]), float(sums[1]), float(from_mlx(mx.abs(off).max())))
