"""Codes to words and back, of every width."""

import numpy as np
import pytest

from quantcli.kernels.bits import pack, unpack


@pytest.mark.parametrize("bits", (1, 2, 3, 4, 5, 6, 7, 8))
def test_pack_and_unpack_are_inverse_and_little_endian(bits: int) -> None:
    codes = np.random.default_rng(bits).integers(0, 1 << bits, (5, 1120), np.uint8)
    words = pack(codes, bits)
    stream = np.unpackbits(codes[:, :, None], axis=2, bitorder="little")[:, :, :bits].reshape(5, -1)
    np.testing.assert_array_equal(words, np.packbits(stream, axis=1, bitorder="little").view(np.uint32))
    np.testing.assert_array_equal(unpack(words, bits), codes)
