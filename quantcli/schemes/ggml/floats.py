"""GGML's `mxfp4` and `nvfp4`: E2M1 codes with a scale byte per group, the codes of mlx/mx_floats.py in another order.

Source: `block_mxfp4`, `block_nvfp4` in ggml-common.h, their functions in ggml-quants.c and the scale bytes' in
ggml-impl.h (llama.cpp); how blocks are encoded is described in kernels/ggml/blocks/floats.py.

    mxfp4  17 bytes, 32 values   e            n x 16        value = 2 ** (e - 127) * E2M1[code]
    nvfp4  36 bytes, 64 values   s s s s      n x 32        value = E4M3[s[i / 16]] * E2M1[code]

    n of mxfp4, byte j of 16:      7 6 5 4 | 3 2 1 0       of nvfp4, byte j of each group's 8:     7 6 5 4 | 3 2 1 0
                                 code j+16 | code j                                               code j+8 | code j

ggml halves the scale and doubles the values; both are exact. Where it differs from MLX, at bytes that it never writes:
E8M0 255 is 2**128 for both, but ggml's half of it is finite (and code 0 stays 0); an E4M3 byte's sign is ignored, 0x7f
is 0 and 0xff is 480; code 8 is +0, not -0.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from quantcli.arrays import Array, to_mlx
from quantcli.schemes.base import Codes, DoesNotFit, Grade, Grid, Importance, Parts
from quantcli.schemes.ggml.best import OnTable
from quantcli.schemes.ggml.blocks import Blocks, Ggml, Subs, Sums
from quantcli.schemes.ocp import E2M1, E4M3, codes_fit, codes_may_fit, scale_bytes
from quantcli.schemes.zero_points import without_scales_of_zero

if TYPE_CHECKING:
    import mlx.core as mx

#: E4M3 as ggml reads it.
UE4M3 = (*E4M3[:127], 0.0, *E4M3[:127], 480.0)
#: Twice the value of each code, as ggml reads it: both zeros are +0.
DOUBLES = tuple(2 * value or 0.0 for value in E2M1)


@dataclass(frozen=True)
class FloatFormat:
    """`halves`: of the value of each scale byte, of which `positive` from 0 on are finite, not negative, ascending.

    rounds_inputs: as of `Scheme`.
    """

    group: int
    halves: tuple[float, ...]
    scale_dtype: str
    positive: int
    rounding: float
    rounds_inputs: bool = False


#: `rounding`: relative RMSE of encoding 4M values of a Gaussian.
FORMATS = {
    "mxfp4": FloatFormat(32, tuple(2.0 ** (byte - 128) for byte in range(256)), "f8_e8m0", 255, 0.115),
    "nvfp4": FloatFormat(16, tuple(value / 2 for value in UE4M3), "f8_e4m3", 127, 0.0951, rounds_inputs=True),
}


@dataclass(frozen=True)
class GgmlFloat(Ggml):
    """One of `FORMATS`.

    The largest magnitude is 5: 2 ** (floor(log2(5)) - 2) is 1 (byte 127 = 7f). 2.5 is half way between 2 and 3 and
    becomes 2, code 4; -5 is half way between -4 and -6 and becomes -4, code 14; value 16 (1.5, code 3) shares a
    byte with value 0.

    >>> values = np.array([[2.5, -5, 0.75, *[0] * 13, 1.5, *[0] * 15]], np.float32)
    >>> parts, error = GgmlFloat("mxfp4").encode(values)
    >>> parts["blocks"][0, :5].tobytes().hex(" "), error.largest
    ('7f 34 0e 01 00', 1.0)

    nvfp4 of 12 and 6, other groups zeros: 12 / 6 = 2 is the E4M3 byte 40, the codes are 7 (6) and 5 (3).

    >>> parts, error = GgmlFloat("nvfp4").encode(np.array([[12, 6, *[0] * 62]], np.float32))
    >>> parts["blocks"][0, :7].tobytes().hex(" "), error.largest
    ('40 00 00 00 07 05 00', 0.0)
    """

    @property
    def facts(self) -> FloatFormat:
        return FORMATS[self.type]

    @property
    def rounds_inputs(self) -> bool:
        return self.facts.rounds_inputs

    @property
    def values_dtype(self) -> str:
        return "bf16"

    @property
    def rounding(self) -> float:
        return self.facts.rounding

    def grid(self) -> Grid:
        return Grid(4, self.facts.group, self.facts.scale_dtype, table=E2M1)

    def codes(self, parts: Parts) -> Codes:
        """Return the codes of blocks.

        Their values are those of `decode`, except for the E8M0 byte 255, which no scheme's `pack` takes.
        """
        from quantcli.kernels.ggml import repack

        blocks, group = parts["blocks"], self.facts.group
        share, half = self.ggml_type.block_size // group, group // 2
        flat = np.ascontiguousarray(blocks).reshape(-1, self.ggml_type.block_bytes)
        scales = self.scales()[flat[:, :share]]
        codes = repack.split_nibbles(flat[:, share:], half)
        rows = blocks.shape[0]
        columns = blocks.shape[1] // self.ggml_type.block_bytes * self.ggml_type.block_size
        return Codes(self.grid(), codes.reshape(rows, columns), scales.reshape(rows, columns // group), None)

    def fits(self, grid: Grid, shape: tuple[int, ...]) -> Grade | str:
        return self.unfit(shape) or codes_fit(grid, self.name, E2M1, self.facts.group, self.facts.scale_dtype)

    def may_fit(self, grid: Grid, shape: tuple[int, ...]) -> Grade | str:
        return self.unfit(shape) or codes_may_fit(grid, self.name, E2M1, self.facts.group)

    def pack(self, codes: Codes) -> Parts:
        grade = self.may_fit(codes.grid, codes.codes.shape)
        if isinstance(grade, str):
            raise DoesNotFit(grade)
        if codes.codes.size and int(codes.codes.max()) > 15:
            raise DoesNotFit(f"a code of {codes.codes.max()} exceeds 4 bits")
        codes = self.adapted(codes)
        (rows, columns), facts, size = codes.codes.shape, self.facts, self.ggml_type.block_size
        scales, _ = codes.regrouped(facts.group)
        stored = scale_bytes(scales, self.scales()[: facts.positive], facts.scale_dtype)
        blocks = self.assembled(codes.codes.reshape(-1, size), stored.reshape(-1, size // facts.group, 1), None)
        return {"blocks": blocks.reshape(rows, columns // size * self.ggml_type.block_bytes)}

    @property
    def better(self) -> OnTable:
        return OnTable(self, self.scales()[: self.facts.positive])

    def assembled(self, codes: Blocks, subs: Subs, block_scales: NDArray[np.float32] | None) -> Blocks:
        from quantcli.kernels.ggml import repack

        share = subs.shape[1]
        blocks = np.empty((len(codes), self.ggml_type.block_bytes), np.uint8)
        blocks[:, :share] = subs[:, :, 0]
        blocks[:, share:] = repack.join_nibbles(codes, self.facts.group // 2)
        return blocks

    def adapted(self, codes: Codes) -> Codes:
        return without_scales_of_zero(codes) if self.facts.scale_dtype == "f8_e8m0" else codes

    def _decode_cpu(self, blocks: Blocks) -> NDArray[np.float32]:
        from quantcli.kernels.ggml.blocks import floats

        return floats.decode(blocks, self.facts.group, self.ggml_type.block_size, *self._tables())

    def _encode_cpu(self, values: Array, importance: Importance | None) -> tuple[Blocks, Sums]:
        from quantcli.kernels.ggml.blocks import floats

        return floats.encode(values, self.facts.group, self.ggml_type.block_size, *self._tables(), field_starts())

    def _decode_mlx(self, blocks: mx.array) -> mx.array:
        import mlx.core as mx

        size, group = self.ggml_type.block_size, self.facts.group
        share = size // group
        scales, table = (to_mlx(array) for array in self._tables())
        nibbles = blocks[:, share:].reshape(-1, share, group // 2)
        codes = mx.concatenate([nibbles & 15, nibbles >> 4], axis=2)
        return (table[codes] * scales[blocks[:, :share]][:, :, None]).reshape(-1, size)

    def _encode_mlx(self, x: mx.array, importance: mx.array | None, row_blocks: int) -> tuple[mx.array, mx.array]:
        import mlx.core as mx

        size, group = self.ggml_type.block_size, self.facts.group
        share, half = size // group, group // 2
        scales, table = (to_mlx(array) for array in self._tables())
        groups = x.reshape(-1, group)
        magnitudes = mx.abs(groups)
        peak = mx.max(magnitudes, axis=1, keepdims=True)
        stored = _e8m0(peak) if group == 32 else _e4m3(peak / 6.0)
        scale = scales[stored]
        least, codes = magnitudes, mx.zeros(groups.shape, mx.uint8)
        for code in range(1, 8):
            distance = mx.abs(table[code] * scale - magnitudes)
            closer = distance < least
            least, codes = mx.where(closer, distance, least), mx.where(closer, mx.array(code, mx.uint8), codes)
        codes = mx.where((groups < 0) & (codes > 0), codes | 8, codes)
        nibbles = codes[:, :half] | codes[:, half:] << 4
        blocks = mx.concatenate([stored.reshape(-1, share), nibbles.reshape(-1, size // 2)], axis=1)
        return blocks, mx.zeros((x.shape[0], 1))

    def _tables(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Half of what scale bytes stand for, twice what codes do."""
        return np.array(self.facts.halves, np.float32), np.array(DOUBLES, np.float32)

    def scales(self) -> NDArray[np.float32]:
        """Return the scales of the 256 bytes, float32."""
        with np.errstate(over="ignore"):  # E8M0's last
            return self._tables()[0] * np.float32(2)


SCHEMES = {name: GgmlFloat(name) for name in FORMATS}


@cache
def field_starts() -> NDArray[np.uint32]:
    """Return the mantissa from which log2, rounded to float32, is the next whole number, for each float32 exponent.

    2**0 is 1 and 1 - 2**-24 has a log2 of -8.6e-8, which float32 holds; near 16 float32's steps are 2.4e-7, and
    16 - 2**-20 has the same float32 log2 as 16:

    >>> starts = field_starts()
    >>> [int((1 << 23) - starts[field]) for field in (126, 130, 254)]
    [0, 1, 44]
    """
    below = np.arange(1, 64, dtype=np.uint32)[::-1]
    fields = np.arange(1, 255, dtype=np.uint32)[:, None]
    values = ((fields << 23) | ((1 << 23) - below)).view(np.float32)
    rounded = np.log2(values.astype(np.float64)).astype(np.float32)
    starts = np.full(256, 1 << 23, np.uint32)
    starts[1:255] -= (rounded == fields.astype(np.float32) - 126).sum(axis=1).astype(np.uint32)
    return starts


def _e8m0(peak: mx.array) -> mx.array:
    """uint8 scale bytes of largest magnitudes."""
    import mlx.core as mx

    bits = peak.view(mx.uint32)
    field = (bits >> 23).astype(mx.int32)
    above = (bits & 0x7FFFFF) >= to_mlx(field_starts())[field]
    return mx.maximum(field - 2 + above.astype(mx.int32), 0).astype(mx.uint8)


def _e4m3(s: mx.array) -> mx.array:
    """uint8 scale bytes of unrounded scales, as ggml rounds them."""
    import mlx.core as mx

    high = ((s.view(mx.uint32) + (1 << 19)) >> 20).astype(mx.int32) - (120 << 3)
    low = mx.minimum(mx.minimum(s, 1.0) * 512.0 + 0.5, 7.0).astype(mx.int32)
    code = mx.where(s < 2.0**-6, low, high)
    return mx.where(code < 120, code, 0x7E).astype(mx.uint8)
