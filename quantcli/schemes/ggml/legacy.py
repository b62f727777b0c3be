"""GGML's blocks of 32 values: `q4_0 q4_1 q5_0 q5_1 q8_0`.

Source: `block_q4_0` ... `block_q8_0` in ggml-common.h and their functions in ggml-quants.c (llama.cpp). Each block is a
scale d (f16), with `_1` a minimum m (f16), with 5 bits the fifth bits of all codes, then the codes' lower four:

    q4_0  18 bytes  d d                  n x 16     value = (code - 8) * d
    q4_1  20 bytes  d d m m              n x 16     value = code * d + m
    q5_0  22 bytes  d d      h h h h     n x 16     value = (code - 16) * d
    q5_1  24 bytes  d d m m  h h h h     n x 16     value = code * d + m
    q8_0  34 bytes  d d                  c x 32     value = c * d, c signed; as a code: c + 128, unsigned

    n, byte j of 16:      7 6 5 4 | 3 2 1 0          h, bit j % 8 of byte j / 8: bit 4 of code j
                        code j+16 | code j           (little-endian uint32, code j in bit j)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from quantcli.arrays import Array
from quantcli.kernels.ggml.better.levels import Levels
from quantcli.kernels.ggml.formats import BLOCK
from quantcli.schemes.base import Codes, DoesNotFit, Error, Grade, Grid, Importance, Parts
from quantcli.schemes.ggml import search
from quantcli.schemes.ggml.best import OnGrid
from quantcli.schemes.ggml.blocks import Blocks, Ggml, Subs, Sums, f16_bytes, read_f16, round_to_f16
from quantcli.schemes.zero_points import symmetric

if TYPE_CHECKING:
    import mlx.core as mx


#: Each type's grid: bits, and the code that means 0 (None: a minimum of each block's own).
GRIDS = {
    "q4_0": Grid(4, BLOCK, "f16", zero=8),
    "q4_1": Grid(4, BLOCK, "f16"),
    "q5_0": Grid(5, BLOCK, "f16", zero=16),
    "q5_1": Grid(5, BLOCK, "f16"),
    "q8_0": Grid(8, BLOCK, "f16", zero=128),
}

#: What `--search best` tries.
LEVELS = {
    "q4_0": Levels(BLOCK, -8, 7),
    "q4_1": Levels(BLOCK, 0, 15, minima=0, starts=(0.75, 1.05, 2)),
    "q5_0": Levels(BLOCK, -16, 15, starts=(0.8, 1.05, 2)),
    "q5_1": Levels(BLOCK, 0, 31, minima=0, starts=(0.85, 1.03, 2)),
    "q8_0": Levels(BLOCK, -127, 127, starts=(0.97, 1.005, 2)),
}
#: Relative RMSE of encoding 4M values of a Gaussian.
ROUNDING = {"q4_0": 0.0860, "q4_1": 0.0782, "q5_0": 0.0427, "q5_1": 0.0379, "q8_0": 0.00535}


@dataclass(frozen=True)
class GgmlLegacy(Ggml):
    """One of `GRIDS`.

    A block of q4_0 from 0, 1, ... 7 and -8 (its peak, so d = 1): code = value + 8, values 0 and 16 share byte 2.

    >>> values = np.array([[*range(8), *[0] * 8, -8, *[0] * 15]], np.float32)
    >>> parts, error = GgmlLegacy("q4_0").encode(values)
    >>> parts["blocks"].tobytes().hex(" "), error.largest
    ('00 3c 08 89 8a 8b 8c 8d 8e 8f 88 88 88 88 88 88 88 88', 0.0)

    q5_1 of 3 + 0, 3 + 1, ... 3 + 31: d = 1 (3c00), m = 3 (4200), codes 16 to 31 have the fifth bit.

    >>> parts, error = GgmlLegacy("q5_1").encode(np.arange(3, 35, dtype=np.float32)[None])
    >>> parts["blocks"].tobytes().hex(" ")
    '00 3c 00 42 00 00 ff ff 00 11 22 33 44 55 66 77 88 99 aa bb cc dd ee ff'

    15 down to -16 is q5_0 with d = 1, codes 31 down to 0. In q8_0 a peak of 127 has d = 1, and 0.5 is rounded to 1 (a
    negative code is its byte modulo 256). q4_1 of thirty-two times 2 has no range: d = 0, m = 2 (4000).

    >>> GgmlLegacy("q5_0").encode(np.arange(15, -17, -1, dtype=np.float32)[None])[0]["blocks"].tobytes().hex(" ")
    '00 3c ff ff 00 00 ff ee dd cc bb aa 99 88 77 66 55 44 33 22 11 00'
    >>> values = np.array([[127, -127, 0.5, -0.5, *[0] * 28]], np.float32)
    >>> GgmlLegacy("q8_0").encode(values)[0]["blocks"][0, :6].tolist()
    [0, 60, 127, 129, 1, 255]
    >>> GgmlLegacy("q4_1").encode(np.full((1, 32), 2, np.float32))[0]["blocks"].tobytes().hex(" ")
    '00 00 00 40 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00'
    """

    @property
    def rounding(self) -> float:
        return ROUNDING[self.type]

    def grid(self) -> Grid:
        return GRIDS[self.type]

    def codes(self, parts: Parts) -> Codes:
        grid, blocks = self.grid(), parts["blocks"]
        rows, groups = blocks.shape[0], blocks.shape[1] // self.ggml_type.block_bytes
        flat = np.ascontiguousarray(blocks).reshape(rows * groups, self.ggml_type.block_bytes)
        codes = _fast_unpack(flat, grid).reshape(rows, groups * BLOCK)
        header = read_f16(flat, 0, _header(grid) // 2, np)
        scales = np.ascontiguousarray(header[:, 0]).reshape(rows, groups)
        if grid.zero is None:
            return Codes(grid, codes, scales, np.ascontiguousarray(header[:, 1]).reshape(rows, groups))
        return Codes(grid, codes, scales, scales * np.float32(-grid.zero))

    def fits(self, grid: Grid, shape: tuple[int, ...]) -> Grade | str:
        """Return `exact` if f16 holds the grid's parameters, `codes-exact` if they are rounded."""
        grade = self.may_fit(grid, shape)
        if isinstance(grade, str):
            return grade
        if grid.group % BLOCK:
            return f"its group size {grid.group} is not a multiple of {BLOCK}"
        if self.grid().zero is not None and grid.zero is None:
            return f"its groups have biases, but {self.name} has none"
        return grade

    def may_fit(self, grid: Grid, shape: tuple[int, ...]) -> Grade | str:
        """Return the grade for scales and biases that suit this type.

        Groups smaller than a block may be merged where neighbours share their parameters. A type without minima may
        hold a grid with biases if each is a whole multiple of its scale, as those of integer zero points are; codes of
        as many bits as the type's must have its zero point already.
        """
        own = self.grid()
        if grid.table is not None:
            return f"its codes are indices into a table of values, but the values of {self.name} are evenly spaced"
        if grid.group % BLOCK and BLOCK % grid.group:
            return f"its group size {grid.group} is not a multiple of {BLOCK}"
        if grid.bits > own.bits and (own.zero is None or grid.zero is None):
            return f"its codes have {grid.bits} bits, but {self.name} holds {own.bits}"
        if own.zero is not None and grid.zero is not None and not _is_within(grid, own):
            range_of = f"the range of {self.name}, {own.bits} bits with zero point {own.zero}"
            return f"its {grid.bits}-bit codes with zero point {grid.zero} exceed {range_of}"
        # A bias of -zero * scale is exact in f16 where the zero is a power of two.
        exact_biases = own.zero is not None or (
            _is_power_of_two(grid.zero) if grid.zero is not None else not grid.zero_points
        )
        exact = grid.scale_dtype == "f16" and exact_biases
        return self.unfit(shape) or (Grade.EXACT if exact else Grade.CODES_EXACT)

    def pack(self, codes: Codes) -> Parts:
        return self._blocks(self.as_stored(self._fitting(codes)))

    def repack(self, codes: Codes) -> tuple[Parts, Error]:
        """Measure without values also where codes have another zero point."""
        if self.grid().zero is None or codes.biases is None or not codes.grid.exact_products:
            return super().repack(codes)
        from quantcli.kernels import repack_error

        adapted = self.adapted(self._fitting(codes))
        stored = self._rounded(adapted)
        assert adapted.biases is not None and stored.biases is not None
        before, after = (adapted.scales, adapted.biases), (stored.scales, stored.biases)
        return self._blocks(stored), Error(*repack_error.between(adapted.codes, before, after))

    def _fitting(self, codes: Codes) -> Codes:
        """Return the codes. Raises `DoesNotFit` if the type does not hold them."""
        if isinstance(reason := self.may_fit(codes.grid, codes.codes.shape), str):
            raise DoesNotFit(reason)
        return codes

    def _blocks(self, stored: Codes) -> Parts:
        own, (rows, columns), header = self.grid(), stored.codes.shape, [stored.scales]
        if own.zero is None:
            assert stored.biases is not None
            header.append(stored.biases)
        blocks = np.empty((rows * (columns // BLOCK), self.ggml_type.block_bytes), np.uint8)
        numbers = np.stack([part.reshape(-1) for part in header], axis=1).astype(np.float16)
        blocks[:, : _header(own)] = numbers.view(np.uint8)
        _fast_pack(stored.codes.reshape(-1, BLOCK), blocks, own)
        return {"blocks": blocks.reshape(rows, columns // BLOCK * self.ggml_type.block_bytes)}

    def as_stored(self, codes: Codes) -> Codes:
        return self._rounded(self.adapted(codes))

    def _rounded(self, codes: Codes) -> Codes:
        """Codes that count from its zero, with scales and biases of blocks in f16."""
        own = self.grid()
        scales, biases = codes.regrouped(BLOCK)
        assert biases is not None
        d = round_to_f16(scales, "scale").astype(np.float32)
        minima = d * np.float32(-own.zero) if own.zero else round_to_f16(biases, "bias").astype(np.float32)
        return Codes(own, codes.codes, d, minima)

    def adapted(self, codes: Codes) -> Codes:
        own = self.grid()
        return codes if own.zero is None else symmetric(codes, own.zero, own.bits)

    def parameters(self, parts: Parts) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
        """Return them for types with minima only: the codes of others may have got another zero point."""
        if self.grid().zero is not None:
            return None
        blocks = parts["blocks"]
        rows = blocks.shape[0]
        header = read_f16(blocks.reshape(-1, self.ggml_type.block_bytes), 0, 2, np)
        return header[:, 0].reshape(rows, -1), header[:, 1].reshape(rows, -1)

    @property
    def better(self) -> OnGrid:
        return OnGrid(self, LEVELS[self.type])

    def assembled(self, codes: Blocks, subs: Subs, block_scales: NDArray[np.float32] | None) -> Blocks:
        grid = self.grid()
        assert block_scales is not None
        return np.concatenate([f16_bytes(block_scales[:, : _header(grid) // 2], np), pack(codes, grid, np)], axis=1)

    def _decode_cpu(self, blocks: Blocks) -> NDArray[np.float32]:
        from quantcli.kernels.ggml.blocks import legacy

        return legacy.decode(blocks, self.grid().bits, self.grid().zero)

    def _encode_cpu(self, values: Array, importance: Importance | None) -> tuple[Blocks, Sums]:
        grid = self.grid()
        if importance is None or self.type == "q8_0":
            from quantcli.kernels.ggml.blocks import legacy

            return legacy.encode(values, grid.bits, grid.zero)
        from quantcli.kernels.ggml.blocks import weighted

        found = weighted.encode(values, importance, grid.bits, grid.zero)
        blocks = np.concatenate([found.block_scales, pack(found.codes, grid, np)], axis=1)
        return blocks.reshape(values.shape[0], values.shape[1] // BLOCK * self.ggml_type.block_bytes), found.sums

    def _decode_mlx(self, blocks: mx.array) -> mx.array:
        import mlx.core as mx

        grid = self.grid()
        codes = unpack(blocks, grid, mx).astype(mx.float32)
        header = read_f16(blocks, 0, _header(grid) // 2, mx)
        values: mx.array = codes * header[:, :1] + header[:, 1:] if grid.zero is None else (codes - grid.zero) * header
        return values

    def _encode_mlx(self, x: mx.array, importance: mx.array | None, row_blocks: int) -> tuple[mx.array, mx.array]:
        import mlx.core as mx

        grid = self.grid()
        if importance is not None and self.type != "q8_0":
            return _encode_weighted(x, importance, row_blocks, grid)
        scales, low = _find_scales(x, grid)
        inverse = mx.where(scales == 0, 0.0, 1.0 / scales)
        if grid.bits == 8:
            codes = _round_away(x * inverse) + 128
        else:
            q = (x - low) * inverse + ((grid.zero or 0) + 0.5)
            q = mx.where(q > 0, q, 0.0)  # a NaN becomes code 0
            codes = mx.minimum(q, 2.0**grid.bits - 1)
        header = scales if grid.zero is not None else mx.concatenate([scales, low], axis=1)
        packed = pack(codes.astype(mx.uint8), grid, mx)
        return mx.concatenate([header.astype(mx.float16).view(mx.uint8), packed], axis=1), header


SCHEMES = {name: GgmlLegacy(name) for name in GRIDS}


def unpack(blocks: Any, grid: Grid, xp: Any) -> Any:
    """Return codes uint8 (blocks, 32) of blocks uint8 (blocks, bytes); `xp` is numpy or mlx.core."""
    body = blocks[:, _header(grid) :]
    if grid.bits == 8:
        return body ^ 128
    nibbles = body[:, -16:]
    codes = xp.concatenate([nibbles & 15, nibbles >> 4], axis=1)
    if grid.bits == 4:
        return codes
    fifth = (body[:, :4, None] >> xp.arange(8, dtype=xp.uint8)) & 1
    return codes | fifth.reshape(-1, BLOCK) << 4


def pack(codes: Any, grid: Grid, xp: Any) -> Any:
    """Return what follows the header of each block, uint8, for codes uint8 (blocks, 32); `xp` is numpy or mlx.core."""
    if grid.bits == 8:
        return codes ^ 128
    low = codes & 15
    nibbles = low[:, :16] | low[:, 16:] << 4
    if grid.bits == 4:
        return nibbles
    fifth = (codes >> 4).reshape(-1, 4, 8) << xp.arange(8, dtype=xp.uint8)
    return xp.concatenate([fifth.sum(axis=2).astype(xp.uint8), nibbles], axis=1)


def _fast_unpack(blocks: Blocks, grid: Grid) -> Blocks:
    """`unpack`, of contiguous blocks."""
    from quantcli.kernels.ggml import repack

    if grid.bits == 8:
        return blocks[:, 2:] ^ np.uint8(128)
    codes = repack.split_nibbles(blocks[:, -BLOCK // 2 :], BLOCK // 2)
    if grid.bits == 5:
        repack.add_fifth_bits(codes, blocks[:, _header(grid) : _header(grid) + 4])
    return codes


def _fast_pack(codes: NDArray[np.uint8], blocks: Blocks, grid: Grid) -> None:
    """`pack`, into what follows the header of blocks."""
    from quantcli.kernels.ggml import repack

    if grid.bits == 8:
        np.bitwise_xor(codes, np.uint8(128), out=blocks[:, 2:])
        return
    blocks[:, -BLOCK // 2 :] = repack.join_nibbles(codes, BLOCK // 2)
    if grid.bits == 5:
        blocks[:, _header(grid) : _header(grid) + 4] = repack.take_fifth_bits(codes)


def _header(grid: Grid) -> int:
    """Bytes before the codes: the scale, and the minimum where there is one."""
    return 4 if grid.zero is None else 2


def _is_within(grid: Grid, own: Grid) -> bool:
    """Whether all codes of a symmetric grid are codes of another one."""
    assert grid.zero is not None and own.zero is not None
    return grid.bits <= own.bits and 0 <= own.zero - grid.zero <= (1 << own.bits) - (1 << grid.bits)


def _is_power_of_two(zero: int) -> bool:
    return zero & (zero - 1) == 0


def _find_scales(x: mx.array, grid: Grid) -> tuple[mx.array, mx.array]:
    """Unrounded scales (n, 1) and what codes count from (n, 1): the minimum, or 0 where the zero is fixed."""
    import mlx.core as mx

    if grid.bits == 8:
        scales = mx.max(mx.abs(x), axis=1, keepdims=True) / 127.0
        return scales, mx.zeros_like(scales)
    if grid.zero is not None:
        peak = mx.take_along_axis(x, mx.argmax(mx.abs(x), axis=1, keepdims=True), axis=1)
        peak = mx.where(peak == 0, 0.0, peak)  # of either sign: ggml counts from +0
        return peak / float(-grid.zero), mx.zeros_like(peak)
    low, high = mx.min(x, axis=1, keepdims=True), mx.max(x, axis=1, keepdims=True)
    first_zero = mx.take_along_axis(x, mx.argmax((x == 0).astype(mx.uint8), axis=1, keepdims=True), axis=1)
    low = mx.where(low == 0, first_zero, low)  # ggml keeps the sign of the first zero
    return (high - low) / (2.0**grid.bits - 1), low


def _encode_weighted(x: mx.array, importance: mx.array, row_blocks: int, grid: Grid) -> tuple[mx.array, mx.array]:
    """Blocks and their scales (and minima) before rounding, by the searches that ggml has for an importance matrix."""
    import mlx.core as mx

    from quantcli.kernels.ggml.k_quants.encode import WEIGHTED_STEPS
    from quantcli.kernels.ggml.k_quants.search import minimum_steps, scale_steps

    rows = x.reshape(-1, row_blocks * BLOCK)
    squares = mx.cumsum(rows * rows, axis=1)[:, -1:]  # a sum in index order, which mx.sum is not
    means = mx.repeat(squares / (row_blocks * BLOCK), row_blocks, axis=0)
    lanes, weights = x.T, search.weigh(x, importance, means).T
    if grid.zero is None:
        found = search.search_minimum(lanes, weights, minimum_steps(2**grid.bits - 1, *WEIGHTED_STEPS), False)
        header = mx.concatenate([found.scale, found.low], axis=0).T
        codes = mx.clip(search.nearest(found.inverse * (lanes - found.start)), 0, 2**grid.bits - 1)
    else:
        found = search.search_scale(lanes, weights, scale_steps(grid.zero))
        header = found.scale.T
        codes = mx.clip(search.nearest(found.inverse * lanes), -grid.zero, grid.zero - 1) + grid.zero
    codes = mx.where((found.inverse == 0), 0, codes).astype(mx.uint8).T
    packed = pack(codes, grid, mx)
    lost = mx.where(mx.isfinite(header), header, float("inf"))
    return mx.concatenate([mx.contiguous(header.astype(mx.float16)).view(mx.uint8), packed], axis=1), lost


def _round_away(q: mx.array) -> mx.array:
    """Rounded half away from zero and clamped to -127 .. 127, int32; NaN is -127."""
    import mlx.core as mx

    q = mx.minimum(mx.where(q > -127, q, -127.0), 127.0)
    whole = q.astype(mx.int32)
    rest = q - whole.astype(mx.float32)
    return whole + (rest >= 0.5).astype(mx.int32) - (rest <= -0.5).astype(mx.int32)
