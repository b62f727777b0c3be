"""The kernels behind MLX's schemes: float dtypes in and out, and the bits of `mx.quantize` on odd numbers."""

import mlx.core as mx
import numpy as np
import pytest

from quantcli.arrays import from_mlx, numpy_dtype, to_float32, to_mlx
from quantcli.kernels import chunks
from quantcli.kernels.mlx import affine

BITS, GROUPS, DTYPES = (1, 2, 3, 4, 5, 6, 8), (32, 64, 128), ("bf16", "f16", "f32")


def odd_values() -> np.ndarray:
    """float32 (rows, 384): one distribution a row, groups of 128 at three offsets; all within f16's range."""
    rng = np.random.default_rng(1)
    gauss = rng.standard_normal((24, 384)).astype(np.float32)
    rows = [*gauss[:4] * 0.02, *gauss[4:6], gauss[6] * 1e-4, gauss[7] * 1e-7, gauss[8] * 5e3, gauss[9] * 1e-6]
    rows += [np.abs(gauss[10]), -np.abs(gauss[11]), gauss[12] + 100, gauss[13] * 0.01 - 7]
    rows += [np.full(384, value) for value in (0.0, -0.0, 1.0, -3.3, 6e-8, 60000.0)]
    rows += [np.arange(384) % 16, np.arange(384) % 31 * 0.5 - 7.5, rng.integers(-8, 8, 384) * 0.25]  # ties
    for extreme in (30.0, -30.0, 1e-30, 6.1e-5):
        row = np.zeros(384)
        row[5::128] = extreme
        rows.append(row)
    outlier = gauss[14] * 0.01
    outlier[7] = -40.0
    halves = np.where(rng.random(384) < 0.5, 1.0, -1.0)
    signs = np.where(rng.random(384) < 0.1, 2.0, np.where(rng.random(384) < 0.5, 0.0, -0.0))
    return np.array([*rows, outlier, halves, signs, np.exp(gauss[15] * 4) * gauss[16] * 0.1], np.float32)


def wild_values() -> np.ndarray:
    """Rows that need the range of bf16 and f32."""
    gauss = np.random.default_rng(2).standard_normal((7, 256))
    factors = np.array([1e30, 1e-30, 1e-38, 1e-40, 1e18, 3e37, 1e-20])[:, None]
    return (gauss * factors).astype(np.float32)


def bits_of(array: np.ndarray) -> np.ndarray:
    return array.view({1: np.uint8, 2: np.uint16, 4: np.uint32}[array.dtype.itemsize])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bits", BITS)
def test_same_bits_as_mx_quantize(bits: int, dtype: str) -> None:
    for numbers in (odd_values(), wild_values()) if dtype != "f16" else (odd_values(),):
        values = numbers.astype(numpy_dtype(dtype))
        for group in GROUPS:
            words, scales, biases, _ = affine.encode(values, bits, group, dtype)
            wanted = [from_mlx(part) for part in mx.quantize(to_mlx(values), group_size=group, bits=bits)]
            for ours, theirs in zip((words, scales, biases), wanted, strict=True):
                np.testing.assert_array_equal(bits_of(ours.astype(theirs.dtype)), bits_of(theirs))


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_every_short_float_is_widened_exactly(dtype: str) -> None:
    values = np.arange(1 << 16, dtype=np.uint16).view(numpy_dtype(dtype))
    out = np.empty(1 << 16, np.float32)
    chunks.widen(values.view(np.uint16), out, 1 << 16, chunks.DROPPED[dtype])
    np.testing.assert_array_equal(out, to_float32(values))
    finite = np.isfinite(out)
    np.testing.assert_array_equal(bits_of(out)[finite], bits_of(to_float32(values))[finite])


@pytest.mark.parametrize("dtype", DTYPES)
def test_narrowing_rounds_half_to_even(dtype: str) -> None:
    rng = np.random.default_rng(3)
    patterns = rng.integers(0, 1 << 32, 40000, np.uint32)
    patterns[::2] &= np.uint32(0xFFFFF000)  # ties of f16
    patterns[::5] &= np.uint32(0xFFFF8000)  # ties of bf16
    edges = np.array(
        [0.0, -0.0, 65504, 65519.99, 65520, -65520, 2**-14, 2**-24, 2**-25, 1.5 * 2**-25, 6.1e-5], np.float32
    )
    values = np.concatenate([patterns.view(np.float32), edges, rng.standard_normal(9000).astype(np.float32) * 3e-5])
    values = values[np.isfinite(values)]
    out = np.empty_like(values)
    chunks.narrow(values, out, len(values), chunks.DROPPED[dtype])
    with np.errstate(over="ignore"):
        wanted = to_float32(values.astype(numpy_dtype(dtype)))
    np.testing.assert_array_equal(bits_of(out), bits_of(wanted))


def test_unaligned_rows_and_read_only_arrays_are_read() -> None:
    values = np.random.default_rng(4).standard_normal((6, 256)).astype(np.float32)
    wanted = affine.encode(values, 4, 64, "f32")
    frozen = values.copy()
    frozen.flags.writeable = False
    spread = np.zeros((12, 512), np.float32)
    spread[::2, ::2] = values
    for other in (frozen, spread[::2, ::2]):
        for ours, theirs in zip(affine.encode(other, 4, 64, "f32"), wanted, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_no_rows_give_no_words() -> None:
    words, scales, biases, sums = affine.encode(np.empty((0, 64), np.float32), 3, 64, "f32")
    assert words.shape == (0, 6) and scales.shape == biases.shape == (0, 1) and not sums.any()
