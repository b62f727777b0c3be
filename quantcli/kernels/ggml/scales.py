"""What kernels of GGML's blocks share: the largest magnitude of each block, f16 scales as bytes, and their overflow.

Works on one chunk at a time. `width` is a block's number of values, `count` the number of blocks; both are arguments
because LLVM unrolls a loop that it knows to be short, and then no longer vectorises it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from quantcli.kernels.chunks import DROPPED
from quantcli.kernels.compile import inner

#: Mantissa bits of float32 that f16 lacks: `dropped` of chunks.narrow.
F16 = DROPPED["f16"]
#: A float's bits but its sign.
MAGNITUDE = np.int32(0x7FFFFFFF)


@inner
def magnitudes(x: Any, largest: Any, count: int, width: int) -> None:
    """The largest magnitude of each block of x; a NaN counts as larger than all numbers."""
    keys, found = x.view(np.int32), largest.view(np.int32)
    for b in range(count):
        block, most = keys[b * width : (b + 1) * width], np.int32(0)
        for j in range(width):
            most = max(most, np.int32(block[j] & MAGNITUDE))
        found[b] = most


@inner
def first_of(block: Any, magnitude: Any) -> Any:
    """The first value of the block that has this magnitude."""
    for j in range(block.shape[0]):
        if abs(block[j]) == magnitude:
            return block[j]
    return magnitude


@inner
def extremes(x: Any, low: Any, high: Any, blocks: int, width: int) -> None:
    """The smallest and the largest value of each block of x, the first of its zeros where that is a zero."""
    keys, lows, highs = x.view(np.int32), low.view(np.int32), high.view(np.int32)
    for b in range(blocks):
        block = keys[b * width : (b + 1) * width]
        least, most = np.int32(0x7FFFFFFF), np.int32(-0x80000000)
        for j in range(width):
            # The bits of a float, those of a negative one inverted, are ordered as integers, and integers vectorise.
            key = np.int32(block[j] ^ ((block[j] >> np.int32(31)) & MAGNITUDE))
            least, most = min(least, key), max(most, key)
        lows[b] = least ^ ((least >> np.int32(31)) & MAGNITUDE)
        highs[b] = most ^ ((most >> np.int32(31)) & MAGNITUDE)
    for b in range(blocks):
        if low[b] == 0:  # ggml keeps the sign of the first zero
            low[b] = first_of(x[b * width : (b + 1) * width], np.float32(0))


@inner
def peaks(x: Any, low: Any, high: Any, peak: Any, blocks: int, width: int) -> None:
    """The first value of largest magnitude of each block of x, from its `extremes`; +0 of a block of zeros."""
    zero = np.float32(0)
    for b in range(blocks):
        most = high[b] if abs(high[b]) > abs(low[b]) else low[b]
        if most == zero:
            most = zero  # of either sign
        elif high[b] == -low[b]:
            most = first_of(x[b * width : (b + 1) * width], high[b])
        peak[b] = most


@inner
def write_f16(values: Any, blocks: Any, count: int, at: int) -> None:
    """Bytes `at`, `at` + 1 of each block: a float32 that f16 holds exactly (or an infinite one), as f16."""
    keys, least = values.view(np.int32), np.float32(2.0**-14)
    for b in range(count):
        magnitude, key = abs(values[b]), np.int32(keys[b] & MAGNITUDE)
        # Below 2**-14 steps are 2**-24; above, the exponent moves from bias 127 to bias 15.
        low = np.int32(min(magnitude, least) * np.float32(2.0**24))
        high = min(np.int32(np.int32(key - np.int32(112 << 23)) >> np.int32(F16)), np.int32(0x7C00))
        half = np.int32(low if magnitude < least else high) | np.int32(keys[b] >> np.int32(16)) & np.int32(0x8000)
        blocks[b, at] = np.uint8(half)
        blocks[b, at + 1] = np.uint8(half >> np.int32(8))


@inner
def note_overflow(exact: Any, rounded: Any, count: int, sums: Any) -> None:
    """sums[3]: the largest magnitude that f16 does not hold; infinite where it is no number."""
    for b in range(count):
        if not abs(rounded[b]) <= np.float32(65504):
            magnitude = np.float64(abs(exact[b]))
            sums[3] = max(sums[3], magnitude if magnitude == magnitude else np.inf)
