"""IQ1, IQ2 and IQ3: ggml's bytes and values, importance matrices, bad values, MLX.

tests/data/ggml/iq.npz holds what ggml 0.25.3 (x86-64, no fused multiply-add) made of `x` in blocks.npz
(test_legacy.py tells of it) for each type: `q.<type>.<variant>` the bytes, without a matrix, with `imatrix` (im)
and with `imatrix_zeros` (imz); `ok` the rows that its own C defines; `dq` their values for the first variant;
`rnd.<type>.q` and `.dq` random bytes and their values; `odd.<type>` the bytes of `odd.x`, each row with its own row of
`odd.imatrix`.
"""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantcli.arrays import Device, numpy_dtype
from quantcli.kernels.lanes import PLACES, WIDE
from quantcli.schemes import ggml_scheme
from quantcli.schemes.base import DoesNotFit, Error, Grid
from quantcli.schemes.ggml.iq import neighbours
from quantcli.schemes.ggml.iq_books import BOOKS
from tests.reasons import facts

DATA = Path(__file__).parent.parent.parent / "data" / "ggml"
GOLDEN, BLOCKS = np.load(DATA / "iq.npz"), np.load(DATA / "blocks.npz")
TYPES = ("iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s")
MATRICES = {"none": None, "im": GOLDEN["imatrix"][None], "imz": GOLDEN["imatrix_zeros"][None]}
CASES = [(t, v) for t, v in itertools.product(TYPES, MATRICES) if f"q.{t}.{v}" in GOLDEN]
DEVICES = (Device.CPU, Device.MLX)
ONES = np.ones((1, 512), np.float32)
rng = np.random.default_rng(11)


def same_bits(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> bool:
    return a.shape == b.shape and bool((a.view(np.uint32) == b.view(np.uint32)).all())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("name", "variant"), CASES)
def test_bytes_are_ggmls(name: str, variant: str, device: Device) -> None:
    ok, x = GOLDEN[f"ok.{name}.{variant}"], BLOCKS["x"]
    parts, error = ggml_scheme(name).encode(x[ok], device, MATRICES[variant])
    wrong = (parts["blocks"] != GOLDEN[f"q.{name}.{variant}"][ok]).any(axis=1)
    assert not wrong.any(), BLOCKS["row_names"][ok][wrong]
    between = Error.between(x[ok], ggml_scheme(name).decode(parts))
    assert error.squared == pytest.approx(between.squared, rel=1e-5)
    assert error.reference == pytest.approx(between.reference, rel=1e-5)
    assert error.largest == pytest.approx(between.largest, rel=1e-6)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", [name for name in TYPES if not name.startswith("iq1")])
def test_scores_beyond_float32_are_compared_as_ggml_does(name: str, device: Device) -> None:
    """iq_overflow.npz: a matrix of such large numbers that the square of a sum is Inf."""
    large = np.load(DATA / "iq_overflow.npz")
    parts, _ = ggml_scheme(name).encode(large["x"], device, large["imatrix"][None])
    assert np.array_equal(parts["blocks"], large[f"q.{name}"])


@pytest.mark.parametrize("device", DEVICES)
def test_a_code_of_minus_one_is_read_as_255(device: Device) -> None:
    """iq_wrapped.npz: rows of which ggml's first scale is tried with a code of -1, which it holds in a byte."""
    wrapped = np.load(DATA / "iq_wrapped.npz")
    parts, _ = ggml_scheme("iq2_xxs").encode(wrapped["x"], device, wrapped["imatrix"][None])
    assert np.array_equal(parts["blocks"], wrapped["q.iq2_xxs"])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", TYPES)
def test_values_are_ggmls(name: str, device: Device) -> None:
    variant = next(v for t, v in CASES if t == name)
    scheme, ok = ggml_scheme(name), GOLDEN[f"ok.{name}.{variant}"]
    decoded = scheme.decode({"blocks": GOLDEN[f"q.{name}.{variant}"][ok]}, device)
    assert same_bits(decoded, GOLDEN[f"dq.{name}.{variant}"][ok])
    assert same_bits(scheme.decode({"blocks": GOLDEN[f"rnd.{name}.q"]}, device), GOLDEN[f"rnd.{name}.dq"])


def random_blocks(name: str) -> np.ndarray[Any, Any]:
    size = ggml_scheme(name).ggml_type.block_bytes
    blocks = rng.integers(0, 256, (64, size), np.uint8)
    blocks[:, 55 if name == "iq1_m" else 1] &= 0xBB  # finite scales
    return blocks.reshape(32, 2 * size)


@pytest.mark.parametrize("name", TYPES)
def test_values_are_gguf_pys(name: str) -> None:
    gguf = pytest.importorskip("gguf")
    blocks = random_blocks(name)
    theirs = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType[name.upper()])
    for device in DEVICES:
        assert (ggml_scheme(name).decode({"blocks": blocks}, device) == theirs).all()


@pytest.mark.parametrize("name", TYPES)
def test_fields_are_all_of_a_block(name: str) -> None:
    import mlx.core as mx

    scheme: Any = ggml_scheme(name)
    blocks = random_blocks(name).reshape(64, -1)
    assert (scheme.pack_fields(scheme.unpack(blocks, np), np) == blocks).all()
    assert (np.array(scheme.pack_fields(scheme.unpack(mx.array(blocks), mx), mx)) == blocks).all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", TYPES)
def test_a_row_of_importance_for_each_row(name: str, device: Device) -> None:
    values = rng.standard_normal((3, 512)).astype(np.float32)
    importance = rng.random((3, 512)).astype(np.float32)
    together = ggml_scheme(name).encode(values, device, importance)[0]["blocks"]
    for row in range(3):
        alone = ggml_scheme(name).encode(values[row : row + 1], importance=importance[row : row + 1])[0]["blocks"]
        assert (together[row] == alone[0]).all()
    assert (together != ggml_scheme(name).encode(values, importance=ONES)[0]["blocks"]).any()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", TYPES)
def test_who_needs_importance(name: str, device: Device) -> None:
    scheme, values = ggml_scheme(name), rng.standard_normal((1, 256)).astype(np.float32)
    assert scheme.needs_importance == (name in ("iq1_s", "iq2_xxs", "iq2_xs"))
    if scheme.needs_importance:
        with pytest.raises(DoesNotFit, match=f"{name} .*importance matrix"):
            scheme.encode(values, device)
    else:
        assert scheme.encode(values, device)[1].relative_rmse < 0.8


@pytest.mark.parametrize("dtype", ["bf16", "f16", "f64"])
@pytest.mark.parametrize("name", TYPES)
def test_dtypes_of_values(name: str, dtype: str) -> None:
    values = (rng.standard_normal((5, 2560)) * 0.03).astype(numpy_dtype(dtype))
    scheme, wide, importance = ggml_scheme(name), values.astype(np.float32), np.ones((1, 2560), np.float32)
    parts, error = scheme.encode(values, importance=importance)
    assert (parts["blocks"] == scheme.encode(wide, importance=importance)[0]["blocks"]).all()
    assert (parts["blocks"][:1] == scheme.encode(values[:1], Device.MLX, importance)[0]["blocks"]).all()
    assert error.relative_rmse == pytest.approx(Error.between(wide, scheme.decode(parts)).relative_rmse, rel=1e-5)
    assert error.relative_rmse == pytest.approx(scheme.rounding, rel=0.05)


@pytest.mark.parametrize("name", TYPES)
def test_mlx_equals_cpu_on_odd_rows(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ties, zeros of both signs, one outlier, groups that are equal or empty, tiny values; in pieces."""
    from quantcli.schemes.ggml import iq_search

    scheme = ggml_scheme(name)
    monkeypatch.setattr(type(scheme), "at_once", 1000)
    monkeypatch.setattr(iq_search, "AT_ONCE", 5000)
    values = rng.integers(-4, 5, (19, 256)).astype(np.float32) * np.float32(0.5)
    values[::2] = np.abs(values[::2])
    values[(values == 0) & (rng.random(values.shape) < 0.5)] = -0.0
    values[3, 17] = 1000
    values[5] = 0
    values[6, 64:128], values[7] = -3, 2
    values[8] *= np.float32(1e-20)
    values[9, 32:] = 0
    values[10:] = rng.standard_normal((9, 256))
    each = rng.random((19, 256)).astype(np.float32)
    values[18], values[18, 3::8], each[18], each[18, 3::8] = 10, -0.01, 1, 9e5  # scales below zero
    for importance in (None, ONES[:, :256], each):
        if importance is None and scheme.needs_importance:
            continue
        cpu, cpu_error = scheme.encode(values, importance=importance)
        on_mlx, mlx_error = scheme.encode(values, Device.MLX, importance)
        wrong = (cpu["blocks"] != on_mlx["blocks"]).any(axis=1)
        assert not wrong.any(), np.flatnonzero(wrong)
        assert cpu_error.squared == pytest.approx(mlx_error.squared, rel=1e-5)
        assert cpu_error.largest == mlx_error.largest


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nonfinite_values_show_in_the_reference(bad: float, name: str, device: Device) -> None:
    values = rng.standard_normal((2, 512)).astype(np.float32)
    values[1, 40] = bad
    parts, error = ggml_scheme(name).encode(values, device, ONES)
    assert not np.isfinite(error.reference)
    assert (parts["blocks"][0] == ggml_scheme(name).encode(values[:1], importance=ONES)[0]["blocks"][0]).all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("large", [1e10, 1e30])
def test_a_scale_above_f16_does_not_fit(large: float, name: str, device: Device) -> None:
    """Also where the search's float32 sums overflow, so that it finds no scale."""
    values = np.ones((2, 512), np.float32)
    values[1, 300] = large
    with pytest.raises(DoesNotFit, match=r"block's scale or minimum of \S+e\+\d+ .*65504"):
        ggml_scheme(name).encode(values, device, ONES)


@pytest.mark.parametrize("name", TYPES)
def test_no_grid(name: str) -> None:
    scheme: Any = ggml_scheme(name)
    assert scheme.grid() is None
    reason = scheme.fits(Grid(2, 32, "f16", zero=2), (4, 256))
    assert isinstance(reason, str) and "codebook" in reason
    with pytest.raises(DoesNotFit, match="codebook"):
        scheme.codes({"blocks": random_blocks(name)})


@pytest.mark.parametrize("name", TYPES)
def test_layout_unfit_and_no_rows(name: str) -> None:
    scheme = ggml_scheme(name)
    size = scheme.ggml_type.block_bytes
    assert scheme.layout((3, 512))["blocks"].shape == (3, 2 * size)
    assert facts(scheme.unfit((4, 320))) == ["320", "256"]
    for device in DEVICES:
        parts, error = scheme.encode(np.zeros((0, 512), np.float32), device, ONES)
        assert error == Error()
        assert scheme.decode(parts, device).shape == (0, 512)
        assert not scheme.encode(np.zeros((2, 512), np.float32), device, ONES)[0]["blocks"].any()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", TYPES)
def test_odd_rows(name: str, device: Device) -> None:
    """Outliers of no weight, and zeros that weigh most beside values a hundred times the best scale."""
    encoded = ggml_scheme(name).encode(GOLDEN["odd.x"], device, GOLDEN["odd.imatrix"])[0]["blocks"]
    assert (encoded == GOLDEN[f"odd.{name}"]).all()


def test_ggml_puts_iq3_s_groups_after_zeros_in_the_wrong_place() -> None:
    """Its bytes are kept, and decode to something else."""
    values = rng.standard_normal((1, 256)).astype(np.float32)
    values[0, 32:64] = 0
    scheme = ggml_scheme("iq3_s")
    assert scheme.encode(values)[1].relative_rmse > 0.5


@pytest.mark.parametrize("name", BOOKS)
def test_neighbours_are_those_of_the_nearest_distances(name: str) -> None:
    book = BOOKS[name]
    base, levels = len(book.values), book.levels.astype(int)
    found = neighbours(name, tuple(range(base)))
    assert (found.where[levels @ base ** np.arange(book.width)] == np.arange(book.size)).all()
    for point in rng.choice(np.flatnonzero(found.where < 0), 20):
        digits = point // base ** np.arange(book.width) % base
        distances = ((levels - digits) ** 2).sum(axis=1)
        reach = np.unique(distances)[book.shells - 1]
        wanted = sorted((d, row) for row, d in enumerate(distances) if d <= reach)
        at = -1 - found.where[point]
        start, count = found.start[at], found.counts[at]
        assert count == len(wanted) <= PLACES
        padded = -(-count // WIDE) * WIDE
        rows = [row for _, row in wanted]
        rows += rows[-1:] * (padded - len(rows))
        assert found.members[start : start + padded].tolist() == rows
        codes = found.codes[book.width * start : book.width * (start + padded)].reshape(book.width, padded)
        assert (levels[rows] == codes.T).all()
