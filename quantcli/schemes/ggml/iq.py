"""What GGML's IQ1, IQ2 and IQ3 types share: super-blocks of 256 values whose rows of 8 (IQ3: 4) stand in a codebook.

    iq2.py   iq2_xxs iq2_xs iq2_s       iq3.py   iq3_xxs iq3_s       iq1.py   iq1_s iq1_m       iq_books.py  the books

A block is read into its `Fields`, and written from them. kernels/ggml/codebooks (search.py, iq1_search.py) finds the
fields; iq_search.py and iq1_search.py next to this file do the same for MLX devices. Values are not a
grid: the codebook decides which codes may follow each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from quantcli.arrays import Array, to_float32, to_mlx
from quantcli.kernels.ggml.formats import SUPER
from quantcli.schemes.base import Codes, DoesNotFit, Grade, Grid, Importance, Parts
from quantcli.schemes.ggml.best import Better
from quantcli.schemes.ggml.blocks import F16_OVERFLOW, Blocks, Ggml, Sums
from quantcli.schemes.ggml.iq_books import BOOKS, Book

if TYPE_CHECKING:
    import mlx.core as mx

    from quantcli.kernels.ggml.codebooks.neighbours import Neighbours
    from quantcli.kernels.ggml.codebooks.search import Rules

#: d of a super-block over ggml's: where the search for better ones begins.
STARTS = np.linspace(0.75, 1.3, 12)


class Fields(NamedTuple):
    """What blocks hold, as arrays of numpy or MLX; n blocks.

    rows    int32 (n, 256 / width)   rows of the book
    bits    uint8 (n, 32)            IQ2, IQ3: the signs of 8 values each, bit i of value i, 1 minus
                                     IQ1: 1 where the shift of 8 values is -1/8
    scales  int32 (n, groups)        4 bits in IQ2 and IQ3, 3 in IQ1
    d       float32 (n, 1)           the super-block's scale, once rounded to f16
    """

    rows: Any
    bits: Any
    scales: Any
    d: Any


@dataclass(frozen=True)
class Codebook(Ggml):
    """An IQ type; subclasses say how fields lie in a block and how they are found.

    relative: RMSE of encoding 4M values of a Gaussian, all of the same importance. required: ggml has no search without
    an importance matrix. fudge: what ggml multiplies a super-block's scale with. spread: a block's largest value over
    its d.
    """

    book_name: str
    relative: float
    required: bool
    fudge: float
    spread: float
    at_once: ClassVar[int] = 1 << 18

    @property
    def rounding(self) -> float:
        return self.relative

    @property
    def needs_importance(self) -> bool:
        return self.required

    @property
    def better(self) -> OfRows:
        return OfRows(self)

    @property
    def largest_scale(self) -> int:
        """The largest code of a group's scale."""
        return 15

    @property
    def book(self) -> Book:
        return BOOKS[self.book_name]

    def codes(self, parts: Parts) -> Codes:
        raise DoesNotFit(self._no_grid())

    def fits(self, grid: Grid, shape: tuple[int, ...]) -> Grade | str:
        """Refuse every grid: a codebook does not hold all sequences of codes."""
        return self._no_grid()

    def pack(self, codes: Codes) -> Parts:
        """Raise `DoesNotFit`, always: blocks are copied to the same type."""
        raise DoesNotFit(self._no_grid())

    def _no_grid(self) -> str:
        book = self.book
        return f"{self.name} holds only the {book.size} sequences of {book.width} codes that its codebook lists"

    def _decode_cpu(self, blocks: Blocks) -> NDArray[np.float32]:
        flat = np.ascontiguousarray(blocks).reshape(-1, self.ggml_type.block_bytes)
        columns = blocks.shape[1] // self.ggml_type.block_bytes * SUPER
        return self._values(flat).reshape(blocks.shape[0], columns)

    def _encode_cpu(self, values: Array, importance: Importance | None) -> tuple[Blocks, Sums]:
        from quantcli.kernels.ggml.codebooks import values as iq_values

        self._check(importance)
        fields, d = self._search(values, importance)
        with np.errstate(over="ignore"):
            fields = fields._replace(d=d.astype(np.float16).astype(np.float32))
        blocks = self.pack_fields(fields, np)
        sums = iq_values.sums(values, self._values(blocks))
        sums[3] = self._overflow(values, d.reshape(-1))
        return blocks.reshape(values.shape[0], values.shape[1] // SUPER * self.ggml_type.block_bytes), sums

    def _encode_mlx(self, x: mx.array, importance: mx.array | None, row_blocks: int) -> tuple[mx.array, mx.array]:
        import mlx.core as mx

        self._check(importance)
        fields, d = self._search_on_mlx(x, importance)
        blocks = self.pack_fields(fields._replace(d=d.astype(mx.float16).astype(mx.float32)), mx)
        asked = mx.max(mx.abs(x), axis=1, keepdims=True) / self.spread  # as in `_overflow`
        return blocks, mx.where(mx.isfinite(d) & (d != 0), d, asked)

    def _check(self, importance: Any) -> None:
        if importance is None and self.required:
            raise DoesNotFit(f"{self.name} requires an importance matrix (`--imatrix`)")

    def _overflow(self, values: Array, d: NDArray[np.float32]) -> float:
        """The largest scale that overflows f16, 0 where none does.

        Where ggml's float32 sums overflow and no scale is found, it is what the largest value asks for.
        """
        asked = np.abs(d)
        lost = ~(np.isfinite(asked) & (asked > 0))
        if lost.any():
            peaks = np.abs(to_float32(values.reshape(-1, SUPER)[lost])).max(axis=1)
            asked[lost] = peaks / np.float32(self.spread)
        return float(asked.max(where=asked >= F16_OVERFLOW, initial=0))

    def _decode_mlx(self, blocks: mx.array) -> mx.array:
        import mlx.core as mx

        fields = self.unpack(blocks, mx)
        book, count, steps = to_mlx(self.book.rows), blocks.shape[0], self.steps(fields, mx)
        values = book[fields.rows].reshape(count, 32, 8)
        values = self._with_bits(values, fields.bits).reshape(count, steps.shape[1], -1)
        decoded: mx.array = (values * steps[:, :, None]).reshape(count, SUPER)
        return decoded

    def _with_bits(self, values: mx.array, bits: mx.array) -> mx.array:
        """Values of the book (n, 32, 8) with their signs, or shifted."""
        raise NotImplementedError

    def unpack(self, blocks: Any, xp: Any) -> Fields:
        """Return the fields of blocks uint8 (n, block bytes); `xp` is numpy or mlx.core."""
        raise NotImplementedError

    def pack_fields(self, fields: Fields, xp: Any) -> Any:
        """Return blocks uint8 (n, block bytes) of fields; `xp` is numpy or mlx.core."""
        raise NotImplementedError

    def steps(self, fields: Fields, xp: Any) -> Any:
        """Return float32 (n, groups): the factors of the book's values in each group."""
        raise NotImplementedError

    def without_fault(self, blocks: Blocks, values: Array) -> Blocks:
        """Return ggml's blocks (n, bytes) of values (n, 256) with rows and signs where they belong."""
        return blocks

    def _values(self, blocks: Blocks) -> NDArray[np.float32]:
        """float32 (n, 256) of blocks uint8 (n, block bytes)."""
        raise NotImplementedError

    def _search(self, values: Array, importance: Importance | None) -> tuple[Fields, NDArray[np.float32]]:
        """The fields (d is not looked at), and d float32 (n, 1) before it is rounded to f16."""
        raise NotImplementedError

    def _search_on_mlx(self, x: mx.array, importance: mx.array | None) -> tuple[Fields, mx.array]:
        """As `_search`, of float32 (n, 256) and importance as x."""
        raise NotImplementedError


@dataclass(frozen=True)
class OfRows(Better[Codebook]):
    """Scales, d * (2 * code + 1) of a group, fitted by least squares to the rows and signs that ggml found."""

    def found(self, x: NDArray[np.float32], weights: NDArray[np.float32], blocks: Blocks) -> Blocks:
        scheme, blocks = self.scheme, self.scheme.without_fault(blocks, x)
        fields = scheme.unpack(blocks, np)
        units = fields._replace(scales=np.zeros_like(fields.scales), d=np.ones_like(fields.d))
        shape = len(x), fields.scales.shape[1], -1
        unit = scheme.decode({"blocks": scheme.pack_fields(units, np)}).astype(np.float64).reshape(shape)
        weighted = (x.reshape(-1, *weights.shape) * weights.astype(np.float64)).reshape(unit.shape)
        each = (len(x) // len(weights), *weights.shape)
        spread = np.broadcast_to(weights.astype(np.float64), each).reshape(unit.shape)
        along, square = (weighted * unit).sum(axis=2), (spread * unit * unit).sum(axis=2)
        scales, d = _fitted(fields, along, square, scheme.largest_scale)
        made: Blocks = scheme.pack_fields(fields._replace(scales=scales, d=d), np)
        return made


def _fitted(
    fields: Fields, along: NDArray[np.float64], square: NDArray[np.float64], top: int
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Codes 0 .. top of scales (n, groups), and d (n, 1), of least squared error where d * (2 * code + 1) = 1 has
    sums with the values, and with itself, of `along` and `square` (n, groups).
    """
    best, scales, block_scales = np.full((len(along), 1), np.inf), fields.scales, fields.d
    for start in STARTS:
        d = fields.d * start
        for _ in range(4):
            d = d.astype(np.float16).astype(np.float64)
            codes = np.clip(np.rint((along / (square * d) - 1) / 2), 0, top)
            odd = 2 * codes + 1
            one, two = (odd * along).sum(axis=1, keepdims=True), (odd * odd * square).sum(axis=1, keepdims=True)
            error = d * (d * two - 2 * one)
            better = error < best
            best = np.where(better, error, best)
            block_scales, scales = np.where(better, d, block_scales), np.where(better, codes, scales)
            d = one / two
    return scales.astype(np.int32), block_scales.astype(np.float32)


class Signed(Codebook):
    """The IQ2 and IQ3 types: magnitudes from the book, a sign for each value; d is the largest of scales over 31."""

    def _values(self, blocks: Blocks) -> NDArray[np.float32]:
        from quantcli.kernels.ggml.codebooks import values as iq_values

        return iq_values.signed(self.type, blocks, self.book.rows)

    def _with_bits(self, values: mx.array, bits: mx.array) -> mx.array:
        import mlx.core as mx

        minus = bits[:, :, None] >> mx.arange(8, dtype=mx.uint8) & 1
        return mx.where(minus == 1, -values, values)

    @property
    def group(self) -> int:
        return int(self.rules()["group"])

    def rules(self) -> dict[str, Any]:
        """Return the type's arguments of `rules` in kernels/ggml/codebooks/search.py."""
        raise NotImplementedError

    def _search(self, values: Array, importance: Importance | None) -> tuple[Fields, NDArray[np.float32]]:
        from quantcli.kernels.ggml.codebooks import search as iq_search

        rows, signs, scales = iq_search.search(values, importance, self._kind(), self._neighbours())
        codes, d = sub_scales(scales, 31, 15, np)
        fields = Fields(rows.astype(np.int32), signs, codes, d)
        if not scales.all():
            fields = self._as_ggml(fields, values.reshape(-1, SUPER), np)
        return fields, d * np.float32(self.fudge)

    def _search_on_mlx(self, x: mx.array, importance: mx.array | None) -> tuple[Fields, mx.array]:
        import mlx.core as mx

        from quantcli.schemes.ggml import iq_search

        rows, signs, scales = iq_search.search(x, importance, self._kind(), iq_search.tables(self._neighbours()))
        codes, d = sub_scales(scales, 31, 15, mx)
        return self._as_ggml(Fields(rows, signs, codes, d), x, mx), d * self.fudge

    def _kind(self) -> Rules:
        from quantcli.kernels.ggml.codebooks import search as iq_search

        return iq_search.rules(width=self.book.width, base=len(self.book.values), **self.rules())

    def _neighbours(self) -> Neighbours:
        return neighbours(self.book_name, tuple(range(1, 2 * len(self.book.values), 2)))

    def _as_ggml(self, fields: Fields, values: Any, xp: Any) -> Fields:
        """What ggml writes where a scale is 0: a super-block without any is all zero bytes; values (n, 256)."""
        empty = fields.d == 0
        return fields._replace(
            rows=xp.where(empty, 0, fields.rows), bits=xp.where(empty, 0, fields.bits).astype(xp.uint8)
        )


@cache
def neighbours(book: str, codes: tuple[int, ...]) -> Neighbours:
    """Return a book's tables, made once in a run; `codes[level]` is the code of a level."""
    from quantcli.kernels.ggml.codebooks import neighbours as iq_neighbours

    of = BOOKS[book]
    return iq_neighbours.neighbours(of.levels, len(of.values), of.shells, np.array(codes, np.int8))


def sub_scales(scales: Any, steps: int, largest: int, xp: Any) -> tuple[Any, Any]:
    """Return codes int32 of scales (n, groups), scale = d * (2 * code + 1), and d (n, 1): the largest scale / steps."""
    d = scales.max(axis=1, keepdims=True) / xp.array(steps, dtype=xp.float32)
    with np.errstate(all="ignore"):
        codes = (1.0 / d * scales - 1.0) * 0.5
    codes = xp.where(codes > 0, codes, 0.0)  # NaN, where d is 0, as well
    return xp.minimum(codes.round(), largest).astype(xp.int32), d


def words(blocks: Any, at: int, count: int, size: int, xp: Any) -> Any:
    """Return uint32 (n, count): little-endian words of `size` bytes from byte `at` of each block."""
    part = blocks[:, at : at + count * size].reshape(-1, count, size).astype(xp.uint32)
    out = part[:, :, 0]
    for i in range(1, size):
        out = out | part[:, :, i] << 8 * i
    return out


def word_bytes(values: Any, size: int, xp: Any) -> Any:
    """Return uint8 (n, count * size): what `words` reads, from integers (n, count)."""
    wide = values.astype(xp.uint32)
    parts = [(wide >> 8 * i & 255).astype(xp.uint8) for i in range(size)]
    return xp.stack(parts, axis=2).reshape(len(values), size * values.shape[1])


def joined(values: Any, bits: int, each: int, xp: Any) -> Any:
    """Return uint32 (n, count / each): `each` adjacent entries of (n, count) in `bits` bits each, the first lowest."""
    wide = values.reshape(len(values), values.shape[1] // each, each).astype(xp.uint32)
    out = wide[:, :, 0]
    for i in range(1, each):
        out = out | wide[:, :, i] << bits * i
    return out


def split(values: Any, bits: int, each: int, xp: Any) -> Any:
    """Return uint32 (n, count * each): what `joined` joins."""
    parts = [values.astype(xp.uint32) >> bits * i & (1 << bits) - 1 for i in range(each)]
    return xp.stack(parts, axis=2).reshape(len(values), each * values.shape[1])


def eighth_sign(bits: Any) -> Any:
    """Return seven signs with the eighth, which makes the number of minuses even."""
    odd = bits ^ bits >> 4
    odd = odd ^ odd >> 2
    odd = odd ^ odd >> 1
    return bits | (odd & 1) << 7
