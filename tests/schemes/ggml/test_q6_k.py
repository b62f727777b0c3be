"""q6_k without an importance matrix (with one: test_k_quants.py): ggml's bytes and values, grid, bad values, MLX.

The data is described in test_legacy.py.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantcli.arrays import Device, numpy_dtype
from quantcli.kernels.ggml.k_quants.search import scale_steps
from quantcli.schemes.base import DoesNotFit, Error, Grid
from quantcli.schemes.ggml.q6_k import Q6K
from tests.reasons import facts

GOLDEN = np.load(Path(__file__).parent.parent.parent / "data" / "ggml" / "blocks.npz")
DEVICES = (Device.CPU, Device.MLX)
SCHEME = Q6K()
rng = np.random.default_rng(8)


def same_bits(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> bool:
    return a.shape == b.shape and bool((a.view(np.uint32) == b.view(np.uint32)).all())


@pytest.mark.parametrize("device", DEVICES)
def test_bytes_are_ggmls(device: Device) -> None:
    ok = GOLDEN["ok.q6_k"]
    parts, error = SCHEME.encode(GOLDEN["x"][ok], device)
    wrong = (parts["blocks"] != GOLDEN["q.q6_k"][ok]).any(axis=1)
    assert not wrong.any(), GOLDEN["row_names"][ok][wrong]
    between = Error.between(GOLDEN["x"][ok], GOLDEN["dq.q6_k"][ok])
    assert error.squared == pytest.approx(between.squared, rel=1e-5)
    assert error.reference == pytest.approx(between.reference, rel=1e-5)
    assert error.largest == pytest.approx(between.largest, rel=1e-6)


@pytest.mark.parametrize("device", DEVICES)
def test_values_are_ggmls(device: Device) -> None:
    ok = GOLDEN["ok.q6_k"]
    assert same_bits(SCHEME.decode({"blocks": GOLDEN["q.q6_k"][ok]}, device), GOLDEN["dq.q6_k"][ok])
    assert same_bits(SCHEME.decode({"blocks": GOLDEN["rnd.q6_k.q"]}, device), GOLDEN["rnd.q6_k.dq"])


def test_every_step_of_the_search_is_tried() -> None:
    """Steps far above 32 clip the peak and almost never win, so bytes alone would not miss them."""
    steps = scale_steps(32)
    assert steps.dtype == np.float32
    assert np.round(steps * 10).tolist() == [320, *range(311, 320), *range(321, 330)]


def random_blocks() -> np.ndarray[Any, Any]:
    blocks = rng.integers(0, 256, (20, 210), np.uint8)
    blocks[:, 209] &= 0xBB  # finite scales
    return blocks.reshape(10, 420)


def test_values_are_gguf_pys() -> None:
    gguf = pytest.importorskip("gguf")
    blocks = random_blocks()
    theirs = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType.Q6_K)
    assert (SCHEME.decode({"blocks": blocks}) == theirs).all()


def test_codes_hold_the_values() -> None:
    parts = {"blocks": random_blocks()}
    codes = SCHEME.codes(parts)
    assert codes.grid == SCHEME.grid() == Grid(6, 16, "f32", zero=32, scale_bits=18)
    assert codes.codes.max() <= 63
    assert (codes.values() == SCHEME.decode(parts)).all()


def test_no_grid_fits() -> None:
    for grid in (Grid(6, 16, "f16", zero=32), Grid(4, 32, "f16", zero=8), Grid(6, 32, "f16")):
        assert isinstance(SCHEME.fits(grid, (4, 256)), str)
    with pytest.raises(DoesNotFit, match="8-bit multiples of one f16"):
        SCHEME.pack(SCHEME.codes({"blocks": random_blocks()}))


@pytest.mark.parametrize("dtype", ["bf16", "f16", "f64"])
def test_dtypes_of_values(dtype: str) -> None:
    values = (rng.standard_normal((3, 1280)) * 0.03).astype(numpy_dtype(dtype))
    wide = values.astype(np.float32)
    parts, error = SCHEME.encode(values)
    assert (parts["blocks"] == SCHEME.encode(wide)[0]["blocks"]).all()
    assert (parts["blocks"] == SCHEME.encode(values, Device.MLX)[0]["blocks"]).all()
    assert error.relative_rmse == pytest.approx(Error.between(wide, SCHEME.decode(parts)).relative_rmse, rel=1e-5)
    assert error.relative_rmse == pytest.approx(SCHEME.rounding, rel=0.1)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nonfinite_values_show_in_the_reference(bad: float, device: Device) -> None:
    values = rng.standard_normal((2, 512)).astype(np.float32)
    values[1, 40] = bad
    parts, error = SCHEME.encode(values, device)
    assert not np.isfinite(error.reference)
    assert (parts["blocks"][0] == SCHEME.encode(values[:1])[0]["blocks"][0]).all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("large", [1e10, 1e30])
def test_a_scale_above_f16_does_not_fit(large: float, device: Device) -> None:
    """Also where the search's float32 sums overflow before the scale does, in one group of a sound super-block."""
    values = np.ones((2, 512), np.float32)
    values[1, 300] = large
    with pytest.raises(DoesNotFit, match=r"block's scale or minimum of \S+e\+\d+ .*65504"):
        SCHEME.encode(values, device)


@pytest.mark.parametrize("device", DEVICES)
def test_layout_unfit_and_no_rows(device: Device) -> None:
    assert SCHEME.layout((3, 512))["blocks"].shape == (3, 420)
    assert SCHEME.bits_per_weight((3, 512)) == 6.5625
    assert facts(SCHEME.unfit((4, 320))) == ["320", "256"]
    parts, error = SCHEME.encode(np.zeros((0, 256), np.float32), device)
    assert error == Error()
    assert SCHEME.decode(parts, device).shape == (0, 256)
