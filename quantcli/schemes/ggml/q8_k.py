"""GGML's `q8_k`: 256 values with one float32 scale. ggml makes it of activations, with the sums of its dot products.

Source: `block_q8_K` in ggml-common.h, `quantize_row_q8_K_ref` and `dequantize_row_q8_K` in ggml-quants.c (llama.cpp).
Scale and codes are those of the first value of largest magnitude, peak: inverse = -127 / peak,
code = rint(inverse * x), d = 1 / inverse. All little-endian:

    292 bytes:   d d d d   float32                    value = d * code
                 c x 256   signed bytes
                 s x 32    16 int16: the sum of the codes of each 16, which no value depends on

A block of zeros has d = 0 and codes 0; ggml leaves the sums as they are in memory, here they are 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from quantcli.arrays import Array
from quantcli.kernels.ggml.formats import SUPER
from quantcli.schemes.base import Codes, DoesNotFit, Grade, Grid, Importance, Parts
from quantcli.schemes.ggml.blocks import Blocks, Ggml, Sums
from quantcli.schemes.ggml.search import nearest

if TYPE_CHECKING:
    import mlx.core as mx

GRID = Grid(8, SUPER, "f32", zero=128)


@dataclass(frozen=True)
class Q8K(Ggml):
    """`q8_k`.

    A peak of 127 has d = -1 (bf800000); 127, 1 and 0.5 are then -127 (81), -1 (ff) and 0, the first sum is -128.

    >>> parts, error = Q8K().encode(np.array([[127, 1, 0.5, *[0] * 253]], np.float32))
    >>> block = parts["blocks"][0].tobytes()
    >>> block[:8].hex(" "), block[260:264].hex(" "), error.largest
    ('00 00 80 bf 81 ff 00 00', '80 ff 00 00', 0.5)
    """

    type: str = "q8_k"

    @property
    def rounding(self) -> float:
        """Relative RMSE of encoding 4M values of a Gaussian."""
        return 0.00696

    def grid(self) -> Grid:
        return GRID

    def codes(self, parts: Parts) -> Codes:
        blocks = parts["blocks"]
        flat = blocks.reshape(-1, self.ggml_type.block_bytes)
        scales = (
            np.ascontiguousarray(flat[:, :4])
            .view(np.float32)
            .reshape(blocks.shape[0], blocks.shape[1] // self.ggml_type.block_bytes)
        )
        codes = (flat[:, 4:260] ^ np.uint8(128)).reshape(scales.shape[0], scales.shape[1] * SUPER)
        return Codes(GRID, codes, scales, scales * np.float32(-128))

    def fits(self, grid: Grid, shape: tuple[int, ...]) -> Grade | str:
        """Refuse every grid: the blocks are for activations."""
        return "q8_k, ggml's format for activations, is encoded from values only"

    def pack(self, codes: Codes) -> Parts:
        """Raise `DoesNotFit`, always."""
        raise DoesNotFit(str(self.fits(codes.grid, codes.codes.shape)))

    def _decode_cpu(self, blocks: Blocks) -> NDArray[np.float32]:
        from quantcli.kernels.ggml.k_quants import q8_k

        return q8_k.decode(blocks)

    def _encode_cpu(self, values: Array, importance: Importance | None) -> tuple[Blocks, Sums]:
        from quantcli.kernels.ggml.k_quants import q8_k

        return q8_k.encode(values)

    def _decode_mlx(self, blocks: mx.array) -> mx.array:
        import mlx.core as mx

        scales = mx.contiguous(blocks[:, :4]).view(mx.float32)
        values: mx.array = scales * mx.contiguous(blocks[:, 4:260]).view(mx.int8).astype(mx.float32)
        return values

    def _encode_mlx(self, x: mx.array, importance: mx.array | None, row_blocks: int) -> tuple[mx.array, mx.array]:
        import mlx.core as mx

        peak = mx.take_along_axis(x, mx.argmax(mx.abs(x), axis=1, keepdims=True), axis=1)
        inverse = -127.0 / peak
        codes = mx.where(peak != 0, mx.minimum(nearest(inverse * x), 127), 0).astype(mx.int8)
        sums = codes.reshape(-1, 16, 16).astype(mx.int32).sum(axis=2).astype(mx.int16)
        scales = mx.where(peak != 0, 1.0 / inverse, 0.0)
        blocks: list[Any] = [scales.view(mx.uint8), codes.view(mx.uint8), sums.view(mx.uint8)]
        return mx.concatenate(blocks, axis=1), mx.zeros_like(scales)  # float32 scales do not overflow f16


SCHEMES = {"q8_k": Q8K()}
