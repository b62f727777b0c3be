"""q2_k q3_k q4_k q5_k q8_k, with importance matrices also q6_k q4_0 q4_1 q5_0 q5_1: ggml's bytes and values.

tests/data/ggml/k_quants.npz holds what ggml 0.25.3 (x86-64, no fused multiply-add) made of `x` in blocks.npz:
`q.<type>.<variant>` with the variants none, im (with `imatrix`) and imz (`imatrix_zeros`), rows with
`ok.<type>.<variant>` false being undefined in C; and random blocks `rnd.<type>.q` with their values `rnd.<type>.dq`.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantcli.arrays import Device, numpy_dtype
from quantcli.kernels.ggml.k_quants.search import minimum_steps
from quantcli.schemes.base import DoesNotFit, Error, Grid
from quantcli.schemes.ggml import TYPES
from quantcli.schemes.ggml.k_quants import SCHEMES
from tests.reasons import facts

DATA = Path(__file__).parent.parent.parent / "data" / "ggml"
GOLDEN, BLOCKS = np.load(DATA / "k_quants.npz"), np.load(DATA / "blocks.npz")
X, NAMES_OF_ROWS = BLOCKS["x"], BLOCKS["row_names"]
DEVICES = (Device.CPU, Device.MLX)
K_TYPES = ("q2_k", "q3_k", "q4_k", "q5_k", "q8_k")
MATRICES = {"none": None, "im": GOLDEN["imatrix"][None], "imz": GOLDEN["imatrix_zeros"][None]}
CASES = [
    (name, variant)
    for name in (*K_TYPES, "q6_k", "q4_0", "q4_1", "q5_0", "q5_1")
    for variant in MATRICES
    if f"q.{name}.{variant}" in GOLDEN
]
WEIGHTED = ("q4_0", "q4_1", "q5_0", "q5_1", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k")
rng = np.random.default_rng(11)


def same_bits(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> bool:
    return a.shape == b.shape and bool((a.view(np.uint32) == b.view(np.uint32)).all())


def random_blocks(name: str) -> np.ndarray[Any, Any]:
    """Any bytes but for the scales, which are finite."""
    blocks = rng.integers(0, 256, (20, TYPES[name].ggml_type.block_bytes), np.uint8)
    for at in {"q2_k": (81, 83), "q3_k": (109,), "q4_k": (1, 3), "q5_k": (1, 3), "q8_k": (3,)}[name]:
        blocks[:, at] &= 0xBB
    return blocks.reshape(10, -1)


def test_every_type_and_matrix_has_goldens() -> None:
    assert len(CASES) == 4 * 3 + 1 + 5 * 2


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("name", "variant"), CASES)
def test_bytes_are_ggmls(name: str, variant: str, device: Device) -> None:
    ok = GOLDEN[f"ok.{name}.{variant}"] if f"ok.{name}.{variant}" in GOLDEN else np.ones(len(X), np.bool_)
    parts, error = TYPES[name].encode(X[ok], device, MATRICES[variant])
    wrong = (parts["blocks"] != GOLDEN[f"q.{name}.{variant}"][ok]).any(axis=1)
    assert not wrong.any(), NAMES_OF_ROWS[ok][wrong]
    between = Error.between(X[ok], TYPES[name].decode(parts))
    assert error.squared == pytest.approx(between.squared, rel=1e-5)
    assert error.reference == pytest.approx(between.reference, rel=1e-5)
    assert error.largest == pytest.approx(between.largest, rel=1e-6)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", SCHEMES)
def test_values_are_ggmls(name: str, device: Device) -> None:
    assert same_bits(SCHEMES[name].decode({"blocks": GOLDEN[f"rnd.{name}.q"]}, device), GOLDEN[f"rnd.{name}.dq"])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", K_TYPES)
def test_values_are_gguf_pys(name: str, device: Device) -> None:
    gguf = pytest.importorskip("gguf")
    blocks = random_blocks(name)
    if name == "q8_k":  # gguf-py has no decoder
        numbers = blocks.reshape(20, 292)
        theirs = numbers[:, :4].copy().view(np.float32) * numbers[:, 4:260].view(np.int8).astype(np.float32)
        theirs = theirs.reshape(10, 512)
    else:
        theirs = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType[name.upper()])
    assert (TYPES[name].decode({"blocks": blocks}, device) == theirs).all()


@pytest.mark.parametrize("name", K_TYPES)
def test_codes_hold_the_values(name: str) -> None:
    parts = {"blocks": random_blocks(name)}
    codes = TYPES[name].codes(parts)
    assert codes.grid == TYPES[name].grid()
    assert (codes.values() == TYPES[name].decode(parts)).all()


@pytest.mark.parametrize("name", K_TYPES)
def test_no_grid_fits(name: str) -> None:
    scheme = TYPES[name]
    for grid in (Grid(2, 16, "f16"), Grid(3, 16, "f32", zero=4), Grid(4, 32, "f16"), Grid(8, 256, "f32", zero=128)):
        assert isinstance(scheme.fits(grid, (4, 256)), str)
    with pytest.raises(DoesNotFit, match=name):
        scheme.pack(scheme.codes({"blocks": random_blocks(name)}))


def test_steps_of_the_searches() -> None:
    """Steps far off almost never win, so bytes alone would not miss them."""
    steps = minimum_steps(15, -0.9, 0.05, 37)
    assert steps.dtype == np.float32
    assert np.round(steps * 20).tolist() == [300, *range(282, 319)]


@pytest.mark.parametrize("name", WEIGHTED)
def test_a_row_of_importance_for_each_row(name: str) -> None:
    """(1, columns) is meant for every row; in (rows, columns) each has its own."""
    values = rng.standard_normal((19, 1280)).astype(np.float32)
    one, each = rng.random((1, 1280)).astype(np.float32), rng.random((19, 1280)).astype(np.float32)
    scheme = TYPES[name]
    shared = scheme.encode(values, importance=one)[0]["blocks"]
    repeated = scheme.encode(values, importance=np.repeat(one, 19, axis=0))[0]["blocks"]
    assert (shared == repeated).all()
    own = scheme.encode(values, importance=each)[0]["blocks"]
    for device in DEVICES:
        for row in (0, 7, 18):
            alone = scheme.encode(values[row : row + 1], device, each[row : row + 1])[0]["blocks"]
            assert (own[row : row + 1] == alone).all()
    assert (own != shared).any()


@pytest.mark.parametrize("name", WEIGHTED)
def test_importance_lowers_the_weighted_error(name: str) -> None:
    values = rng.standard_normal((8, 1024)).astype(np.float32)
    weights = (rng.random((1, 1024)) ** 4 + 0.01).astype(np.float32)
    errors = []
    for importance in (None, weights):
        decoded = TYPES[name].decode(TYPES[name].encode(values, importance=importance)[0])
        errors.append((weights * np.square(decoded - values)).sum())
    assert errors[1] < errors[0]


@pytest.mark.parametrize("name", [*WEIGHTED, "q8_k"])
def test_mlx_equals_cpu_on_odd_rows(name: str) -> None:
    """Ties, zeros of both signs, one outlier, groups that are equal or empty, and tiny values; a broken last batch."""
    values = rng.integers(-4, 5, (37, 256)).astype(np.float32) * np.float32(0.5)
    values[::2] = np.abs(values[::2])
    values[(values == 0) & (rng.random(values.shape) < 0.5)] = -0.0
    values[3, 17] = 1000
    values[5] = 0
    values[6, 64:128], values[7] = -3, 2
    values[8] *= np.float32(1e-20)
    values[9, 32:] = 0
    for importance in (None, rng.random((1, 256)).astype(np.float32)):
        cpu, cpu_error = TYPES[name].encode(values, importance=importance)
        on_mlx, mlx_error = TYPES[name].encode(values, Device.MLX, importance)
        wrong = (cpu["blocks"] != on_mlx["blocks"]).any(axis=1)
        assert not wrong.any(), np.flatnonzero(wrong)
        assert cpu_error.squared == pytest.approx(mlx_error.squared, rel=1e-5)


@pytest.mark.parametrize("name", K_TYPES)
@pytest.mark.parametrize("dtype", ["bf16", "f16", "f64"])
def test_dtypes_of_values(name: str, dtype: str) -> None:
    values = (rng.standard_normal((7, 1280)) * 0.03).astype(numpy_dtype(dtype))
    wide = values.astype(np.float32)
    parts, error = TYPES[name].encode(values)
    assert (parts["blocks"] == TYPES[name].encode(wide)[0]["blocks"]).all()
    assert (parts["blocks"] == TYPES[name].encode(values, Device.MLX)[0]["blocks"]).all()
    assert error.relative_rmse == pytest.approx(Error.between(wide, TYPES[name].decode(parts)).relative_rmse, rel=1e-5)
    assert error.relative_rmse == pytest.approx(TYPES[name].rounding, rel=0.1)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", [*WEIGHTED, "q8_k"])
def test_nonfinite_values_show_in_the_reference(name: str, bad: float, device: Device) -> None:
    values = rng.standard_normal((2, 512)).astype(np.float32)
    values[1, 40] = bad
    for importance in (None, np.ones((1, 512), np.float32)):
        parts, error = TYPES[name].encode(values, device, importance)
        assert not np.isfinite(error.reference)
        assert (parts["blocks"][0] == TYPES[name].encode(values[:1], importance=importance)[0]["blocks"][0]).all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("large", [1e10, 1e30])
@pytest.mark.parametrize("name", WEIGHTED)
def test_a_scale_above_f16_does_not_fit(name: str, large: float, device: Device) -> None:
    """Also where the search's float32 sums overflow before the scale does."""
    values = np.ones((2, 512), np.float32)
    values[1, 300] = large
    for importance in (None, np.ones((1, 512), np.float32)):
        with pytest.raises(DoesNotFit, match=r"block's scale or minimum of \S+ .*65504"):
            TYPES[name].encode(values, device, importance)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", K_TYPES)
def test_layout_unfit_and_no_rows(name: str, device: Device) -> None:
    scheme = TYPES[name]
    assert scheme.layout((3, 512))["blocks"].shape == (3, 2 * scheme.ggml_type.block_bytes)
    assert facts(scheme.unfit((4, 320))) == ["320", "256"]
    parts, error = scheme.encode(np.zeros((0, 256), np.float32), device)
    assert error == Error()
    assert scheme.decode(parts, device).shape == (0, 256)
